"""Strengths by their evidence beside a grid of strengths, on few digits."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from kerasreg.callbacks import Evidence, LayerwiseAdaptiveLambda
from kerasreg.regularizers import L2

TRAIN = 200
GRID = [float(f"{s:.3g}") for s in 10.0 ** np.arange(-5.0, -1.9, 0.5)]
START = 1e-4
STEPS = 100  # of an epoch, after each of which strengths are updated


def digits(seed):
    """200 images to train on, the other 1597 to test."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def row(seed, strength, epochs, granularity="layer", **arguments):
    """Test loss, strengths and seconds of one net."""
    train, test = digits(seed)
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(32, "tanh", kernel_regularizer=L2(strength), name="hidden"),
        keras.layers.Dense(10, kernel_regularizer=L2(strength), name="out"),
    ]
    model = keras.Sequential([keras.Input((64,)), *layers])
    rate = keras.optimizers.schedules.CosineDecay(0.01, STEPS * epochs, alpha=0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    batches = tf.data.Dataset.from_tensors(train).cache().repeat()
    policy, callbacks = None, []
    if arguments:
        policy = Evidence(*train, burn_in=STEPS * epochs // 3, **arguments)
        callbacks = [LayerwiseAdaptiveLambda(policy, granularity=granularity)]
    begin = time.perf_counter()
    model.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=STEPS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - begin
    found = [float(f"{layer.kernel_regularizer.strength:.3g}") for layer in layers]
    for layer in layers:
        layer.kernel_regularizer.strength = 0.0  # `evaluate` is to see the data alone
    made = {
        "test": round(model.evaluate(*test, batch_size=2000, verbose=0), 4),
        "strengths": found,
        "seconds": round(seconds, 1),
    }
    if policy is not None:
        made["log_evidence"] = round(policy.log_evidence, 1)
    print(seed, strength, granularity, arguments, made, file=sys.stderr, flush=True)
    return made


def compare(seed, epochs):
    """All of them on one split."""
    grid = [row(seed, strength, epochs) for strength in GRID]
    rows = {
        "no penalty": row(seed, 0.0, epochs),
        "best of grid on the test": min(grid, key=lambda each: each["test"]),
        "kronecker": row(seed, START, epochs, curvature="kronecker"),
        "kronecker, plain": row(
            seed, START, epochs, curvature="kronecker", ascent=False
        ),
        "kronecker, one strength": row(
            seed, START, epochs, "model", curvature="kronecker"
        ),
    }
    for curvature in ("block", "full"):
        rows[curvature] = row(seed, START, epochs, curvature=curvature)
    return rows


def main(quick):
    seeds, epochs = (range(1), 6) if quick else (range(3), 30)
    runs = [compare(seed, epochs) for seed in seeds]
    summary = {
        name: {
            "test": round(float(np.mean([r[name]["test"] for r in runs])), 4),
            "seconds": round(float(np.mean([r[name]["seconds"] for r in runs])), 1),
        }
        for name in runs[0]
    }
    harness.write(__file__, {"grid": GRID, "summary": summary, "runs": runs}, quick)


if __name__ == "__main__":
    main(harness.arguments().quick)
