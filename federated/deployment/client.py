"""Take part in a federation with the data here: `kerasreg federated client TASK`.

It loads the task and its data, connects to the server by Flower's SuperNode, and has a
worker answer, which keeps the model from message to message. The worker runs the task
as it is installed here, with its settings: code that the server sends is never
executed, and a run of another task is refused. It goes on until it is ended; while the
server is away, it waits.
"""

import argparse
import contextlib
import http.client
import pathlib
import re
import secrets
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from federated.deployment import health
from federated.deployment.server import check_file
from federated.environment import (
    await_port,
    end,
    ended_by_sigterm,
    flower_environment,
    free_port,
    running,
)

_RESTARTS = 3  # deaths of a worker that has answered nothing
_PAUSE = 10.0  # seconds between two attempts


class Refused(RuntimeError):
    """The site cannot take part; the message says why."""


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
        with ended_by_sigterm():  # folders with secrets are removed
            _take_part(options)
    except (ValueError, OSError, Refused) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _address(text):
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, received {text!r}")
    return text


def _parser(prog):
    parser = argparse.ArgumentParser(
        prog,
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("task", help="module with build_model() and load_data()")
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_address,
        default="127.0.0.1:8000",
        help="where the server is",
    )
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
    parser.add_argument(
        "--patience",
        type=float,
        default=180.0,
        help="seconds to try again where the server turns the site away: it takes one "
        "that has just died for alive for a minute",
    )
    parser.add_argument("--verbose", action="store_true", help="Flower's log, too")
    return parser


def _take_part(options):
    arguments, port = _supernode_arguments(options), free_port()
    with tempfile.TemporaryDirectory(prefix="kerasreg-client-") as folder:
        home = pathlib.Path(folder)
        environment = flower_environment(home, options.verbose)
        environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # sites may share a GPU
        environment["KERASREG_SERVED"] = str(home / "served")
        secret = home / "secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
        arguments += ["--isolation", "process", "--port", str(port)]
        arguments += ["--superexec-auth-secret-file", str(secret)]
        command = [sys.executable, "-m", "federated.deployment.worker", options.task]
        command += [str(options.client), str(options.clients)]
        command += [f"127.0.0.1:{port}", str(secret)]
        if options.state:
            kept = pathlib.Path(options.state).absolute()
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            command.append(str(kept / "kept.npz"))
        site = _Site(options, arguments, command, environment, port)
        with contextlib.closing(site), health.reporting(site.is_well):
            site.take_part()


class _Site:
    """A node and a worker, each of which is started again when it ends."""

    def __init__(self, options, node_arguments, worker_command, environment, port):
        self._options = options
        self._node_arguments = node_arguments
        self._worker_command = worker_command
        self._environment = environment
        self._port = port
        self._served = pathlib.Path(environment["KERASREG_SERVED"])
        self._worker: subprocess.Popen | None = None
        self._deaths = 0
        self._said: list[str] = []

    def is_well(self):
        """Whether the worker is there."""
        return self._worker is not None and self._worker.poll() is None

    def close(self):
        """End the worker."""
        if self._worker is not None:
            end(self._worker, 10)

    def take_part(self):
        """Go on until the site cannot.

        Raises:
            Refused: If it cannot.
        """
        self._start_worker()
        since = time.monotonic()
        while True:
            _reach(self._options)
            well = self._connect()
            if well:
                since = time.monotonic()
            if time.monotonic() - since > self._options.patience:
                raise Refused(self._why())
            time.sleep(min(_PAUSE, self._options.patience))

    def _connect(self):
        """Have a node until it ends; whether it was let in."""
        self._said.clear()
        before = self._last_answer()
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with running(
            "supernode", self._node_arguments, env=self._environment, **settings
        ) as node:
            threading.Thread(target=self._relay, args=(node,), daemon=True).start()
            if await_port(self._port, node):
                while node.poll() is None:
                    if not self.is_well():
                        self._start_worker()
                    time.sleep(0.2)
        return self._last_answer() != before

    def _last_answer(self):
        with contextlib.suppress(FileNotFoundError):
            return self._served.stat().st_mtime
        return None

    def _start_worker(self):
        """Start a worker, and wait until it has loaded task and data."""
        if self._worker is not None:
            self._deaths = 1 if self._served.exists() else self._deaths + 1
            status = self._worker.returncode
            if self._deaths > _RESTARTS:
                raise Refused(
                    f"The worker ended {self._deaths} times, with status {status}; it "
                    "says why above."
                )
            print(f"the worker ended: status {status}; a new one", flush=True)
        self._served.unlink(missing_ok=True)
        ready = self._served.with_name("ready")
        ready.unlink(missing_ok=True)
        self._worker = subprocess.Popen(
            self._worker_command, env=self._environment, stdin=subprocess.PIPE
        )
        while not ready.exists():
            if self._worker.poll() is not None:
                raise Refused(f"The task {self._options.task!r} does not work here.")
            time.sleep(0.1)

    def _relay(self, node):
        """Print what the node says, but for what says nothing."""
        for line in node.stdout:
            self._said.append(line.rstrip())
            noise = re.search(r"INFO|EXPERIMENTAL|Uvicorn running", line)
            if self._options.verbose or not noise:
                print(line, end="", flush=True)

    def _why(self):
        said = "\n".join(self._said)
        why = "The server does not let this site in"
        if "2004" in said or "2000" in said or "401" in said:
            return f"{why}: has it the site's public key?"
        return f"{why}; Flower's node says why above."


def _reach(options):
    """Wait until the server answers as it should.

    Raises:
        Refused: If it is another one, or does not speak as this site does.
    """
    host, _, port = options.server.rpartition(":")
    told = None
    while True:
        try:
            _ask(host.strip("[]"), int(port), options)
            return
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{options.server} is not who it says: {error.verify_message}"
            ) from error
        except ssl.SSLError as error:
            raise Refused(
                f"{options.server} does not speak TLS as this site does: {error.reason}"
            ) from error
        except http.client.HTTPException as error:
            raise Refused(
                f"{options.server} does not answer as a server without encryption does "
                "(--insecure)."
            ) from error
        except OSError as error:
            why = error.strerror or str(error)
            if why != told:
                told = why
                print(f"waiting for {options.server}: {why}", flush=True)
        time.sleep(min(_PAUSE, 5.0))


def _ask(host, port, options):
    if options.insecure:
        link = http.client.HTTPConnection(host, port, timeout=10)
    else:
        file = pathlib.Path(options.certificates) / "ca.crt"
        context = ssl.create_default_context(cafile=str(file))
        link = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    with contextlib.closing(link):
        link.request("GET", "/health")
        link.getresponse()


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
