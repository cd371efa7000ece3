"""A federation as compose.yaml starts it, as processes on loopback."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from federated.environment import free_port
from federated.history import History
from tests.deployment.processes import ROOT, Command

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc"),
]
TASK = "tests.deployment.task"


def certificates(folder, *arguments):
    script = ROOT / "deploy" / "certificates.py"
    subprocess.run([sys.executable, script, folder, *arguments], check=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Certificates of a server and its two sites; of a stranger; of another server."""
    folder = tmp_path_factory.mktemp("keys")
    sites = ["site-0", "site-1", "stranger"]
    certificates(folder / "ours", "--host", "127.0.0.1", "--sites", *sites)
    (folder / "ours" / "server" / "nodes" / "stranger.pub").unlink()
    certificates(folder / "theirs", "--host", "127.0.0.1", "--sites", "site-0")
    return folder


@pytest.fixture
def start(tmp_path):
    """Starts commands, which end with the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **environment):
            name = f"health-{len(list(tmp_path.glob('health-*')))}"
            (tmp_path / name).touch()
            health = {"KERASREG_HEALTH": str(tmp_path / f"{name}.file")}
            command = Command(*arguments, folder=tmp_path, **health, **environment)
            stack.callback(command.end)
            return command

        yield start


class Federation:
    def __init__(self, start, keys, folder, rounds, seconds="0"):
        self.start, self.keys, self.folder = start, keys, folder
        self.rounds, self.port = rounds, free_port()
        self.environment = {"KERASREG_TEST_SECONDS": seconds}

    def server(self, *arguments):
        return self.start(
            *("federated", "server", TASK, "--rounds", self.rounds),
            *("--certificates", self.keys / "ours" / "server", "--port", self.port),
            *("--state", self.folder / "state", "--host", "127.0.0.1"),
            *("--model", "model.keras", "--plain-model", "plain.keras"),
            *("--history", "history.json", "--timeout", 150, *arguments),
        )

    def client(self, number, folder=None, *arguments):
        folder = folder or self.keys / "ours" / f"site-{number}"
        keys = () if folder == "none" else ("--certificates", folder)
        return self.start(
            *("federated", "client", TASK, "--server", f"127.0.0.1:{self.port}"),
            *("--client", number, "--clients", 2, *keys, "--patience", 90, *arguments),
            **self.environment,
        )

    def history(self):
        text = (self.folder / "history.json").read_text()
        return History.from_json(json.loads(text)).rounds


def load_by_plain_keras(path):
    """The weights of a model, read by a process that has no kerasreg."""
    program = (
        "import sys\n"
        "sys.modules['kerasreg'] = sys.modules['federated'] = None\n"
        "import keras, json\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        "print(json.dumps([w.tolist() for w in model.get_weights()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return [np.array(w, "float32") for w in json.loads(done.stdout.splitlines()[-1])]


def test_a_run_and_who_is_refused(start, keys, tmp_path):
    federation = Federation(start, keys, tmp_path, rounds=3)
    server = federation.server()
    server.wait_for("waiting for the nodes")
    # None of these has a second try.
    stranger = keys / "ours" / "stranger"
    refused = federation.client(0, stranger, "--patience", 0)
    assert refused.status() == 1
    assert "does not let this site in: has it the site's public key?" in refused.text
    refused = federation.client(0, "none", "--insecure")
    assert refused.status() == 1
    assert "does not answer as a server without encryption does" in refused.text
    refused = federation.client(0, keys / "theirs" / "site-0")
    assert refused.status() == 1
    assert "is not who it says: " in refused.text
    wrong_key = tmp_path / "wrong"
    shutil.copytree(keys / "ours" / "site-0", wrong_key)
    shutil.copy(keys / "theirs" / "site-0" / "node.key", wrong_key)
    assert federation.client(0, wrong_key, "--patience", 0).status() == 1
    assert "round 1/" not in server.text
    clients = [federation.client(0), federation.client(1)]
    assert server.status() == 0, server.text
    last = federation.history()[-1]
    assert last.number == 3
    assert sorted(last.clients) == [0, 1]
    assert not last.errors
    assert all("took" in client.text for client in clients)
    # The same as in one process, bit for bit, and with the lasso's exact zeros.
    done = start(
        *("federated", "simulate", TASK, "--clients", 2, "--rounds", 3),
        *("--plain-model", "simulated.keras"),
    )
    assert done.status() == 0, done.text
    kernel, bias = load_by_plain_keras(tmp_path / "plain.keras")
    expected = load_by_plain_keras(tmp_path / "simulated.keras")
    np.testing.assert_array_equal(kernel, expected[0])
    np.testing.assert_array_equal(bias, expected[1])
    assert 0 < np.sum(kernel == 0) < 17


def test_what_dies_comes_back(start, keys, tmp_path):
    federation = Federation(start, keys, tmp_path, rounds=7, seconds="3")
    server = federation.server()
    server.wait_for("waiting for the nodes")
    clients = [federation.client(0), federation.client(1)]
    server.wait_for("round 1/7")
    # A site's machine fails in mid-round: the round ends with the others.
    clients[0].wait_for("round 2: train", 60)
    clients[1].kill_all()
    server.wait_for("round 2/7")
    server.wait_for("round 3/7")
    clients[1] = federation.client(1)
    clients[1].wait_for("train took", 240)
    # The SuperLink dies: the command starts another, and a new run goes on.
    done = [line for line in server.lines if line.startswith("round ")]
    (link,) = server.children("child.py")
    os.kill(link, signal.SIGKILL)
    server.wait_for("going on from the last checkpoint")
    server.wait_for("round ", count=len(done) + 1)
    # The server's machine fails: the command, started again, goes on.
    server.kill_all()
    server = federation.server()
    assert server.status(300) == 0, server.text
    rounds = federation.history()
    assert [r.number for r in rounds] == list(range(8))
    assert 1 in rounds[2].errors or 1 in rounds[3].errors
    assert sorted(rounds[7].clients) == [0, 1]
    assert not rounds[7].errors
    assert all(client.process.poll() is None for client in clients)
    assert len(load_by_plain_keras(tmp_path / "plain.keras")) == 2


def test_a_worker_that_dies_is_replaced(start, keys, tmp_path):
    federation = Federation(start, keys, tmp_path, rounds=4, seconds="2")
    server = federation.server()
    server.wait_for("waiting for the nodes")
    clients = [federation.client(0), federation.client(1)]
    clients[1].wait_for("round 2: train")
    (worker,) = clients[1].children("deployment.worker")
    os.kill(worker, signal.SIGKILL)
    clients[1].wait_for("the worker ended: status -9", 30)
    assert server.status(300) == 0, server.text
    rounds = federation.history()
    assert sorted(rounds[4].clients) == [0, 1]
    assert not rounds[4].errors
    assert [bool(r.clients) for r in rounds] == [False] + 4 * [True]
