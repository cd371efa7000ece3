"""What penalties and differential privacy do to a membership attack, and to accuracy.

`KERASREG_DATA` names a folder with fashion_mnist.npz; without it Keras downloads it.
The result is written after each run, so one that is cut short leaves what it has.
"""

import functools
import json
import logging
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np
from flwr.serverapp.strategy import FedAvg

import federated
from federated.privacy import Private
from kerasreg.regularizers import L2

EXAMPLES = 300
NORM, DELTA, ROUNDS, EPOCHS = 0.5, 1e-3, 50, 30
# Name: clients, learning rate, L2, dropout, noise multiplier (None: FedAvg).
CASES = {
    "plain": (150, 0.5, 0.0, 0.0, None),
    "DP z=4": (150, 0.5, 0.0, 0.0, 4.0),
    "L2 0.01": (150, 0.5, 1e-2, 0.0, None),
    "dropout 0.5": (150, 0.5, 0.0, 0.5, None),
    "DP z=1": (150, 0.5, 0.0, 0.0, 1.0),
    "10 clients, plain": (10, 0.05, 0.0, 0.0, None),
    "10 clients, dropout 0.5": (10, 0.05, 0.0, 0.5, None),
    "10 clients, L2 0.003": (10, 0.05, 3e-3, 0.0, None),
    "10 clients, L2 0.01": (10, 0.05, 1e-2, 0.0, None),
    "10 clients, DP z=4": (10, 0.05, 0.0, 0.0, 4.0),
}
SETTINGS = {
    "examples": EXAMPLES,
    "rounds": ROUNDS,
    "epochs": EPOCHS,
    "clipping_norm": NORM,
    "delta": DELTA,
}
RESULT = pathlib.Path(__file__).with_name("result.json")


def builder(l2, dropout, rate):
    def build_model():
        penalty = L2(l2) if l2 else None
        model = keras.Sequential(
            [
                keras.Input((196,)),
                keras.layers.Dense(32, "relu", kernel_regularizer=penalty),
                keras.layers.Dropout(dropout),
                keras.layers.Dense(10, kernel_regularizer=penalty),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(rate), loss, metrics=["accuracy"])
        return model

    return build_model


def rows_of(seed, train):
    """Rows of the members, and four times as many of nobody's."""
    rows = np.random.default_rng(seed).permutation(len(train[0]))
    return rows[:EXAMPLES], rows[EXAMPLES : 5 * EXAMPLES].reshape(4, EXAMPLES)


@functools.lru_cache(maxsize=1)
def references(seed):
    """Models of as many examples that no client has, trained in one place."""
    train, _ = data()
    models = []
    for rows in rows_of(seed, train)[1]:
        keras.utils.set_random_seed(seed)
        model = builder(0.0, 0.0, 0.5)()
        model.fit(train[0][rows], train[1][rows], 32, epochs=40, verbose=0)
        models.append(model)
    return models


def one(case, seed, rounds, train, test):
    clients, rate, l2, dropout, noise = CASES[case]
    strategy = FedAvg()
    if noise is not None:
        strategy = Private(strategy, noise, NORM, delta=DELTA, seed=seed)
    rows, _ = rows_of(seed, train)
    begin = time.perf_counter()
    result = federated.simulate(
        builder(l2, dropout, rate),
        federated.Clients(train, list(rows.reshape(clients, -1))),
        strategy,
        rounds=rounds,
        epochs=EPOCHS,
        batch_size=2,
        seed=seed,
        verbose=0,
    )
    members = tuple(a[rows] for a in train)
    report, calibrated = (
        federated.membership_inference(result.model, members, test, references=models)
        for models in ((), references(seed))
    )
    accuracy = {
        name: result.model.evaluate(*arrays, verbose=0, return_dict=True)["accuracy"]
        for name, arrays in (("members", members), ("test", test))
    }
    return {
        "epsilon": result.privacy.get("epsilon"),
        "accuracy": {k: round(v, 4) for k, v in accuracy.items()},
        "auc": round(report.auc, 4),
        "auc_interval": [round(v, 4) for v in report.auc_interval],
        "calibrated_auc": round(calibrated.auc, 4),
        "calibrated_auc_interval": [round(v, 4) for v in calibrated.auc_interval],
        "calibrated_advantage": round(calibrated.advantage, 4),
        "advantage": round(report.advantage, 4),
        "advantage_interval": [round(v, 4) for v in report.advantage_interval],
        "found_at_1_percent": round(calibrated.true_positive_rate(0.01), 4),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def data():
    return tuple(_small(*arrays) for arrays in mnist.load("fashion_mnist"))


def _small(x, y):
    """Images of 14 x 14 pixels, each the mean of four."""
    return x.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196), y


def main():
    quick = harness.arguments().quick
    logging.getLogger("flwr").setLevel(logging.ERROR)
    train, test = data()
    runs = {}
    if RESULT.exists() and not quick:  # go on where it was cut short
        before = json.loads(RESULT.read_text())
        runs = before["runs"] if before["settings"] == SETTINGS else {}
    for seed in range(1 if quick else 3):
        for case in list(CASES)[:: 6 if quick else 1]:
            if len(runs.get(case, [])) > seed:
                continue
            run = one(case, seed, 2 if quick else ROUNDS, train, test)
            runs.setdefault(case, []).append(run)
            print(case, seed, run, flush=True)
            harness.write(__file__, {"settings": SETTINGS, "runs": runs}, quick)


if __name__ == "__main__":
    main()
