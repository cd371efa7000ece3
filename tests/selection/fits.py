"""Data, models and settings of short comparisons."""

import keras
import numpy as np

FEATURES = 6


def _data(examples=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, FEATURES)).astype("float32")
    y = (x[:, 0] - x[:, 1] + 0.1 * rng.normal(size=examples) > 0).astype("int64")
    return x, y


X, Y = _data()


SMALL = {"folds": 2, "epochs": 3, "batch_size": 16, "progress": False}


def build(dropout=0.0, units=4, eager=False):
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(units, "relu")]
    if dropout:
        layers.append(keras.layers.Dropout(dropout, seed=1))
    model = keras.Sequential([*layers, keras.layers.Dense(1, "sigmoid")])
    model.compile(
        keras.optimizers.Adam(0.05),
        "binary_crossentropy",
        metrics=["accuracy"],
        run_eagerly=eager,
    )
    return model


def linear():
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)  # No tracing.
    return model
