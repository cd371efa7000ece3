"""`ConcreteDropout`: the relaxed mask's law, the objective, what the rate learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.layers import (
    ConcreteDropout,
    DropConnect,
    SpatialConcreteDropout,
    sampling,
)
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, penalties_of, regularize

N = 50
layers = keras.layers


def entropy(p):
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def kl(p, kernels, features, length_scale=1.0):
    """Eq. 3 of the paper, of M = kernel/(1 - p), in float64."""
    square = sum(np.sum(np.square(np.asarray(k, "float64"))) for k in kernels)
    means = square / (1 - p) ** 2
    return length_scale**2 * (1 - p) / 2 * means - features * entropy(p)


def ones(layer, shape, **arguments):
    """A trained call on ones, of a layer whose kernel passes single inputs on."""
    if not layer.built:
        layer.build(shape)
    for w in layer.layer.weights:
        eye = np.eye(w.shape[-1]) if len(w.shape) > 1 else np.zeros(1)
        w.assign(np.broadcast_to(eye, w.shape))
    return np.asarray(layer(np.ones(shape, "float32"), training=True, **arguments))


# The mask ---------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 2 / 3])
@pytest.mark.parametrize("rate", [0.03, 0.4, 0.9])
def test_law_of_the_relaxed_mask(rate, temperature):
    """P(z <= c) = sigmoid(temperature·logit(c) − logit(p)); error rate 1e-6 a test."""
    layer = ConcreteDropout(
        layers.Dense(5), initial_rate=rate, temperature=temperature, seed=3
    )
    z = 1 - (1 - rate) * ones(layer, (20000, 5)).astype("float64").ravel()
    # Kolmogorov and Smirnov, on the points where float32 still tells z from 0 and 1.
    bound = np.sqrt(np.log(2 / 1e-6) / (2 * z.size))
    for c in (0.001, 0.01, 0.2, 0.5, 0.8, 0.99, 0.999):
        logit = temperature * np.log(c / (1 - c)) - np.log(rate / (1 - rate))
        assert abs(np.mean(z <= c) - 1 / (1 + np.exp(-logit))) < bound
    assert abs(np.mean(z > 0.5) - rate) < 4.9 * np.sqrt(rate * (1 - rate) / z.size)


def test_entries_are_independent():
    """No correlation between examples, features or calls; error rate 1e-6 in all."""
    layer = ConcreteDropout(layers.Dense(6), initial_rate=0.5, seed=1)
    kept = np.stack([ones(layer, (8000, 6)) for _ in range(2)]) > 1.0
    signs = 2.0 * kept - 1.0
    products = [
        np.mean(signs[0, 1:] * signs[0, :-1]),
        np.mean(signs[0] * signs[1]),
        *[np.mean(signs[0, :, i] * signs[0, :, i - 1]) for i in range(6)],
    ]
    assert np.max(np.abs(products)) < 5.5 / np.sqrt(8000)


def test_a_low_temperature_is_dropout():
    layer = ConcreteDropout(
        layers.Dense(5), initial_rate=0.25, temperature=1e-4, seed=2
    )
    outputs = ones(layer, (20000, 5))
    hard = np.isclose(outputs, 0, atol=1e-5) | np.isclose(outputs, 4 / 3)
    assert np.mean(hard) > 0.999
    # The mean of the inputs stays: standard deviation of the mean is 0.0018.
    assert np.mean(outputs) == pytest.approx(1.0, abs=0.01)


def test_each_time_step_of_dense_has_its_own_mask():
    outputs = ones(ConcreteDropout(layers.Dense(4), initial_rate=0.5), (3, 7, 4))
    assert not np.allclose(outputs[:, 0], outputs[:, 1])


@pytest.mark.parametrize(
    "inner",
    [
        lambda: layers.LSTM(3, return_sequences=True),
        lambda: layers.Bidirectional(layers.GRU(3)),
        lambda: DropConnect(layers.SimpleRNN(3)),
        lambda: layers.Bidirectional(DropConnect(layers.LSTM(3))),
        lambda: DropConnect(layers.Bidirectional(layers.LSTM(3))),
    ],
    ids=["LSTM", "Bidirectional", "DropConnect", "both", "outside"],
)
def test_one_mask_for_all_time_steps_of_a_recurrent_layer(inner):
    seen = []
    layer = ConcreteDropout(inner(), initial_rate=0.5, temperature=1.0)
    layer.build((4, 6, 5))
    call = layer.layer.call
    layer.layer.call = lambda x, **kw: seen.append(np.asarray(x)) or call(x, **kw)
    layer(np.ones((4, 6, 5), "float32"), training=True)
    (inputs,) = seen
    np.testing.assert_array_equal(inputs, inputs[:, :1] + 0 * inputs)
    assert len(np.unique(inputs[:, 0])) == 20


def test_one_mask_for_each_sequence_of_time_distributed():
    inner = layers.TimeDistributed(DropConnect(layers.SimpleRNN(3)))
    layer = ConcreteDropout(inner, initial_rate=0.5, temperature=1.0)
    layer.build((2, 4, 6, 5))
    assert layer.features == 5
    masks = []
    layer.layer.call = lambda x, **kw: masks.append(np.asarray(x)) or x
    layer(np.ones((2, 4, 6, 5), "float32"), training=True)
    np.testing.assert_array_equal(masks[0], masks[0][:, :, :1] + 0 * masks[0])
    assert len(np.unique(masks[0][:, :, 0])) == 40


@pytest.mark.parametrize(
    ("inner", "shape", "positions"),
    [
        (lambda: layers.Conv1D(3, 1), (2, 5, 3), 1),
        (lambda: layers.Conv2D(3, 1), (2, 5, 4, 3), (1, 2)),
        (
            lambda: layers.Conv2D(3, 1, data_format="channels_first"),
            (2, 3, 5, 4),
            (2, 3),
        ),
        (
            lambda: DropConnect(
                layers.Conv2D(3, 1, data_format="channels_first"), rate=0.0
            ),
            (2, 3, 5, 4),
            (2, 3),
        ),
        (lambda: layers.Conv3D(3, 1), (2, 4, 3, 2, 3), (1, 2, 3)),
        (lambda: layers.Dense(3), (2, 5, 3), 1),
        (lambda: layers.TimeDistributed(layers.Conv1D(3, 1)), (2, 4, 5, 3), (1, 2)),
    ],
)
def test_spatial_drops_whole_channels(inner, shape, positions):
    layer = SpatialConcreteDropout(inner(), initial_rate=0.5, temperature=1.0)
    outputs = ones(layer, shape)
    assert layer.features == 3
    assert np.all(np.ptp(outputs, axis=positions) < 1e-6)
    assert len(np.unique(np.max(outputs, axis=positions))) == 6
    # Without the class, each entry has its own mask.
    outputs = ones(ConcreteDropout(inner(), initial_rate=0.5), shape)
    assert np.all(np.ptp(outputs, axis=positions) > 1e-3)


def test_off_at_inference(tmp_path):
    layer = ConcreteDropout(layers.Dense(4, "tanh"), num_examples=N, initial_rate=0.5)
    model = keras.Sequential([keras.Input((6,)), layer])
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    plain = layer.layer(x)
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        np.testing.assert_array_equal(each(x), plain)
        np.testing.assert_array_equal(each(x, training=False), plain)
        np.testing.assert_allclose(each.predict(x, verbose=0), plain, rtol=1e-5)
        assert np.max(np.abs(each(x, training=True) - plain)) > 0.01
        with sampling():
            assert np.max(np.abs(each(x, training=False) - plain)) > 0.01


# The objective ----------------------------------------------------------------


def test_kl_against_quadrature():
    """Eq. 3 is the KL of a narrow mixture to the prior, up to a constant."""
    length, width = 1.7, 0.01
    w = np.linspace(-3, 4, 400001)

    def exact(p, mean):
        def normal(center, sigma):
            return np.exp(-(((w - center) / sigma) ** 2) / 2) / sigma

        q = (p * normal(0, width) + (1 - p) * normal(mean, width)) / np.sqrt(2 * np.pi)
        prior = np.log(length / np.sqrt(2 * np.pi)) - (length * w) ** 2 / 2
        return np.sum(q * (np.log(q + 1e-300) - prior)) * (w[1] - w[0])

    points = [(0.1, 0.5), (0.3, -0.7), (0.8, 1.2), (0.02, 2.0)]
    found, wanted = [], []
    for p, mean in points:
        layer = ConcreteDropout(
            layers.Dense(1), num_examples=1, length_scale=length, initial_rate=p
        )
        layer.build((None, 1))
        layer.layer.kernel.assign([[mean * (1 - p)]])
        found.append(float(sum(layer.losses)))
        wanted.append(exact(p, mean))
    np.testing.assert_allclose(np.diff(found), np.diff(wanted), atol=2e-3)


CONSTRUCTIONS = {
    "Dense": (lambda: layers.Dense(3), (None, 4), 4, ["kernel"]),
    "Dense of sequences": (lambda: layers.Dense(3), (None, 5, 4), 4, ["kernel"]),
    "Conv1D": (lambda: layers.Conv1D(3, 2), (None, 7, 4), 4, ["kernel"]),
    "Conv2D in groups": (
        lambda: layers.Conv2D(6, 2, groups=2),
        (None, 7, 7, 4),
        4,
        ["kernel"],
    ),
    "channels first": (
        lambda: layers.Conv2D(6, 2, data_format="channels_first"),
        (None, 4, 7, 7),
        4,
        ["kernel"],
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(6, 2),
        (None, 7, 7, 4),
        4,
        ["depthwise_kernel"],
    ),
    "EinsumDense": (
        lambda: layers.EinsumDense("abhc,hcd->abd", (None, 3), bias_axes="d"),
        (None, 5, 2, 4),
        8,
        ["kernel"],
    ),
    "LSTM": (lambda: layers.LSTM(3), (None, 5, 4), 4, ["kernel"]),
    "EinsumDense in wrappers": (
        lambda: layers.TimeDistributed(
            DropConnect(layers.EinsumDense("bhc,hcd->bd", (3,)))
        ),
        (None, 5, 2, 4),
        8,
        ["kernel"],
    ),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.GRU(3)),
        (None, 5, 4),
        4,
        ["kernel", "kernel"],
    ),
    "DropConnect inside": (
        lambda: layers.Bidirectional(DropConnect(layers.LSTM(3))),
        (None, 5, 4),
        4,
        ["kernel", "kernel"],
    ),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(3, 2), (None, 3, 5, 4), 4, ["kernel"]),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(
            layers.Conv2D(3, 2, data_format="channels_first")
        ),
        (None, 3, 4, 5, 5),
        4,
        ["kernel"],
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_terms_of_each_kind_of_layer(name):
    """Biases and recurrent kernels are left out; K is the features or channels."""
    inner, shape, features, names = CONSTRUCTIONS[name]
    layer = ConcreteDropout(
        inner(), num_examples=N, length_scale=1.3, initial_rate=0.2, kl_strength=0.5
    )
    layer.build(shape)
    for w in layer.layer.weights:
        w.assign(ops.ones_like(w) * 0.1)
    kernels = [w for w in layer.layer.weights if w.name in names]
    assert [w.name for w in kernels] == names
    assert layer.features == features
    expected = 0.5 / N * kl(0.2, kernels, features, 1.3)
    (found,) = layer.losses
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("wrap", [lambda x: x, DropConnect, layers.Bidirectional])
def test_stacked_cells_count_once(wrap):
    """Only the kernel of the first cell meets the dropped inputs."""
    cells = [layers.LSTMCell(3), layers.GRUCell(2)]
    layer = ConcreteDropout(wrap(layers.RNN(cells)), num_examples=N)
    layer.build((None, 5, 4))
    kernels = [
        w for w in layer.layer.weights if w.name == "kernel" and w.shape == (4, 12)
    ]
    assert len(kernels) == (2 if wrap is layers.Bidirectional else 1)
    (found,) = layer.losses
    assert float(found) == pytest.approx(kl(0.1, kernels, 4) / N, rel=1e-5)


def _gaussian(precision):
    def nll(y, mean):
        squares = ops.sum(ops.square(y - mean), axis=-1)
        return precision / 2 * squares - y.shape[-1] / 2 * ops.log(precision)

    return nll


def _heteroscedastic(factor):
    def loss(y, outputs):
        s = outputs[:, 2:]
        terms = ops.exp(-s) * ops.square(y - outputs[:, :2]) + s
        return factor * ops.sum(terms, axis=-1)

    return loss


def _sigmoids(y, p):
    return 2.0 * keras.losses.binary_crossentropy(y, p)


# Data loss, arguments, and the same as a sum of -log likelihoods: the second model.
SCALES = {
    "mse": (1, "mse", {"loss": "mse", "noise_precision": 3.0}, _gaussian(3.0)),
    "mse of 2 outputs": (
        2,
        "mse",
        {"loss": "mse", "noise_precision": 2 * 3.0},
        _gaussian(3.0),
    ),
    "heteroscedastic": (
        4,
        _heteroscedastic(1.0),
        {"kl_strength": 2.0},
        _heteroscedastic(0.5),
    ),
    "2 sigmoids": (2, "binary_crossentropy", {"kl_strength": 0.5}, _sigmoids),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales_follow_from_the_data_loss(name):
    """Each row of the table is the variational objective, up to scale and shift."""
    units, loss, arguments, nll = SCALES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 5)).astype("float32")
    y = rng.uniform(size=(N, min(units, 2))).astype("float32")
    values = []
    for each, given in ((loss, arguments), (nll, {})):
        layer = ConcreteDropout(
            layers.Dense(units, "sigmoid"), num_examples=N, length_scale=2.0, **given
        )
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(loss=each)
        found = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
            found.append(model.evaluate(x, y, verbose=0))
        values.append(np.diff(found))
    ratios = values[0] / values[1]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)


def test_whole_loss_of_the_paper():
    """Regression and classification, with the coefficients of the paper's code."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 5)).astype("float32")
    tau, length, p = 4.0, 0.7, 0.1
    for task in ("regression", "classification"):
        mse = task == "regression"
        given = {"loss": "mse", "noise_precision": tau} if mse else {}
        layer = ConcreteDropout(
            layers.Dense(1 if mse else 3, None if mse else "softmax"),
            num_examples=N,
            length_scale=length,
            **given,
        )
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(loss="mse" if mse else "sparse_categorical_crossentropy")
        y = rng.normal(size=(N, 1)) if mse else rng.integers(3, size=N)
        outputs = model.predict(x, verbose=0)
        if mse:
            data = np.mean((y - outputs) ** 2)
        else:
            data = -np.mean(np.log(outputs[np.arange(N), y]))
        dropout = 2 / (tau * N) if mse else 1 / N
        weight = dropout * length**2 / 2  # the relation that the paper's code states
        square = np.sum(np.square(layer.layer.kernel))
        terms = weight * square / (1 - p) - dropout * 5 * entropy(p)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(data + terms, rel=1e-5)


def _zero(y, outputs):
    return 0.0 * ops.mean(outputs, axis=-1)


def _one_step(model):
    """A step of SGD on the terms alone; returns the change over −1."""
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), _zero, jit_compile=model.xla)
    model.fit(np.ones((8, 4)), np.ones((8, 3)), batch_size=8, verbose=0)
    return [a - b for a, b in zip(before, model.get_weights(), strict=True)]


def _small(**arguments):
    layer = ConcreteDropout(
        layers.Dense(3), num_examples=20, length_scale=1.5, initial_rate=0.3
    )
    model = keras.Sequential([keras.Input((4,)), layer])
    model.xla = arguments.get("jit_compile", False)
    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    layer.layer.kernel.assign(kernel)
    return model, layer


def _expected_gradients(kernel, p=0.3):
    """Of the kernel and the logit, by differences in float64."""

    def value(kernel, logit):
        return kl(1 / (1 + np.exp(-logit)), [kernel], 4, 1.5) / 20

    logit, step = np.log(p / (1 - p)), 1e-5
    slope = (value(kernel, logit + step) - value(kernel, logit - step)) / (2 * step)
    slopes = np.zeros_like(kernel)
    for index in np.ndindex(*kernel.shape):
        move = np.zeros_like(kernel)
        move[index] = step
        difference = value(kernel + move, logit) - value(kernel - move, logit)
        slopes[index] = difference / (2 * step)
    return slopes, slope


@pytest.mark.parametrize("how", ["tape", "graph", "xla", "half", "two devices"])
def test_gradients_reach_rate_and_kernel(how, two_cpus):
    if how == "half":
        keras.config.set_dtype_policy("mixed_bfloat16")
    if how == "two devices":
        with two_cpus.scope():
            model, layer = _small()
    else:
        model, layer = _small(jit_compile=how == "xla")
    kernel = np.asarray(layer.layer.kernel, "float64")
    slopes, slope = _expected_gradients(kernel)
    if how == "tape":
        with tf.GradientTape() as tape:
            total = sum(model.losses)
        weights = [w.value for w in (layer.layer.kernel, layer.logit, layer.layer.bias)]
        *found, bias = tape.gradient(total, weights)
        assert bias is None
    else:
        changes = _one_step(model)
        found = [changes[i] for i in (1, 0)]
        assert [w.shape for w in changes] == [(), (4, 3), (3,)]
        assert not np.any(changes[2])
    np.testing.assert_allclose(found[0], slopes, rtol=1e-4, atol=1e-6)
    assert float(found[1]) == pytest.approx(slope, rel=1e-4)


def test_frozen_parts():
    model, layer = _small()
    layer.layer.trainable = False
    kernel, logit = layer.layer.kernel.numpy(), float(layer.logit.numpy())
    assert len(model.losses) == 1  # the rate is still learned
    _one_step(model)
    np.testing.assert_array_equal(layer.layer.kernel, kernel)
    assert float(layer.logit.numpy()) != logit
    layer.trainable = False
    assert model.losses == []


@pytest.mark.parametrize("logit", [-1e4, -40.0, 40.0, 1e4])
def test_extreme_logits(logit):
    """The rate stays inside (0, 1), all is finite, and there is a way back."""
    layer = ConcreteDropout(layers.Dense(3), num_examples=N)
    x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    layer(x)
    layer.logit.assign(logit)
    assert 0 < layer.rate < 1
    assert layer.rate == pytest.approx(0.0 if logit < 0 else 1.0, abs=1e-6)
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True)
        (loss,) = layer.losses
        total = loss + 0.0 * tf.reduce_mean(outputs)
    gradient = tape.gradient(total, layer.logit.value)
    assert np.all(np.isfinite(outputs))
    assert np.isfinite(loss)
    assert np.isfinite(gradient)
    assert float(gradient) * logit > 0


def test_penalties_sit_on_the_kernel_beside_it():
    model, layer = _small()
    assert [w.name for w in layer.weights] == ["logit", "kernel", "bias"]
    attached = regularize(model, L1(0.5))
    assert [path.rpartition("/")[2] for path in attached] == ["kernel"]
    assert len(penalties_of(model)) == 2
    assert len(model.losses) == 2
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    x = np.random.default_rng(0).normal(size=(64, 4))
    model.fit(x, x[:, :3], epochs=20, verbose=0)
    kernel = np.asarray(layer.layer.kernel)
    assert 0 < np.sum(kernel == 0) < kernel.size


# What is learned --------------------------------------------------------------


def _data_set(x, y, batch):
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=0)
    return data.repeat().batch(batch)


def _nll(y, outputs):
    mean, s = outputs[:, :1], outputs[:, 1:]
    return ops.mean(ops.exp(-s) * ops.square(y - mean) + s, axis=-1) / 2


def _learned_rates(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype("float32")
    noise = (0.1 + 0.2 * np.abs(x[:, :1])) * rng.normal(size=(n, 1))
    y = np.sin(x.sum(axis=1, keepdims=True)) + noise
    model = keras.Sequential(
        [
            keras.Input((5,)),
            ConcreteDropout(layers.Dense(32, "relu"), num_examples=n, seed=1),
            ConcreteDropout(layers.Dense(32, "relu"), num_examples=n, seed=2),
            ConcreteDropout(layers.Dense(2), num_examples=n, seed=3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01), _nll, jit_compile=True, steps_per_execution=100
    )
    data = _data_set(x, y.astype("float32"), min(n, 100))
    model.fit(data, steps_per_epoch=600, verbose=0, shuffle=False)
    return np.array([layer.rate for layer in model.layers])


def test_rates_fall_as_data_grow():
    few, many = _learned_rates(20), _learned_rates(2000)
    assert np.all(many < 0.5 * few)
    assert np.all(few[1:] > 0.2)
    assert np.all(many < 0.05)


def test_rate_rises_where_inputs_are_noise():
    """Of two layers whose outputs are summed, one sees the cause and one noise."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 500, 10)).astype("float32")
    y = x @ np.linspace(-1, 1, 10, dtype="float32")[:, None]
    y += 0.5 * rng.normal(size=y.shape).astype("float32")
    inputs = [keras.Input((10,)) for _ in range(2)]
    made = [
        ConcreteDropout(
            layers.Dense(1), num_examples=500, loss="mse", noise_precision=4.0, seed=i
        )
        for i in range(2)
    ]
    model = keras.Model(inputs, made[0](inputs[0]) + made[1](inputs[1]))
    model.compile(
        keras.optimizers.Adam(0.05), "mse", jit_compile=True, steps_per_execution=100
    )
    data = _data_set((x, noise), y, 500)
    model.fit(data, steps_per_epoch=800, verbose=0, shuffle=False)
    assert made[0].rate < 0.01
    assert made[1].rate > 0.2


# Use --------------------------------------------------------------------------


def test_masks_are_handed_on():
    """A masked sequence predicts what the shorter one does, through three layers."""
    inputs = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(10, 4, mask_zero=True)(inputs)
    hidden = ConcreteDropout(layers.Dense(5), num_examples=N)(hidden)
    hidden = ConcreteDropout(layers.LSTM(5, return_sequences=True), num_examples=N)(
        hidden
    )
    outputs = ConcreteDropout(layers.GRU(3), num_examples=N)(hidden)
    model = keras.Model(inputs, outputs)
    np.testing.assert_allclose(
        model(np.array([[1, 2, 0, 0]])), model(np.array([[1, 2]])), rtol=1e-5
    )
    model.compile("sgd", "mse")
    model.fit(np.array([[1, 2, 0, 0]]), np.ones((1, 3)), verbose=0)


def test_initial_states_and_several_outputs(tmp_path):
    inputs, state = keras.Input((None, 4)), keras.Input((3,))
    layer = ConcreteDropout(layers.GRU(3, return_state=True), num_examples=N)
    model = keras.Model([inputs, state], layer(inputs, initial_state=state))
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    states = [np.zeros((2, 3), "float32"), np.ones((2, 3), "float32")]
    results = [model([x, s])[0] for s in states]
    np.testing.assert_allclose(results[1], layer.layer(x, initial_state=states[1])[0])
    assert not np.allclose(*results)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded([x, states[1]])[1], results[1])


def test_dtype_is_the_inner_layers():
    """A float32 head inside a half-precision model gets its inputs in float32."""
    keras.config.set_dtype_policy("mixed_float16")
    head = ConcreteDropout(layers.Dense(3, dtype="float32"), num_examples=N)
    assert head.compute_dtype == "float32"
    assert head(keras.Input((4,), dtype="float16")).dtype == "float32"
    body = ConcreteDropout(layers.Dense(3), num_examples=N)
    assert body(keras.Input((4,))).dtype == "float16"
    assert body.logit.value.dtype == tf.float32
    wide = 200 * np.ones((400, 400), "float32")  # Σw² is beyond float16
    body = ConcreteDropout(layers.Dense(400), num_examples=N)
    body.build((None, 400))
    body.layer.kernel.assign(wide)
    assert float(sum(body.losses)) == pytest.approx(kl(0.1, [wide], 400) / N, rel=1e-4)


def test_to_plain():
    layer = ConcreteDropout(layers.Dense(3, "tanh", name="inner"), num_examples=N)
    layer.name = "outer"
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    outputs = layer(x)
    plain = layer.to_plain()
    assert type(plain) is layers.Dense
    assert plain.name == "outer"
    assert plain.losses == []
    np.testing.assert_array_equal(plain(x), outputs)
    plain.kernel.assign(ops.zeros_like(plain.kernel))
    np.testing.assert_array_equal(layer(x), outputs)


def test_numbers_of_a_layer_that_is_not_built():
    layer = ConcreteDropout(layers.Dense(3), initial_rate=0.3, kl_strength=0.5)
    assert layer.rate == 0.3
    assert layer.num_examples is None
    layer.build((None, 4))
    assert layer.rate == pytest.approx(0.3)
    with pytest.raises(ValueError, match="Expected its argument `num_examples`"):
        sum(layer.losses)
    layer.num_examples = 10
    assert float(sum(layer.losses)) == pytest.approx(
        0.05 * kl(0.3, [layer.layer.kernel], 4), rel=1e-5
    )


@pytest.mark.parametrize("cls", [ConcreteDropout, SpatialConcreteDropout])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"initial_rate": 0.0}, ValueError, "`initial_rate`. Expected a finite number"),
        ({"initial_rate": 1.0}, ValueError, "in (0, 1). Received: initial_rate=1.0"),
        ({"initial_rate": "low"}, TypeError, "Received: initial_rate='low'"),
        ({"num_examples": 0}, ValueError, "`num_examples`. Expected a finite number"),
        ({"num_examples": -5}, ValueError, "Received: num_examples=-5"),
        ({"temperature": 0.0}, ValueError, "Received: temperature=0.0"),
        ({"length_scale": -1.0}, ValueError, "Received: length_scale=-1.0"),
        ({"kl_strength": -1.0}, ValueError, "Received: strength=-1.0"),
        (
            {"loss": "mae"},
            ValueError,
            'Expected "nll" (any negative log likelihood, cross-entropy too) or "mse". '
            "Received: loss='mae'",
        ),
        ({"loss": "mse"}, ValueError, 'Expected a positive number with loss="mse"'),
        (
            {"noise_precision": 2.0},
            ValueError,
            "Received: loss='nll', noise_precision=2.0",
        ),
        (
            {"loss": "mse", "noise_precision": 0.0},
            ValueError,
            "`noise_precision`. Expected a finite number greater than 0",
        ),
    ],
)
def test_bad_arguments(cls, arguments, error, message):
    with pytest.raises(error) as caught:
        cls(layers.Dense(3), **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda x: x, DropConnect])
def test_layers_of_several_inputs_are_refused(wrap):
    with pytest.raises(TypeError) as caught:
        ConcreteDropout(wrap(layers.MultiHeadAttention(2, 3)))
    message = str(caught.value)
    assert "Expected a layer with one input. Received: layer=<" in message
    assert "which is built from ['query_shape', 'value_shape']" in message


@pytest.mark.parametrize(
    "inner",
    [
        None,
        "dense",
        keras.Sequential([keras.layers.Dense(2)]),
        DropConnect(keras.Sequential([keras.layers.Dense(2)])),
    ],
)
def test_only_layers_are_wrapped(inner):
    with pytest.raises(TypeError, match=r"Invalid value for argument `layer`\."):
        ConcreteDropout(inner)


@pytest.mark.parametrize(
    "inner", [layers.BatchNormalization, lambda: layers.Embedding(3, 2)]
)
def test_a_layer_without_a_kernel_is_refused(inner):
    with pytest.raises(ValueError, match="Expected a layer with a kernel"):
        ConcreteDropout(inner(), num_examples=N).build((None, 4))


def test_spatial_needs_positions():
    layer = SpatialConcreteDropout(layers.Dense(3), num_examples=N)
    with pytest.raises(ValueError, match="Expected at least three axes"):
        layer.build((None, 4))
