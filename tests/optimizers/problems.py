"""Penalized problems for the tests of `solve`, and the conditions of their optimum."""

import keras
import numpy as np
from keras import layers

from kerasreg.regularizers import L1, L2, GroupLasso, SparseGroupLasso

N, P, K = 120, 30, 3


def features(scale=None, dtype="float32"):
    x = np.random.default_rng(0).normal(size=(N, P))
    x[:, 1] += 0.8 * x[:, 0]
    return (x if scale is None else x * scale).astype(dtype)


def truth(units):
    weights = np.zeros((P, units))
    weights[:6] = np.random.default_rng(1).normal(size=(6, units)) * 2
    return weights


def targets(loss, units, dtype="float32"):
    rng = np.random.default_rng(2)
    z = features(dtype="float64") @ truth(units) + rng.normal(size=(N, units)) + 0.5
    if loss == "mse":
        return z.astype(dtype)
    if loss == "binary_crossentropy":
        return (z > 0).astype(dtype)
    return z.argmax(1) if "sparse" in loss else np.eye(units)[z.argmax(1)]


ACTIVATIONS = {
    "mse": None,
    "binary_crossentropy": "sigmoid",
    "sparse_categorical_crossentropy": "softmax",
    "categorical_crossentropy": "softmax",
}


def linear(penalty, loss="mse", units=1, inputs=P, **dense):
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(units, ACTIVATIONS[loss], kernel_regularizer=penalty, **dense),
        ]
    )
    model.compile(loss=loss)
    return model


def net(penalty, activation="tanh", units=1, loss="mse"):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((P,)),
            layers.Dense(8, activation, kernel_regularizer=penalty, name="hidden"),
            # Without a penalty here the scale could move into this layer for ever.
            layers.Dense(units, kernel_regularizer=L2(0.01), name="out"),
        ]
    )
    model.compile(loss=loss)
    return model


def kernel_and_bias(model):
    kernel, *bias = (w.astype("float64") for w in model.get_weights())
    return kernel, bias[0] if bias else 0.0


def slope(model, x, y, loss, weight=None):
    """The gradient of the data loss in kernel and bias, in NumPy."""
    kernel, bias = kernel_and_bias(model)
    x, y = x.astype("float64"), np.asarray(y, "float64")
    z = x @ kernel + bias
    if loss == "mse":
        u = 2 * (z - y) / z.shape[1]
    elif loss == "binary_crossentropy":
        u = (1 / (1 + np.exp(-z)) - y) / z.shape[1]
    else:
        y = np.eye(z.shape[1])[y.astype(int)] if y.ndim == 1 else y
        p = np.exp(z - z.max(1, keepdims=True))
        u = p / p.sum(1, keepdims=True) - y
    u = u / len(x) if weight is None else u * weight[:, None] / len(x)
    return x.T @ u, u.sum(0)


def assert_subgradient(w, pull, l1=0.0, group=0.0, axis=-1, rtol=2e-3):
    """`pull`, minus the gradient of the rest, is in the subdifferential at `w`."""
    slack = rtol * (l1 + group)
    if not group:
        alive = w != 0
        assert np.all(np.abs(pull - l1 * np.sign(w))[alive] <= slack)
        assert np.all(np.abs(pull)[~alive] <= l1 + slack)
        return
    for row, force in zip(w, pull, strict=True):
        size, bound = np.linalg.norm(row), group * np.sqrt(len(row))
        if size == 0:
            rest = np.sign(force) * np.maximum(np.abs(force) - l1, 0)
            assert np.linalg.norm(rest) <= bound + slack
        else:
            alive = row != 0
            expected = l1 * np.sign(row) + bound * row / size
            assert np.all(np.abs(force - expected)[alive] <= 3 * slack)
            assert np.all(np.abs(force)[~alive] <= l1 + slack)


CONVEX = {
    "lasso": (L1(0.2), "mse", 1, {"l1": 0.2}),
    "lasso, several outputs": (L1(0.1), "mse", K, {"l1": 0.1}),
    "group lasso": (GroupLasso(0.2), "mse", K, {"group": 0.2}),
    "sparse group lasso": (
        SparseGroupLasso(0.03, 0.05),
        "mse",
        K,
        {"l1": 0.03, "group": 0.05},
    ),
    "logistic": (L1(0.02), "binary_crossentropy", 1, {"l1": 0.02}),
    "multinomial": (L1(0.02), "sparse_categorical_crossentropy", K, {"l1": 0.02}),
    "multinomial, groups": (
        GroupLasso(0.02),
        "categorical_crossentropy",
        K,
        {"group": 0.02},
    ),
}
