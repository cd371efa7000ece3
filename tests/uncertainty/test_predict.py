"""Sampled predictions: moments in closed form, and nothing left behind."""

import keras
import numpy as np
import pytest

from kerasreg import layers
from kerasreg.uncertainty import predict

X = np.random.default_rng(0).normal(size=(20, 30)).astype("float32")


def _linear(layer):
    return keras.Sequential([keras.Input((30,)), layer])


def _classifier():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def test_moments_of_drop_connect():
    """Five standard errors. The seed is fixed, so chance acts when the code changes:
    a Normal figure is beyond them with probability 5.7e-7, one of 40 with 2.3e-5."""
    layer = layers.DropConnectDense(1, rate=0.3)
    prediction = predict(_linear(layer), X, samples=4000, seed=1)
    w = layer.kernel.numpy()
    variance = 0.21 * X**2 @ w**2
    error = np.abs(prediction.mean - 0.7 * X @ w)
    assert (error < 5 * np.sqrt(variance / 4000)).all()
    np.testing.assert_allclose(prediction.var, variance, rtol=5 * np.sqrt(2 / 4000))


def test_moments_of_dropout():
    dense = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dropout(0.2), dense])
    prediction = predict(model, X, samples=4000, seed=1)
    w = dense.kernel.numpy()
    variance = 0.25 * X**2 @ w**2
    assert (np.abs(prediction.mean - X @ w) < 5 * np.sqrt(variance / 4000)).all()
    np.testing.assert_allclose(prediction.var, variance, rtol=5 * np.sqrt(2 / 4000))


def test_statistics_are_those_of_the_samples():
    p = predict(_classifier(), X, samples=30, batch_size=7, seed=1, keep_samples=True)
    s = p.samples.astype("float64")
    assert s.shape == (30, 20, 3)
    np.testing.assert_allclose(p.mean, s.mean(0), atol=1e-6)
    np.testing.assert_allclose(p.var, s.var(0), atol=1e-6)
    expected = -(s * np.log(s)).sum(-1).mean(0)
    np.testing.assert_allclose(p.expected_entropy, expected, atol=1e-5)
    assert (p.mutual_information >= 0).all()
    np.testing.assert_allclose(p.total_uncertainty, p.aleatoric + p.epistemic)
    y = np.arange(20) % 3
    density = s[:, np.arange(20), y].mean(0)
    np.testing.assert_allclose(p.log_prob(y), np.log(density), rtol=1e-6)


def test_nothing_is_left_behind():
    model = _classifier()
    before = [v.numpy() for v in model.variables]
    outputs = model.predict(X, verbose=0)
    predict(model, X, samples=3)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    np.testing.assert_array_equal(model.predict(X, verbose=0), outputs)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_seed():
    model = _linear(layers.DropConnectDense(2, rate=0.5))
    first = predict(model, X, samples=5, seed=3)
    again = predict(model, X, samples=5, seed=3, batch_size=6)
    np.testing.assert_allclose(first.mean, again.mean, rtol=1e-5, atol=1e-6)
    assert (
        predict(model, X, samples=5).mean != predict(model, X, samples=5).mean
    ).any()


def test_a_rate_that_changes_is_seen():
    model = _classifier()
    low = predict(model, X, samples=50, seed=1).std.mean()
    model.layers[2].rate = 0.05
    assert predict(model, X, samples=50, seed=1).std.mean() < 0.7 * low


def test_nothing_samples():
    with pytest.raises(ValueError, match="in which nothing samples"):
        predict(_linear(keras.layers.Dense(1)), X)
