"""Regression with `BayesianDense` on three UCI data sets: see README.md."""

import math
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasreg import uncertainty
from kerasreg.callbacks import KLWarmup
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import Prior

UNITS = 50
RATE = 0.01
STEPS = 3000  # each with the whole training set
SAMPLES = 500
KINDS = ("bayesian", "bayesian_warmup", "plain")
# RMSE and log likelihood of MC Dropout: Gal & Ghahramani 2016, and tuned.
PUBLISHED = {
    "yacht": [[1.11, -1.55], [0.67, -1.25]],
    "energy": [[1.66, -1.99], [0.54, -1.21]],
    "concrete": [[5.23, -3.04], [4.82, -2.93]],
}


class Noise(keras.layers.Layer):
    """Puts the log variance of the targets' noise, one learned number, beside means."""

    def build(self, input_shape):
        """Make the number."""
        start = keras.initializers.Constant(-1.0)
        self.log_variance = self.add_weight(shape=(1,), initializer=start)

    def call(self, means):
        """Means and log variances."""
        spread = ops.broadcast_to(self.log_variance, ops.shape(means))
        return ops.concatenate([means, spread], axis=-1)


def log_likelihood(y, outputs):
    """Log density of each target under means and log variances."""
    means, spread = outputs[:, :1], outputs[:, 1:]
    square = ops.square(y - means) * ops.exp(-spread)
    return -0.5 * (math.log(2 * math.pi) + spread + square)


def build(features, examples, kind):
    """The net: one hidden layer, one output and its noise."""

    def dense(units, activation=None):
        if kind == "plain":
            return keras.layers.Dense(units, activation)
        return BayesianDense(
            units,
            activation,
            prior=Prior("Normal", trainable=["scale"]),
            estimator="local_reparameterization",
            num_examples=examples,
        )

    return keras.Sequential(
        [keras.Input((features,)), dense(UNITS, "relu"), dense(1), Noise()]
    )


def compiled(features, examples, kind, steps):
    """The net, compiled."""
    model = build(features, examples, kind)
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        lambda y, outputs: -log_likelihood(y, outputs),
        steps_per_execution=steps // 10,
        jit_compile=False,
    )
    return model


def fit(model, fresh, x, y, steps, kind):
    """Train from the weights of another net, with the optimizer as new."""
    model.set_weights(fresh.get_weights())
    for variable in model.optimizer.variables:
        variable.assign(ops.zeros_like(variable))
    batches = tf.data.Dataset.from_tensors((x, y)).repeat()
    # The divergence from 0 to full strength in the first half.
    warmup = [KLWarmup(0, 5)] if kind == "bayesian_warmup" else []
    model.fit(
        batches, epochs=10, steps_per_epoch=steps // 10, verbose=0, callbacks=warmup
    )


def split(data, index):
    """Standardized training and test sets, and the deviation of the targets."""
    x, y, test = data["X"], data["y"][:, None], data["test_idx"][index]
    train = np.setdiff1d(np.arange(len(x)), test)
    deviation = x[train].std(axis=0)
    x = (x - x[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    unit = float(y[train].std())
    y = (y - y[train].mean()) / unit
    return (x[train], y[train]), (x[test], y[test]), unit


def judge(model, test, unit, kind):
    """RMSE and mean log likelihood in the targets' own unit."""
    x, y = test
    if kind != "plain":
        prediction = uncertainty.predict(
            model, x, SAMPLES, seed=0, spread="log_variance", keep_samples=True
        )
        means, logs = prediction.mean, prediction.log_prob(y)
    else:
        outputs = model.predict(x, verbose=0)
        means, logs = outputs[:, :1], np.asarray(log_likelihood(y, outputs))
    rmse = float(np.sqrt(np.mean((means - y) ** 2)))
    return rmse * unit, float(np.mean(logs)) - math.log(unit)


def measure(data, kind, splits, steps):
    """Train and test on each split: means and standard errors."""
    examples = len(data["X"]) - data["test_idx"].shape[1]
    arguments = data["X"].shape[1], examples, kind
    model = compiled(*arguments, steps)
    begin, values = time.perf_counter(), []
    for index in range(splits):
        keras.utils.set_random_seed(index)
        train, test, unit = split(data, index)
        fit(model, build(*arguments), *train, steps, kind)
        values.append(judge(model, test, unit, kind))
        print(kind, index, values[-1], flush=True)
    names = ("rmse", "log_likelihood")
    result: dict = {"seconds_a_net": (time.perf_counter() - begin) / splits}
    for name, column in zip(names, np.array(values).T, strict=True):
        error = column.std(ddof=1) / np.sqrt(splits)
        result |= {name: column.mean(), f"{name}_error": error}
    result = {name: round(float(value), 3) for name, value in result.items()}
    return result | {"splits": np.round(values, 3).tolist()}


def main():
    """Train all nets and write the result, after each data set."""
    quick = harness.arguments().quick
    splits, steps = (2, 200) if quick else (20, STEPS)
    folder = pathlib.Path(os.environ.get("KERASREG_DATA", ""))
    result: dict = {"steps": steps, "samples": SAMPLES}
    for name, published in PUBLISHED.items():
        with np.load(folder / f"uci_{name}.npz") as file:
            data = dict(file)
        result[name] = {
            **{kind: measure(data, kind, splits, steps) for kind in KINDS},
            "mc_dropout_published": published,
        }
        harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
