"""A small network, its data and how it is trained, for the tests of `Proximal`."""

import keras
import numpy as np


def data(rows=32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).astype("float32")


def build(penalty=None, cls=keras.Model, dtype=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(
        5, "tanh", kernel_regularizer=penalty, name="hidden", dtype=dtype
    )(inputs)
    outputs = keras.layers.Dense(1, name="out", dtype="float32")(hidden)
    return cls(inputs, outputs)


def fitted(model, optimizer, epochs=3, batch_size=8, fit=(), **compile_arguments):
    model.compile(optimizer, loss="mse", **compile_arguments)
    options = {"epochs": epochs, "batch_size": batch_size, "shuffle": False}
    return model.fit(*data(), verbose=0, **{**options, **dict(fit)})


def assert_same_weights(first, second, **tolerance):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)
