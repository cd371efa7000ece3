"""`flwr run` on this machine, from its start to its end, by one function."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time

from federated.environment import (
    await_port,
    flower_environment,
    flwr,
    free_port,
    running,
    worker_environment,
)

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
{lines}
"""

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


class RunError(RuntimeError):
    """A run of Flower that did not end well; the message says why."""


class LinkError(RunError):
    """A run that ended because its SuperLink did."""


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
        home, port = pathlib.Path(folder), free_port()
        environment = {**flower_environment(home), **worker_environment()}
        connect(home, port)
        app = write_app(home, run_config)
        with _superlink(port, home, environment) as superlink:
            options = ["--federation-config", federation]
            submit(app, environment, superlink, options, show=show)


@contextlib.contextmanager
def _superlink(port, home, environment):
    """A SuperLink that simulates, in a process that ends with the block."""
    arguments = ["--insecure", "--simulation", "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--disable-runtime-dependency-installation"]
    log = home / "superlink.log"
    with log.open("wb") as output:
        settings = {"stdout": output, "stderr": output, "env": environment}
        with running("superlink", arguments, **settings) as superlink:
            if not await_port(port, superlink):
                said = log.read_text()[-2000:]
                raise RunError(f"Flower's SuperLink did not start:\n{said}")
            yield superlink


def connect(home, port, root_certificate=None):
    """Write down how `flwr` reaches the SuperLink of this machine.

    Args:
        home: Path of the folder of Flower's settings.
        port: The SuperLink's port.
        root_certificate: Path of the certificate it is verified by; `None` for none.
    """
    secure = f"root-certificates = {json.dumps(root_certificate)}"
    lines = "insecure = true" if root_certificate is None else secure
    (home / "config.toml").write_text(_CONNECTION.format(port=port, lines=lines))


def write_app(home, run_config):
    """Write a Flower app that runs a task with kerasreg as it is installed here.

    Args:
        home: Path of the folder that the app's folder is made in.
        run_config: Dict of `federated.server_app.serve`.

    Returns:
        The path of the app's folder.
    """
    app = home / "app"
    app.mkdir(exist_ok=True)
    (app / "kerasreg_run.py").write_text(_MODULE)
    lines = [f"{key} = {json.dumps(v)}" for key, v in run_config.items()]
    (app / "pyproject.toml").write_text(_APP + "\n".join(lines) + "\n")
    return app


def submit(app, environment, superlink, options=(), *, show=print):
    """Submit a run to the SuperLink that `connect` names, and follow it to its end.

    Args:
        app: Path of the app's folder.
        environment: Dict, see `federated.environment.flower_environment`.
        superlink: `subprocess.Popen` of the SuperLink.
        options: Further arguments of `flwr run`.
        show: Function that is called with each line of progress.

    Raises:
        LinkError: If the SuperLink has died.
        RunError: If the run did not complete.
    """
    command = [*flwr("run"), str(app), "here", "--stream", *options]
    run, said = _stream(command, environment, show, superlink)
    status, why = _wait(run, environment, superlink)
    if status != "finished:completed":
        raise RunError(f"The run ended as {status}: {_reason(why, said)}")


def _stream(command, environment, show, superlink):
    """The id of a run that is started and followed to its end, and what it said."""
    run, said = None, []
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        threading.Thread(
            target=_ends_with, args=(child, superlink), daemon=True
        ).start()
        try:
            for line in child.stdout or ():
                text = _COLORS.sub("", line).rstrip()
                said.append(text)
                found = re.search(r"started run (\d+)", text)
                if found and run is None:  # not what a client's error says
                    run = found.group(1)
                elif re.match(r"round \d+/\d+ |waiting: ", text):
                    show(text)
        finally:
            child.terminate()
    if superlink.poll() is not None:
        raise LinkError("Flower's SuperLink has died")
    if run is None:
        raise RunError("`flwr run` did not start the run:\n" + "\n".join(said[-20:]))
    return run, said


def _ends_with(child, superlink):
    """End `flwr run`, which would wait for a SuperLink that has died."""
    while child.poll() is None and superlink.poll() is None:
        time.sleep(0.2)
    if child.poll() is None:
        child.terminate()


def _wait(run, environment, superlink):
    """The final status of a run, and Flower's details of it.

    What follows the log may end before the run, and ends with status 0 if it failed.
    """
    command = flwr("list", "here", "--run-id", run, "--format", "json")
    while superlink.poll() is None:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        listed = re.search(r"^\{.*^\}", done.stdout, re.DOTALL | re.MULTILINE)
        if listed is not None:
            (found,) = json.loads(listed.group())["runs"]
            if found["status"].startswith("finished"):
                return found["status"], found["status-details"]
        elif superlink.poll() is None:
            return "unknown", done.stdout + done.stderr
        time.sleep(1.0)
    raise LinkError("Flower's SuperLink has died")


def _reason(details, said):
    """The error of a run: its last line in the log, or else what Flower says."""
    errors = [
        line for line in said if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)
    ]
    return errors[-1] if errors else details
