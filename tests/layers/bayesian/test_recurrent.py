"""Bayesian LSTM and GRU: Keras's equations, the law of weights, one draw a call."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from kerasreg.layers import BayesianEmbedding, BayesianGRU, BayesianLSTM, sampling
from kerasreg.layers.bayesian.posterior import NO_NOISE
from kerasreg.layers.noise import drawn_weights
from kerasreg.regularizers import Prior

both = pytest.mark.parametrize("cls", [BayesianLSTM, BayesianGRU])
estimators = pytest.mark.parametrize("estimator", ["flipout", "reparameterization"])
X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
MASK = np.array([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0]])
MASK = MASK.astype(bool)


def made(cls, units=2, scale=None, **arguments):
    """A layer of weights that are all different; `scale` sets all log scales."""
    keras.utils.set_random_seed(1)
    bayesian = arguments.get("use_bias", True)
    arguments = {"num_examples": 10, "bayesian_bias": bayesian, **arguments}
    layer = cls(units, seed=3, **arguments)
    layer.build(X.shape)
    rng = np.random.default_rng(2)
    for w in layer.trainable_weights:
        if "log_scale" not in w.name:
            w.assign(rng.uniform(-0.8, 0.8, size=w.shape))
        else:
            value = rng.uniform(-2.0, -0.8, size=w.shape)
            w.assign(value if scale is None else np.full(w.shape, scale))
    return layer


def again(layer, *args, **kwargs):
    """A call in training that draws the same weights, and dropout masks, each time."""
    layer.seed_generator.state.assign([7, 0])
    layer.cell.seed_generator.state.assign([8, 0])
    return layer(*args, training=True, **kwargs)


def close(first, second):
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# Keras's equations --------------------------------------------------------------

OPTIONS = {
    "default": {},
    "sequences": {"return_sequences": True},
    "state": {"return_state": True, "return_sequences": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "unrolled": {"unroll": True, "return_sequences": True},
    "zero-output": {"zero_output_for_mask": True, "return_sequences": True},
    "no-bias": {"use_bias": False},
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "dropout": {"dropout": 0.4, "return_sequences": True},
    "both-dropouts": {"dropout": 0.4, "recurrent_dropout": 0.3},
    "implementation-1": {"implementation": 1},
}


@both
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_without_noise_flipout_is_the_plain_layer(cls, options):
    _assert_plain(made(cls, scale=NO_NOISE, **options), options)


@both
def test_without_noise_reparameterization_is_the_plain_layer(cls):
    options = OPTIONS["both-dropouts"]
    layer = made(cls, scale=NO_NOISE, estimator="reparameterization", **options)
    _assert_plain(layer, options)


@pytest.mark.parametrize("options", [{}, {"recurrent_dropout": 0.3}, {"unroll": True}])
def test_without_noise_it_is_the_plain_gru_that_resets_before(options):
    options = {"reset_after": False, **options}
    _assert_plain(made(BayesianGRU, scale=NO_NOISE, **options), options)


def _assert_plain(layer, options):
    name = type(layer).__name__.removeprefix("Bayesian")
    plain = getattr(L, name)(2, **options)
    plain.build(X.shape)
    plain.set_weights(layer.cell.get_weights())
    state = [np.full((4, 2), 0.3, "float32")] * len(layer.state_size)
    for arguments in ({}, {"mask": MASK}, {"initial_state": state}):
        plain.cell.seed_generator.state.assign([8, 0])
        expected = plain(X, training=True, **arguments)
        close(again(layer, X, **arguments), expected)
        close(layer(X, **arguments), plain(X, **arguments))
        close(layer.to_plain()(X, **arguments), plain(X, **arguments))


# The law ------------------------------------------------------------------------


@estimators
@pytest.mark.parametrize("bayesian_bias", [False, True])
def test_one_step_of_the_lstm_has_its_law(estimator, bayesian_bias):
    """With linear gates, of independent Normals: products of their moments."""
    layer = _linear(BayesianLSTM, estimator, bayesian_bias)
    h, c = (np.random.default_rng(k).normal(size=(4, 2)) for k in (4, 5))
    mean, square = _gates(layer, X[:, 0], h, bayesian_bias, 4)
    (i, f, g, o), (i2, f2, g2, o2) = mean, square
    carry = f * c + i * g
    carry2 = f2 * c**2 + 2 * f * c * i * g + i2 * g2
    _assert_law(layer, [h, c], o * carry, o2 * carry2)


@estimators
@pytest.mark.parametrize("bayesian_bias", [False, True])
def test_one_step_of_the_gru_has_its_law(estimator, bayesian_bias):
    """As above, for a GRU that resets after its product."""
    layer = _linear(BayesianGRU, estimator, bayesian_bias, reset_after=True)
    (h,) = (np.random.default_rng(4).normal(size=(4, 2)),)
    zero = np.zeros_like(h)
    (z, r, _), (z2, r2, _) = _gates(layer, X[:, 0], h, bayesian_bias, 3)
    x, x2 = (m[2] for m in _gates(layer, X[:, 0], zero, bayesian_bias, 3, [0]))
    u, u2 = (m[2] for m in _gates(layer, 0 * X[:, 0], h, bayesian_bias, 3, [1]))
    new = x + r * u
    new2 = x2 + 2 * x * r * u + r2 * u2
    mean = z * h + (1 - z) * new
    square = z2 * h**2 + 2 * h * (z - z2) * new + (1 - 2 * z + z2) * new2
    _assert_law(layer, [h], mean, square)


def _linear(cls, estimator, bayesian_bias, **arguments):
    return made(
        cls,
        activation=None,
        recurrent_activation=None,
        estimator=estimator,
        bayesian_bias=bayesian_bias,
        **arguments,
    )


def _gates(layer, x, h, bayesian_bias, count, biases=(0, 1)):
    """First and second moments of all gates, each from weights of its own."""
    w = {v.name: v.numpy().astype("float64") for v in layer.trainable_weights}
    biases = list(biases)
    bias = np.atleast_2d(w["bias"])[biases[: np.ndim(w["bias"])]].sum(axis=0)
    mean = x @ w["kernel"] + h @ w["recurrent_kernel"] + bias
    variances = {k: np.exp(2 * v) for k, v in w.items() if "log_scale" in k}
    variance = x**2 @ variances["kernel_log_scale"]
    variance = variance + h**2 @ variances["recurrent_kernel_log_scale"]
    if bayesian_bias:
        own = np.atleast_2d(variances["bias_log_scale"])
        variance = variance + own[biases[: np.ndim(w["bias"])]].sum(axis=0)
    return np.split(mean, count, axis=1), np.split(mean**2 + variance, count, axis=1)


def _draws(layer, x, count, **arguments):
    one = lambda _: layer(x, training=True, **arguments)  # noqa: E731
    draw = tf.function(lambda: tf.map_fn(one, tf.zeros(count)))
    return draw().numpy().astype("float64")


def _assert_law(layer, states, mean, square):
    """Both moments within 5 standard errors (once in 2 million for each)."""
    count = 5000
    states = [s.astype("float32") for s in states]
    draws = _draws(layer, X[:, :1], count, initial_state=states)
    for values, expected in ((draws, mean), (draws**2, square)):
        error = (values.mean(axis=0) - expected) / values.std(axis=0)
        assert np.abs(error).max() * np.sqrt(count) < 5


@both
def test_examples_share_weights_by_reparameterization_only(cls):
    """A correlation of 0 is within 5/sqrt(2000) (once in 2 million)."""
    x = np.repeat(X[:1], 2, axis=0)
    for estimator, expected in (("reparameterization", 1.0), ("flipout", 0.0)):
        layer = made(cls, 1, estimator=estimator)
        first, second = _draws(layer, x, 2000)[..., 0].T
        correlation = np.corrcoef(first, second)[0, 1]
        assert abs(correlation - expected) < 5 / np.sqrt(2000)


@both
def test_flipout_has_less_noise_in_its_gradient(cls):
    """Of 32 examples; uncorrelated, they would have a variance 32 times as small."""
    x = np.random.default_rng(0).normal(size=(32, 6, 3)).astype("float32")

    def variance(estimator):
        layer = made(cls, estimator=estimator)

        def gradient(_):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(layer(x, training=True))
            return tape.gradient(loss, layer.cell.recurrent_kernel.value)

        draws = tf.function(lambda: tf.map_fn(gradient, tf.zeros(200)))()
        return np.mean(np.var(draws, axis=0))

    assert variance("flipout") < variance("reparameterization") / 4


# One draw a call ----------------------------------------------------------------


@both
@estimators
@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "recurrent_dropout": 0.3}])
def test_weights_are_the_same_at_all_time_steps(cls, estimator, options):
    """Two halves with the same draw are the whole, and with two draws are not."""
    layer = made(
        cls, estimator=estimator, return_sequences=True, return_state=True, **options
    )
    whole, *_ = again(layer, X)
    first, *state = again(layer, X[:, :3])
    second, *_ = again(layer, X[:, 3:], initial_state=state)
    close(np.concatenate([first, second], axis=1), whole)
    other, *_ = layer(X[:, 3:], initial_state=state, training=True)
    assert np.abs(other - second).max() > 1e-2


@both
@estimators
def test_unrolled_masked_and_stateful_draw_the_same(cls, estimator):
    layer = made(cls, estimator=estimator, return_sequences=True)
    whole = again(layer, X)
    close(again(made(cls, estimator=estimator, unroll=True), X), whole[:, -1])
    backwards = made(cls, estimator=estimator, go_backwards=True)
    close(again(backwards, X[:, ::-1]), whole[:, -1])

    masked = np.array(again(layer, X, mask=MASK))
    close(masked[1, 2], masked[1, 5])
    close(masked[:2, :3], whole[:2, :3])

    stateful = made(cls, estimator=estimator, stateful=True, return_sequences=True)
    parts = [again(stateful, X[:, :3]), again(stateful, X[:, 3:])]
    close(np.concatenate(parts, axis=1), whole)
    stateful.reset_state()
    close(again(stateful, X[:, :3]), whole[:, :3])


@both
@estimators
def test_drawn_weights_are_those_of_a_plain_layer(cls, estimator):
    layer = made(cls, estimator=estimator)
    weights = layer.draw_weights()
    with drawn_weights({id(layer): weights}):
        outputs = [layer(X), layer(X, training=True)]
    plain = layer.to_plain()
    plain.set_weights(weights)
    for each in outputs:
        close(each, plain(X))
    assert np.abs(outputs[0] - layer(X)).max() > 1e-2


@both
def test_sampling_draws_weights_and_drops_nothing(cls):
    layer = made(cls, dropout=0.5, recurrent_dropout=0.5)
    with sampling():
        assert np.abs(layer(X) - layer(X)).max() > 1e-2
    quiet = made(cls, scale=NO_NOISE, dropout=0.5, recurrent_dropout=0.5)
    with sampling():
        close(quiet(X), quiet(X, training=False))


# Losses, training, saving -------------------------------------------------------


@both
def test_the_divergence_of_all_weights_is_counted_once(cls):
    tfd = pytest.importorskip("tensorflow_probability").distributions
    layer = made(cls, prior=Prior("Normal", params={"scale": 0.5}), num_examples=20)
    posteriors = [
        layer.kernel_posterior,
        layer.recurrent_kernel_posterior,
        layer.bias_posterior,
    ]
    prior = tfd.Normal(0.0, 0.5)
    divergence = sum(
        float(tf.reduce_sum(tfd.kl_divergence(p, prior))) for p in posteriors
    )
    for _ in range(2):
        layer(X, training=True)
    np.testing.assert_allclose(sum(layer.losses), divergence / 20, rtol=1e-5)
    layer.trainable = False
    assert layer.losses == []


def _model(jit_compile):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    common = {"num_examples": 8, "dropout": 0.2}
    x = BayesianEmbedding(10, 3, mask_zero=True, num_examples=8)(inputs)
    lstm = BayesianLSTM(4, seed=5, return_sequences=True, **common)
    x = L.Bidirectional(lstm)(x)
    x = BayesianGRU(3, recurrent_dropout=0.2, bayesian_bias=True, **common)(x)
    model = keras.Model(inputs, L.Dense(1)(x))
    model.compile("adam", "mse", jit_compile=jit_compile)
    return model


WORDS = np.array([[3, 5, 9, 1, 0, 0], [2, 2, 7, 0, 0, 0]] * 4)
TARGETS = np.linspace(-1, 1, 8)[:, None]


def test_a_stack_of_layers_trains():
    model = _model(jit_compile=True)
    before = model.get_weights()
    history = model.fit(WORDS, TARGETS, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(history))
    for a, b in zip(before, model.get_weights(), strict=True):
        assert np.any(a != b)


def test_it_trains_with_dropout_on_two_devices(two_cpus):
    with two_cpus.scope():
        layer = BayesianGRU(3, num_examples=4, dropout=0.2, recurrent_dropout=0.2)
        model = keras.Sequential([keras.Input(X.shape[1:]), layer])
        model.compile("adam", "mse", jit_compile=False)
    history = model.fit(X, np.ones((4, 3)), verbose=0).history["loss"]
    assert np.all(np.isfinite(history))


def test_the_two_directions_have_noise_of_their_own():
    layer = _model(False).layers[2]
    forward, backward = layer.forward_layer, layer.backward_layer
    assert forward.seed == backward.seed == 5
    first, second = forward.draw_weights(), backward.draw_weights()
    noise = [
        w[1] - x.cell.recurrent_kernel
        for w, x in zip((first, second), (forward, backward), strict=True)
    ]
    assert np.abs(noise[0] - noise[1]).min() > 0
    seeds = {tuple(x.cell.seed_generator.state.numpy()) for x in (forward, backward)}
    seeds |= {
        tuple(x.seed_generator.state.numpy() * [1, 0]) for x in (forward, backward)
    }
    assert len(seeds) == 4


def test_a_process_that_imports_only_kerasreg_loads_it(tmp_path):
    model = _model(False)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "words.npy", WORDS)
    code = (
        "import sys, kerasreg, keras, numpy as np\n"
        "import kerasreg.layers\n"
        "model = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
        "words = np.load(sys.argv[1] + '/words.npy')\n"
        "np.save(sys.argv[1] + '/outputs.npy', model.predict(words, verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    close(np.load(tmp_path / "outputs.npy"), model.predict(WORDS, verbose=0))


# Bad input ----------------------------------------------------------------------


@both
def test_estimators_without_a_distribution_over_weights(cls):
    with pytest.raises(ValueError) as error:
        cls(2, estimator="local_reparameterization")
    assert str(error.value) == (
        "Invalid value for argument `estimator`. Expected one of ('flipout', "
        "'reparameterization'): local reparameterization would draw other noise at "
        "each time step, which is no distribution over weights. Received: "
        "estimator='local_reparameterization'"
    )
    with pytest.raises(ValueError) as error:
        cls(2, estimator="exact")
    assert str(error.value) == (
        "Invalid value for argument `estimator`. Expected one of ('flipout', "
        "'reparameterization'). Received: estimator='exact'"
    )


@both
def test_flipout_has_no_cudnn_kernel(cls):
    layer = cls(2, use_cudnn=True, num_examples=10)
    layer.build(X.shape)
    with pytest.raises(ValueError) as error:
        layer(X, training=True)
    assert (
        "Invalid value for argument `use_cudnn`. Expected 'auto' or False with "
        "`estimator='flipout'`, whose weights differ between examples. Received: "
        "use_cudnn=True"
    ) in str(error.value)
