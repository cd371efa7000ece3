"""Sparse variational dropout, LeNet-5-Caffe on MNIST: see README.md."""

import argparse
import pathlib
import sys
import tempfile
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


class StopAt(keras.callbacks.Callback):
    """End the program after the epoch in which the time is over."""

    def __init__(self, minutes):
        super().__init__()
        self._begin, self._minutes = time.perf_counter(), minutes
        self.epochs = 0

    @property
    def minutes(self):
        """What was used so far."""
        return round((time.perf_counter() - self._begin) / 60, 1)

    def on_epoch_end(self, epoch, logs=None):
        """Stop, or go on."""
        self.epochs += 1
        print(f"epoch {epoch}: {self.minutes} minutes", logs, flush=True)
        if self.minutes > self._minutes:
            sys.exit("The time is over. The same command goes on from here.")


def lenet(conv, dense, dropout=None, **arguments):
    """LeNet-5-Caffe."""

    def drop():
        return [] if dropout is None else [keras.layers.Dropout(dropout)]

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            conv(20, 5, **arguments),
            keras.layers.MaxPooling2D(),
            conv(50, 5, **arguments),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            *drop(),
            dense(500, activation="relu", **arguments),
            *drop(),
            dense(10, **arguments),
        ]
    )


def fit(model, data, epochs, rate, power, folder, callbacks):
    """Train with a rate that falls to zero, from where an earlier run stopped."""
    schedule = keras.optimizers.schedules.PolynomialDecay(
        rate, epochs * sparsify.STEPS, 0.0, power
    )
    sparsify.compile_for(model, schedule, jit_compile=False)
    model.fit(
        *data,
        sparsify.BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False),
            *callbacks,
        ],
    )


def run(data, epochs, folder, stop, report):
    """Train one net; `report` is called with the result after each phase."""
    train, test = data
    keras.utils.set_random_seed(0)
    result = {"epochs": epochs, "kl_strength": KL_STRENGTH}

    def done(phase, model):
        result[phase] = sparsify.judge(model, test)
        result["minutes"], result["epochs_of_this_run"] = stop.minutes, stop.epochs
        report(result)

    plain = keras.layers.Conv2D, keras.layers.Dense
    dense = lenet(*plain, dropout=0.5, kernel_initializer="he_normal")
    fit(dense, train, epochs[0], 1e-3, 1.0, folder / "dense", [stop])
    done("dense", dense)

    arguments = {"num_examples": len(train[0]), "kl_strength": KL_STRENGTH}
    sparse = lenet(SparseVariationalConv2D, SparseVariationalDense, **arguments)
    sparsify.start_from(sparse, dense.get_weights())
    warmup = KLWarmup(0, epochs[1] / 4, every="batch")
    fit(sparse, train, epochs[1], 2e-3, 2.0, folder / "sparse", [warmup, stop])
    pruned = to_deterministic(sparse)
    done("sparse", pruned)

    sparsify.hold_zeros(pruned)
    fit(pruned, train, epochs[2], 3e-4, 1.0, folder / "fine_tuned", [stop])
    done("fine_tuned", pruned)


def main():
    """Train, and write the result after each phase."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="try the script")
    parser.add_argument(
        "--minutes", type=float, default=120, help="stop then; run again to go on"
    )
    parser.add_argument("--folder", help="of what has been trained so far")
    arguments = parser.parse_args()
    data = [(x.reshape(-1, 28, 28, 1), y) for x, y in mnist.load()]
    epochs = (20, 70, 8)
    if arguments.quick:
        epochs, data[0] = (1, 2, 1), tuple(array[:2400] for array in data[0])
    run(
        data,
        epochs,
        pathlib.Path(arguments.folder or tempfile.mkdtemp()),
        StopAt(arguments.minutes),
        lambda result: harness.write(__file__, result, arguments.quick),
    )


if __name__ == "__main__":
    main()
