#!/usr/bin/env python3
"""Make the certificates and keys of a federation, or renew some of them.

    python deploy/certificates.py certs --host fl.example.org --sites berlin oslo

makes a private certification authority (CA), and one folder for each machine:

    certs/ca.key                  signs server certificates: keep it off all machines
    certs/server/                 for the server: server.crt, server.key, ca.crt, and
                                  nodes/NAME.pub, the public key of each site
    certs/berlin/, certs/oslo/    for one site each: ca.crt, and node.key, its own key

What is there is kept, so that a site is added by running it again with all sites.
`--renew-server` makes a new server certificate by the same CA: sites notice nothing.
`--renew berlin` makes a new key of a site, whose old one is worth nothing once the
server has been started again; `--remove berlin` takes a site out.

A site that must not even lend its key to whoever runs this makes its own, by
`ssh-keygen -t ecdsa -b 384 -N "" -f node.key`, and sends `node.key.pub`, which goes to
certs/server/nodes/NAME.pub. It needs the extra `federated`, for `cryptography`.
"""

import argparse
import datetime
import ipaddress
import os
import pathlib
import re
import shutil
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = ["localhost", "127.0.0.1", "::1"]  # the server's processes talk to one another


def main(arguments=None):
    """Make what is missing, and renew or remove what is asked for."""
    options = _parser().parse_args(arguments)
    folder = options.folder
    certificate = folder / "server" / "server.crt"
    _check(options, certificate)
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, ca = _authority(folder, options)
    server = folder / "server"
    (server / "nodes").mkdir(parents=True, exist_ok=True)
    if options.renew_server or not certificate.exists():
        _server_certificate(server, options, ca_key, ca)
    elif options.host and options.host != _hosts(certificate):
        names = ", ".join(_hosts(certificate))
        print(f"kept: {certificate} for {names}; --renew-server changes it")
    _write(server / "ca.crt", _pem(ca))
    for name in options.remove:
        (server / "nodes" / f"{name}.pub").unlink(missing_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)
        print(f"removed: {name}")
    for name in [*options.sites, *options.renew]:
        if name not in options.remove:
            _site(folder, name, ca, name in options.renew)
    if options.owner is not None:
        _give(folder, options.owner)


def _check(options, certificate):
    """End with what is wrong, before anything is made."""
    for name in options.sites:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) or name == "server":
            sys.exit(
                "Invalid name of a site. Expected lower-case letters, digits and -, "
                f"and not `server`. Received: {name!r}"
            )
    if options.days < 0:
        sys.exit(f"Invalid value for --days. Received: {options.days}")
    known = sorted(path.stem for path in options.folder.glob("server/nodes/*.pub"))
    for name in [*options.renew, *options.remove]:
        if name not in known:
            sys.exit(f"There is no site {name!r}. Expected one of {known}.")
    if not (options.host or _hosts(certificate)):
        sys.exit("Expected --host: the name or address that sites reach the server by.")


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument(
        "--host",
        nargs="+",
        default=[],
        help="names and addresses that sites reach the server by",
    )
    parser.add_argument("--sites", nargs="*", default=[], help="their names")
    parser.add_argument("--days", type=int, default=365, help="of a server certificate")
    parser.add_argument(
        "--owner", type=int, metavar="UID", help="who gets the folders of the machines"
    )
    parser.add_argument("--renew-server", action="store_true")
    parser.add_argument("--renew", nargs="+", default=[], metavar="SITE")
    parser.add_argument("--remove", nargs="+", default=[], metavar="SITE")
    return parser


def _authority(folder, options):
    """The CA's key and certificate, made if they are missing."""
    key_file, file = folder / "ca.key", folder / "ca.crt"
    if file.exists():
        if not key_file.exists():
            sys.exit(f"Expected the CA's key beside its certificate: {key_file}")
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        return key, x509.load_pem_x509_certificate(file.read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kerasreg federation")])
    usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
    certificate = (
        _certificate(name, name, key, max(3650, options.days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write(key_file, _private(key, serialization.PrivateFormat.PKCS8), secret=True)
    _write(file, _pem(certificate))
    print(f"made: {file}")
    return key, certificate


def _server_certificate(server, options, ca_key, ca):
    hosts = options.host or _hosts(server / "server.crt")
    names: list[x509.GeneralName] = []
    for host in [*hosts, *HERE]:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    usage = dict.fromkeys(_USAGES, False) | {"digital_signature": True}
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _certificate(subject, ca.subject, key, options.days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    private = _private(key, serialization.PrivateFormat.PKCS8)
    _write(server / "server.key", private, secret=True)
    _write(server / "server.crt", _pem(certificate))
    until = certificate.not_valid_after_utc.date()
    print(f"made: {server / 'server.crt'} for {', '.join(hosts)}, until {until}")


def _hosts(file):
    """What an earlier certificate was for."""
    if not file.exists():
        return []
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = [str(n.value) for n in found.value]
    return names[: -len(HERE)]  # which come last


def _site(folder, name, ca, renew):
    site, public = folder / name, folder / "server" / "nodes" / f"{name}.pub"
    site.mkdir(exist_ok=True)
    _write(site / "ca.crt", _pem(ca))
    if public.exists() and not renew:
        return  # its key is known; it may be at the site alone
    key = ec.generate_private_key(ec.SECP384R1())
    private = _private(key, serialization.PrivateFormat.OpenSSH)
    _write(site / "node.key", private, secret=True)
    ssh = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(public, key.public_key().public_bytes(*ssh) + f" {name}\n".encode())
    print(f"made: {site}")


def _give(folder, owner):
    """Give all but the CA's key to a user: containers run as one of their own."""
    for path in sorted(folder.rglob("*")):
        if path != folder / "ca.key":
            os.chown(path, owner, owner)


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _certificate(subject, issuer, key, days):
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(identifier, critical=False)
    )


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key, form):
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )


def _write(path, data, secret=False):
    """Write a file, which is never readable by others while it holds a key."""
    path.unlink(missing_ok=True)
    mode = 0o600 if secret else 0o644
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb"
    ) as f:
        f.write(data)


if __name__ == "__main__":
    main()
