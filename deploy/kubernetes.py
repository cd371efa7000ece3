#!/usr/bin/env python3
r"""Render deploy/kubernetes.yaml, with the Secrets of a folder of certificates.

    python deploy/certificates.py certs --host kerasreg-server --sites berlin oslo
    python deploy/kubernetes.py certs --image registry.example.org/kerasreg:cpu \\
        --task my_package.task | kubectl apply -f -

`--only SITE --server HOST:PORT` renders what one site needs in a cluster of its own,
and `--only server` the server's part. Sites are numbered in the order of their names.
What is printed holds private keys: do not keep it in a repository.
"""

import argparse
import base64
import json
import pathlib
import string

HERE = pathlib.Path(__file__).parent


def main(arguments=None):
    """Print the manifests."""
    print(render(_parser().parse_args(arguments)), end="")


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, help="of certificates.py")
    parser.add_argument("--image", required=True)
    parser.add_argument("--task", default="federated.example")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--min-clients", type=int, default=1)
    parser.add_argument("--server", metavar="HOST:PORT", help="kerasreg-server:8000")
    parser.add_argument("--gpus", type=int, default=0, help="of each site")
    parser.add_argument("--only", metavar="NAME", help="a site, or server")
    return parser


def render(options):
    """The manifests as text.

    Args:
        options: The parsed command line.
    """
    nodes = sorted((options.folder / "server" / "nodes").glob("*.pub"))
    sites = [path.stem for path in nodes]
    if options.only not in (None, "server", *sites):
        raise SystemExit(f"There is no site {options.only!r}. Expected one of {sites}.")
    if options.only in sites and not options.server:
        raise SystemExit("Expected --server: where the site's own cluster finds it.")
    text = (HERE / "kubernetes.yaml").read_text()
    *server, site = text.split("\n---\n")
    common = {
        "IMAGE": json.dumps(options.image),
        "TASK": json.dumps(options.task),
        "ROUNDS": str(options.rounds),
        "MIN_CLIENTS": str(options.min_clients),
        "SERVER": options.server or "kerasreg-server:8000",
        "CLIENTS": str(len(sites)),
    }
    parts = []
    if options.only in (None, "server"):
        files = [options.folder / "server" / n for n in ("server.crt", "server.key")]
        files += [options.folder / "server" / "ca.crt", *nodes]
        parts.append(_secret("kerasreg-server", files))
        item = "              - {key: NAME.pub, path: nodes/NAME.pub}"
        items = "\n".join(item.replace("NAME", name) for name in sites)
        body = "\n---\n".join(server)
        parts.append(string.Template(body).substitute(common, NODES=items))
    for number, name in enumerate(sites):
        if options.only in (None, name):
            folder = options.folder / name
            files = [folder / "ca.crt", folder / "node.key"]
            parts.append(_secret(f"kerasreg-{name}", files))
            gpu = f', nvidia.com/gpu: "{options.gpus}"' if options.gpus else ""
            own = {"SITE": name, "CLIENT": str(number), "GPU": gpu}
            parts.append(string.Template(site).substitute(common, **own))
    return "\n---\n".join(part.strip("\n") for part in parts) + "\n"


def _secret(name, files):
    data = {f.name: base64.b64encode(f.read_bytes()).decode() for f in files}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "Opaque",
        "data": data,
    }
    return json.dumps(secret, indent=1)  # JSON is YAML


if __name__ == "__main__":
    main()
