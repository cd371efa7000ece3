"""The divergence from the log-uniform prior is the integral, and so is its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg import fusion
from kerasreg.layers import log_uniform

GRID = np.linspace(-8.0, 8.0, 161)


def exact(log_alpha):
    """KL(Normal(θ, αθ²) || log-uniform), 0 for infinite α, by quadrature.

    It is E log|ε + m| − E log|ε| with m = α^(−1/2). Each half axis is integrated in
    t = sqrt|z|, which takes the singularity at 0 away.
    """
    m = np.exp(-0.5 * np.asarray(log_alpha))[..., None]
    t = np.linspace(0.0, np.sqrt(np.max(m) + 12.0), 200_001)[1:]
    density = np.exp(-((t**2 - m) ** 2) / 2) + np.exp(-((t**2 + m) ** 2) / 2)
    density *= 2.0 * t / np.sqrt(2 * np.pi)
    expected = np.sum(np.log(t**2) * density, axis=-1) * (t[1] - t[0])
    return expected + (np.euler_gamma + np.log(2.0)) / 2


def test_the_value_is_the_integral():
    ours = log_uniform.divergence(GRID.astype("float32"))
    error = np.abs(ours - np.array([exact(x) for x in GRID]))
    assert np.max(error) < 0.01


def test_the_value_beyond():
    wide = np.array([-60.0, -30.0, 20.0, 60.0], "float32")
    ours = np.asarray(log_uniform.divergence(wide))
    # log|θ| of a certain weight, and nothing of one that is all noise
    np.testing.assert_allclose(
        ours[:2], -wide[:2] / 2 + (np.euler_gamma + np.log(2.0)) / 2, atol=0.01
    )
    np.testing.assert_allclose(ours[2:], 0.0, atol=1e-6)
    assert np.all(np.isfinite(log_uniform.divergence(np.array([-1e4, 1e4], "float32"))))


def test_kingmas_cubic_is_the_same_up_to_one():
    alpha = np.linspace(0.001, 1.0, 200)
    cubic = -(
        0.5 * np.log(alpha)
        + 1.16145124 * alpha
        - 1.50204118 * alpha**2
        + 0.58629921 * alpha**3
    )
    difference = log_uniform.divergence(np.log(alpha).astype("float32")) - cubic
    assert np.ptp(difference) < 0.05  # the cubic's own error is 0.04
    # Beyond, no such thing can hold: at 9 the cubic would have it below -300.
    beyond = -(0.5 * np.log(9) + 1.16145124 * 9 - 1.50204118 * 81 + 0.58629921 * 729)
    assert beyond < -300 < 0 < exact(np.log(9.0))


def _kernel(shape=(40, 30)):
    rng = np.random.default_rng(0)
    theta = rng.normal(size=shape).astype("float32")
    theta[0] = 0.0
    return theta, rng.uniform(-15, 12, size=shape).astype("float32")


def _total(theta, log_sigma2):
    variable = tf.Variable(theta)
    with tf.GradientTape() as tape:
        tape.watch([theta, log_sigma2])
        total = 3.0 * log_uniform.kernel_divergence(theta, log_sigma2, variable)
    return total, *tape.gradient(total, [theta, log_sigma2])


def _reference(theta, log_sigma2):
    """By autodiff, in float64."""
    theta, log_sigma2 = (tf.cast(x, "float64") for x in (theta, log_sigma2))
    with tf.GradientTape() as tape:
        tape.watch([theta, log_sigma2])
        log_alpha = log_sigma2 - tf.math.log(theta**2 + 1e-8)
        total = 3.0 * tf.reduce_sum(
            0.63576
            - 0.63576 * tf.sigmoid(1.87320 + 1.48695 * log_alpha)
            + 0.5 * tf.math.log1p(tf.exp(-log_alpha))
        )
    return total, *tape.gradient(total, [theta, log_sigma2])


@pytest.mark.parametrize("way", ["eager", "graph", "parts by xla", "xla"])
def test_the_gradient_is_the_derivative(way, monkeypatch):
    theta, log_sigma2 = map(tf.constant, _kernel())
    variable, compiled = tf.Variable(theta), []
    if way == "parts by xla":
        monkeypatch.setattr(fusion, "_LEAST_SIZE", 1)
        original = tf.function

        def function(*args, **kwargs):
            compiled.append(kwargs.get("jit_compile"))
            return original(*args, **kwargs)

        monkeypatch.setattr(tf, "function", function)

    def call(theta, log_sigma2):
        with tf.GradientTape() as tape:
            tape.watch([theta, log_sigma2])
            total = 3.0 * log_uniform.kernel_divergence(theta, log_sigma2, variable)
        return total, *tape.gradient(total, [theta, log_sigma2])

    if way != "eager":
        call = tf.function(call, jit_compile=way == "xla")
    results = call(theta, log_sigma2)
    assert compiled.count(True) == (2 if way == "parts by xla" else 0)
    theta = np.asarray(theta)
    # One rounding of the derivative by log α, times that of log α by each.
    scales = 1.0, np.maximum(2.0 / np.maximum(np.abs(theta), 1e-4), 1.0), 1.0
    expected = _reference(theta, log_sigma2)
    for one, other, scale in zip(results, expected, scales, strict=True):
        error = np.abs(np.asarray(one) - np.asarray(other))
        assert np.all(error <= 1e-4 * np.abs(other) + 1e-6 * scale)


def test_extremes_are_finite_and_pull_back():
    theta = tf.constant([0.0, 1e-30, 1e-6, 1.0, 1e6, 1e12] * 2, shape=(12, 1))
    log_sigma2 = tf.constant([-200.0] * 6 + [80.0] * 6, shape=(12, 1))
    for result in _total(theta, log_sigma2):
        assert np.all(np.isfinite(result))
    _, _, slope = _total(theta, log_sigma2)
    # A weight that is far too certain is still pulled to more noise.
    np.testing.assert_allclose(slope[:6], -1.5, rtol=1e-5)


def test_log_alpha_of_zero():
    zero = keras.ops.zeros((2,))
    expected = -3.0 - np.log(1e-8)
    np.testing.assert_allclose(
        log_uniform.log_alpha(zero, zero - 3.0), expected, rtol=1e-6
    )
