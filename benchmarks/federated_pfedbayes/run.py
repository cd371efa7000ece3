"""pFedBayes on MNIST, 784-100-10, 10 clients with 5 digits each: see README.md."""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np
from flwr.serverapp.strategy import FedAvg

import federated
from federated.strategies import Personalized, PFedBayes
from federated.task import Task
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import Prior

CLIENTS, DIGITS, EACH = 10, 5, 1000
HELD_OUT = 0.8  # 200 images of each digit to train on, 800 to test
ROUNDS, EPOCHS, BATCH, SEED = 100, 10, 100, 0
ZETA, SCALE, RATE = 5.0, 0.05, 1e-3


def clients():
    """1,000 images of each of five digits for every client: 0-4 or 5-9."""
    (x, y), (x_test, y_test) = mnist.load()
    x = 2 * np.concatenate([x, x_test]) - 1
    y = np.concatenate([y, y_test])
    of_digit = [np.flatnonzero(y == digit) for digit in range(10)]
    rows = []
    for client in range(CLIENTS):
        first, turn = client * DIGITS % 10, client // 2
        part = slice(turn * EACH, (turn + 1) * EACH)
        rows.append(np.concatenate([d[part] for d in of_digit[first : first + DIGITS]]))
    return federated.Clients((x, y), rows)


def dense(inputs, units, activation=None):
    """A layer whose prior is the global distribution, in its bias, too."""

    def prior(*shape):
        params = {"loc": np.zeros(shape), "scale": np.full(shape, SCALE)}
        return Prior("Normal", params=params, trainable=True)

    return BayesianDense(
        units,
        activation,
        prior=prior(inputs, units),
        bayesian_bias=True,
        bias_prior=prior(units),
        initial_scale=SCALE,
        kl_strength=ZETA,
        estimator="local_reparameterization",
    )


def build_model():
    """784-100-10 with a posterior on all weights."""
    layers = [dense(784, 100, "relu"), dense(100, 10)]
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def plain():
    """The same net without posteriors."""
    layers = [keras.layers.Dense(100, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run(build, strategy, data, rounds, seed):
    """Accuracies in per cent of the clients' and of the final model, each round."""
    task = Task(build, data, validation_split=HELD_OUT, seed=seed)
    held_out = [task.data(k)[1] for k in range(CLIENTS)]
    x, y = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
    begin = time.perf_counter()
    result = federated.simulate(
        build,
        data,
        strategy,
        rounds,
        evaluate=(x, y),
        epochs=EPOCHS,
        batch_size=BATCH,
        validation_split=HELD_OUT,
        seed=seed,
        verbose=0,
    )
    every = {
        "clients_percent": result.history["val_accuracy"],
        "global_percent": result.history["server_accuracy"][1:],
    }
    every = {k: [round(100 * v, 2) for v in values] for k, values in every.items()}
    return {
        **{name: values[-1] for name, values in every.items()},
        "seconds": round(time.perf_counter() - begin),
        "by_round": {k: v[9::10] for k, v in every.items()},
    }


def main():
    """Run what the result lacks, and write it after each run."""
    quick = harness.arguments().quick
    rounds, data = 3 if quick else ROUNDS, clients()
    result = {"rounds": rounds, "epochs": EPOCHS, "zeta": ZETA, "scale": SCALE}
    result |= {"seed": SEED, "batch": BATCH, "learning_rate": RATE}
    path = pathlib.Path(__file__).with_name("result.json")
    known = path.exists() and not quick
    result["runs"] = json.loads(path.read_text())["runs"] if known else {}
    for name, build, strategy in (
        ("pfedbayes", build_model, PFedBayes(FedAvg())),
        ("fedavg", plain, FedAvg()),
        ("local", plain, Personalized(FedAvg(), ["*"])),
    ):
        if name not in result["runs"]:
            result["runs"][name] = run(build, strategy, data, rounds, SEED)
            harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
