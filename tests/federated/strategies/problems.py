"""Sparse regressions across unlike clients, and scikit-learn's pooled solutions."""

import keras
import numpy as np
from flwr.serverapp.strategy import FedAvg
from sklearn import linear_model

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, ElasticNet, GroupLasso

INPUTS = 20


def build(learning_rate=0.05, outputs=1, optimizer=keras.optimizers.SGD, **compiling):
    """A function that builds a linear regression from zero."""

    def build_model():
        layer = keras.layers.Dense(outputs, kernel_initializer="zeros", name="dense")
        model = keras.Sequential([keras.Input((INPUTS,)), layer])
        model.compile(optimizer(learning_rate), "mse", **compiling)
        return model

    return build_model


def proximal(learning_rate):
    """`Proximal(SGD)`, as users compile it for exact zeros in `fit`."""
    return Proximal(keras.optimizers.SGD(learning_rate))


def averaging(cls=FedAvg, **arguments):
    """A strategy that is content with one client."""
    return cls(
        min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1, **arguments
    )


def clients(number=6, rows=30, outputs=1, seed=0):
    """Clients that differ in the scale and mean of inputs, and in their number."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((INPUTS, outputs))
    truth[:4] = rng.choice([-1.0, 1.0], size=(4, outputs)) * rng.uniform(
        0.7, 2, size=(4, outputs)
    )
    made = []
    for k in range(number):
        size = rows + 5 * k
        x = rng.normal(size=(size, INPUTS)) * rng.uniform(0.7, 1.3, size=INPUTS)
        x += 0.3 * rng.normal(size=INPUTS)
        y = x @ truth + 0.3 * rng.normal(size=(size, outputs))
        made.append((x.astype("float32"), y.astype("float32")))
    return made


def pooled(parts):
    """All examples together, as one client."""
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


ALPHA = 0.2
PENALTIES = {
    # name: outputs, our penalty, scikit-learn's model of the same problem
    "L1": (
        1,
        lambda: L1(2 * ALPHA),
        lambda: linear_model.Lasso(alpha=ALPHA, tol=1e-10, max_iter=10**5),
    ),
    "ElasticNet": (
        1,
        lambda: ElasticNet.from_ratio(2 * ALPHA, 0.7),
        lambda: linear_model.ElasticNet(alpha=ALPHA, l1_ratio=0.7, tol=1e-10),
    ),
    "GroupLasso": (
        3,
        lambda: GroupLasso(2 * ALPHA / 3**1.5, axis="input"),
        lambda: linear_model.MultiTaskLasso(alpha=ALPHA, tol=1e-10, max_iter=10**5),
    ),
}


def solution(model, parts):
    """Kernel and bias of scikit-learn's model on all the data."""
    x, y = (a.astype("float64") for a in pooled(parts))
    y = y if y.shape[1] > 1 else y[:, 0]
    model.fit(x, y)
    return np.reshape(model.coef_, (-1, INPUTS)).T, np.atleast_1d(model.intercept_)


def support(kernel):
    """Where a kernel is not zero."""
    return (np.asarray(kernel) != 0).astype(int).tolist()
