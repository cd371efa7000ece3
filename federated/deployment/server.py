"""Run a task across the sites whose keys are known: `kerasreg federated server TASK`.

It starts Flower's SuperLink, lets the nodes in whose keys lie in the certificates'
folder, waits for all of them, runs the rounds, writes the model and ends. If it, or the
SuperLink alone, is killed and started again, the run goes on from the last checkpoint.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from federated.deployment import health
from federated.environment import await_port, flower_environment, flwr, running
from federated.launch import LinkError, RunError, connect, submit, write_app

_NUMBERS = {
    "epochs": int,
    "batch-size": int,
    "validation-split": float,
    "seed": int,
    "min-clients": int,
    "timeout": float,
}
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
        _serve(options)
    except (RunError, ValueError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _parser(prog):
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("task", help="module with build_model() and load_data()")
    parser.add_argument("--rounds", type=int, default=10)
    for name, kind in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind)
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
        help="what a run needs to go on: checkpoints, and who is known",
    )
    parser.add_argument("--model", metavar="PATH", help="of the .keras file to write")
    parser.add_argument(
        "--plain-model", metavar="PATH", help="the same for Keras without kerasreg"
    )
    parser.add_argument("--history", metavar="PATH", help="of the .json file to write")
    parser.add_argument("--host", help="address to listen at; all, or 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--verbose", action="store_true", help="Flower's log, too")
    return parser


def _serve(options):
    arguments = _superlink_arguments(options)
    state = pathlib.Path(options.state).absolute()
    state.mkdir(parents=True, exist_ok=True)
    config = _run_config(options, state)
    with tempfile.TemporaryDirectory(prefix="kerasreg-server-") as folder:
        home = pathlib.Path(folder)
        certificates = _certificates(options)
        root = certificates and str(certificates / "ca.crt")
        connect(home, options.port, root)
        app, environment = (
            write_app(home, config),
            flower_environment(home, options.verbose),
        )
        database = state / "superlink.db"
        arguments += ["--database", str(database)]
        deaths, before = 0, None
        while True:
            if not database.exists():
                (state / "nodes.json").unlink(missing_ok=True)
            try:
                _run(options, arguments, environment, app, state)
                return
            except LinkError as error:
                done = sorted(path.name for path in state.glob("run/round-*.npz"))
                deaths = 1 if done != before else deaths + 1
                if deaths > _FRUITLESS:
                    raise
                before = done
                print(f"{error}; going on from the last checkpoint", flush=True)


def _run(options, arguments, environment, app, state):
    with running("superlink", arguments, env=environment) as superlink:
        if not await_port(options.port, superlink):
            raise RunError("Flower's SuperLink did not start; it says why above.")
        with health.reporting(lambda: superlink.poll() is None):
            if certificates := _certificates(options):
                _admit(certificates / "nodes", state, environment, superlink)
            print(f"waiting for the nodes at port {options.port}", flush=True)
            submit(app, environment, superlink, show=_show)


def _show(line):
    print(line, flush=True)


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
    arguments = ["--port", str(options.port)]
    arguments += ["--disable-runtime-dependency-installation"]
    if options.insecure:
        host = options.host or "127.0.0.1"
        return [*arguments, "--host", host, "--insecure"]
    folder = _certificates(options)
    names = {"certfile": "server.crt", "keyfile": "server.key", "ca-certfile": "ca.crt"}
    for option, name in names.items():
        check_file(folder / name, "--certificates")
        arguments += [f"--ssl-{option}", str(folder / name)]
    if not list((folder / "nodes").glob("*.pub")):
        raise ValueError(
            "Expected the public key of at least one site in --certificates. "
            f"Received: no file {folder / 'nodes' / '*.pub'}"
        )
    host = options.host or "0.0.0.0"
    return [*arguments, "--host", host, "--enable-supernode-auth"]


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


def _run_config(options, state):
    if options.rounds < 1:
        raise ValueError(
            "Invalid value for --rounds. Expected a positive integer. "
            f"Received: {options.rounds}"
        )
    given = {name: vars(options)[name.replace("-", "_")] for name in _NUMBERS}
    config = {name: value for name, value in given.items() if value is not None}
    for name in ("model", "plain-model", "history"):
        path = vars(options)[name.replace("-", "_")]
        if path and name.endswith("model") and not path.endswith(".keras"):
            raise ValueError(
                f"Invalid value for --{name}. Expected a path that ends in .keras. "
                f"Received: {path}"
            )
        if path:
            config[name] = os.path.abspath(path)
            pathlib.Path(config[name]).parent.mkdir(parents=True, exist_ok=True)
    return {
        "task": options.task,
        "num-server-rounds": options.rounds,
        "checkpoint": str(state / "run"),
        "resume": True,
        **config,
    }


def _admit(nodes, state, environment, superlink):
    """Let in the nodes whose keys are there, and none whose key is gone.

    Flower remembers nodes in its database, but does not tell their keys, so
    `nodes.json` has the id of each.
    """
    if shutil.which("flwr", path=environment["PATH"]) is None:
        raise RunError("Flower's command `flwr` is not installed.")
    file = state / "nodes.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    keys = {
        " ".join(path.read_text().split()[:2]): path
        for path in sorted(nodes.glob("*.pub"))
    }
    for key in [key for key in known if key not in keys]:
        with contextlib.suppress(RunError):  # the database may be a new one
            _flwr(environment, superlink, "unregister", str(known[key]["id"]), "here")
        print(f"no longer admitted: {known.pop(key)['name']}", flush=True)
        _write(file, known)
    for key, path in keys.items():
        if key not in known:
            name = ["--name", path.stem]
            said = _flwr(environment, superlink, "register", str(path), "here", *name)
            known[key] = {"id": said["node-id"], "name": path.stem}
            print(f"admitted: {path.stem}", flush=True)
            _write(file, known)


def _write(file, known):
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(known, indent=1))
    os.replace(unfinished, file)


def _flwr(environment, superlink, *arguments):
    """What `flwr supernode` answers."""
    command = flwr("supernode", *arguments, "--format", "json")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    start = done.stdout.find("{")
    said = json.loads(done.stdout[start:]) if start >= 0 else {}
    if not said.get("success"):
        if superlink.poll() is not None:
            raise LinkError("Flower's SuperLink has died")
        why = said.get("error-message") or (done.stdout + done.stderr).strip()
        raise RunError(f"`flwr supernode {' '.join(arguments)}` failed: {why}")
    return said


if __name__ == "__main__":
    sys.exit(main())
