"""Bayesian Embedding: the law of its vectors, what they share, masks, indices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.layers import BayesianEmbedding
from kerasreg.layers.noise import drawn_weights

ESTIMATORS = ("flipout", "reparameterization", "local_reparameterization")
estimators = pytest.mark.parametrize("estimator", ESTIMATORS)
WORDS = np.array([[3, 1, 3, 0], [3, 4, 2, 0]])


def made(estimator="flipout", **arguments):
    """A layer of a table with means and scales that are all different."""
    layer = BayesianEmbedding(
        6, 3, estimator=estimator, num_examples=10, seed=1, **arguments
    )
    layer.build()
    rng = np.random.default_rng(2)
    layer.embeddings.assign(rng.normal(size=(6, 3)))
    (scales,) = (w for w in layer.trainable_weights if "log_scale" in w.name)
    scales.assign(rng.uniform(-2.0, -0.5, size=(6, 3)))
    return layer, layer.embeddings.numpy(), np.exp(scales.numpy())


def draws_of(layer, words, count=4000):
    one = lambda _: layer(words, training=True)  # noqa: E731
    draw = tf.function(lambda: tf.map_fn(one, tf.zeros(count)))
    return draw().numpy().astype("float64")


@estimators
def test_vectors_have_their_law(estimator):
    """Mean, variance and kurtosis are a Normal's, within 5 standard errors each."""
    layer, mean, scale = made(estimator)
    draws = (draws_of(layer, WORDS) - mean[WORDS]) / scale[WORDS]
    count = len(draws)
    assert np.abs(draws.mean(axis=0)).max() < 5 / np.sqrt(count)
    assert np.abs(draws.var(axis=0) - 1).max() < 5 * np.sqrt(2 / count)
    assert np.abs((draws**4).mean(axis=0) - 3).max() < 5 * np.sqrt(96 / count)


def test_what_positions_examples_and_entries_share():
    """Correlations of 0 are within 5/sqrt(4000) (once in 2 million for each)."""
    share = {  # two positions of one example, two examples
        "flipout": (1.0, 0.0),
        "reparameterization": (1.0, 1.0),
        "local_reparameterization": (0.0, 0.0),
    }
    for estimator, (positions, examples) in share.items():
        draws = draws_of(made(estimator)[0], WORDS)
        pairs = [
            (draws[:, 0, 0, 0], draws[:, 0, 2, 0], positions),
            (draws[:, 0, 0, 0], draws[:, 1, 0, 0], examples),
            (draws[:, 0, 0, 0], draws[:, 0, 1, 0], 0.0),
            (draws[:, 0, 0, 0], draws[:, 0, 0, 1], 0.0),
        ]
        for first, second, expected in pairs:
            correlation = np.corrcoef(first, second)[0, 1]
            assert abs(correlation - expected) < 5 / np.sqrt(4000), estimator


@estimators
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("shape", [(4,), (2, 2), (2, 1, 2)])
def test_indices_of_any_dtype_and_rank(estimator, dtype, shape):
    layer, mean, _ = made(estimator)
    words = WORDS[0].reshape(shape).astype(dtype)
    np.testing.assert_array_equal(layer(words), mean[words.astype("int64")])
    noisy = layer(words, training=True)
    assert tuple(noisy.shape) == (*shape, 3)
    assert np.all(noisy != mean[words.astype("int64")])


@estimators
def test_mask_of_zeros_is_kept_in_training(estimator):
    layer, _, _ = made(estimator, mask_zero=True)
    for training in (False, True):
        outputs = layer(WORDS, training=training)
        np.testing.assert_array_equal(outputs._keras_mask, WORDS != 0)
    np.testing.assert_array_equal(layer.to_plain()(WORDS)._keras_mask, WORDS != 0)
    model = keras.Sequential([keras.Input((None,)), layer, keras.layers.LSTM(2)])
    padded = np.pad(WORDS, ((0, 0), (0, 3)))
    np.testing.assert_allclose(model(padded), model(WORDS), rtol=1e-5)


@estimators
def test_drawn_tables_are_shared_by_all_calls(estimator):
    layer, _, _ = made(estimator)
    (table,) = layer.draw_weights()
    with drawn_weights({id(layer): [table]}):
        for arguments in ({}, {"training": True}):
            vectors = layer(WORDS, **arguments)
            np.testing.assert_array_equal(vectors, table.numpy()[WORDS])


def test_posterior_and_divergence():
    """The loss is TensorFlow Probability's divergence of the posterior."""
    tfd = pytest.importorskip("tensorflow_probability").distributions
    layer, mean, scale = made()
    posterior = layer.embeddings_posterior
    np.testing.assert_array_equal(posterior.mean(), mean)
    np.testing.assert_allclose(posterior.stddev(), scale, rtol=1e-6)
    divergence = tf.reduce_sum(tfd.kl_divergence(posterior, tfd.Normal(0.0, 1.0)))
    for _ in range(2):
        layer(WORDS, training=True)
    np.testing.assert_allclose(sum(layer.losses), divergence / 10, rtol=1e-5)
    with pytest.raises(AttributeError) as error:
        _ = layer.kernel_posterior
    assert str(error.value) == (
        "`BayesianEmbedding` has no kernel. Its table is distributed as "
        "`embeddings_posterior` says."
    )


def test_table_to_start_from():
    table = np.arange(6.0).reshape(3, 2)
    for weights in (table, [table]):
        layer = BayesianEmbedding(3, 2, weights=weights, num_examples=10)
        np.testing.assert_array_equal(layer(np.array([2, 0])), table[[2, 0]])
        assert np.isfinite(sum(layer.losses))


@estimators
def test_rare_words_keep_the_prior(estimator):
    """Words that are seen get a narrow posterior; the one that is not, the prior's."""
    keras.utils.set_random_seed(0)
    words = np.arange(3).repeat(50)
    y = np.array([1.0, -1.0, 0.5])[words]
    layer = BayesianEmbedding(
        4,
        1,
        estimator=estimator,
        num_examples=150,
        kl_strength=2 * 0.2**2,
        initial_scale=0.06,
    )
    model = keras.Sequential([keras.Input(()), layer])
    rate = keras.optimizers.schedules.PolynomialDecay(0.02, 2000, 0.0, 2.0)
    model.compile(
        keras.optimizers.Adam(rate), "mse", jit_compile=False, steps_per_execution=500
    )
    data = tf.data.Dataset.from_tensors((words, y[:, None])).repeat()
    model.fit(data, steps_per_epoch=2000, verbose=0)
    deviation = layer.embeddings_posterior.stddev().numpy().ravel()
    # Conjugate: a precision of 1 from the prior and 50/0.2² from the data.
    expected = np.array([(1 + 50 / 0.2**2) ** -0.5] * 3 + [1.0])
    np.testing.assert_allclose(deviation, expected, rtol=0.15)
