"""Small models and data that the federated tests share."""

import keras
import numpy as np


def build_linear(learning_rate=0.1, inputs=3):
    """A function that builds a linear regression trained by plain SGD."""

    def build_model():
        model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(learning_rate), "mse")
        return model

    return build_model


def linear_data(rows=60, inputs=3, seed=0):
    """`x` and `y` of a noisy linear regression, float32."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)).astype("float32")
    coefficients = rng.normal(size=(inputs, 1))
    y = x @ coefficients + 0.1 * rng.normal(size=(rows, 1))
    return x, y.astype("float32")


def split(data, parts):
    """The rows of arrays dealt out to clients, as a list of tuples."""
    return [tuple(a[k::parts] for a in data) for k in range(parts)]
