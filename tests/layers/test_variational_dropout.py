"""Dropout with a learned rate: the law of its noise, its divergence, what it learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.layers import VariationalDropout
from kerasreg.layers.log_uniform import divergence
from tests import models
from tests.layers.test_sparse_variational import WORST, noisy_inputs

DRAWS = 20_000


@pytest.mark.parametrize("granularity", ["layer", "unit"])
def test_the_law_of_the_noise(granularity):
    layer = VariationalDropout(granularity, num_examples=10, seed=0)
    x = np.array([1.0, -2.0, 0.5, 3.0], "float32")
    layer.build((None, 4))
    alpha = np.array([0.1, 0.5, 2.0, 4.0]) if granularity == "unit" else 0.7
    layer.log_alpha.assign(np.log(alpha))
    np.testing.assert_allclose(layer.alpha, alpha, rtol=1e-5)
    np.testing.assert_allclose(layer.rate, alpha / (1 + alpha), rtol=1e-5)
    draws = np.asarray(layer(np.tile(x, (DRAWS, 1)), training=True), "float64")
    noise = (draws / x - 1.0) / np.sqrt(alpha)
    assert np.all(np.abs(noise.mean(0)) < WORST / np.sqrt(DRAWS))
    assert np.all(np.abs(noise.var(0) - 1) < WORST * np.sqrt(2 / DRAWS))
    assert np.all(np.abs((noise**4).mean(0) - 3) < WORST * np.sqrt(96 / DRAWS))
    correlation = np.corrcoef(noise.T) - np.eye(4)
    assert np.max(np.abs(correlation)) < WORST / np.sqrt(DRAWS)
    np.testing.assert_array_equal(layer(x[None]), x[None])


def test_each_time_step_has_its_own_noise():
    layer = VariationalDropout(num_examples=10, initial_rate=0.5)
    draws = np.asarray(layer(np.ones((1000, 3, 2), "float32"), training=True))
    correlation = np.corrcoef(draws.reshape(1000, 6).T) - np.eye(6)
    assert np.max(np.abs(correlation)) < WORST / np.sqrt(1000)


@pytest.mark.parametrize("granularity", ["layer", "unit"])
def test_the_loss_is_the_divergence_of_each_unit(granularity):
    layer = VariationalDropout(granularity, num_examples=50, kl_strength=2.0)
    layer(np.ones((2, 3, 4), "float32"))
    kl = float(divergence(np.log(0.1 / 0.9)))  # the initial rate
    np.testing.assert_allclose(layer.losses, [2.0 * 4 * kl / 50], rtol=1e-5)
    assert layer.rate == pytest.approx(0.1)


def test_rates_of_inputs_that_are_noise_grow():
    x, y = noisy_inputs()
    layer = VariationalDropout("unit", num_examples=len(x), kl_strength=0.8)
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    model.fit(x, y, epochs=25, batch_size=40, verbose=0)
    assert layer.rate[:3].max() < 0.02
    assert layer.rate[3:].min() > 0.1


def test_much_noise_is_finite_in_float16_and_can_shrink_again():
    layer = VariationalDropout(num_examples=10, dtype="mixed_float16")
    x = tf.constant(np.full((50, 20), 50.0), "float16")
    layer.build(x.shape)
    layer.log_alpha.assign(60.0)
    with tf.GradientTape() as tape:
        outputs = tf.cast(layer(x, training=True), "float32")
        loss = tf.reduce_mean(outputs**2)
    assert np.all(np.isfinite(outputs))
    gradient = tape.gradient(loss, layer.log_alpha.value)
    assert 0.0 < float(gradient) < np.inf


def test_without_the_number_of_examples_it_only_predicts():
    layer = VariationalDropout()
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(1)])
    x, y = models.data()
    model.predict(x, verbose=0)
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="needs the number of training examples"):
        model.fit(x, y, verbose=0)
    layer.num_examples = len(x)
    model.fit(x, y, verbose=0)


def test_the_plain_layer_is_the_identity():
    layer = VariationalDropout(num_examples=10, name="mine")
    layer.build((None, 3))
    made = layer.to_plain()
    assert type(made) is keras.layers.Identity
    assert made.name == "mine"
    assert made.built


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"granularity": "weight"},
            ValueError,
            'Expected "layer" or "unit". Received: granularity=\'weight\'',
        ),
        (
            {"initial_rate": 1.0},
            ValueError,
            r"Expected a number in \(0, 1\). Received: initial_rate=1.0",
        ),
        ({"initial_rate": 0.0}, ValueError, "`initial_rate`"),
        ({"initial_rate": "half"}, TypeError, "`initial_rate`"),
        ({"num_examples": -1}, ValueError, "`num_examples`"),
        ({"kl_strength": float("nan")}, ValueError, "`strength`"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        VariationalDropout(**arguments)


def test_units_have_to_be_known():
    with pytest.raises(ValueError, match="a last axis of known length"):
        VariationalDropout("unit", num_examples=10).build((None, None))
