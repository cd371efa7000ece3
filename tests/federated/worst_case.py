"""A script of a user, run by test_engine.py, in which everything goes wrong once.

All it defines is in `__main__`: a model built by a lambda, a mod by a closure.
"""

import json
import os
import pathlib
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
from flwr.supercore import telemetry

import federated

CLIENTS, ROUNDS = 200, 11
SERVER = os.getpid()
KILLED_ONCE, KILLS_ALWAYS, RAISES = 3, 5, 6  # numbers of clients


def resident():
    """Bytes of memory of this process."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def make_mod(folder):
    """What happens at which client in which round."""
    folder = pathlib.Path(folder)

    def mod(message, context, call_next):
        client = context.node_config["partition-id"]
        number = message.content["config"]["server-round"]
        if os.getpid() != SERVER:
            line = [number, client, os.getpid(), resident()]
            line.append(os.environ.get("FLWR_TELEMETRY_ENABLED"))
            line.append(os.environ.get("TF_NUM_INTRAOP_THREADS"))
            with (folder / f"{os.getpid()}.log").open("a") as file:
                file.write(json.dumps(line) + "\n")
        if number == 1 and client == KILLED_ONCE and os.getpid() != SERVER:
            mark = folder / "killed"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if number == 2 and client == KILLS_ALWAYS:
            if os.getpid() != SERVER:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("in one process it cannot be killed alone")
        if number == 2 and client == RAISES:
            raise ValueError("no data today")
        if number == ROUNDS:
            raise ValueError("nobody trains")
        return call_next(message, context)

    return mod


def compiled(layers, folder):
    with (pathlib.Path(folder) / "builds").open("a") as file:
        file.write(f"{os.getpid()}\n")
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("adam", "mse")
    return model


def simulate(build_model, clients, **settings):
    """A simulation that ends with too few clients; its result and the message."""
    try:
        federated.simulate(build_model, clients, verbose=0, **settings)
    except federated.RoundError as error:
        return error.result, str(error)
    raise AssertionError("it should have failed")


def main(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)).astype("float32")
    y = x.sum(1, keepdims=True)
    clients = federated.partition.iid((x, y), CLIENTS)
    memory, before = [], dict(os.environ)

    def evaluate(model):
        memory.append(resident())
        return {}

    def run(workers):
        return simulate(
            lambda: compiled(
                [keras.layers.Dropout(0.1), keras.layers.Dense(1)], folder
            ),
            clients,
            rounds=ROUNDS,
            mods=[make_mod(folder)],
            workers=workers,
            evaluate=evaluate,
        )

    hosted, message = run(2)
    memory_hosted, memory = memory, []
    local, local_message = run(None)

    def build_model():
        if os.getpid() != SERVER:
            raise OSError("no such file on the worker")
        return compiled([keras.layers.Dense(1)], folder)

    _, build_message = simulate(build_model, [(x, y)] * 2, rounds=1, workers=2)
    import ray

    result = {
        "message": message,
        "local_message": local_message,
        "build_message": build_message,
        "rounds": [
            {"clients": sorted(r.clients), "errors": r.errors}
            for r in hosted.history.rounds
        ],
        "same_weights": all(
            np.array_equal(a, b)
            for a, b in zip(
                hosted.model.get_weights(), local.model.get_weights(), strict=True
            )
        ),
        "same_losses": hosted.history["loss"] == local.history["loss"],
        "memory": memory_hosted,
        "memory_local": memory,
        "ray": ray.is_initialized(),
        "environment": dict(os.environ) == before,
        "builds": (pathlib.Path(folder) / "builds").read_text().split(),
        "telemetry": telemetry.FLWR_TELEMETRY_ENABLED,
        "logs": [
            json.loads(line)
            for path in pathlib.Path(folder).glob("*.log")
            for line in path.read_text().splitlines()
        ],
    }
    (pathlib.Path(folder) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
