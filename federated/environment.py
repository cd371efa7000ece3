"""The environment of Flower's processes, and how they are started and ended.

Nothing here imports TensorFlow: what only starts other processes stays small.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time

CHILD = str(pathlib.Path(__file__).with_name("child.py"))


def worker_environment():
    """Environment of worker processes: few threads, nothing sent anywhere.

    A worker has one thread an operation, or as many as `TF_NUM_INTRAOP_THREADS` says
    here, however many workers there are: a convolution's sums depend on it.
    """
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "1")
    return {
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": threads,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # A worker that ends as it was told is no news; read when ray is imported.
        "RAY_DEDUP_LOGS_SKIP_REGEX": "ClientAppActor.terminate failed",
        "RAY_worker_niceness": "0",  # they do the work
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def flower_environment(home, verbose=True):
    """What Flower's commands see: their own folder, these packages, no installing.

    Args:
        home: Path of the folder that Flower keeps its settings and apps in.
        verbose: Whether they say more than warnings and errors.
    """
    here = str(pathlib.Path(__file__).resolve().parents[1])
    paths = [os.getcwd(), here, os.environ.get("PYTHONPATH", "")]
    scripts = sysconfig.get_path("scripts")
    local = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    level = {} if verbose else {"FLWR_LOG_LEVEL": "WARNING"}
    return {
        **level,
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "NO_PROXY": local,
        "no_proxy": local,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def flwr(*arguments):
    """The command line of Flower's `flwr`.

    Args:
        *arguments: Strings.
    """
    return [os.path.join(sysconfig.get_path("scripts"), "flwr"), *arguments]


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port, child, seconds=60):
    """Wait until a child process listens at a port.

    Args:
        port: Number of the port.
        child: `subprocess.Popen`.
        seconds: How long to wait.

    Returns:
        Whether it does; `False` if it has ended, or time is up.
    """
    end = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def running(program, arguments, public=("", ""), **settings):
    """Flower's SuperLink or SuperNode as a child that ends with the block.

    It ends with this process, too, even if that is killed.

    Args:
        program: `"superlink"` or `"supernode"`, see `federated/child.py`.
        arguments: List of strings, of Flower's command.
        public: Host and port where a SuperLink serves nodes, once `admit` is called.
        **settings: Of `subprocess.Popen`.
    """
    host, port = map(str, public)
    # -P: a script's own folder would come before installed packages.
    command = [sys.executable, "-P", CHILD, program, host, port, *arguments]
    with ended_by_sigterm():
        child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, **settings)
        try:
            yield child
        finally:
            end(child)


def admit(superlink):
    """Let nodes come to a SuperLink.

    Args:
        superlink: What `running` gave.
    """
    with contextlib.suppress(BrokenPipeError):
        superlink.stdin.write("open\n")
        superlink.stdin.flush()


def end(child, seconds=20):
    """End a child process, which has some time to do it by itself.

    Args:
        child: `subprocess.Popen`.
        seconds: How long to wait.
    """
    child.terminate()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def ended_by_sigterm():
    """Have SIGTERM raise, so that what has begun is ended; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
