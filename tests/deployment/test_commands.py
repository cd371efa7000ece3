"""What the commands of a federation say to wrong arguments, before anything starts."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import pytest

from federated.deployment import client, server
from federated.launch import LinkError
from tests.deployment.processes import ROOT

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


def test_a_server_without_sites(folder, capsys, monkeypatch):
    monkeypatch.setattr(server, "_check_date", lambda path: None)
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
        "task --rounds 3 --min-clients 2 --timeout 9 --model out/a.keras "
        "--plain-model b.keras --history h.json --insecure"
    )
    options = server._parser("").parse_args(line.split())
    (folder / "state").mkdir()
    assert server._run_config(options, folder / "state") == {
        "task": "task",
        "num-server-rounds": 3,
        "checkpoint": str(folder / "state" / "run"),
        "resume": True,
        "min-clients": 2,
        "timeout": 9.0,
        "model": str(folder / "out" / "a.keras"),
        "plain-model": str(folder / "b.keras"),
        "history": str(folder / "h.json"),
    }
    assert (folder / "out").is_dir()


def test_outputs_that_could_not_be_written(folder, capsys):
    """Before all rounds, not after them."""
    (folder / "folder.keras").mkdir()
    (folder / "file").touch()
    for path, why in [
        ("folder.keras", "Is a directory: folder.keras"),
        ("file/model.keras", "File exists: file/model.keras"),
        ("/proc/model.keras", "No such file or directory: /proc/model.keras"),
    ]:
        assert failure(server, ["task", "--insecure", "--model", path], capsys) == (
            "Invalid value for --model. Expected the path of a file that can be "
            f"written. Received: {why}"
        )


def test_a_state_of_another_task(folder, capsys, monkeypatch):
    """Its model would be taken for this one's."""
    monkeypatch.setattr(server, "_run", lambda *a: None)
    assert server.main(["task", "--insecure"]) == 0
    assert server.main(["task", "--insecure", "--rounds", "20"]) == 0
    assert failure(server, ["other", "--insecure"], capsys) == (
        "Invalid value for --state. Expected a new folder for 'other'. Received: "
        f"{folder / 'state'}, which has a run of 'task'"
    )
    assert (folder / "state").stat().st_mode & 0o777 == 0o700


def test_a_state_that_another_server_uses(folder, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        server,
        "_run",
        lambda *a: seen.append(failure(server, ["task", "--insecure"], capsys)),
    )
    assert server.main(["task", "--insecure"]) == 0
    assert seen == [
        "Invalid value for --state. Expected a folder that no other server uses now. "
        f"Received: {folder / 'state'}"
    ]
    monkeypatch.setattr(server, "_run", lambda *a: None)
    assert server.main(["task", "--insecure"]) == 0  # it is free again


@pytest.mark.parametrize("days", [0, 10, 300])
def test_the_date_of_a_certificate(tmp_path, capsys, days):
    script = ROOT / "deploy" / "certificates.py"
    command = [sys.executable, script, tmp_path / "certs", "--host", "x"]
    subprocess.run([*command, "--sites", "a", "--days", str(days)], check=True)
    path = tmp_path / "certs" / "server" / "server.crt"
    capsys.readouterr()
    if days == 0:
        with pytest.raises(ValueError, match=r"expired on .*--renew-server makes"):
            server._check_date(path)
    else:
        server._check_date(path)
    assert ("expires on" in capsys.readouterr().out) is (days == 10)


def deaths(monkeypatch, tmp_path, rounds):
    """Serve with a SuperLink that dies after so many rounds each time."""
    ran = []

    def run(options, arguments, environment, app):
        if len(ran) == len(rounds):
            return
        ran.append(1)
        folder = tmp_path / "state" / "run"
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


@pytest.mark.parametrize("address", ["host", ":80", "host:", "host:port", "h:123456"])
def test_the_address_of_a_server(address, capsys):
    with pytest.raises(SystemExit):
        client.main([*SITE, "--insecure", "--server", address])
    assert f"expected HOST:PORT, received {address!r}" in capsys.readouterr().err


def options_of(*arguments):
    return client._parser("").parse_args([*SITE, *arguments])


def test_a_server_that_is_away_is_waited_for(monkeypatch, capsys):
    answers = iter([ConnectionRefusedError(111, "refused")] * 2 + [OSError("x"), None])

    def ask(host, port, options):
        if error := next(answers):
            raise error

    monkeypatch.setattr(client, "_ask", ask)
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    client._reach(options_of("--insecure", "--server", "[::1]:80"))
    assert capsys.readouterr().out == (
        "waiting for [::1]:80: refused\nwaiting for [::1]:80: x\n"
    )


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_speaks_otherwise(tls, folder):
    """TLS against a plain server, and the other way round: both end at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer():
            with listener.accept()[0] as link:
                link.recv(100)
                link.sendall(
                    b"\x15\x03\x03\x00\x02\x02\x46" if not tls else b"HTTP/1.1 400\r\n"
                )

        threading.Thread(target=answer, daemon=True).start()
        more = ["--insecure"]
        if tls:
            script = ROOT / "deploy" / "certificates.py"
            command = [sys.executable, script, "c", "--host", "x", "--sites", "a"]
            subprocess.run(command, check=True)
            more = ["--certificates", "c/a"]
        with pytest.raises(client.Refused, match=address):
            client._reach(options_of("--server", address, *more))


def test_sigterm_while_it_waits_leaves_nothing(tmp_path, monkeypatch):
    """The folder has the secret between node and worker."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []

    def wait(site):
        seen.extend(tmp_path.iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(client._Site, "take_part", wait)
    with pytest.raises(SystemExit):
        client.main([*SITE, "--insecure"])
    assert len(seen) == 1
    assert not list(tmp_path.iterdir())
