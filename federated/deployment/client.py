"""Take part in a federation with the data here: `kerasreg federated client TASK`.

It starts Flower's SuperNode, and a worker that keeps the model from message to message.
The worker runs the task as it is installed here: code that the server sends is never
executed, and a run of another task is refused.
"""

import argparse
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time

from federated.deployment import health
from federated.deployment.server import check_file
from federated.environment import await_port, flower_environment, free_port, running

_RESTARTS = 3  # deaths of a worker that has answered nothing


def main(arguments=None, prog="kerasreg federated client"):
    """Run what the command line asks for, until it is ended.

    Args:
        arguments: List of strings, of the command line by default.
        prog: Name of the command.

    Returns:
        The exit status: 1 if the site cannot take part.
    """
    options = _parser(prog).parse_args(arguments)
    try:
        _take_part(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _parser(prog):
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("task", help="module with build_model() and load_data()")
    parser.add_argument("--server", metavar="HOST:PORT", default="127.0.0.1:8000")
    parser.add_argument(
        "--client", type=int, required=True, help="number of this site, from 0"
    )
    parser.add_argument("--clients", type=int, required=True, help="number of sites")
    parser.add_argument(
        "--certificates",
        metavar="FOLDER",
        help="with ca.crt, to know the server by, and node.key, the site's own key",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="no encryption, no key: for this machine alone",
    )
    parser.add_argument(
        "--state",
        metavar="FOLDER",
        help="keeps layers that stay at the site (Personalized) over a restart",
    )
    parser.add_argument("--verbose", action="store_true", help="Flower's log, too")
    return parser


def _take_part(options):
    arguments = _supernode_arguments(options)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="kerasreg-client-") as folder:
        home = pathlib.Path(folder)
        environment = flower_environment(home, options.verbose)
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # sites may share a GPU
        secret = home / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
        arguments += ["--isolation", "process", "--port", str(port)]
        arguments += ["--superexec-auth-secret-file", str(secret)]
        with running("supernode", arguments, env=environment) as node:
            if not await_port(port, node):
                raise RuntimeError(_why_ended(node))
            worker = [sys.executable, "-m", "federated.deployment.worker"]
            worker += [str(os.getpid()), options.task, f"127.0.0.1:{port}", str(secret)]
            if options.state:
                folder = pathlib.Path(options.state).absolute()
                folder.mkdir(parents=True, exist_ok=True)
                worker.append(str(folder / "kept.npz"))
            _supervise(node, worker, environment, home)


def _supervise(node, command, environment, home):
    """Keep a worker at work until the node ends, or workers do not even begin."""
    served = home / "served"
    environment = {**environment, "KERASREG_SERVED": str(served)}
    deaths = 0
    while True:
        served.unlink(missing_ok=True)
        with subprocess.Popen(command, env=environment) as worker:
            try:
                with health.reporting(
                    lambda w=worker: node.poll() is None and w.poll() is None
                ):
                    while node.poll() is None and worker.poll() is None:
                        time.sleep(0.2)
            finally:
                worker.terminate()
        if node.poll() is not None:
            raise RuntimeError(_why_ended(node))
        deaths = 1 if served.exists() else deaths + 1
        if deaths > _RESTARTS:
            raise RuntimeError(
                f"The worker ended {deaths} times, with status {worker.returncode}; it "
                "says why above."
            )
        print(
            f"the worker ended: status {worker.returncode}; a new one",
            flush=True,
        )


def _why_ended(node):
    return (
        f"Flower's SuperNode ended with status {node.returncode}; it says why above. "
        "If its key is refused: has the server the site's public key?"
    )


def _supernode_arguments(options):
    """The arguments of `flower-supernode`.

    Raises:
        ValueError: If it is not said how the server is to be known, files are missing,
            or there is no such client.
    """
    if not 0 <= options.client < options.clients:
        raise ValueError(
            "Invalid value for --client. Expected a number from 0 to --clients - 1. "
            f"Received: --client {options.client} --clients {options.clients}"
        )
    if options.insecure == bool(options.certificates):
        raise ValueError(
            "Expected either --certificates FOLDER (from the server's side, see "
            "deploy/certificates.py) or --insecure."
        )
    numbers = f"partition-id={options.client} num-partitions={options.clients}"
    arguments = ["--superlink", options.server, "--node-config", numbers]
    if options.insecure:
        return [*arguments, "--insecure"]
    folder = pathlib.Path(options.certificates).absolute()
    for name in ("ca.crt", "node.key"):
        check_file(folder / name, "--certificates")
    arguments += ["--root-certificates", str(folder / "ca.crt")]
    return [*arguments, "--auth-supernode-private-key", str(folder / "node.key")]


if __name__ == "__main__":
    sys.exit(main())
