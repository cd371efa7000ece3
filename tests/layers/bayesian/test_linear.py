"""Bayesian Dense and Conv layers: their law, their gradients, the exact answer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.layers import BayesianConv1D, BayesianConv2D, BayesianDense, sampling
from kerasreg.layers.noise import drawn_weights
from kerasreg.regularizers import Prior

ESTIMATORS = ("flipout", "reparameterization", "local_reparameterization")
estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def fitted(layer, x, y, steps=3000):
    """Fit a linear model to the whole data in each step, with a falling rate."""
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    rate = keras.optimizers.schedules.PolynomialDecay(0.02, steps, 0.0, 2.0)
    model.compile(
        keras.optimizers.Adam(rate), "mse", jit_compile=True, steps_per_execution=300
    )
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return layer.kernel_posterior


@estimators
def test_linear_regression_has_the_exact_mean_field_answer(estimator):
    """Means are the posterior's; variances are 1/precision_ii (Bishop 2006, 10.1.2)."""
    rng = np.random.default_rng(0)
    n, noise, tau = 100, 0.5, 0.3
    x = rng.normal(size=(n, 3)) @ np.array([[1, 0.6, 0], [0, 1, 0.3], [0, 0, 0.4]])
    x = x.astype("float32")
    y = x @ np.array([[0.8], [-0.4], [0.2]]) + noise * rng.normal(size=(n, 1))
    precision = x.T @ x / noise**2 + np.eye(3) / tau**2
    mean = np.linalg.solve(precision, x.T @ y / noise**2).ravel()
    deviation = 1 / np.sqrt(np.diag(precision))

    keras.utils.set_random_seed(0)
    layer = BayesianDense(
        1,
        use_bias=False,
        prior=Prior("Normal", params={"scale": tau}),
        estimator=estimator,
        num_examples=n,
        kl_strength=2 * noise**2,
        initial_scale=0.1,
    )
    posterior = fitted(layer, x, y.astype("float32"))
    error = (posterior.mean().numpy().ravel() - mean) / deviation
    assert np.abs(error).max() < 0.15
    np.testing.assert_allclose(posterior.stddev().numpy().ravel(), deviation, rtol=0.08)


def test_empirical_bayes_finds_the_scale_of_the_weights():
    """Of 400 weights seen with little noise, the learned scale is their own."""
    rng = np.random.default_rng(0)
    weights = 0.7 * rng.normal(size=(20, 20))
    x = rng.normal(size=(400, 20)).astype("float32")
    keras.utils.set_random_seed(0)
    layer = BayesianDense(
        20,
        use_bias=False,
        prior=Prior("Normal", params={"scale": 0.1}, trainable=["scale"]),
        num_examples=400,
        kl_strength=2 * 0.1**2,
    )
    fitted(layer, x, (x @ weights).astype("float32"))
    (log_scale,) = (w for w in layer.weights if w.name == "kernel_prior_scale")
    np.testing.assert_allclose(np.exp(log_scale.numpy()), weights.std(), rtol=0.05)


def _layer(cls, *args, **kwargs):
    """A layer whose means and scales are all different."""
    keras.utils.set_random_seed(3)
    layer = cls(*args, bayesian_bias=True, num_examples=10, seed=1, **kwargs)
    return layer


def _spread(layer, seed=0):
    rng = np.random.default_rng(seed)
    for w in layer.trainable_weights:
        low, high = (-2.5, -1.0) if "log_scale" in w.name else (-1.0, 1.0)
        w.assign(rng.uniform(low, high, size=w.shape))
    weights = {w.name: w.numpy() for w in layer.trainable_weights}
    variances = {n: np.exp(2 * w) for n, w in weights.items() if "log_scale" in n}
    return weights, variances


def _draws(layer, x, count):
    draw = tf.function(lambda: layer(x, training=True))
    return np.stack([draw() for _ in range(count)]).astype("float64")


def _assert_moments(draws, mean, variance):
    """Mean and variance within 5 standard errors (once in 2 million for each)."""
    count = len(draws)
    error = (draws.mean(axis=0) - mean) / np.sqrt(variance / count)
    assert np.abs(error).max() < 5
    # Of Normal draws, the variance has a relative standard error of sqrt(2/n).
    ratio = draws.var(axis=0, ddof=1) / variance - 1
    assert np.abs(ratio).max() < 5 * np.sqrt(2 / count)


@estimators
def test_outputs_of_dense_have_their_law(estimator):
    layer = _layer(BayesianDense, 3, estimator=estimator)
    x = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
    layer(x)
    w, v = _spread(layer)
    draws = _draws(layer, x, 4000)
    variance = x**2 @ v["kernel_log_scale"] + v["bias_log_scale"]
    _assert_moments(draws, x @ w["kernel"] + w["bias"], variance)


@estimators
@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_of_convolutions_have_their_law(estimator, groups):
    layer = _layer(BayesianConv2D, 4, 2, groups=groups, estimator=estimator)
    x = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype("float32")
    layer(x)
    w, v = _spread(layer)
    draws = _draws(layer, x, 4000)
    mean = layer.linear(x, layer.kernel) + w["bias"]
    variance = layer.linear(x**2, tf.constant(v["kernel_log_scale"]))
    _assert_moments(draws, mean, variance + v["bias_log_scale"])


def _correlation(estimator, cls, args, x, first, second):
    """Of two outputs, over draws, where their inputs are the same."""
    layer = cls(*args, use_bias=False, estimator=estimator, num_examples=9, seed=2)
    layer(x)
    draws = _draws(layer, x, 1000)
    mean = layer(x)
    noise = draws - np.asarray(mean)
    return np.corrcoef(noise[:, *first], noise[:, *second])[0, 1]


def test_what_examples_and_positions_share():
    """Correlation of two examples and of two positions with equal inputs.

    Within 0.16 of 0 by 5 standard errors of 1/sqrt(1000), where it is 0.
    """
    x = np.ones((2, 5), "float32")
    pixels = np.ones((1, 3, 4), "float32")
    for estimator, of_examples, of_positions in (
        ("flipout", 0, 1),
        ("reparameterization", 1, 1),
        ("local_reparameterization", 0, 0),
    ):
        found = _correlation(estimator, BayesianDense, (1,), x, (0, 0), (1, 0))
        assert abs(found - of_examples) < 0.16
        found = _correlation(
            estimator, BayesianConv1D, (1, 1), pixels, (0, 0, 0), (0, 2, 0)
        )
        assert abs(found - of_positions) < 0.16


def test_flipout_has_less_noise_in_its_gradients():
    """The gradient's variance falls with the batch; by `reparameterization` less."""
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    noise = {}
    for estimator in ESTIMATORS:
        layer = BayesianDense(
            4, estimator=estimator, num_examples=64, initial_scale=0.3, seed=0
        )
        layer(x)

        @tf.function
        def gradient(layer=layer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(layer(x, training=True) - 1.0))
            return tape.gradient(loss, layer.kernel.value)

        noise[estimator] = np.var([gradient() for _ in range(400)], axis=0).mean()
    assert noise["flipout"] < 0.5 * noise["reparameterization"]
    assert noise["local_reparameterization"] < 0.5 * noise["reparameterization"]


@estimators
def test_gradients_are_unbiased(estimator):
    """The mean gradient is that of the expected loss, which is known in closed form."""
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    layer = BayesianDense(
        2, use_bias=False, estimator=estimator, num_examples=8, initial_scale=0.4
    )
    layer(x)
    values = [layer.kernel.value, layer.trainable_weights[1].value]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(x, training=True) - 1.0))
        return tape.gradient(loss, values)

    drawn = [np.stack(g) for g in zip(*(gradients() for _ in range(3000)), strict=True)]
    with tf.GradientTape() as tape:
        mean = x @ values[0] - 1.0
        variance = x**2 @ tf.exp(2.0 * values[1])
        loss = tf.reduce_mean(tf.square(mean) + variance)
    for draws, exact in zip(drawn, tape.gradient(loss, values), strict=True):
        error = draws.mean(axis=0) - exact
        assert np.abs(error / (draws.std(axis=0) / np.sqrt(3000))).max() < 5


def test_weights_drawn_once_serve_several_calls():
    layer = _layer(BayesianDense, 3)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    layer(x)
    _spread(layer)
    kernel, bias = layer.draw_weights()
    with drawn_weights({id(layer): [kernel, bias]}), sampling():
        first, second = layer(x), layer(x[:2])
    np.testing.assert_allclose(first, x @ kernel.numpy() + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first[:2], second, rtol=1e-5, atol=1e-6)
    assert not np.allclose(kernel, layer.draw_weights()[0])
