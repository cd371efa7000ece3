"""Memory, start and rounds of a federation's processes; see README.md."""

import itertools
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from benchmarks import harness
from federated.environment import flower_environment, free_port, running
from tests.deployment.processes import ROOT, Command, memory

ROUNDS = 6


def main():
    quick = harness.arguments().quick
    rounds = 3 if quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        script = [sys.executable, ROOT / "deploy" / "certificates.py", home / "certs"]
        sites = ["--host", "127.0.0.1", "--sites", "a", "b"]
        subprocess.run([*script, *sites], check=True)
        result = {
            "kerasreg": federation(home / "ours", home / "certs", rounds, ours),
            "flower-supernode": federation(
                home / "peer", home / "certs", rounds, stock
            ),
        }
    harness.write(__file__, {"federation": result}, quick)


def ours(folder, certs, port):
    """The sites as `kerasreg federated client` starts them."""
    return [
        Command(
            *("federated", "client", "federated.example"),
            *("--server", f"127.0.0.1:{port}", "--client", i, "--clients", 2),
            *("--certificates", certs / name),
            folder=folder,
            KERASREG_HEALTH=str(folder / name),
        )
        for i, name in enumerate("ab")
    ]


class Stock:
    """Flower's own SuperNode, which starts a process for each message."""

    def __init__(self, arguments, environment):
        self._running = running(
            "supernode",
            arguments,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.process = self._running.__enter__()

    def end(self):
        self._running.__exit__(None, None, None)


def stock(folder, certs, port):
    nodes = []
    for i, name in enumerate("ab"):
        home = folder / name
        home.mkdir()
        numbers = f"partition-id={i} num-partitions=2"
        arguments = ["--superlink", f"127.0.0.1:{port}", "--node-config", numbers]
        arguments += ["--root-certificates", str(certs / name / "ca.crt")]
        key = str(certs / name / "node.key")
        arguments += ["--auth-supernode-private-key", key, "--port", str(free_port())]
        nodes.append(Stock(arguments, flower_environment(home)))
    return nodes


def federation(folder, certs, rounds, start_sites):
    """What a federation of two sites takes."""
    folder.mkdir()
    port = free_port()
    begin = time.perf_counter()
    server = Command(
        *("federated", "server", "federated.example", "--rounds", rounds),
        *("--certificates", certs / "server", "--port", port, "--host", "127.0.0.1"),
        folder=folder,
        KERASREG_HEALTH=str(folder / "server"),
    )
    server.wait_for("waiting for the nodes")
    found = {"server_start_s": time.perf_counter() - begin}
    sites = start_sites(folder, certs, port)
    begin, times = time.perf_counter(), []
    for number in range(1, rounds + 1):
        server.wait_for(f"round {number}/{rounds}", 600)
        times.append(time.perf_counter() - begin)
        if number == rounds - 1:
            found |= {"server_mb": parts(server, SERVER)}
            if isinstance(sites[0], Command):
                found |= {"site_mb": parts(sites[0], SITE)}
    found["first_round_s"] = times[0]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    found["round_s"] = statistics.median(gaps)
    print(found, flush=True)
    assert server.status() == 0, server.text
    for site in sites:
        site.end()
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}


SERVER = {
    "command": r"federated\.deployment\.server",
    "SuperLink": r"child\.py",
    "SuperExec": r"flower-superexec",
    "ServerApp": r"flwr-serverapp",
}
SITE = {
    "command": r"federated\.deployment\.client",
    "SuperNode": r"child\.py",
    "worker": r"deployment\.worker",
}


def parts(command, names):
    """Resident memory of a command's processes in MB."""
    found = {}
    for pid in [command.process.pid, *command.children("")]:
        raw = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        line = raw.replace(b"\0", b" ").decode()
        for name, pattern in names.items():
            if re.search(pattern, line):
                found.setdefault(name, round(memory(pid)))
    return found


if __name__ == "__main__":
    main()
