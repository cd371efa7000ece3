"""Layers with learned noise on their weights: its law, its gradient, what is pruned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as plain

from kerasreg.layers import (
    SparseVariationalConv1D,
    SparseVariationalConv2D,
    SparseVariationalConv3D,
    SparseVariationalDense,
    sampling,
)
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1
from tests import models

WORST = 6.0  # standard errors: 2e-9 a number, below 1e-6 a test
DRAWS = 4000


def dense(units=3, features=5, seed=0, cls=SparseVariationalDense, **arguments):
    """A built layer with all kinds of noise on its weights, and a large bias."""
    layer = cls(units, num_examples=50, seed=seed, **arguments)
    layer.build((None, features))
    return scattered(layer)


def scattered(layer):
    rng = np.random.default_rng(3)
    shape = layer.kernel.shape
    layer.kernel.assign(rng.normal(size=shape))
    layer.log_sigma2.assign(rng.uniform(-6.0, 2.0, size=shape))
    if layer.bias is not None:
        layer.bias.assign(rng.normal(size=layer.bias.shape) + 100.0)
    return layer


def assert_moments(draws, mean, variance):
    """Draws along the first axis have this mean and variance."""
    count = len(draws)
    draws = np.asarray(draws, "float64")
    error = np.abs(draws.mean(0) - mean) - 1e-4
    assert np.all(error < WORST * np.sqrt(variance / count))
    spread = np.abs(draws.var(0) / variance - 1.0)
    assert np.all(spread < WORST * np.sqrt(2.0 / count) + 1e-3)


# The noise --------------------------------------------------------------------


def test_pre_activations_have_the_moments_of_sampled_kernels():
    layer = dense()
    rng = np.random.default_rng(1)
    x = rng.normal(size=5).astype("float32")
    theta, deviation = layer.kernel.numpy(), np.exp(layer.log_sigma2.numpy() / 2)
    bias = layer.bias.numpy()
    mean, variance = x @ theta + bias, x**2 @ deviation**2
    assert_moments(layer(np.tile(x, (DRAWS, 1)), training=True), mean, variance)
    kernels = theta + deviation * rng.normal(size=(DRAWS, *theta.shape))
    assert_moments(np.einsum("i,nio->no", x, kernels) + bias, mean, variance)


def test_noise_is_independent_over_examples_units_and_steps():
    layer = dense(units=4)
    x = np.ones((2, 3, 5), "float32")
    with sampling():
        draws = np.stack([layer(x) for _ in range(500)]).reshape(500, -1)
    correlation = np.corrcoef(draws.T) - np.eye(24)
    assert np.max(np.abs(correlation)) < WORST / np.sqrt(500)


CONVS = {
    "1D same strides": (
        SparseVariationalConv1D,
        plain.Conv1D,
        (9, 3),
        {"kernel_size": 4, "strides": 2, "padding": "same"},
    ),
    "1D causal dilated": (
        SparseVariationalConv1D,
        plain.Conv1D,
        (7, 2),
        {"kernel_size": 2, "padding": "causal", "dilation_rate": 2},
    ),
    "2D groups strides": (
        SparseVariationalConv2D,
        plain.Conv2D,
        (5, 6, 4),
        {"kernel_size": (2, 3), "strides": (2, 1), "groups": 2},
    ),
    "2D dilated same": (
        SparseVariationalConv2D,
        plain.Conv2D,
        (5, 5, 2),
        {"kernel_size": 2, "dilation_rate": (1, 2), "padding": "same"},
    ),
    "2D channels first": (
        SparseVariationalConv2D,
        plain.Conv2D,
        (2, 4, 5),
        {"kernel_size": 3, "data_format": "channels_first", "padding": "same"},
    ),
    "3D": (
        SparseVariationalConv3D,
        plain.Conv3D,
        (3, 3, 4, 2),
        {"kernel_size": 2, "padding": "same"},
    ),
}
convs = pytest.mark.parametrize("name", CONVS)


def conv(name, **arguments):
    cls, kind, shape, own = CONVS[name]
    layer = cls(4, num_examples=50, seed=0, **own, **arguments)
    layer.build((None, *shape))
    return scattered(layer), kind, shape, own


@convs
def test_convolutions_have_the_moments_of_sampled_kernels(name):
    layer, kind, shape, own = conv(name)
    x = np.random.default_rng(1).normal(size=(1, *shape)).astype("float32")
    reference = kind(4, use_bias=False, **own)
    reference.build(x.shape)
    moments = []
    for kernel, inputs in (
        (layer.kernel.numpy(), x),
        (np.exp(layer.log_sigma2.numpy()), x**2),
    ):
        reference.kernel.assign(kernel)
        moments.append(np.asarray(reference(inputs), "float64")[0])
    bias = layer.bias.numpy()
    if own.get("data_format") == "channels_first":
        bias = bias[:, None, None]
    draws = layer(np.tile(x, (DRAWS, *[1] * len(shape))), training=True)
    assert_moments(draws, moments[0] + bias, moments[1])


@convs
def test_convolutions_over_nothing_have_no_nan(name):
    layer, _, shape, _ = conv(name)
    with tf.GradientTape() as tape:
        x = tf.zeros((2, *shape))
        tape.watch(x)
        outputs = layer(x, training=True)
        total = tf.reduce_sum(outputs**2) + sum(layer.losses)
    gradients = tape.gradient(total, [x, *(w.value for w in layer.trainable_weights)])
    assert np.ptp(np.asarray(outputs), axis=0).max() == 0  # no noise either
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))


def test_the_gradient_is_unbiased():
    layer = dense(units=1)
    layer.bias.assign([0.0])
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 5)).astype("float32")
    y = rng.normal(size=(6, 1)).astype("float32")
    theta, sigma2 = layer.kernel.numpy(), np.exp(layer.log_sigma2.numpy())
    expected = [
        -2.0 * x.T @ (y - x @ theta) / len(x),
        np.mean(x**2, axis=0)[:, None] * sigma2,
    ]

    @tf.function
    def draw():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(x, training=True) - y) ** 2)
        return tape.gradient(loss, [layer.kernel.value, layer.log_sigma2.value])

    draws = [draw() for _ in range(DRAWS)]
    for values, mean in zip(zip(*draws, strict=True), expected, strict=True):
        values = np.stack(values).astype("float64")
        error = np.abs(values.mean(0) - mean)
        assert np.all(error < WORST * values.std(0) / np.sqrt(DRAWS))


# The divergence ---------------------------------------------------------------


def test_the_loss_is_the_divergence_of_the_kernel():
    layer = dense(kl_strength=0.5)
    log_alpha = layer.log_sigma2.numpy() - np.log(layer.kernel.numpy() ** 2 + 1e-8)
    np.testing.assert_allclose(layer.log_alpha, log_alpha, rtol=1e-5)
    sigmoid = 1.0 / (1.0 + np.exp(-1.87320 - 1.48695 * log_alpha))
    kl = -(0.63576 * sigmoid - 0.5 * np.log1p(np.exp(-log_alpha)) - 0.63576)
    (loss,) = layer.losses
    np.testing.assert_allclose(loss, 0.5 * kl.sum() / 50, rtol=1e-5)


class _Switch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[1].divergence.strength = float(epoch)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_the_strength_changes_while_fit_runs(jit_compile):
    inputs = keras.Input((models.FEATURES,))
    layer = SparseVariationalDense(1, num_examples=models.ROWS)
    model = models.TracedModel(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    losses = models.fit(model, epochs=3, callbacks=[_Switch()]).history["loss"]
    kl = float(layer.losses[0]) / 2.0
    assert kl > 0.1
    np.testing.assert_allclose(np.diff(losses), kl, rtol=0.1)
    assert model.traces == 1
    assert layer.get_config()["kl_strength"] == 2.0


def test_without_the_number_of_examples_it_only_predicts():
    layer = SparseVariationalDense(1)
    model = keras.Sequential([keras.Input((models.FEATURES,)), layer])
    x, y = models.data()
    assert model.predict(x, verbose=0).shape == y.shape
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="needs the number of training examples"):
        model.fit(x, y, verbose=0)
    layer.num_examples = len(x)
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


def test_half_precision_on_a_large_kernel():
    keras.config.set_dtype_policy("mixed_float16")
    layer = SparseVariationalDense(2000, num_examples=100)
    x = 100.0 * np.random.default_rng(0).normal(size=(4, 2000)).astype("float32")
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True)
        (loss,) = layer.losses
        total = loss + tf.reduce_mean(tf.cast(outputs, "float32"))
    assert (outputs.dtype, loss.dtype) == (tf.float16, tf.float32)
    assert float(loss) * 100 > 65504  # their sum is more than float16 holds
    for value in (outputs, total, *tape.gradient(total, layer.trainable_weights)):
        assert np.all(np.isfinite(value))


# Pruning ----------------------------------------------------------------------


def assert_pruned(layer, shape, prune=True):
    """The layer, before and after, and its plain layer predict the same bits."""
    x = np.random.default_rng(4).normal(size=(3, *shape)).astype("float32")
    kernel, log_alpha = layer.kernel.numpy(), np.asarray(layer.log_alpha)
    gone = log_alpha >= layer.threshold
    assert 0.1 < gone.mean() < 0.9
    assert layer.sparsity() == pytest.approx(gone.mean())
    before = layer(x)
    made = layer.to_plain()
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)
    np.testing.assert_array_equal(made.kernel.numpy(), np.where(gone, 0.0, kernel))
    pruned = layer.prune()
    for other in (made, pruned):
        assert not isinstance(other, type(layer))
        assert (other.name, other.dtype_policy) == (layer.name, layer.dtype_policy)
        np.testing.assert_array_equal(other(x), before)
    np.testing.assert_array_equal(layer(x), before)
    np.testing.assert_array_equal(layer.kernel.numpy(), pruned.kernel.numpy())
    assert layer.sparsity() == pytest.approx(gone.mean())
    functions = [tf.function(each) for each in (layer, pruned)]
    np.testing.assert_array_equal(functions[0](x), functions[1](x))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_pruned_dense(policy):
    layer = dense(30, 20, dtype=policy, activation="relu", name="mine")
    layer.bias.assign(keras.ops.zeros(30))
    assert_pruned(layer, (20,))


@convs
def test_pruned_convolutions(name):
    layer, kind, shape, _ = conv(name, use_bias=name != "3D")
    layer.threshold = 0.0
    assert_pruned(layer, shape)
    assert type(layer.to_plain()) is kind


def test_another_threshold():
    layer = dense(30, 20)
    shares = [layer.prune(t).kernel.numpy() == 0 for t in (4.0, 3.0, 1.0)]
    assert (
        shares[0].sum() < shares[1].sum() < shares[2].sum() == (600 * layer.sparsity())
    )
    assert layer.threshold == 1.0
    with pytest.raises(ValueError, match="argument `threshold`"):
        layer.prune(float("nan"))


def test_pruning_keeps_the_arguments():
    layer = dense(
        3, 5, kernel_regularizer=L1(0.1), kernel_constraint="non_neg", trainable=False
    )
    made = layer.to_plain()
    assert made.kernel_regularizer.get_config() == {"l1": 0.1}
    assert isinstance(made.kernel_constraint, keras.constraints.NonNeg)
    assert not made.trainable


# Training ---------------------------------------------------------------------


def noisy_inputs(rows=400, seed=2):
    """Three inputs that matter and three that do not; targets of variance 0.04."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype("float32")
    y = x[:, :3] @ np.array([[1.0], [-2.0], [0.5]]) + 0.2 * rng.normal(size=(rows, 1))
    return x, y.astype("float32")


def test_it_prunes_the_inputs_that_are_noise():
    x, y = noisy_inputs()
    layer = SparseVariationalDense(
        1, num_examples=len(x), kl_strength=0.8, initial_log_sigma2=-6.0
    )
    model = keras.Sequential([keras.Input((6,)), layer])
    rate = keras.optimizers.schedules.CosineDecay(0.05, 200)
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=False)
    model.fit(x, y, epochs=20, batch_size=40, verbose=0)
    assert layer.sparsity() == 0.5
    kernel = layer.prune().kernel.numpy().ravel()
    np.testing.assert_array_equal(kernel[3:], 0.0)
    np.testing.assert_allclose(kernel[:3], [1.0, -2.0, 0.5], atol=0.05)


def test_penalty_under_proximal():
    x, y = noisy_inputs()
    layer = SparseVariationalDense(
        1, num_examples=len(x), kl_strength=0.0, kernel_regularizer=L1(0.3)
    )
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(Proximal(keras.optimizers.Adam(0.05)), "mse", jit_compile=False)
    model.fit(x, y, epochs=25, batch_size=50, verbose=0)
    zeros = layer.kernel.numpy().ravel() == 0
    assert list(zeros) == [False] * 3 + [True] * 3
    # Its own gradient, of the noise in the data loss, reaches the log variances.
    assert np.all(layer.log_sigma2.numpy() < -10.0)
    layer.divergence.strength = 1.0
    model.fit(x, y, epochs=2, batch_size=100, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())


def test_constraint_and_initializer_are_those_of_the_means():
    layer = SparseVariationalDense(
        2, num_examples=32, kernel_initializer="ones", kernel_constraint="non_neg"
    )
    model = keras.Sequential([keras.Input((models.FEATURES,)), layer])
    np.testing.assert_array_equal(layer.kernel, 1.0)
    np.testing.assert_array_equal(layer.log_sigma2, -10.0)
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    models.fit(model)
    assert np.all(layer.kernel.numpy() >= 0)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_kernel_large_enough_to_be_compiled(jit_compile):
    x = np.random.default_rng(0).normal(size=(16, 400)).astype("float32")
    losses = []
    for eager in (False, True):
        keras.utils.set_random_seed(0)
        layer = SparseVariationalDense(400, num_examples=16, seed=1)
        model = keras.Sequential([keras.Input((400,)), layer])
        model.compile(
            "adam", "mse", jit_compile=jit_compile and not eager, run_eagerly=eager
        )
        losses.append(model.fit(x, x, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


# Arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_examples": 0}, ValueError, "`num_examples`"),
        ({"kl_strength": -1.0}, ValueError, "`strength`"),
        (
            {"threshold": float("inf")},
            ValueError,
            "`threshold`. Expected a finite number. Received: threshold=inf",
        ),
        ({"threshold": "3"}, TypeError, "`threshold`. Expected a finite number"),
        ({"initial_log_sigma2": None}, TypeError, "`initial_log_sigma2`"),
        ({"units": 0}, ValueError, "`units`"),
        ({"rate": 0.5}, ValueError, "rate"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        SparseVariationalDense(**{"units": 3, **arguments})


def test_no_low_rank_adaptation():
    with pytest.raises(NotImplementedError, match="adapt the plain layer"):
        SparseVariationalDense(3, lora_rank=2).build((None, 4))
