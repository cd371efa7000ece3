"""The command `kerasreg`, and `kerasreg doctor`."""

import importlib
import pathlib
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import kerasreg
from kerasreg import cli, doctor

ROOT = pathlib.Path(__file__).parents[1]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"kerasreg {kerasreg.__version__}\n"


def test_help(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("demo", "doctor", "federated simulate", "federated client"):
        assert f"  {command} " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: kerasreg COMMAND"),
        (["federated"], "usage: kerasreg COMMAND"),
        (["docter"], "There is no command 'docter'."),
        (["federated", "serve"], "usage: kerasreg COMMAND"),
    ],
)
def test_no_such_command(capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_every_command_helps(name, capsys):
    module = importlib.import_module(cli._COMMANDS[name][0])
    with pytest.raises(SystemExit):
        module.main(["--help"], prog=f"kerasreg {name}")
    assert capsys.readouterr().out.startswith(f"usage: kerasreg {name} ")


def test_a_command_in_a_process_of_its_own():
    name = "federated client"
    done = subprocess.run(
        [sys.executable, "-m", "kerasreg.cli", *name.split(), "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.startswith(f"usage: kerasreg {name} ")


def test_a_task_in_the_present_folder(tmp_path):
    (tmp_path / "own_task.py").write_text(
        "from federated.example import build_model, load_data\n"
    )
    command = [sys.executable, "-P", "-m", "kerasreg.cli", "federated", "simulate"]
    done = subprocess.run(
        [*command, "own_task", "--clients", "2", "--rounds", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 clients, 1 rounds" in done.stdout


def test_an_extra_that_is_missing(monkeypatch, capsys):
    def fail(module):
        raise ImportError('Install it with: pip install "kerasreg[federated]"')

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    assert cli.main(["federated", "simulate"]) == 1
    assert 'pip install "kerasreg[federated]"' in capsys.readouterr().err


def test_doctor_is_content(capsys, tmp_path):
    arguments = ["--write", str(tmp_path), "--require-extra", "federated"]
    assert cli.main(["doctor", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.endswith("All that was asked for is there.\n")
    for word in (kerasreg.__version__, "CPU", "mixed precision", str(tmp_path)):
        assert word in out


def test_doctor_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_allow_growth", list)
    monkeypatch.setitem(doctor._EXTRAS, "tune", {"surely-not-installed": "x"})
    file = tmp_path / "file"
    file.touch()
    arguments = ["--require-gpu", "--require-extra", "tune", "--write", str(file)]
    assert doctor.main(arguments) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("failed: TensorFlow sees no GPU: ")
    assert errors[1] == (
        "failed: missing surely-not-installed of the extra 'tune'. Install it with: "
        'pip install "kerasreg[tune]"'
    )
    assert errors[2] == f"failed: nothing can be written to {file}: File exists"


@pytest.mark.parametrize(
    ("built", "installed", "device", "why"),
    [
        (False, [], False, "this TensorFlow is built without CUDA"),
        (True, [], False, 'no CUDA libraries: pip install "kerasreg[cuda]"'),
        (
            True,
            ["nvidia-cudnn-cu12"],
            False,
            "no NVIDIA device here: start the container with --gpus all",
        ),
        (
            True,
            ["nvidia-cudnn-cu12"],
            True,
            "CUDA and a device are there; TF_CPP_MIN_LOG_LEVEL=0 shows why not",
        ),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, built, installed, device, why):
    import tensorflow as tf

    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: built)
    monkeypatch.setattr(doctor, "_installed", lambda: installed)
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: device)
    assert doctor._devices([], True) == [f"TensorFlow sees no GPU: {why}"]
    assert doctor._devices([], False) == []


@pytest.mark.parametrize(
    ("capability", "words"),
    [((9, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"), ((6, 1), "float32")],
)
def test_advice_on_precision(capability, words):
    assert words in doctor._precision(capability)


def test_every_extra_is_looked_for():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    assert set(doctor._EXTRAS) == extras - {"all", "cuda", "dev", "docs"}
    for extra, packages in doctor._EXTRAS.items():
        text = " ".join(project["optional-dependencies"][extra])
        for name in packages:
            assert name in text or name in ("ray", "tf-keras"), (extra, name)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a certificate by an authority, and the authority's certificate."""
    folder = tmp_path_factory.mktemp("keys") / "certs"
    script = ROOT / "deploy" / "certificates.py"
    arguments = ["--host", "127.0.0.1", "--sites", "a"]
    subprocess.run([sys.executable, script, folder, *arguments], check=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(
        folder / "server" / "server.crt", folder / "server" / "server.key"
    )
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{httpd.server_port}", str(folder / "a" / "ca.crt")
    httpd.shutdown()


def test_a_federation_that_answers(server, capsys):
    address, certificate = server
    assert doctor._reach(address, certificate) == []
    assert "answers over TLS, status 200" in capsys.readouterr().out


def test_a_server_that_is_not_known(server):
    (why,) = doctor._reach(server[0], None)
    assert why.startswith(f"{server[0]} is not who it says: ")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "surely.invalid:8000"])
def test_a_server_that_is_not_there(address):
    (why,) = doctor._reach(address, None)
    assert why.startswith(f"{address} does not answer over TLS: ")


@pytest.mark.parametrize("address", ["localhost", ":80", "a:b"])
def test_no_address(address):
    assert doctor._reach(address, None) == [
        f"Invalid value for --server. Expected HOST:PORT. Received: {address}"
    ]


def test_a_certificate_that_is_not_there():
    (why,) = doctor._reach("127.0.0.1:1", "/no/such/file")
    assert why == "Invalid value for --certificate. There is no file /no/such/file"


def test_an_extra_that_is_installed_and_broken(monkeypatch, tmp_path, capsys):
    (tmp_path / "broken_module.py").write_text("raise AttributeError('ImpImporter')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "_EXTRAS", {"bayes": {"keras": "broken_module"}})
    expected = "keras is broken: AttributeError: ImpImporter"
    assert doctor._extras(["bayes"]) == [expected]
    assert doctor._extras([]) == []
    assert expected in capsys.readouterr().out


def test_the_cpu_build_of_tensorflow(monkeypatch, capsys):
    """The image has it; its distribution has a name of its own."""
    found = {"tensorflow-cpu": "2.21.0"}
    monkeypatch.setattr(doctor, "_version", found.get)
    doctor.main([])
    assert "  tensorflow               2.21.0\n" in capsys.readouterr().out
