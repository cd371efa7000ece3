"""`Evidence` on a small network: better predictions, without validation data."""

import functools
import warnings

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from kerasreg.callbacks import Evidence, State, Unit
from kerasreg.optimizers import solve
from kerasreg.regularizers import L2

TRAIN = 150


@functools.cache
def digits():
    """Digits of 4 x 4 pixels; 150 to train on."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16) / 8 - 0.5
    order = np.random.default_rng(1).permutation(len(x))
    return x[order].astype("float32"), y[order]


def net(strength):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(8, "tanh", kernel_regularizer=L2(strength)),
        keras.layers.Dense(10, "softmax", kernel_regularizer=L2(strength)),
    ]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    return model


def train(model, max_steps):
    x, y = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        solve(model, x[:TRAIN], y[:TRAIN], max_steps=max_steps, tol=1e-4)


def unseen_loss(model):
    x, y = digits()
    p = np.asarray(model(x[TRAIN:]), "float64")
    return -np.mean(np.log(p[np.arange(len(p)), y[TRAIN:]]))


@functools.cache
def fixed(strength):
    """The test loss with one strength that stays."""
    model = net(strength)
    train(model, 400)
    return unseen_loss(model)


@pytest.mark.parametrize("curvature", ["full", "block", "kronecker"])
def test_better_than_fixed_strengths(curvature):
    """Half the test loss of no penalty, and that of a good strength up to 2 %."""
    x, y = digits()
    model = net(1e-3)
    units = {layer.name: [layer.kernel] for layer in model.layers}
    policy = Evidence(x[:TRAIN], y[:TRAIN], curvature=curvature, batch_size=50)
    evidence = []
    for _ in range(5):
        train(model, 300)
        extra = policy.measure(model, units)
        measured = {
            name: Unit(weight.regularizer.strength, extra=extra[name])
            for name, (weight,) in units.items()
        }
        for name, strength in policy.update(State(measured)).items():
            units[name][0].regularizer.strength = strength
        evidence.append(policy.log_evidence)
    assert evidence[-1] > evidence[0]
    assert unseen_loss(model) < 0.5 * fixed(1e-9)
    assert unseen_loss(model) < 1.02 * min(map(fixed, (1e-3, 1e-2)))
