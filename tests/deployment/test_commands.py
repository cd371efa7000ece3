"""What the commands of a federation say to wrong arguments, before anything starts."""

import json
import shutil

import pytest

from federated.deployment import client, server
from federated.launch import LinkError, RunError

SITE = ["task", "--client", "0", "--clients", "2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Certificates of a server and a site, as far as names go."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes").mkdir()
    for name in ("server.crt", "server.key", "ca.crt", "node.key", "nodes/a.pub"):
        (tmp_path / name).write_text("ssh-ecdsa AAAA a")
    return tmp_path


def failure(command, arguments, capsys):
    assert command.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("failed: ")
    return error.removeprefix("failed: ").rstrip()


@pytest.mark.parametrize("more", [[], ["--insecure", "--certificates", "."]])
def test_how_a_server_knows_its_nodes(folder, capsys, more):
    assert failure(server, ["task", *more], capsys) == (
        "Expected either --certificates FOLDER (deploy/certificates.py makes one) or "
        "--insecure."
    )
    assert failure(client, [*SITE, *more], capsys) == (
        "Expected either --certificates FOLDER (from the server's side, see "
        "deploy/certificates.py) or --insecure."
    )


@pytest.mark.parametrize("name", ["server.crt", "server.key", "ca.crt"])
def test_a_server_without_a_file(folder, capsys, name):
    (folder / name).unlink()
    assert failure(server, ["task", "--certificates", "."], capsys) == (
        f"Invalid value for --certificates. Expected a readable file {name} in it. "
        f"Received: No such file or directory: {folder / name}"
    )


@pytest.mark.parametrize("name", ["ca.crt", "node.key"])
def test_a_site_without_a_file(folder, capsys, name):
    (folder / name).unlink()
    assert failure(client, [*SITE, "--certificates", "."], capsys) == (
        f"Invalid value for --certificates. Expected a readable file {name} in it. "
        f"Received: No such file or directory: {folder / name}"
    )


def test_a_server_without_sites(folder, capsys):
    shutil.rmtree(folder / "nodes")
    assert failure(server, ["task", "--certificates", "."], capsys) == (
        "Expected the public key of at least one site in --certificates. Received: no "
        f"file {folder / 'nodes' / '*.pub'}"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--rounds", "0"],
            "Invalid value for --rounds. Expected a positive integer. Received: 0",
        ),
        (
            ["--model", "a.h5"],
            "Invalid value for --model. Expected a path that ends in .keras. "
            "Received: a.h5",
        ),
        (
            ["--plain-model", "b"],
            "Invalid value for --plain-model. Expected a path that ends in .keras. "
            "Received: b",
        ),
    ],
)
def test_other_values_of_a_server(folder, capsys, arguments, message):
    assert failure(server, ["task", "--insecure", *arguments], capsys) == message


@pytest.mark.parametrize(("number", "of"), [(2, 2), (-1, 2), (0, 0)])
def test_numbers_of_a_site(folder, capsys, number, of):
    arguments = ["task", f"--client={number}", f"--clients={of}", "--insecure"]
    assert failure(client, arguments, capsys) == (
        "Invalid value for --client. Expected a number from 0 to --clients - 1. "
        f"Received: --client {number} --clients {of}"
    )


def test_all_that_a_run_is_told(folder):
    line = (
        "task --rounds 3 --epochs 2 --batch-size 8 --validation-split 0.5 --seed 4 "
        "--min-clients 2 --timeout 9 --model out/a.keras --history h.json --insecure"
    )
    options = server._parser("").parse_args(line.split())
    assert server._run_config(options, folder / "state") == {
        "task": "task",
        "num-server-rounds": 3,
        "checkpoint": str(folder / "state" / "run"),
        "resume": True,
        "epochs": 2,
        "batch-size": 8,
        "validation-split": 0.5,
        "seed": 4,
        "min-clients": 2,
        "timeout": 9.0,
        "model": str(folder / "out" / "a.keras"),
        "history": str(folder / "h.json"),
    }
    assert (folder / "out").is_dir()


class Flwr:
    """Stands in for `flwr supernode`, and keeps what it was asked."""

    def __init__(self, monkeypatch):
        self.asked, self.next_id, self.fails = [], 100, ()
        monkeypatch.setattr(server, "_flwr", self)
        monkeypatch.setattr(server.shutil, "which", lambda *a, **k: "flwr")

    def __call__(self, environment, superlink, action, what, *rest):
        self.asked.append((action, what.rpartition("/")[2]))
        if self.asked[-1][1] in self.fails:
            raise RunError("no")
        self.next_id += action == "register"
        return {"success": True, "node-id": self.next_id - 1}


@pytest.fixture
def admit(tmp_path, monkeypatch):
    flwr, nodes = Flwr(monkeypatch), tmp_path / "nodes"
    nodes.mkdir()

    def admit(**keys):
        for path in nodes.glob("*.pub"):
            path.unlink()
        for name, key in keys.items():
            (nodes / f"{name}.pub").write_text(f"ssh-ecdsa {key} {name}\n")
        flwr.asked.clear()
        server._admit(nodes, tmp_path, {"PATH": ""}, None)
        return flwr.asked

    admit.flwr, admit.file = flwr, tmp_path / "nodes.json"
    return admit


def test_who_is_admitted(admit):
    assert admit(a="K1", b="K2") == [("register", "a.pub"), ("register", "b.pub")]
    assert admit(a="K1", b="K2") == []
    assert admit(a="K1") == [("unregister", "101")]
    assert admit(a="K3") == [("unregister", "100"), ("register", "a.pub")]
    assert json.loads(admit.file.read_text()) == {
        "ssh-ecdsa K3": {"id": 102, "name": "a"}
    }


def test_a_name_or_comment_is_not_the_key(admit):
    admit(a="K1")
    assert admit(renamed="K1") == []


def test_who_could_not_be_admitted_is_not_known(admit):
    admit.flwr.fails = ("b.pub",)
    with pytest.raises(RunError):
        admit(a="K1", b="K2")
    admit.flwr.fails = ()
    assert admit(a="K1", b="K2") == [("register", "b.pub")]  # and not the first again


def deaths(monkeypatch, tmp_path, rounds):
    """Serve with a SuperLink that dies after so many rounds each time."""
    ran = []

    def run(options, arguments, environment, app, state):
        if len(ran) == len(rounds):
            return
        ran.append(1)
        folder = state / "run"
        folder.mkdir(exist_ok=True)
        done = len(list(folder.iterdir()))
        for number in range(done, done + rounds[len(ran) - 1]):
            (folder / f"round-{number:06d}.npz").touch()
        raise LinkError("Flower's SuperLink has died")

    monkeypatch.setattr(server, "_run", run)
    monkeypatch.chdir(tmp_path)
    return server.main(["task", "--insecure"])


def test_a_superlink_that_dies_is_started_again(monkeypatch, tmp_path, capsys):
    assert deaths(monkeypatch, tmp_path, [2, 0, 0, 1, 0, 0, 1]) == 0
    out = capsys.readouterr().out
    assert out.count("going on from the last checkpoint") == 7


def test_one_that_dies_of_itself_is_not(monkeypatch, tmp_path, capsys):
    assert deaths(monkeypatch, tmp_path, [2, 0, 0, 0, 0, 0]) == 1
    assert capsys.readouterr().err == "failed: Flower's SuperLink has died\n"


def test_a_new_database_knows_nobody(monkeypatch, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "nodes.json").write_text("{}")
    monkeypatch.setattr(server, "_run", lambda *a: None)
    monkeypatch.chdir(tmp_path)
    (state / "superlink.db").touch()
    assert server.main(["task", "--insecure"]) == 0
    assert (state / "nodes.json").exists()
    (state / "superlink.db").unlink()
    assert server.main(["task", "--insecure"]) == 0
    assert not (state / "nodes.json").exists()
