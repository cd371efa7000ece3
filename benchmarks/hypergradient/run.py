"""Strengths by hypergradients beside a grid of strengths, on few digits."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from kerasreg.callbacks import Hypergradient, LayerwiseAdaptiveLambda
from kerasreg.regularizers import L2

TRAIN, VALIDATION = 200, 400
GRID = [float(f"{s:.3g}") for s in 10.0 ** np.arange(-5.0, -1.9, 0.5)]
START = 1e-2


def digits(seed):
    """Training, validation and test data: 200, 400 and the other 1197 images."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    ends = (TRAIN, TRAIN + VALIDATION)
    return list(zip(np.split(x, ends), np.split(y, ends), strict=True))


def fitted(seed, strengths, train, epochs, policy=None):
    """A net after 100 full-batch steps an epoch, and its two strengths."""
    first, second = strengths
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(32, "tanh", kernel_regularizer=L2(first), name="hidden"),
        keras.layers.Dense(10, kernel_regularizer=L2(second), name="out"),
    ]
    model = keras.Sequential([keras.Input((64,)), *layers])
    rate = keras.optimizers.schedules.CosineDecay(0.01, 100 * epochs, alpha=0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(rate), loss, jit_compile=False, steps_per_execution=10
    )
    batches = tf.data.Dataset.from_tensors(train).cache().repeat()
    adaptive = [] if policy is None else [LayerwiseAdaptiveLambda(policy)]
    begin = time.perf_counter()
    model.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=100,
        shuffle=False,
        verbose=0,
        callbacks=adaptive,
    )
    seconds = time.perf_counter() - begin
    found = [layer.kernel_regularizer.strength for layer in layers]
    for layer in layers:
        layer.kernel_regularizer.strength = 0.0  # `evaluate` is to see the data alone
    return model, found, seconds


def row(seed, strengths, data, epochs, policy=None):
    """Negative log likelihoods of validation and test data."""
    model, strengths, seconds = fitted(seed, strengths, data[0], epochs, policy)
    nll = [model.evaluate(*part, batch_size=2000, verbose=0) for part in data[1:]]
    return {
        "validation": round(nll[0], 4),
        "test": round(nll[1], 4),
        "strengths": [float(f"{s:.3g}") for s in strengths],
        "seconds": round(seconds, 1),
    }


def compare(seed, epochs):
    """All of them on one split."""
    data = digits(seed)
    grid = [row(seed, (strength, strength), data, epochs) for strength in GRID]
    best = min(grid, key=lambda each: each["validation"])
    rows = {
        "no penalty": row(seed, (0.0, 0.0), data, epochs),
        "best of grid": {
            **best,
            "seconds": round(sum(each["seconds"] for each in grid), 1),
        },
    }
    for mode in ("implicit", "first_order"):
        policy = Hypergradient(*data[:2], mode=mode)
        rows[mode] = row(seed, (START, START), data, epochs, policy)
        found = rows[mode]["strengths"]
        rows[f"{mode}, fitted again"] = row(seed, found, data, epochs)
    for each in rows.values():
        each["to_grid"] = round(each["validation"] / best["validation"], 4)
    return rows


def main(quick):
    seeds, epochs = (range(1), 3) if quick else (range(5), 30)
    runs = []
    for seed in seeds:
        runs.append(compare(seed, epochs))
        print(seed, runs[-1], flush=True)
    summary = {
        name: {
            "validation": round(
                float(np.mean([r[name]["validation"] for r in runs])), 4
            ),
            "test": round(float(np.mean([r[name]["test"] for r in runs])), 4),
            "worst_to_grid": max(r[name]["to_grid"] for r in runs),
            "seconds": round(float(np.mean([r[name]["seconds"] for r in runs])), 1),
        }
        for name in runs[0]
    }
    harness.write(__file__, {"grid": GRID, "summary": summary, "runs": runs}, quick)


if __name__ == "__main__":
    main(harness.arguments().quick)
