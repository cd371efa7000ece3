"""Sparse variational dropout, LeNet-5-Caffe on MNIST: see README.md."""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import sparsify

from kerasreg.callbacks import KLWarmup
from kerasreg.layers import (
    SparseVariationalConv2D,
    SparseVariationalDense,
    to_deterministic,
)

KL_STRENGTH = 1.3
SHARES = {"dense": 0.15, "sparse": 0.75, "fine_tuned": 0.1}  # of the time


class Clock(keras.callbacks.Callback):
    """Stop when the time is over; let the rate fall to zero until then."""

    def __init__(self, seconds, rate, power):
        super().__init__()
        self._seconds, self._rate, self._power = seconds, rate, power
        self.epochs = 0.0

    def on_train_begin(self, logs=None):
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        """Set the rate by the time that is left."""
        left = max(1 - (time.perf_counter() - self._begin) / self._seconds, 0.0)
        self.model.optimizer.learning_rate = self._rate * left**self._power

    def on_train_batch_end(self, batch, logs=None):
        """Stop."""
        self.epochs += 0.25
        if time.perf_counter() - self._begin > self._seconds:
            self.model.stop_training = True


def lenet(conv, dense, noise, **arguments):
    """LeNet-5-Caffe; with dropout, if `noise`."""
    first, second = [[keras.layers.Dropout(0.5)] if noise else [] for _ in range(2)]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            conv(20, 5, **arguments),
            keras.layers.MaxPooling2D(),
            conv(50, 5, **arguments),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            *first,
            dense(500, activation="relu", **arguments),
            *second,
            dense(10, **arguments),
        ]
    )


def fit(model, data, seconds, rate, power, callbacks=(), epochs=10000):
    """Train for a time. Returns what was done."""
    sparsify.compile_for(model, rate, jit_compile=False)
    clock = Clock(seconds, rate, power)
    model.fit(
        *data,
        sparsify.BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[clock, *callbacks],
    )
    return clock.epochs


def seconds_an_epoch(model, data):
    """Of a compiled model, without the time of tracing. The model is not the same."""
    sparsify.compile_for(model, 0.0, jit_compile=False)
    half = [array[:30000] for array in data]
    model.fit(*half, sparsify.BATCH, epochs=1, verbose=0)
    begin = time.perf_counter()
    model.fit(*half, sparsify.BATCH, epochs=1, verbose=0)
    return 2 * (time.perf_counter() - begin)


def run(minutes, kl_strength, data, report):
    """Train one net; `report` is called with the result after each phase."""
    train, test = data
    keras.utils.set_random_seed(0)
    begin = time.perf_counter()
    seconds = {name: share * minutes * 60 for name, share in SHARES.items()}
    result = {"minutes": minutes, "kl_strength": kl_strength, "epochs": {}}

    def done(name, model, epochs):
        result["epochs"][name] = epochs
        result[name] = sparsify.judge(model, test)
        result["seconds"] = round(time.perf_counter() - begin)
        report(result)

    dense = lenet(
        keras.layers.Conv2D, keras.layers.Dense, True, kernel_initializer="he_normal"
    )
    done("dense", dense, fit(dense, train, seconds["dense"], 1e-3, 1.0))

    arguments = {"num_examples": len(train[0]), "kl_strength": kl_strength}
    classes = SparseVariationalConv2D, SparseVariationalDense
    one = seconds_an_epoch(lenet(*classes, False, **arguments), train)
    result["seconds_a_sparse_epoch"] = round(one, 1)
    model = lenet(*classes, False, **arguments)
    sparsify.start_from(model, dense.get_weights())
    warmup = KLWarmup(0, seconds["sparse"] / one / 4, every="batch")
    epochs = fit(model, train, seconds["sparse"], 2e-3, 2.0, [warmup])
    plain = to_deterministic(model)
    done("sparse", plain, epochs)

    sparsify.hold_zeros(plain)
    done("fine_tuned", plain, fit(plain, train, seconds["fine_tuned"], 3e-4, 1.0))


def main():
    """Train, and write the result after each phase."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=120)
    arguments = parser.parse_args()
    data = [(x.reshape(-1, 28, 28, 1), y) for x, y in mnist.load()]
    minutes = 1.0 if arguments.quick else arguments.minutes
    run(
        minutes,
        KL_STRENGTH,
        data,
        lambda result: harness.write(__file__, result, arguments.quick),
    )


if __name__ == "__main__":
    main()
