"""A file that says how a long-lived command of this machine fares."""

import contextlib
import os
import pathlib
import sys
import threading
import time

STALE = 60.0
"""Seconds after which a command whose processes have not been there counts as ill."""


def path():
    """The path of the file, `KERASREG_HEALTH`; `None` if nobody asks for it."""
    found = os.environ.get("KERASREG_HEALTH")
    return pathlib.Path(found) if found else None


@contextlib.contextmanager
def reporting(is_well):
    """Keep the file's time new while all is well, and remove it at the end.

    Args:
        is_well: Function without arguments that returns whether it is.
    """
    ended, file = threading.Event(), path()
    if file is None:
        yield
        return

    def report():
        while not ended.is_set():
            if is_well():
                with contextlib.suppress(OSError):
                    file.touch()
            ended.wait(5.0)

    file.touch()
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.unlink(missing_ok=True)


def main():
    """What a container's health check asks.

    Returns:
        The exit status: 1 if a command is there that is not well.
    """
    try:
        file = path()
        age = 0.0 if file is None else time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return 0  # no long-lived command runs here
    if age > STALE:
        print(f"not well for {age:.0f} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
