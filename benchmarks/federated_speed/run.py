"""Seconds a round of federated averaging, and memory: see README.md."""

import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

import federated
from federated import engine, records
from federated.grids import LocalGrid
from federated.rounds import Rounds

ROWS, BATCH, WORKERS = 60_000, 32, 2
NUMBERS = (100, 1000, 10)
ROUNDS = {10: 5, 100: 5, 1000: 3}
QUICKSTART = 10  # clients of the quickstart style that are timed, of all numbers
LENIENT = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}


def build_model():
    layers = [keras.layers.Dense(128, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    return model


def data_of(number, rows):
    rng = np.random.default_rng(0)
    x = rng.random((rows, 784), dtype="float32")
    y = rng.integers(0, 10, rows).astype("int32")
    return federated.Clients((x, y), np.array_split(rng.permutation(rows), number))


def resident(process="self"):
    """Megabytes of memory of a process."""
    pages = pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def workers_memory():
    """Megabytes of each worker of the engine that this process has started."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_text()
            home = (folder / "environ").read_text()
        except OSError:
            continue
        if name.startswith("ray::ClientAppActor") and f"{os.getpid()}-mark" in home:
            found.append(resident(folder.name))
    return found


class Floor:
    """Federated averaging by hand: one traced epoch, no messages, no server."""

    def __init__(self, clients):
        self.clients, self.model = clients, build_model()
        self.weights = self.model.get_weights()
        self.model.optimizer.build(self.model.trainable_variables)

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 784), "float32"),
                tf.TensorSpec((None,), "int32"),
            ]
        )
        def epoch(x, y):
            for start in tf.range(0, tf.shape(x)[0], BATCH):
                rows = slice(start, start + BATCH)
                self.model.train_step((x[rows], y[rows]))

        self.model.train_step((clients[0][0][:2], clients[0][1][:2]))
        self.epoch, self.rng = epoch, np.random.default_rng(0)

    def __call__(self):
        total, count = [np.zeros_like(w) for w in self.weights], 0
        for client in range(len(self.clients)):
            x, y = self.clients[client]
            order = self.rng.permutation(len(x))
            for variable, weight in zip(self.model.weights, self.weights, strict=True):
                variable.assign(weight)
            self.epoch(tf.constant(x[order]), tf.constant(y[order]))
            for sum_, variable in zip(total, self.model.weights, strict=True):
                sum_ += len(x) * variable.numpy()
            count += len(x)
        self.weights = [sum_ / count for sum_ in total]


def quickstart(clients):
    """The client of Flower's quickstart: build, compile and fit in each call."""
    weights = build_model().get_weights()

    def run():
        for client in range(min(QUICKSTART, len(clients))):
            model = build_model()
            model.set_weights(weights)
            model.fit(*clients[client], epochs=1, batch_size=BATCH, verbose=0)
            model.get_weights()

    return run


def no_op(clients):
    """Flower's messages and average in this process, with clients that do nothing."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        arrays = message.content[records.ARRAYS]
        content = {"arrays": ArrayRecord(arrays.to_numpy_ndarrays())}
        content["metrics"] = MetricRecord({"num-examples": 1, "loss": 0.0})
        return Message(RecordDict(content), reply_to=message)

    grid = LocalGrid(app, len(clients))
    begun = ArrayRecord(build_model().get_weights())
    with engine.quiet():
        return Rounds(FedAvg(**LENIENT), grid, begun, evaluate_clients=False).run


def in_process(clients):
    """Ours in this process, a round a call."""
    from federated.client_app import make_client_app
    from federated.task import Task

    task = Task(build_model, clients, batch_size=BATCH)
    model = task.model()
    begun = records.write_arrays(records.weight_keys(model), model.get_weights())
    grid = LocalGrid(make_client_app(task), len(clients))
    return Rounds(FedAvg(**LENIENT), grid, begun, evaluate_clients=False).run


def on_workers(clients, rounds):
    """Ours on workers: seconds of each round, and megabytes of server and workers."""
    memory = []

    def evaluate(model):
        memory.append((resident(), workers_memory()))
        return {}

    os.environ["KERASREG_BENCHMARK"] = f"{os.getpid()}-mark"
    result = federated.simulate(
        build_model,
        clients,
        FedAvg(**LENIENT),
        rounds + 1,
        batch_size=BATCH,
        workers=WORKERS,
        evaluate=evaluate,
        verbose=0,
    )
    server, workers = memory[-1]
    return result.history["seconds"][1:], round(server), [round(w) for w in workers]


def measured(number, rows, rounds):
    clients = data_of(number, rows)
    floor = Floor(clients)
    cases = {
        "floor": floor,
        "quickstart": quickstart(clients),
        "no-op": no_op(clients),
        "in process": in_process(clients),
    }
    with engine.quiet():
        seconds = harness.interleave(cases, rounds)
    before = resident()
    timed = min(QUICKSTART, number)
    seconds["quickstart"] = [s * number / timed for s in seconds["quickstart"]]
    seconds["workers"], server, workers = on_workers(clients, rounds)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    sums = [a + b for a, b in zip(seconds["floor"], seconds["no-op"], strict=True)]
    ours = {name: seconds[name] for name in ("in process", "workers")}
    return {
        "seconds": {name: round(s, 3) for name, s in medians.items()},
        "times_quickstart": {
            name: round(medians["quickstart"] / statistics.median(s), 1)
            for name, s in ours.items()
        },
        "of_floor_and_no_op": {
            name: round(statistics.median(s) / statistics.median(sums), 2)
            for name, s in ours.items()
        },
        "of_floor": {
            name: round(statistics.median(s) / medians["floor"], 2)
            for name, s in ours.items()
        },
        "megabytes": {
            "in process": round(before),
            "server of workers": server,
            "workers": workers,
        },
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def main():
    quick = harness.arguments().quick
    numbers, rows = (NUMBERS[-1:], 2000) if quick else (NUMBERS, ROWS)
    result = {}
    for number in numbers:
        start = time.perf_counter()
        result[str(number)] = measured(number, rows, 2 if quick else ROUNDS[number])
        result[str(number)]["took"] = round(time.perf_counter() - start)
        harness.write(__file__, {"measured": result}, quick)  # as it goes


if __name__ == "__main__":
    main()
