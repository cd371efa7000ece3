"""Steps that survive a change of precision."""

import warnings

import keras
import numpy as np
import pytest

from kerasreg.optimizers import solve
from kerasreg.regularizers import L1, L2


@pytest.mark.parametrize("from_logits", [False, True])
def test_a_warm_path_on_correlated_features_converges_everywhere(from_logits):
    """Far more features than samples: rounding must not pass for an end."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 600))
    for block in range(0, 600, 20):
        x[:, block : block + 20] *= 0.6
        x[:, block : block + 20] += 0.8 * rng.normal(size=(80, 1))
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    chance = 1 / (1 + np.exp(-1.5 * x[:, ::75].sum(1)))
    y = (rng.random(80) < chance).astype("float32")[:, None]
    top = float(np.abs(x.T @ (y - y.mean())).max() / 80)
    penalty = L1(top)
    activation = None if from_logits else "sigmoid"
    dense = keras.layers.Dense(1, activation, kernel_regularizer=penalty)
    model = keras.Sequential([keras.Input((600,)), dense])
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    model.compile("sgd", loss=loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for share in np.geomspace(0.95, 0.01, 20):
            penalty.strength = top * share
            solution = solve(model, x, y)
            assert solution.converged
            assert solution.certificate == "duality gap"


@pytest.mark.parametrize("penalty", [L1(0.0), L2(0.0), L1(0.1), L2(0.1)])
@pytest.mark.filterwarnings("ignore:`solve` ")
def test_a_penalized_bias_ends(penalty):
    x = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    dense = keras.layers.Dense(1, kernel_regularizer=L1(0.5), bias_regularizer=penalty)
    model = keras.Sequential([keras.Input((8,)), dense])
    model.compile("sgd", loss="mse")
    assert solve(model, x, 2 * x[:, :1] + 1, max_steps=500).steps <= 500
