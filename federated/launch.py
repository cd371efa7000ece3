"""`flwr run` on this machine, from its start to its end, by one function."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time

from federated.engine import worker_environment

_APP = """\
[project]
name = "kerasreg-run"
version = "0.0.0"
description = "A run of a task of kerasreg"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "kerasreg"

[tool.flwr.app.components]
serverapp = "kerasreg_run:server"
clientapp = "kerasreg_run:client"

[tool.flwr.app.config]
"""

# `flwr run` looks for these names without importing TensorFlow.
_MODULE = """\
from federated import client_app, server_app

server = server_app.app
client = client_app.app
"""

_CONNECTION = """\
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


class RunError(RuntimeError):
    """A run of Flower that did not end well; the message says why."""


def flower_run(run_config, num_clients, *, show=print):
    """Run the Flower app as `flwr run` does, in a SuperLink that is ended with it.

    Everything lies in a folder of its own that is removed: the user's Flower settings
    are neither read nor written. Nothing is installed or sent anywhere.

    Args:
        run_config: Dict of `federated.server_app.serve`.
        num_clients: Number of nodes, each of which is a client.
        show: Function that is called with each line of progress.

    Raises:
        RunError: If the run did not complete.
    """
    workers = min(num_clients, os.cpu_count() or 1)
    federation = (
        f"num-supernodes={num_clients} client-resources-num-cpus=1 "
        f"init-args-num-cpus={workers} init-args-log-to-driver=false "
        'init-args-logging-level="error"'
    )
    with tempfile.TemporaryDirectory(
        prefix="kerasreg-flower-", ignore_cleanup_errors=True
    ) as folder:
        home, port = pathlib.Path(folder), _free_port()
        environment = _environment(home)
        (home / "config.toml").write_text(_CONNECTION.format(port=port))
        app = home / "app"
        app.mkdir()
        (app / "kerasreg_run.py").write_text(_MODULE)
        lines = [f"{key} = {json.dumps(v)}" for key, v in run_config.items()]
        (app / "pyproject.toml").write_text(_APP + "\n".join(lines) + "\n")
        with _superlink(port, home, environment) as superlink:
            command = [*_flwr("run"), str(app), "here", "--stream"]
            command += ["--federation-config", federation]
            run, said = _stream(command, environment, show)
            status, why = _wait(run, environment, superlink)
    if status != "finished:completed":
        raise RunError(f"The run ended as {status}: {_reason(why, said)}")


def _flwr(*arguments):
    return [os.path.join(sysconfig.get_path("scripts"), "flwr"), *arguments]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(home):
    """What Flower's processes see: their own folder, these packages, no network."""
    here = str(pathlib.Path(__file__).resolve().parents[1])
    paths = [os.getcwd(), here, os.environ.get("PYTHONPATH", "")]
    scripts = sysconfig.get_path("scripts")
    local = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    return {
        **os.environ,
        **worker_environment(),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_PROXY": local,
        "no_proxy": local,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


@contextlib.contextmanager
def _superlink(port, home, environment):
    """A SuperLink in a process that ends with the block, whatever happens in it."""
    command = os.path.join(sysconfig.get_path("scripts"), "flower-superlink")
    arguments = ["--insecure", "--simulation", "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--disable-runtime-dependency-installation"]
    log = home / "superlink.log"
    with _ended_by_sigterm():
        with log.open("wb") as output:
            superlink = subprocess.Popen(
                [command, *arguments], stdout=output, stderr=output, env=environment
            )
        try:
            _await_port(port, superlink, log)
            yield superlink
        finally:
            superlink.terminate()
            try:
                superlink.wait(20)
            except subprocess.TimeoutExpired:
                superlink.kill()
                superlink.wait()


@contextlib.contextmanager
def _ended_by_sigterm():
    """Have SIGTERM raise, so that what has begun is ended; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _await_port(port, superlink, log, seconds=60):
    end = time.monotonic() + seconds
    while superlink.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise RunError(f"Flower's SuperLink did not start:\n{log.read_text()[-2000:]}")


def _stream(command, environment, show):
    """The id of a run that is started and followed to its end, and what it said."""
    run, said = None, []
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        try:
            for line in child.stdout or ():
                text = _COLORS.sub("", line).rstrip()
                said.append(text)
                if found := re.search(r"started run (\d+)", text):
                    run = found.group(1)
                elif re.match(r"round \d+/\d+ ", text):
                    show(text)
        finally:
            child.terminate()
    if run is None:
        raise RunError("`flwr run` did not start the run:\n" + "\n".join(said[-20:]))
    return run, said


def _wait(run, environment, superlink):
    """The final status of a run, and Flower's details of it.

    What follows the log may end before the run, and ends with status 0 if it failed.
    """
    command = _flwr("list", "here", "--run-id", run, "--format", "json")
    while superlink.poll() is None:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        listed = re.search(r"^\{.*^\}", done.stdout, re.DOTALL | re.MULTILINE)
        if listed is None:
            return "unknown", done.stdout + done.stderr
        (found,) = json.loads(listed.group())["runs"]
        if found["status"].startswith("finished"):
            return found["status"], found["status-details"]
        time.sleep(1.0)
    return "unknown", "Flower's SuperLink has died"


def _reason(details, said):
    """The error of a run: its last line in the log, or else what Flower says."""
    errors = [
        line for line in said if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)
    ]
    return errors[-1] if errors else details
