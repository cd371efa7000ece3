"""The commands of a federation as real processes, whose output can be waited for."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]


class Command:
    """`kerasreg ...`, with its output in a list of lines."""

    def __init__(self, *arguments, folder, **environment):
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kerasreg.cli", *map(str, arguments)],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TF_CPP_MIN_LOG_LEVEL": "2",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def text(self):
        return "\n".join(self.lines)

    def wait_for(self, words, seconds=180, count=1):
        """Wait until some lines have these words."""
        end = time.monotonic() + seconds
        while sum(words in line for line in self.lines) < count:
            assert time.monotonic() < end, f"no {words!r} in:\n{self.text}"
            assert self.process.poll() is None or self._late(words, count), self.text
            time.sleep(0.1)

    def _late(self, words, count):
        time.sleep(0.5)  # what was written last
        return sum(words in line for line in self.lines) >= count

    def status(self, seconds=180):
        status = self.process.wait(seconds)
        time.sleep(0.5)
        return status

    def children(self, words):
        """Ids of the processes below it whose command line has these words."""
        found, below = [], {self.process.pid}
        for pid, parent, line in sorted(_processes()):
            if parent in below:
                below.add(pid)
                if words in line:
                    found.append(pid)
        return found

    def kill_all(self):
        """SIGKILL for it and whatever it started, as when a machine fails."""
        pids = [self.process.pid, *self.children("")]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill_all()


def _processes():
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(folder.name), int(stat[1]), line.decode()


def memory(pid):
    """Resident memory of a process in MB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
