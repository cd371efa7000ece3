"""Sampled predictions beside the loops that users write."""

import functools
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf

from kerasreg.layers import BayesianDense
from kerasreg.uncertainty import predict

SIZES, INPUTS = (784, 800, 800, 10), 2_000
SAMPLES, ROUNDS = 100, 3


def mc_dropout():
    """Dropout after each hidden layer."""
    keras.utils.set_random_seed(0)
    hidden = [
        layer
        for units in SIZES[1:-1]
        for layer in (keras.layers.Dense(units, "relu"), keras.layers.Dropout(0.5))
    ]
    last = keras.layers.Dense(SIZES[-1], "softmax")
    return keras.Sequential([keras.Input((SIZES[0],)), *hidden, last])


def always_on():
    """The same with dropout that `model.predict` does not turn off."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((SIZES[0],))
    for units in SIZES[1:-1]:
        x = keras.layers.Dense(units, "relu")(x)
        x = keras.layers.Dropout(0.5)(x, training=True)
    return keras.Model(inputs, keras.layers.Dense(SIZES[-1], "softmax")(x))


def bayesian(estimator):
    keras.utils.set_random_seed(0)
    options = {"estimator": estimator, "num_examples": 60_000, "initial_scale": 0.01}
    hidden = [BayesianDense(units, "relu", **options) for units in SIZES[1:-1]]
    last = BayesianDense(SIZES[-1], "softmax", **options)
    return keras.Sequential([keras.Input((SIZES[0],)), *hidden, last])


def keras_proba():
    """The peer, whose layers always draw."""
    from keras_proba.layers import DenseReparameterization

    keras.utils.set_random_seed(0)
    options = {"kl_weight": 1 / 60_000}
    hidden = [DenseReparameterization(n, "relu", **options) for n in SIZES[1:-1]]
    last = DenseReparameterization(SIZES[-1], "softmax", **options)
    return keras.Sequential([keras.Input((SIZES[0],)), *hidden, last])


def products(samples, batch_size):
    """The net without noise, again and again in one graph."""
    model = mc_dropout()

    @tf.function
    def run(x):
        total = tf.zeros((tf.shape(x)[0], SIZES[-1]))
        for _ in tf.range(samples):
            # Added so that TensorFlow cannot take the products out of the loop.
            total += model(x + 0.0 * total[0, 0])
        return total

    def all_batches(x):
        starts = range(0, len(x), batch_size)
        parts = [run(tf.constant(x[s : s + batch_size])).numpy() for s in starts]
        return np.concatenate(parts) / samples

    return all_batches


def main():
    quick = harness.arguments().quick
    samples, rounds = (10, 1) if quick else (SAMPLES, ROUNDS)
    x = np.random.default_rng(0).normal(size=(INPUTS, SIZES[0])).astype("float32")
    dropout, predicted = mc_dropout(), always_on()
    flipout, reparameterized = bayesian("flipout"), bayesian("reparameterization")
    proba = keras_proba()
    bare = {size: products(samples, size) for size in (1024, INPUTS)}

    def loop(model):
        return np.mean([model(x, training=True).numpy() for _ in range(samples)], 0)

    def loop_over_predict(model):
        draws = [model.predict(x, 1024, verbose=0) for _ in range(samples)]
        return np.mean(draws, axis=0)

    def ours(model, **options):
        return predict(model, x, samples=samples, seed=0, **options)

    cases = {
        "products": lambda: bare[1024](x),
        "products, one batch": lambda: bare[INPUTS](x),
        "MC dropout: loop over the model": lambda: loop(dropout),
        "MC dropout: loop over predict": lambda: loop_over_predict(predicted),
        "MC dropout: ours": lambda: ours(dropout),
        "MC dropout: ours, jit_compile": lambda: ours(dropout, jit_compile=True),
        "Bayesian, flipout: loop over the model": lambda: loop(flipout),
        "Bayesian, reparameterization: loop over the model": lambda: loop(
            reparameterized
        ),
        "keras-proba, reparameterization: loop over the model": lambda: loop(proba),
        "keras-proba, reparameterization: loop over predict": lambda: loop_over_predict(
            proba
        ),
        "Bayesian, flipout: ours": lambda: ours(flipout),
        "Bayesian, reparameterization: ours": lambda: ours(reparameterized),
        "Bayesian, flipout: ours, jit_compile": lambda: ours(flipout, jit_compile=True),
    }
    processor: dict = {name: [] for name in cases}

    def timed(name):
        begin = time.process_time()
        cases[name]()
        processor[name].append(time.process_time() - begin)

    runs = {name: functools.partial(timed, name) for name in cases}
    seconds = harness.interleave(runs, rounds)

    def times(slow, fast):
        pairs = zip(seconds[slow], seconds[fast], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 2)

    mc, bayes = "MC dropout: ours", "Bayesian, flipout: ours"
    ratios = {
        f"{slow} / {fast}": times(slow, fast)
        for slow, fast in (
            ("MC dropout: loop over the model", mc),
            ("MC dropout: loop over predict", mc),
            ("Bayesian, flipout: loop over the model", bayes),
            ("Bayesian, reparameterization: loop over the model", bayes),
            ("keras-proba, reparameterization: loop over the model", bayes),
            ("keras-proba, reparameterization: loop over predict", bayes),
            ("MC dropout: loop over the model", bayes),
            (bayes, "products"),
            (bayes, "products, one batch"),
            (mc, "products"),
        )
    }

    def shown(table):
        return {k: [round(s, 2) for s in v[-rounds:]] for k, v in table.items()}

    settings = {"samples": samples, "rounds": rounds, "inputs": INPUTS}
    harness.write(
        __file__,
        {
            "settings": settings,
            "ratios": ratios,
            "seconds": shown(seconds),
            # Of both cores together: on a busy machine they say more.
            "processor_seconds": shown(processor),
        },
        quick,
    )


if __name__ == "__main__":
    main()
