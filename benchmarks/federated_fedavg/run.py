"""FedAvg's 2NN on MNIST, 100 clients: rounds to 97 %: see README.md."""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np
from flwr.serverapp.strategy import FedAvg, FedProx

import federated
from federated import partition
from federated.rounds import StopFederation
from federated.strategies import Wrapper
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2

CLIENTS, SHARE, BATCH, TARGET = 100, 0.1, 10, 0.97
HELD_OUT = 5000
RATES = (0.03, 0.1, 0.2, 0.3)
PAPER = {"IID": 87, "non-IID": 664}
ROUNDS = {"IID": 200, "non-IID": 1000}  # at most
GRID_ROUNDS = {"IID": 20, "non-IID": 60}
PARTITIONS = {"IID": partition.iid, "non-IID": partition.shards}
LENIENT = {
    "fraction_train": SHARE,
    "fraction_evaluate": 0.0,
    "min_train_nodes": 1,
    "min_available_nodes": 1,
}
VARIANTS = {
    "FedAvg": {},
    "L2 1e-4": {"penalties": L2(1e-4)},
    "L1 1e-5, Proximal": {"penalties": L1(1e-5), "proximal": True},
    "FedProx mu 0.01": {"mu": 0.01},
}
STATE = {"folder": pathlib.Path(__file__).with_name("state")}  # not committed


class Target(Wrapper):
    """End the run at an accuracy."""

    accuracy = 0.0

    def configure_train(self, server_round, arrays, config, grid):
        if self.accuracy >= TARGET:
            raise StopFederation(f"reached {TARGET:.0%}")
        return super().configure_train(server_round, arrays, config, grid)

    def get_state(self):
        return {"accuracy": self.accuracy}

    def set_state(self, state):
        self.accuracy = state["accuracy"]


def builder(rate, proximal=False):
    def build_model():
        layers = [keras.layers.Dense(200, "relu") for _ in range(2)]
        model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(rate)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(Proximal(optimizer) if proximal else optimizer, loss)
        return model

    return build_model


def run(name, kind, train, test, rate, rounds, *, proximal=False, mu=None, **settings):
    """One federated run, which goes on from where it was interrupted."""
    strategy = FedAvg(**LENIENT) if mu is None else FedProx(proximal_mu=mu, **LENIENT)
    target = Target(strategy)

    def evaluate(model):
        logits = np.asarray(model(test[0], training=False))
        target.accuracy = max(target.accuracy, np.mean(logits.argmax(1) == test[1]))
        return {"accuracy": np.mean(logits.argmax(1) == test[1])}

    result = federated.simulate(
        builder(rate, proximal),
        PARTITIONS[kind](train, CLIENTS),
        target,
        rounds,
        batch_size=BATCH,
        evaluate=evaluate,
        checkpoint=STATE["folder"] / f"{kind} {name}",
        resume=True,
        verbose=0,
        **settings,
    )
    return result, np.array(result.history["server_accuracy"][1:])


def best_rate(kind, data, rounds):
    """The rate of the grid that is best after some rounds, on held-out images."""
    (x, y), order = data, np.random.default_rng(0).permutation(len(data[0]))
    size = min(HELD_OUT, len(x) // 10)
    train, test = ((x[rows], y[rows]) for rows in (order[size:], order[:size]))
    scores = {}
    for rate in RATES:
        _, accuracy = run(f"rate {rate}", kind, train, test, rate, rounds)
        scores[rate] = round(float(accuracy.max()), 4)
        print(kind, rate, scores[rate], flush=True)
    return max(scores, key=scores.get), scores


def row_of(result, accuracy):
    reached = np.flatnonzero(accuracy >= TARGET)
    kernels = [w for w in result.model.get_weights() if w.ndim == 2]
    return {
        "rounds_to_97": int(reached[0]) + 1 if len(reached) else None,
        "rounds_run": len(accuracy),
        "best_accuracy": round(float(accuracy.max()), 4),
        "last_accuracy": round(float(accuracy[-1]), 4),
        "zeros": round(float(np.mean([np.mean(k == 0) for k in kernels])), 4),
        "seconds_a_round": round(float(np.median(result.history["seconds"])), 3),
        "megabytes_sent": round(result.bytes_sent / 1e6),
    }


def main():
    quick = harness.arguments().quick
    if quick:
        STATE["folder"] = pathlib.Path(tempfile.mkdtemp())
    train, test = mnist.load()
    if quick:
        train, test = [a[:5000] for a in train], [a[:500] for a in test]
    measured = {}
    for kind in PARTITIONS:
        rounds, grid_rounds = (2, 1) if quick else (ROUNDS[kind], GRID_ROUNDS[kind])
        rate, scores = best_rate(kind, tuple(train), grid_rounds)
        measured[kind] = {"rate": rate, "held_out": scores, "paper": PAPER[kind]}
        for name, settings in VARIANTS.items():
            arguments = kind, tuple(train), tuple(test), rate, rounds
            measured[kind][name] = row_of(*run(name, *arguments, **settings))
            print(kind, name, measured[kind][name], flush=True)
            if not quick:  # as it goes: a run takes long
                harness.write(__file__, {"measured": measured}, quick)


if __name__ == "__main__":
    main()
