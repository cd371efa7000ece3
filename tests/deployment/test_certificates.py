"""What deploy/certificates.py makes: by OpenSSL's own verification, and by Flower's."""

import ipaddress
import socket
import ssl
import stat
import subprocess
import sys
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve

from tests.deployment.processes import ROOT


def make(folder, *arguments):
    script = ROOT / "deploy" / "certificates.py"
    command = [sys.executable, str(script), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def certs(tmp_path):
    folder = tmp_path / "certs"
    done = make(folder, "--host", "fl.example.org", "10.0.0.5", "--sites", "a", "b")
    assert done.returncode == 0, done.stderr
    return folder


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_who_gets_what(certs):
    assert sorted(contents(certs)) == [
        "a/ca.crt",
        "a/node.key",
        "b/ca.crt",
        "b/node.key",
        "ca.crt",
        "ca.key",
        "server/ca.crt",
        "server/nodes/a.pub",
        "server/nodes/b.pub",
        "server/server.crt",
        "server/server.key",
    ]
    for path in certs.rglob("*"):
        if path.suffix == ".key":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def names_of(certs):
    text = (certs / "server" / "server.crt").read_bytes()
    certificate = x509.load_pem_x509_certificate(text)
    kind = x509.SubjectAlternativeName
    return [n.value for n in certificate.extensions.get_extension_for_class(kind).value]


def test_the_names_of_the_server(certs):
    assert names_of(certs) == [
        "fl.example.org",
        ipaddress.ip_address("10.0.0.5"),
        "localhost",
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]


def handshake(server, ca, host):
    """Whether a TLS connection to a server with these files is made, or why not."""
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(server / "server.crt", server / "server.key")
    theirs = ssl.create_default_context(cafile=ca)
    a, b = socket.socketpair()

    def answer():
        try:
            ours.wrap_socket(b, server_side=True).close()
        except (ssl.SSLError, OSError):
            b.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        theirs.wrap_socket(a, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        a.close()
        thread.join()
    return None


def test_a_site_knows_the_server_and_no_other(certs, tmp_path):
    other = tmp_path / "other"
    make(other, "--host", "fl.example.org", "--sites", "a")
    for host in ("fl.example.org", "10.0.0.5", "localhost"):
        assert handshake(certs / "server", certs / "a" / "ca.crt", host) is None
    why = handshake(certs / "server", certs / "a" / "ca.crt", "elsewhere.org")
    assert "doesn't match" in why or "mismatch" in why
    why = handshake(certs / "server", other / "a" / "ca.crt", "fl.example.org")
    assert "unable to get local issuer" in why or "verify failed" in why


def test_the_keys_are_of_the_kind_that_flower_takes(certs):
    for name in "ab":
        key = load_ssh_private_key((certs / name / "node.key").read_bytes(), None)
        assert uses_nist_ec_curve(key.public_key())
        said = subprocess.run(
            ["ssh-keygen", "-y", "-f", certs / name / "node.key"],
            capture_output=True,
            text=True,
            check=False,
        )
        if said.returncode == 0:  # where OpenSSH is installed
            public = (certs / "server" / "nodes" / f"{name}.pub").read_text()
            assert said.stdout.split()[:2] == public.split()[:2]


def test_again_keeps_what_is_there(certs):
    before = contents(certs)
    assert make(certs, "--sites", "a", "b", "c").returncode == 0
    after = contents(certs)
    assert {k: v for k, v in after.items() if k in before} == before
    assert set(after) - set(before) == {"c/ca.crt", "c/node.key", "server/nodes/c.pub"}


def changed(before, after):
    return {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}


def test_renewing_the_server(certs):
    """The same names, by the same authority: sites notice nothing."""
    before, names = contents(certs), names_of(certs)
    assert make(certs, "--renew-server", "--days", "30").returncode == 0
    assert changed(before, contents(certs)) == {
        "server/server.crt",
        "server/server.key",
    }
    assert names_of(certs) == names
    ca = certs / "a" / "ca.crt"
    assert handshake(certs / "server", ca, "fl.example.org") is None


def test_renewing_and_removing_a_site(certs):
    before = contents(certs)
    assert make(certs, "--renew", "a").returncode == 0
    renewed = contents(certs)
    assert changed(before, renewed) == {"a/node.key", "server/nodes/a.pub"}
    assert make(certs, "--remove", "b").returncode == 0
    gone = {"b/ca.crt", "b/node.key", "server/nodes/b.pub"}
    assert changed(renewed, contents(certs)) == gone


def test_a_site_s_own_key_is_left_alone(certs):
    """Its private half is at the site; only the public one is here."""
    (certs / "a" / "node.key").unlink()
    assert make(certs, "--sites", "a", "b").returncode == 0
    assert not (certs / "a" / "node.key").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sites", "a"], "Expected --host: the name or address"),
        (["--host", "x", "--sites", "../a"], "Received: '../a'"),
        (["--host", "x", "--sites", "server"], "Received: 'server'"),
        (["--host", "x", "--sites", "Berlin"], "Received: 'Berlin'"),
        (["--host", "x", "--sites", "a-"], "Received: 'a-'"),
        (["--host", "x", "--renew", "a"], "There is no site 'a'. Expected one of []."),
        (["--host", "x", "--renew"], "expected at least one argument"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    done = make(tmp_path / "certs", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("action", ["--renew", "--remove"])
def test_a_name_that_is_misspelt(certs, action):
    before = contents(certs)
    done = make(certs, action, "berlin")
    assert done.returncode == 1
    assert "There is no site 'berlin'. Expected one of ['a', 'b']." in done.stderr
    assert contents(certs) == before


def test_another_host_is_not_forgotten_silently(certs):
    done = make(certs, "--host", "other.org")
    assert "kept: " in done.stdout
    assert "for fl.example.org, 10.0.0.5; --renew-server changes it" in done.stdout


def test_a_server_of_this_machine_alone(tmp_path):
    assert make(tmp_path / "c", "--host", "127.0.0.1", "--sites", "a").returncode == 0
    assert make(tmp_path / "c", "--renew-server").returncode == 0


def test_without_the_authority_s_key(certs):
    (certs / "ca.key").unlink()
    done = make(certs, "--sites", "a", "b", "c")
    assert f"Expected the CA's key beside its certificate: {certs / 'ca.key'}" in (
        done.stderr
    )
