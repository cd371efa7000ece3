"""The layers that sample: each has the law that it has in training."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasreg import layers
from kerasreg.uncertainty import predict

X = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32") + 1.0
WORDS = np.array([[3, 1, 4, 1, 5, 0], [2, 7, 0, 0, 0, 0]])
K = keras.layers


def _recurrent(x):
    return K.LSTM(3, dropout=0.3, recurrent_dropout=0.2)(x)


def _attention(x):
    return K.MultiHeadAttention(2, 3, dropout=0.4)(x, x)


def _masked(words):
    """The mask is made before the noise and used after it."""
    x = K.Embedding(10, 4, mask_zero=True, embeddings_initializer="normal")(words)
    x = K.Dropout(0.3)(x)
    return K.GRU(3)(x)


def _branches(x):
    before = K.Dense(5, "tanh")(x)
    one, two = K.Dropout(0.3)(before), K.GaussianDropout(0.3)(before)
    return K.Add()([K.Dense(5)(one), two, before])


def _nested(x):
    inner = K.Input((6, 4))
    model = keras.Model(inner, K.Dropout(0.3)(K.Dense(4)(inner)))
    return model(K.LayerNormalization()(x))


LAYERS = {
    "Dropout": K.Dropout(0.3),
    "Dropout, noise_shape": K.Dropout(0.3, noise_shape=(None, 1, 4)),
    "SpatialDropout1D": K.SpatialDropout1D(0.3),
    "GaussianDropout": K.GaussianDropout(0.3),
    "AlphaDropout": K.AlphaDropout(0.3),
    "TimeDistributed": K.TimeDistributed(K.Dropout(0.3)),
    "LSTM": _recurrent,
    "Bidirectional": K.Bidirectional(K.GRU(3, dropout=0.3)),
    "RNN of cells": K.RNN(K.LSTMCell(3, dropout=0.3)),
    "MultiHeadAttention": _attention,
    "Embedding, mask": _masked,
    "branches": _branches,
    "nested model": _nested,
    "Concrete": lambda x: layers.ConcreteDropout(K.Dense(2), num_examples=9)(x),
    "VariationalDropout": lambda x: layers.VariationalDropout(num_examples=9)(x),
}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.drop = K.Dense(8), K.Dropout(0.3)

    def call(self, inputs, training=None):
        return self.drop(self.hidden(inputs), training=training)


def _model(name):
    keras.utils.set_random_seed(0)
    if name == "subclassed":
        model, x = Subclassed(), X
        model(x)
        return model, x
    x = WORDS if name == "Embedding, mask" else X
    inputs = K.Input(x.shape[1:], dtype=x.dtype)
    outputs = K.Flatten()(LAYERS[name](inputs))
    return keras.Model(inputs, outputs), x


@pytest.mark.parametrize("name", [*LAYERS, "subclassed"])
def test_law_is_that_of_training(name):
    """Against as many copies of the input in a call in training mode.

    Means are within 5.5 standard errors: a Normal figure is beyond with probability
    4e-8, one of all 500 or so with 2e-5. The ratio of variances is a coarse check.
    """
    model, x = _model(name)
    samples = 2000
    ours = predict(model, x, samples=samples, seed=1)
    copies = np.repeat(x, samples, axis=0)
    theirs = np.asarray(model(copies, training=True)).reshape(len(x), samples, -1)
    mean, var = theirs.mean(1), theirs.var(1)
    got, spread = (a.reshape(len(x), -1) for a in (ours.mean, ours.var))
    assert var.max() > 1e-5
    error = np.sqrt((spread + var) / samples)
    assert (np.abs(got - mean) <= 5.5 * error + 1e-5).all()
    seen = var > 1e-2 * var.max()
    assert ((spread / var)[seen] > 0.7).all()
    assert ((spread / var)[seen] < 1.4).all()


@pytest.mark.parametrize(
    "estimator", ["flipout", "reparameterization", "local_reparameterization"]
)
def test_bayesian_dense(estimator):
    """Normal(x·μ, x²·σ²), and one function a sample whatever the batches."""
    layer = layers.BayesianDense(
        3, estimator=estimator, initial_scale=0.3, num_examples=9
    )
    model = keras.Sequential([K.Input((24,)), layer])
    x = X.reshape(2, 24)[[0, 1, 0]]
    p = predict(model, x, samples=3000, batch_size=2, seed=1, keep_samples=True)
    variance = (x**2).sum(1, keepdims=True) * 0.3**2
    error = 5 * np.sqrt(variance / 3000)
    assert (np.abs(p.mean - x @ layer.kernel.numpy()) < error).all()
    np.testing.assert_allclose(p.var / variance, 1, atol=5 * np.sqrt(2 / 3000))
    np.testing.assert_allclose(p.samples[:, 0], p.samples[:, 2], atol=1e-4)


def test_bayesian_convolution_shares_weights_among_positions():
    layer = layers.BayesianConv1D(
        1, 1, estimator="local_reparameterization", num_examples=9, initial_scale=0.3
    )
    model = keras.Sequential([K.Input((6, 4)), layer])
    p = predict(model, np.ones((1, 6, 4)), samples=3000, seed=1, keep_samples=True)
    np.testing.assert_allclose(p.samples, p.samples[:, :, :1] + np.zeros((6, 1)))
    np.testing.assert_allclose(p.var, 4 * 0.3**2, rtol=5 * np.sqrt(2 / 3000))


def test_weights_are_drawn_once_for_many_batches_after_what_is_fixed():
    """The part before the noise, with its mask, goes through the inner loop too."""
    keras.utils.set_random_seed(0)
    words = np.concatenate([WORDS] * 3 + [WORDS[:1]])
    model = keras.Sequential(
        [
            K.Input((6,), dtype="int32"),
            K.Embedding(10, 4, mask_zero=True),
            layers.BayesianLSTM(3, num_examples=9, initial_scale=0.3),
        ]
    )
    p = predict(model, words, samples=4, batch_size=2, seed=1)
    whole = predict(model, words, samples=4, seed=1)
    np.testing.assert_allclose(p.mean, whole.mean, atol=1e-5)
    np.testing.assert_allclose(p.var, whole.var, atol=1e-5)
    np.testing.assert_allclose(p.mean[::2], p.mean[:1] + np.zeros((4, 3)), atol=1e-5)
    longer = np.pad(words, [(0, 0), (0, 0)])
    longer[1, 3:] = 0  # behind the mask nothing counts
    np.testing.assert_allclose(
        predict(model, longer, samples=4, seed=1).mean, whole.mean, atol=1e-5
    )
    assert whole.std.min() > 0


def test_batch_normalization_uses_its_averages():
    keras.utils.set_random_seed(0)
    norm = K.BatchNormalization(center=False, scale=False, epsilon=0.0)
    model = keras.Sequential([K.Input((4,)), K.GaussianDropout(0.1), norm])
    norm.moving_mean.assign([1.0] * 4)
    norm.moving_variance.assign([4.0] * 4)
    p = predict(model, np.full((3, 4), 7.0), samples=500, seed=1)
    expected = 7.0 * np.sqrt(0.1 / 0.9) / 2
    assert (np.abs(p.mean - 3.0) < 5 * expected / np.sqrt(500)).all()
    np.testing.assert_allclose(p.std, expected, rtol=5 / np.sqrt(1000))


def test_training_layers():
    model = keras.Sequential([K.Input((4,)), K.GaussianNoise(0.5)])
    x = np.zeros((5, 4))
    p = predict(model, x, samples=500, seed=1, training_layers=(K.GaussianNoise,))
    np.testing.assert_allclose(p.std, 0.5, rtol=5 / np.sqrt(1000))


def test_a_layer_of_others_whose_generator_is_elsewhere():
    inputs = K.Input((4,))
    generator = keras.random.SeedGenerator(1)

    class Noise(K.Layer):
        def call(self, x, training=None):
            if not layers.noisy(training):
                return x
            return x + keras.random.normal(ops.shape(x), seed=generator)

    model = keras.Model(inputs, Noise()(K.Dense(4)(inputs)))
    p = predict(model, np.zeros((5, 4)), samples=500, seed=1)
    np.testing.assert_allclose(p.std, 1.0, rtol=5 / np.sqrt(1000))
