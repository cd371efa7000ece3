"""Flower's simulation engine, set up so that its known traps do not reach a user."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import tempfile
import threading

from flwr.serverapp import ServerApp
from flwr.supercore import telemetry  # no public way to switch it off in 1.42

from federated.client_app import app
from federated.environment import worker_environment
from federated.grids import HostedGrid
from kerasreg import extras


def run_on_workers(task, workers, serve):
    """Run a server's work with the clients on worker processes of Flower's engine.

    The data lie in files that all workers map into memory, and the task is read once
    a worker; messages hold weights only. A worker that dies is started again, and its
    message sent once more.

    Args:
        task: `federated.task.Task` with `Clients`.
        workers: Number of worker processes.
        serve: Function from a `ClientGrid` to the result.

    Returns:
        What `serve` returned.

    Raises:
        RuntimeError: If ray runs in this process already, or a worker cannot start.
        Exception: What `serve` raised.
    """
    with _environment():
        return _run(task, workers, serve)


def _run(task, workers, serve):
    ray = extras.require("ray", "federated")
    # Both need ray, which is slow to import.
    from flwr.simulation import run_simulation
    from ray import cloudpickle

    if ray.is_initialized():
        raise RuntimeError(
            "ray runs in this process already, and the engine would end it. Call "
            "`ray.shutdown()` first, or simulate with `workers=None`."
        )
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # it was read when Flower was imported
    server, results, ended = ServerApp(), [], threading.Event()
    with tempfile.TemporaryDirectory(prefix="kerasreg-") as folder:
        stored = dataclasses.replace(task, clients=task.clients.save(folder))
        path = pathlib.Path(folder) / "task.pkl"
        path.write_bytes(cloudpickle.dumps(stored))

        @server.main()
        def main(grid, context):
            hosted = HostedGrid(grid, str(path), len(task.clients), workers, ended)
            hosted.wake()
            results.append(serve(hosted))

        with _announced(ended):
            run_simulation(
                server_app=server,
                client_app=app,
                num_supernodes=workers,
                backend_config={
                    "init_args": {
                        "address": "local",
                        "num_cpus": workers,
                        "include_dashboard": False,
                        "log_to_driver": False,
                        "logging_level": "error",
                    },
                    "client_resources": {
                        "num_cpus": 1,
                        "num_gpus": _gpus() / workers,
                        "max_restarts": -1,
                        "max_task_retries": 1,
                    },
                },
            )
    return results[0]


@contextlib.contextmanager
def _environment():
    """Let processes that are started meanwhile have that environment."""
    before = dict(os.environ)
    os.environ.update(worker_environment())
    try:
        yield
    finally:  # Flower and ray add to it
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _announced(ended):
    """Tell the server's thread of the end, also when it is an error or Ctrl-C."""
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def quiet():
    """Hush Flower's log for a while; what goes wrong is in the history."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _gpus():
    import tensorflow as tf  # tensorflow: how many devices there are to share

    return len(tf.config.list_physical_devices("GPU"))
