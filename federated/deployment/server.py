"""Run a task across the sites whose keys are known: `kerasreg federated server TASK`.

It starts Flower's SuperLink, which lets in the nodes whose keys lie in the folder of
certificates, waits for all sites that the nodes say there are, runs the rounds, writes
the model and ends. If it, or the SuperLink alone, is killed and started again, the run
goes on from the last checkpoint. How sites train is in the task's module, not here:
they take no settings from a server.
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from federated.deployment import health
from federated.environment import (
    admit,
    await_port,
    ended_by_sigterm,
    flower_environment,
    flwr,
    free_port,
    running,
)
from federated.launch import LinkError, RunError, connect, submit, write_app

_FRUITLESS = 3  # deaths of the SuperLink without a round between them


def main(arguments=None, prog="kerasreg federated server"):
    """Run what the command line asks for.

    Args:
        arguments: List of strings, of the command line by default.
        prog: Name of the command.

    Returns:
        The exit status: 1 if the run failed.
    """
    options = _parser(prog).parse_args(arguments)
    try:
        with ended_by_sigterm():  # folders with secrets are removed
            _serve(options)
    except (RunError, ValueError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _parser(prog):
    parser = argparse.ArgumentParser(
        prog,
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("task", help="module with build_model() and load_data()")
    parser.add_argument("--rounds", type=int, default=10, help="in all, until the end")
    parser.add_argument(
        "--min-clients", type=int, default=1, help="fewest sites that make a round"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=3600.0,
        help="seconds to wait for all sites at the start, and for replies in a round",
    )
    parser.add_argument(
        "--certificates",
        metavar="FOLDER",
        help="with server.crt, server.key, ca.crt, and nodes/NAME.pub of each site",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="no encryption, any node: for this machine alone",
    )
    parser.add_argument(
        "--state",
        metavar="FOLDER",
        default="state",
        help="what a run needs to go on: its checkpoints",
    )
    parser.add_argument("--model", metavar="PATH", help="of the .keras file to write")
    parser.add_argument(
        "--plain-model", metavar="PATH", help="the same for Keras without kerasreg"
    )
    parser.add_argument("--history", metavar="PATH", help="of the .json file to write")
    parser.add_argument("--host", help="address to listen at, if it is not to be all")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--verbose", action="store_true", help="Flower's log, too")
    return parser


def _serve(options):
    arguments = _superlink_arguments(options)
    state = pathlib.Path(options.state).absolute()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(state), tempfile.TemporaryDirectory(prefix="kerasreg-server-") as at:
        config = _run_config(options, state)
        home = pathlib.Path(at)
        app = write_app(home, config)
        environment = flower_environment(home, options.verbose)
        deaths, before = 0, None
        while True:
            try:
                _run(options, arguments, environment, app)
                return
            except LinkError as error:
                done = _checkpoints(state)
                deaths = 1 if done != before else deaths + 1
                if deaths > _FRUITLESS:
                    raise
                before = done
                print(f"{error}; going on from the last checkpoint", flush=True)


def _checkpoints(state):
    return sorted(path.name for path in state.glob("run/round-*.npz"))


@contextlib.contextmanager
def _locked(state):
    """Keep other servers from the folder."""
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                "Invalid value for --state. Expected a folder that no other server "
                f"uses now. Received: {state}"
            ) from error
        yield


def _run(options, arguments, environment, app):
    """Run the rounds in a new SuperLink, which knows nobody but whose keys are there.

    Flower's own database is not kept: it would start runs again that a dead SuperLink
    left, and has no way back for a key that was turned away once.
    """
    port = free_port()
    certificates = _certificates(options)
    root = certificates and str(certificates / "ca.crt")
    connect(pathlib.Path(environment["FLWR_HOME"]), port, root)
    command = [*arguments, "--host", "127.0.0.1", "--port", str(port)]
    public = (_host(options), options.port)
    with running("superlink", command, public, env=environment) as superlink:
        if not await_port(port, superlink):
            raise RunError("Flower's SuperLink did not start; it says why above.")
        with health.reporting(lambda: superlink.poll() is None):
            if certificates:
                _register(certificates / "nodes", environment, superlink)
            admit(superlink)
            print(f"waiting for the nodes at port {options.port}", flush=True)
            shown: list[str] = []
            submit(app, environment, superlink, show=lambda line: _show(line, shown))
            if not shown:
                print("no round was left to do: the run in --state has them all")


def _show(line, shown):
    if line.startswith("round "):
        shown.append(line)
    print(line, flush=True)


def _host(options):
    """The public address; "" for all."""
    return options.host or ("127.0.0.1" if options.insecure else "")


def _certificates(options):
    """The folder of certificates, or `None` if the server is insecure."""
    if options.insecure:
        return None
    return pathlib.Path(options.certificates).absolute()


def _superlink_arguments(options):
    """The arguments of `flower-superlink`.

    Raises:
        ValueError: If it is not said how nodes are to be known, or files are missing.
    """
    if options.insecure == bool(options.certificates):
        raise ValueError(
            "Expected either --certificates FOLDER (deploy/certificates.py makes one) "
            "or --insecure."
        )
    arguments = ["--disable-runtime-dependency-installation"]
    if options.insecure:
        return [*arguments, "--insecure"]
    folder = _certificates(options)
    names = {"certfile": "server.crt", "keyfile": "server.key", "ca-certfile": "ca.crt"}
    for option, name in names.items():
        check_file(folder / name, "--certificates")
        arguments += [f"--ssl-{option}", str(folder / name)]
    _check_date(folder / "server.crt")
    if not list((folder / "nodes").glob("*.pub")):
        raise ValueError(
            "Expected the public key of at least one site in --certificates. "
            f"Received: no file {folder / 'nodes' / '*.pub'}"
        )
    return [*arguments, "--enable-supernode-auth"]


def check_file(path, option):
    """Raise unless a file of a folder of certificates can be read.

    Args:
        path: `pathlib.Path`.
        option: Name of the option that gave the folder.

    Raises:
        ValueError: If it cannot.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ValueError(
            f"Invalid value for {option}. Expected a readable file {path.name} in it. "
            f"Received: {error.strerror}: {path}"
        ) from error


def _check_date(path):
    """Raise if a certificate has expired; say so if it will within a month."""
    from cryptography import x509

    end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    left = end - datetime.datetime.now(datetime.UTC)
    renew = "deploy/certificates.py --renew-server makes a new one"
    if left < datetime.timedelta(0):
        raise ValueError(f"{path} expired on {end.date()}: {renew}.")
    if left < datetime.timedelta(days=30):
        print(f"{path} expires on {end.date()}: {renew}", flush=True)


def _run_config(options, state):
    """What the run is told, once all of it can be done."""
    for name in ("rounds", "min_clients"):
        if vars(options)[name] < 1:
            raise ValueError(
                f"Invalid value for --{name.replace('_', '-')}. Expected a positive "
                f"integer. Received: {vars(options)[name]}"
            )
    config = {}
    for name in ("model", "plain-model", "history"):
        if path := vars(options)[name.replace("-", "_")]:
            _check_output(name, pathlib.Path(path))
            config[name] = os.path.abspath(path)
    _check_task(options.task, state / "task.json")
    return {
        "task": options.task,
        "num-server-rounds": options.rounds,
        "min-clients": options.min_clients,
        "timeout": options.timeout,
        "checkpoint": str(state / "run"),
        "resume": True,
        **config,
    }


def _check_output(name, path):
    """Raise if a file could not be written at the end, after all rounds."""
    if name.endswith("model") and path.suffix != ".keras":
        raise ValueError(
            f"Invalid value for --{name}. Expected a path that ends in .keras. "
            f"Received: {path}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(None, "Is a directory")
    except OSError as error:
        raise ValueError(
            f"Invalid value for --{name}. Expected the path of a file that can be "
            f"written. Received: {error.strerror}: {path}"
        ) from error


def _check_task(task, file):
    """Raise if the folder has the run of another task: its result would be taken."""
    if file.exists():
        before = json.loads(file.read_text())["task"]
        if before != task:
            raise ValueError(
                f"Invalid value for --state. Expected a new folder for {task!r}. "
                f"Received: {file.parent}, which has a run of {before!r}"
            )
    file.write_text(json.dumps({"task": task}))


def _register(nodes, environment, superlink):
    """Have the SuperLink know the keys that are there."""
    for path in sorted(nodes.glob("*.pub")):
        arguments = ["supernode", "register", str(path), "here", "--name", path.stem]
        done = subprocess.run(
            flwr(*arguments, "--format", "json"),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        start = done.stdout.find("{")
        said = json.loads(done.stdout[start:]) if start >= 0 else {}
        if not said.get("success"):
            if superlink.poll() is not None:
                raise LinkError("Flower's SuperLink has died")
            why = said.get("error-message") or (done.stdout + done.stderr).strip()
            raise RunError(f"The key {path} cannot be registered: {why}")
        print(f"admitted: {path.stem}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
