"""Sparse variational dropout, LeNet-300-100 on MNIST: see README.md."""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np

from kerasreg.callbacks import KLWarmup
from kerasreg.layers import SparseVariationalDense, to_deterministic

UNITS = (300, 100, 10)
BATCH = 100
STEPS = 600  # an epoch
KL_STRENGTH = 1.3
CURVE = (0.5, 2.5)  # the same recipe with other strengths, one seed


class Adam(keras.optimizers.Adam):
    """Adam that turns the noise at 0.3 of the learning rate."""

    def update_step(self, gradient, variable, learning_rate):
        """Update one variable."""
        slow = 0.3 if "log_sigma2" in variable.name else 1.0
        super().update_step(gradient, variable, slow * learning_rate)


class HoldZeros(keras.constraints.Constraint):
    """Keep the weights that are zero at zero."""

    def __init__(self, kernel):
        self._kept = keras.ops.cast(keras.ops.not_equal(kernel, 0), "float32")

    def __call__(self, w):
        """Zero them again."""
        return w * self._kept


def fit(model, data, epochs, rate, power, callbacks=(), jit_compile=True):
    """Train with a rate that falls to zero as a power of the time that is left."""
    schedule = keras.optimizers.schedules.PolynomialDecay(
        rate, epochs * STEPS, 0.0, power
    )
    model.compile(
        Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=STEPS // 4,
        jit_compile=jit_compile,
    )
    model.fit(*data, BATCH, epochs=epochs, verbose=0, callbacks=list(callbacks))


def dense(data, epochs):
    """The start: a dense net trained with dropout. Returns its weights."""
    layers = [keras.Input((784,)), keras.layers.Dropout(0.2)]
    for units in UNITS[:-1]:
        layers += [
            keras.layers.Dense(units, "relu", kernel_initializer="he_normal"),
            keras.layers.Dropout(0.5),
        ]
    model = keras.Sequential([*layers, keras.layers.Dense(UNITS[-1])])
    # The random numbers of Keras's Dropout are slow under XLA on a CPU.
    fit(model, data, epochs, 1e-3, 1.0, jit_compile=False)
    return model.get_weights()


def sparse(data, weights, kl_strength, epochs):
    """Sparse variational dropout from these weights; returns the sparse plain net."""
    arguments = {"num_examples": len(data[0]), "kl_strength": kl_strength}
    layers = [SparseVariationalDense(n, "relu", **arguments) for n in UNITS[:-1]]
    layers.append(SparseVariationalDense(UNITS[-1], **arguments))
    model = keras.Sequential([keras.Input((784,)), *layers])
    for layer, kernel, bias in zip(layers, weights[::2], weights[1::2], strict=True):
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)
    warmup = KLWarmup(0, epochs / 4, every="batch")
    fit(model, data, epochs, 2e-3, 2.0, [warmup])
    return to_deterministic(model)


def fine_tune(model, data, epochs):
    """Train the weights that are left."""
    for layer in model.layers:
        layer.kernel.constraint = HoldZeros(layer.kernel)
    fit(model, data, epochs, 3e-4, 1.0)


def judge(model, test):
    """Test error in per cent, and how many weights are left."""
    logits = model.predict(test[0], batch_size=1000, verbose=0)
    kept = [int(np.count_nonzero(layer.kernel)) for layer in model.layers]
    sizes = [layer.kernel.shape[0] * layer.kernel.shape[1] for layer in model.layers]
    return {
        "error_percent": round(float(np.mean(logits.argmax(1) != test[1]) * 100), 2),
        "compression": round(sum(sizes) / sum(kept), 1),
        "zeros_percent": [
            round(100 - 100 * k / n, 1) for k, n in zip(kept, sizes, strict=True)
        ],
    }


def run(seed, kl_strength, data, epochs):
    """One net from its random start to its fine-tuned end."""
    train, test = data
    keras.utils.set_random_seed(seed)
    begin = time.perf_counter()
    model = sparse(train, dense(train, epochs[0]), kl_strength, epochs[1])
    result = {"seed": seed, "kl_strength": kl_strength, "sparse": judge(model, test)}
    fine_tune(model, train, epochs[2])
    result["fine_tuned"] = judge(model, test)
    result["seconds"] = round(time.perf_counter() - begin)
    print(result, flush=True)
    return result


def main():
    """Train all nets and write the result."""
    quick = harness.arguments().quick
    data = mnist.load()
    epochs, seeds = ((1, 2, 1), 1) if quick else ((40, 70, 10), 3)
    runs = [run(seed, KL_STRENGTH, data, epochs) for seed in range(seeds)]
    means = {
        stage: {
            key: round(statistics.mean(r[stage][key] for r in runs), 3)
            for key in ("error_percent", "compression")
        }
        for stage in ("sparse", "fine_tuned")
    }
    result = {"epochs": epochs, "mean": means, "runs": runs, "curve": []}
    harness.write(__file__, result, quick)
    for strength in () if quick else CURVE:
        result["curve"].append(run(0, strength, data, epochs))
        harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
