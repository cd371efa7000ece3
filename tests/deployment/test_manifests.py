"""Dockerfile, compose.yaml and the Kubernetes example say what the commands take."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
import yaml

from federated.deployment import client, server
from tests.deployment.processes import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
PARSERS = {"server": server._parser, "client": client._parser}


def parsed(command):
    """The options of `federated server` or `client`, or SystemExit."""
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(word)) for word in command]
    assert words[0] == "federated"
    return PARSERS[words[1]](words[1]).parse_args(words[2:])


def test_compose_runs_commands_that_there_are():
    commands = {
        name: parsed(service["command"])
        for name, service in COMPOSE["services"].items()
        if name != "certificates"
    }
    assert commands["server"].task == "federated.example"
    for prefix in ("", "gpu-"):
        sites = [commands[f"{prefix}site-{i}"] for i in range(2)]
        assert [(s.client, s.clients) for s in sites] == [(0, 2), (1, 2)]
        assert {s.server for s in sites} == {"server:8000"}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_gives_no_rights_away(name):
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for volume in service["volumes"]:
        _, target, *mode = volume.rsplit(":", 2)
        if target in ("/certificates", "/tasks", "/data"):
            assert mode == ["ro"] or name == "certificates", volume


def test_compose_asks_for_gpus():
    for number in range(2):
        service = COMPOSE["services"][f"gpu-site-{number}"]
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        assert service["profiles"] == ["gpu"]
        assert "cuda" in service["image"]


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "certs"
    script = ROOT / "deploy" / "certificates.py"
    arguments = ["--host", "kerasreg-server", "--sites", "berlin", "oslo"]
    subprocess.run([sys.executable, script, folder, *arguments], check=True)
    return folder


def rendered(certs, *arguments):
    script = ROOT / "deploy" / "kubernetes.py"
    done = subprocess.run(
        [sys.executable, script, certs, "--image", "kerasreg:cpu", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_kubernetes_runs_commands_that_there_are(certs):
    found = list(yaml.safe_load_all(rendered(certs, "--gpus", "2", "--task", "a.b")))
    assert [(o["kind"], o["metadata"]["name"]) for o in found] == [
        ("Secret", "kerasreg-server"),
        ("PersistentVolumeClaim", "kerasreg-server"),
        ("Service", "kerasreg-server"),
        ("Job", "kerasreg-server"),
        ("Secret", "kerasreg-berlin"),
        ("Deployment", "kerasreg-berlin"),
        ("Secret", "kerasreg-oslo"),
        ("Deployment", "kerasreg-oslo"),
    ]
    specs = [o.get("spec", {}) for o in found]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]
    options = [parsed(pod["containers"][0]["args"]) for pod in pods]
    assert {o.task for o in options} == {"a.b"}
    assert [(o.client, o.clients) for o in options[1:]] == [(0, 2), (1, 2)]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    limits = pods[1]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "2"
    items = pods[0]["volumes"][0]["secret"]["items"]
    assert {i["key"] for i in items} == set(found[0]["data"])


def test_kubernetes_for_one_site(certs):
    found = list(
        yaml.safe_load_all(rendered(certs, "--only", "oslo", "--server", "fl.org:8000"))
    )
    assert [o["kind"] for o in found] == ["Secret", "Deployment"]
    assert set(found[0]["data"]) == {"ca.crt", "node.key"}
    args = found[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--client=1" in args
    assert "--server=fl.org:8000" in args
    assert "--clients=2" in args


def tool(name):
    """The path of a program that `make test-deploy` installs where it can."""
    path = shutil.which(name, path=sysconfig.get_path("scripts"))
    return path or pytest.skip(f"{name} is not installed")


def test_a_site_elsewhere_must_be_told_where_the_server_is(certs):
    with pytest.raises(subprocess.CalledProcessError):
        rendered(certs, "--only", "oslo")


@pytest.mark.deploy
def test_the_manifests_are_valid(certs, tmp_path):
    command = tool("kubernetes-validate")
    path = tmp_path / "kubernetes.yaml"
    path.write_text(rendered(certs, "--gpus", "1"))
    subprocess.run([command, "--strict", path], check=True)


@pytest.mark.deploy
def test_the_dockerfile_is_clean():
    subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], check=True)


def test_what_is_pinned():
    lines = (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name in ("tensorflow", "keras", "flwr", "numpy", "tensorflow-probability"):
        assert name in pins
    assert not any("/" in line or "--" in line for line in lines if line[0] != "#")
    required = importlib.metadata.requires("kerasreg") or []
    pinned = {name.lower().replace("_", "-") for name in pins}
    for line in required:
        name = re.match(r"[\w.-]+", line).group().lower()
        if not re.search(r"extra == .(adversarial|cuda|dev|docs).", line):
            assert name in pinned | {"kerasreg"}, line


def test_the_image_is_built_of_files_that_there_are():
    text = (ROOT / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
    kept = (ROOT / ".dockerignore").read_text().split()
    assert "*" in kept
    assert "!kerasreg" in kept
    assert "!federated" in kept
