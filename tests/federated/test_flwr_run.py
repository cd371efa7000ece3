"""`flwr run`, from its start to its end: one true run, and fakes of what goes wrong."""

import contextlib
import io
import json
import os
import pathlib
import signal
import sys
import time
import zipfile
from concurrent import futures

import keras
import numpy as np
import pytest

from federated import environment, launch
from federated.__main__ import in_process, main
from federated.launch import RunError, flower_run

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {"task": "tests.federated.tasks", "num-server-rounds": 2}


def processes_with(text):
    """Command lines of the processes of this machine that have a text in them."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_bytes())
    return found


@pytest.mark.slow
def test_flwr_run(tmp_path, monkeypatch, capfd):
    """The weights of a run in one process, offline, and nothing left behind."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "untouched"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("KERASREG_TEST_MARK", str(tmp_path))
    model = tmp_path / "model.keras"
    arguments = ["tests.federated.tasks", "--clients", "4", "--rounds", "2"]
    status = main([*arguments, "--model", str(model), "--engine", "flower"])
    out, err = capfd.readouterr()
    assert status == 0, err
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["round 1/2", "round 2/2"]
    assert lines[2].startswith("4 clients, 2 rounds in ")
    expected = in_process(CONFIG, 4).model.get_weights()
    for a, b in zip(
        keras.models.load_model(model).get_weights(), expected, strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "untouched").exists()
    end = time.monotonic() + 10
    while processes_with(str(tmp_path)) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes_with(str(tmp_path)) == []


FAKE = """\
import json, sys
if sys.argv[1] == "run":
    print("\\x1b[92mINFO\\x1b[0m: Successfully started run 17")
    print("\\x1b[1mround 1/2  loss 0.5\\x1b[0m")
    print("flwr.app.exception.AppExitException: not the last")
    print("federated.rounds.RoundError: Round 2: nobody is there")
    print("something else")
else:
    assert sys.argv[2:] == ["here", "--run-id", "17", "--format", "json"]
    print("Displaying ...")
    run = {"status": "STATUS", "status-details": "Simulation failed"}
    print(json.dumps({"success": True, "runs": [run]}, indent=2))
"""


class Alive:
    """A SuperLink that lives."""

    def poll(self):
        return None


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Has `flwr` be a script that says what Flower says, with exit status 0."""

    def make(text):
        script = tmp_path / "flwr.py"
        script.write_text(text)
        monkeypatch.setattr(
            launch, "flwr", lambda *a: [sys.executable, str(script), *a]
        )

        @contextlib.contextmanager
        def superlink(port, home, environment):
            yield Alive()

        monkeypatch.setattr(launch, "_superlink", superlink)

    return make


def test_status_0_of_a_run_that_failed_is_not_believed(fake):
    fake(FAKE.replace("STATUS", "finished:failed"))
    shown = []
    with pytest.raises(RunError) as caught:
        flower_run(CONFIG, 4, show=shown.append)
    assert str(caught.value) == (
        "The run ended as finished:failed: federated.rounds.RoundError: Round 2: "
        "nobody is there"
    )
    assert shown == ["round 1/2  loss 0.5"]


def test_the_command_has_status_1_then(fake, capsys):
    fake(FAKE.replace("STATUS", "finished:stopped"))
    assert main(["tests.federated.tasks", "--engine", "flower"]) == 1
    assert capsys.readouterr().err.startswith(
        "failed: The run ended as finished:stopped: federated.rounds.RoundError: "
    )


def test_a_run_that_completed(fake):
    fake(FAKE.replace("STATUS", "finished:completed"))
    flower_run(CONFIG, 4, show=lambda line: None)


def test_the_superlink_can_be_started_from_any_thread():
    def use():
        with environment.ended_by_sigterm():
            return "done"

    with futures.ThreadPoolExecutor() as pool:
        assert pool.submit(use).result() == "done"


def test_the_reason_without_an_error_in_the_log(fake):
    fake(FAKE.replace("STATUS", "finished:failed").replace("Error", "Bug"))
    with pytest.raises(RunError, match=r"AppExitException: not the last$"):
        flower_run(CONFIG, 4)
    text = FAKE.replace("STATUS", "finished:failed")
    fake(text.replace("Error", "Bug").replace("Exception", "Bug"))
    with pytest.raises(RunError, match=r"finished:failed: Simulation failed$"):
        flower_run(CONFIG, 4, show=lambda line: None)


def test_a_run_that_does_not_start(fake):
    fake("print('No such app')")
    with pytest.raises(RunError) as caught:
        flower_run(CONFIG, 4)
    assert str(caught.value) == "`flwr run` did not start the run:\nNo such app"


def test_the_app_it_runs_installs_nothing(fake, tmp_path):
    """Settings and connection are written for this run; nothing is to be installed."""
    kept = tmp_path / "kept.json"
    fake(
        "import json, os, pathlib, sys, tomllib\n"
        "home = pathlib.Path(os.environ['FLWR_HOME'])\n"
        "app = pathlib.Path(sys.argv[2])\n"
        "project = tomllib.loads((app / 'pyproject.toml').read_text())\n"
        "link = tomllib.loads((home / 'config.toml').read_text())\n"
        f"open({str(kept)!r}, 'w').write(json.dumps(\n"
        "    [project, link, dict(os.environ), sys.argv[1:]]))\n"
    )
    config = {**CONFIG, "resume": False, "checkpoint": 'a "folder"\\n', "epochs": 3}
    with pytest.raises(RunError):
        flower_run(config, 7)
    project, link, environment, arguments = json.loads(kept.read_text())
    assert project["project"]["dependencies"] == []
    assert project["tool"]["flwr"]["app"]["config"] == config
    assert link["superlink"]["here"]["address"].startswith("127.0.0.1:")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert "127.0.0.1" in environment["NO_PROXY"]
    workers = min(7, os.cpu_count())
    assert arguments[-1].startswith(
        f"num-supernodes=7 client-resources-num-cpus=1 init-args-num-cpus={workers} "
    )


@pytest.mark.parametrize("how", ["error", "interrupt", "SIGTERM"])
def test_the_superlink_always_ends(tmp_path, monkeypatch, how):
    """A stand-in for `flower-superlink` that listens and never ends by itself."""
    command = tmp_path / "superlink.py"
    command.write_text(
        "import socket, sys, time\n"
        "port = int(sys.argv[sys.argv.index('--port') + 1])\n"
        "with socket.create_server(('127.0.0.1', port)):\n"
        "    time.sleep(100)\n"
    )
    monkeypatch.setattr(environment, "CHILD", str(command))
    before = signal.getsignal(signal.SIGTERM)
    ends = {"error": OSError, "interrupt": KeyboardInterrupt, "SIGTERM": SystemExit}
    links = []

    def use():
        with launch._superlink(
            environment.free_port(), tmp_path, dict(os.environ)
        ) as link:
            links.append(link)
            assert link.poll() is None
            if how == "SIGTERM":
                signal.raise_signal(signal.SIGTERM)
            raise ends[how]

    with pytest.raises(ends[how]):
        use()
    assert links[0].poll() is not None
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_superlink_that_does_not_start(tmp_path, monkeypatch):
    command = tmp_path / "superlink.py"
    command.write_text("raise SystemExit('the port is taken')\n")
    monkeypatch.setattr(environment, "CHILD", str(command))
    superlink = launch._superlink(1, tmp_path, dict(os.environ))
    with pytest.raises(RunError) as caught:
        superlink.__enter__()
    assert str(caught.value) == (
        "Flower's SuperLink did not start:\nthe port is taken\n"
    )


def test_the_repository_is_an_app():
    from flwr.cli.build import build_fab_from_files
    from flwr.common.config import get_fab_config

    paths = [ROOT / "pyproject.toml", ROOT / "README.md"]
    paths += [p for d in ("kerasreg", "federated") for p in (ROOT / d).rglob("*.py")]
    files = {path.relative_to(ROOT).as_posix(): path for path in paths}
    fab, _ = build_fab_from_files(files)
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        assert "README.md" not in archive.namelist()
        assert "federated/client_app.py" in archive.namelist()
    config = get_fab_config(fab)["tool"]["flwr"]["app"]
    settings = {k: v for k, v in config["config"].items() if v != ""}
    result = in_process({**settings, "num-server-rounds": 1}, 2)
    assert len(result.history) == 1
    assert config["components"] == {
        "serverapp": "federated.server_app:app",
        "clientapp": "federated.client_app:app",
    }
