"""`DropConnect` around every kind of layer: masks, their law, and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from kerasreg.layers import DropConnect, drop_connect_wrapper, sampling
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1
from tests.exhaustive import some

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(3, 5, 4)).astype("float32")
IMAGE = RNG.normal(size=(2, 6, 6, 3)).astype("float32")
WORDS = RNG.integers(1, 9, size=(3, 5))


def nested():
    inputs = keras.Input((5, 4))
    x = L.LSTM(3, return_sequences=True)(inputs)
    return keras.Model(inputs, L.Dense(2)(L.LayerNormalization()(x)))


class Composite(L.Layer):
    """A layer that has no `build` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = L.Dense(3, activation="relu"), L.Dense(2)

    def call(self, inputs):
        return self.second(self.first(inputs))


# Factory, inputs, number of weights with noise.
INNER = {
    "Dense": (lambda: L.Dense(3), SEQUENCE, 1),
    "EinsumDense": (lambda: L.EinsumDense("abc,cd->abd", (None, 3)), SEQUENCE, 1),
    "Conv1D": (lambda: L.Conv1D(3, 2, padding="causal"), SEQUENCE, 1),
    "Conv2D": (lambda: L.Conv2D(4, 3, strides=2, padding="same"), IMAGE, 1),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(3, 2), IMAGE, 1),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(2), IMAGE, 1),
    "SeparableConv2D": (lambda: L.SeparableConv2D(3, 2), IMAGE, 2),
    "Embedding": (lambda: L.Embedding(9, 4), WORDS, 1),
    "SimpleRNN": (lambda: L.SimpleRNN(3), SEQUENCE, 2),
    "LSTM": (lambda: L.LSTM(3, return_sequences=True), SEQUENCE, 2),
    "LSTM-unrolled": (lambda: L.LSTM(3, unroll=True), SEQUENCE, 2),
    "LSTM-backwards": (lambda: L.LSTM(3, go_backwards=True), SEQUENCE, 2),
    "LSTM-state": (lambda: L.LSTM(3, return_state=True), SEQUENCE, 2),
    "GRU": (lambda: L.GRU(3), SEQUENCE, 2),
    "RNN": (lambda: L.RNN(L.LSTMCell(3)), SEQUENCE, 2),
    "StackedRNNCells": (lambda: L.RNN([L.LSTMCell(3), L.GRUCell(2)]), SEQUENCE, 4),
    "ConvLSTM1D": (lambda: L.ConvLSTM1D(2, 2), IMAGE, 2),
    "Bidirectional": (lambda: L.Bidirectional(L.LSTM(3)), SEQUENCE, 4),
    "TimeDistributed": (lambda: L.TimeDistributed(L.Dense(3)), SEQUENCE, 1),
    "functional": (nested, SEQUENCE, 3),
    "Sequential": (lambda: keras.Sequential([L.Dense(3), L.Dense(2)]), SEQUENCE, 2),
    "composite": (Composite, SEQUENCE, 2),
}
inner = pytest.mark.parametrize(("make", "x", "count"), INNER.values(), ids=INNER)


@pytest.fixture
def masks(monkeypatch):
    """Draws masks that the test can see: a list of them, in order."""
    drawn = []

    def draw_masks(shapes, keep, seed, variable):
        rng = np.random.default_rng(len(drawn))
        masks = [rng.random(shape) < keep for shape in shapes]
        drawn.extend(masks)
        return [ops.convert_to_tensor(mask) for mask in masks]

    monkeypatch.setattr(drop_connect_wrapper, "draw_masks", draw_masks)
    return drawn


def same(first, second, **tolerance):
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


def bit_equal(first, second):
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def masked_copy(wrapper, masks, rate):
    """A plain layer that has the masked weights as its own."""
    plain, masks = wrapper.to_plain(), list(masks)
    for variable in plain.weights:
        if masks and len(variable.shape) > 1 and "bias" not in variable.name:
            variable.assign(variable.value * masks.pop(0) / (1 - rate))
    assert not masks
    return plain


# What it computes -------------------------------------------------------------


@inner
@pytest.mark.parametrize("mode", some(["eager", "functional"], "functional"))
def test_it_is_the_layer_with_masked_weights(make, x, count, mode, masks):
    """Constant over time steps, examples and positions: one mask for each weight."""
    layer = make()
    wrapper = DropConnect(layer, rate=0.3)
    quiet = wrapper(x)
    bit_equal(quiet, layer(x))
    before = [w.numpy() for w in wrapper.weights]
    if mode == "functional":
        inputs = keras.Input(x.shape[1:], dtype=x.dtype)
        call = tf.function(keras.Model(inputs, wrapper(inputs)))
    else:
        call = wrapper
    noisy = call(x, training=True)
    assert len(masks) == count
    assert len(wrapper.trainable_weights) == len(layer.trainable_weights)
    same(noisy, masked_copy(wrapper, masks, 0.3)(x))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(
            keras.tree.flatten(noisy), keras.tree.flatten(quiet), strict=True
        )
    )
    bit_equal([w.numpy() for w in wrapper.weights], before)
    same(call(x, training=False), quiet, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", ["Dense", "Conv2D", "LSTM", "GRU", "Embedding"])
def test_gradients_reach_the_weights_through_the_mask(name, jit_compile, masks):
    make, x, _ = INNER[name]
    wrapper = DropConnect(make(), rate=0.25)
    wrapper(x)

    @tf.function(jit_compile=jit_compile)
    def gradients():
        with tf.GradientTape() as tape:
            loss = ops.sum(ops.square(wrapper(x, training=True)))
        return tape.gradient(loss, [w.value for w in wrapper.trainable_weights])

    found = gradients()
    plain = masked_copy(wrapper, masks, 0.25)
    with tf.GradientTape() as tape:
        loss = ops.sum(ops.square(plain(x)))
    expected = tape.gradient(loss, [w.value for w in plain.trainable_weights])
    expected = [ops.convert_to_numpy(tf.convert_to_tensor(g)) for g in expected]
    for i, mask in enumerate(masks):
        expected[i] = expected[i] * mask / 0.75
    same(found, expected, rtol=1e-4, atol=1e-5)
    assert np.all(ops.convert_to_numpy(found[0])[~masks[0]] == 0)


@pytest.mark.parametrize("unroll", [False, True])
def test_a_recurrent_mask_is_constant_over_time(unroll):
    """A diagonal linear recurrence keeps a state for ever, or loses it at once."""
    rnn = L.SimpleRNN(
        200,
        activation="linear",
        return_sequences=True,
        unroll=unroll,
        recurrent_initializer="identity",
    )
    wrapper = DropConnect(rnn, rate=0.5, weights="recurrent_kernel", seed=3)
    x = np.zeros((2, 6, 1), "float32")
    state = np.ones((2, 200), "float32")
    call = tf.function(lambda: wrapper(x, initial_state=state, training=True))
    first, second = np.asarray(call()), np.asarray(call())
    kept = first[0, 0] > 0
    assert 60 < kept.sum() < 140  # 1e-8 outside
    np.testing.assert_array_equal(
        first, np.broadcast_to(kept * 2.0 ** np.arange(1, 7)[:, None], first.shape)
    )
    assert np.any((second[0, 0] > 0) != kept)  # another batch, another mask


def test_padded_steps_are_skipped(masks):
    lstm = L.LSTM(3, return_sequences=True)
    wrapper = DropConnect(lstm)
    x = SEQUENCE.copy()
    x[:, 3:] = 0.0
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, wrapper(L.Masking()(inputs)))
    noisy = model(x, training=True)
    np.testing.assert_array_equal(noisy[:, 3], noisy[:, 2])
    mask = x.any(-1)
    same(noisy, masked_copy(wrapper, masks, 0.5)(x, mask=mask))
    bit_equal(noisy._keras_mask, mask)


def test_a_stateful_layer_goes_on(masks):
    lstm = L.LSTM(3, stateful=True)
    wrapper = DropConnect(lstm)
    wrapper.build(SEQUENCE.shape)
    call = tf.function(lambda x: wrapper(x, training=True))
    first = call(SEQUENCE)
    plain = masked_copy(wrapper, masks, 0.5)
    same(first, plain(SEQUENCE))
    same([s.value for s in lstm.states], [s.value for s in plain.states])
    same(call(SEQUENCE), plain(SEQUENCE))  # one trace: the same masks
    wrapper.reset_state()
    assert not np.any(lstm.states[0])


def test_attention_with_all_its_arguments(masks):
    attention = L.MultiHeadAttention(2, 3)
    wrapper = DropConnect(attention, rate=0.2)
    value = SEQUENCE[:, :3]
    quiet = wrapper(SEQUENCE, value)
    bit_equal(quiet, attention(SEQUENCE, value))
    assert [w.path.split("/")[-2] for w in wrapper._chosen()] == [
        "query",
        "key",
        "value",
        "attention_output",
    ]
    shown = np.ones((3, 5, 3), bool)
    shown[:, :, 1] = False
    arguments = (
        {"value": value, "attention_mask": shown, "return_attention_scores": True},
        {"value": value, "key": value + 1.0},
        {"value": SEQUENCE, "use_causal_mask": True},
    )
    for keywords in arguments:
        masks.clear()
        noisy = wrapper(SEQUENCE, training=True, **keywords)
        assert len(masks) == 4
        same(noisy, masked_copy(wrapper, masks, 0.2)(SEQUENCE, **keywords))
    masks.clear()
    words = np.array([[1, 2, 0]] * 3)
    embedding = L.Embedding(9, 4, mask_zero=True)
    noisy = wrapper(SEQUENCE, embedding(words), training=True)
    same(noisy, masked_copy(wrapper, masks, 0.2)(SEQUENCE, embedding(words[:, :2])))
    query, other = keras.Input((None, 4)), keras.Input((None, 4))
    outputs, scores = wrapper(query, value=other, return_attention_scores=True)
    assert (outputs.shape, scores.shape) == ((None, None, 4), (None, 2, None, None))
    model = keras.Model([query, other], outputs)
    same(model([SEQUENCE, value]), quiet)


def test_an_embedding_still_masks_zeros():
    words = np.array([[1, 2, 0], [3, 0, 0]])
    wrapper = DropConnect(L.Embedding(9, 8, mask_zero=True), rate=0.5)
    for training in (False, True):
        bit_equal(wrapper(words, training=training)._keras_mask, words != 0)
    model = keras.Sequential([wrapper, L.LSTM(2)])
    short = model(words[:1, :2])
    same(model(words[:1]), short)


# The law of the masks ---------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.37, 0.5, 0.9])
def test_masks_are_independent_bernoulli(rate):
    """All rejected with probability 1e-6, if the masks are right."""
    size, draws = 120, 6
    wrapper = DropConnect(L.Dense(size, kernel_initializer="ones"), rate, seed=1)
    eye = np.eye(size, dtype="float32")
    kept = np.stack([wrapper(eye, training=True) for _ in range(draws)])
    assert set(np.unique(kept)) == {0.0, np.float32(1.0 / (1.0 - rate))}
    kept = (kept > 0) - (1.0 - rate)
    variance = rate * (1.0 - rate)
    worst = 5.7  # standard errors, for ten tests at 1e-7 each
    n = kept.size
    assert abs(kept.mean()) < worst * np.sqrt(variance / n)
    neighbours = [
        kept[:, 1:] * kept[:, :-1],
        kept[:, :, 1:] * kept[:, :, :-1],
        kept[1:] * kept[:-1],
        kept * kept.transpose(0, 2, 1) * (1 - np.eye(size)),
        kept * kept[:, ::-1],
    ]
    for products in neighbours:
        # A product of two has mean 0 and variance v²; transposed pairs count twice.
        assert abs(products.mean()) < worst * variance * np.sqrt(2.0 / products.size)


def test_noise_only_in_training_or_when_asked():
    wrapper = DropConnect(L.LSTM(3), seed=1)
    quiet = wrapper(SEQUENCE)
    bit_equal(wrapper(SEQUENCE, training=False), quiet)
    with sampling():
        assert not np.array_equal(wrapper(SEQUENCE), quiet)
    bit_equal(wrapper(SEQUENCE), quiet)
    none = DropConnect(L.LSTM(3), rate=0.0)
    bit_equal(none(SEQUENCE, training=True), none(SEQUENCE))


def test_never_on_at_inference_after_training_and_loading(tmp_path):
    """WeightDrop on recurrent kernels is known for staying on."""
    inputs = keras.Input((None, 4))
    x = L.Bidirectional(DropConnect(L.GRU(3, return_sequences=True), seed=1))(inputs)
    x = L.TimeDistributed(DropConnect(L.Dense(3)))(x)
    x = DropConnect(L.LSTM(2), rate=0.9, weights="recurrent_kernel")(x)
    model = keras.Model(inputs, L.Dense(1)(x))
    model.compile("adam", "mse", jit_compile=False)
    target = np.ones((3, 1), "float32")
    model.fit(SEQUENCE, target, verbose=0)
    quiet = model.predict(SEQUENCE, verbose=0)
    bit_equal(model.predict(SEQUENCE, verbose=0), quiet)
    same(model(SEQUENCE), quiet)
    once = model.evaluate(SEQUENCE, target, verbose=0)
    assert model.evaluate(SEQUENCE, target, verbose=0) == once
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    bit_equal(loaded.predict(SEQUENCE, verbose=0), quiet)
    assert loaded.layers[3].weight_patterns == ["recurrent_kernel"]
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    bit_equal(clone.predict(SEQUENCE, verbose=0), quiet)
    assert not np.array_equal(model(SEQUENCE, training=True), quiet)


# Which weights ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, ["kernel", "recurrent_kernel"]),
        ("recurrent_kernel", ["recurrent_kernel"]),
        ("*kernel", ["kernel", "recurrent_kernel"]),
        ("*/kernel", ["kernel"]),
        ("lstm_cell/recurrent*", ["recurrent_kernel"]),
        (["bias", "kernel"], ["kernel", "bias"]),
    ],
)
def test_patterns_choose_weights(weights, expected, masks):
    lstm = L.LSTM(3)
    wrapper = DropConnect(lstm, weights=weights)
    wrapper(SEQUENCE, training=True)
    by_name = {w.name: w for w in lstm.weights}
    assert [m.shape for m in masks] == [tuple(by_name[n].shape) for n in expected]
    loaded = DropConnect.from_config(wrapper.get_config())
    loaded(SEQUENCE, training=True)
    assert len(masks) == 2 * len(expected)


def test_no_noise_on_biases_and_normalizations_by_default(masks):
    norm = L.LayerNormalization(axis=[1, 2])  # its weights have two axes
    wrapper = DropConnect(keras.Sequential([L.GRU(3, return_sequences=True), norm]))
    wrapper(SEQUENCE, training=True)
    assert [m.shape for m in masks] == [(4, 9), (3, 9)]


def test_a_pattern_that_matches_nothing_is_an_error():
    message = (
        "Invalid value for argument `weights`. Expected patterns that match a weight. "
        "Received: 'recurent_kernel', which matches none. The layer has "
        "['lstm/lstm_cell/kernel', 'lstm/lstm_cell/recurrent_kernel', "
        "'lstm/lstm_cell/bias']."
    )
    wrapper = DropConnect(L.LSTM(3, name="lstm"), weights=["kernel", "recurent_kernel"])
    with pytest.raises(ValueError) as caught:
        wrapper.build(SEQUENCE.shape)
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="Received: None, which matches none"):
        DropConnect(L.LayerNormalization()).build((2, 3))


# What else happens inside -----------------------------------------------------


class Busy(L.Layer):
    """Assigns in a loop, adds a loss, updates a metric, and has a Dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4, activity_regularizer=keras.regularizers.L2(0.5))
        self.norm = L.BatchNormalization(momentum=0.5)
        self.dropout = L.Dropout(0.5, seed=1)
        self.metric = keras.metrics.Sum(name="seen")

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.dense.build(shape)
        self.norm.build(shape)

    def call(self, inputs):
        def step(i):
            self.count.assign_add(1.0)
            return (i + 1,)

        ops.while_loop(lambda i: i < 3, step, (0,))
        self.metric.update_state(inputs)
        self.add_loss(ops.sum(ops.square(inputs)))
        return self.dropout(self.norm(self.dense(inputs)))


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_states_losses_and_metrics_inside_are_not_lost(mode):
    """With masks of ones, everything is as without the wrapper."""
    results = []
    for wrap in (lambda layer: layer, lambda layer: DropConnect(layer, rate=1e-9)):
        keras.utils.set_random_seed(5)
        layer = Busy()
        outer = wrap(layer)
        outer.build((3, 4))
        model = keras.Sequential([keras.Input(batch_shape=(3, 4)), outer])

        def call(model=model):
            outputs = model(SEQUENCE[:, 0], training=True)
            return outputs, list(model.losses)

        if mode != "eager":
            call = tf.function(call, jit_compile=mode == "xla")
        outputs, losses = zip(*[call() for _ in range(2)], strict=True)
        assert len(losses[0]) == 2
        variables = [v.numpy() for v in layer.variables + layer.metrics_variables]
        results.append([outputs, losses, variables])
    same(*results)
    assert layer.count.numpy() == 6.0


def test_a_penalty_counts_once_on_the_whole_kernel():
    dense = L.Dense(3, kernel_regularizer=L1(0.5))
    wrapper = DropConnect(dense, rate=0.9)
    for _ in range(2):
        wrapper(SEQUENCE, training=True)
    (penalty,) = wrapper.losses
    same(penalty, 0.5 * np.abs(dense.kernel.numpy()).sum())


def test_proximal_makes_zeros_under_noise():
    dense = L.Dense(1, kernel_regularizer=L1(1.0))
    model = keras.Sequential([keras.Input((4,)), DropConnect(dense, 0.1, seed=1)])
    model.compile(Proximal(keras.optimizers.SGD(0.05)), "mse", jit_compile=False)
    x = np.random.default_rng(1).normal(size=(256, 4)).astype("float32")
    model.fit(x, 2.0 * x[:, :1], batch_size=256, epochs=60, verbose=0)
    kernel = dense.kernel.numpy()[:, 0]
    assert kernel[0] > 1.0
    assert np.all(kernel[1:] == 0.0)


def test_a_layer_that_assigns_to_its_kernel_goes_outside():
    dense = L.Dense(3)
    with pytest.raises(ValueError, match=r"Wrap the two the other way round"):
        DropConnect(L.SpectralNormalization(dense))(SEQUENCE, training=True)
    outside = L.SpectralNormalization(DropConnect(L.Dense(3), rate=0.3))
    outside(SEQUENCE, training=True)
    kernel = outside.layer.layer.kernel.numpy()
    assert np.all(kernel != 0)
    assert np.linalg.norm(kernel, 2) < 1.5


def test_wrappers_in_wrappers(masks):
    lstm = L.LSTM(3)
    both = DropConnect(DropConnect(lstm, weights="kernel"), weights="recurrent_kernel")
    noisy = both(SEQUENCE, training=True)
    outer, inside = masks
    assert (outer.shape, inside.shape) == ((3, 12), (4, 12))
    kernel, recurrent = lstm.get_weights()[:2]
    plain = L.LSTM(3)
    plain.build(SEQUENCE.shape)
    weights = [kernel * inside * 2.0, recurrent * outer * 2.0, lstm.get_weights()[2]]
    plain.set_weights(weights)
    same(noisy, plain(SEQUENCE))


def test_stateless_call():
    """As Keras runs it on JAX: states and losses come back once."""
    wrapper = DropConnect(Busy(), rate=1e-9)
    wrapper.build((3, 4))
    x = SEQUENCE[:, 0]
    states = [v.value + 0 for v in wrapper.non_trainable_variables]
    _, new, losses = wrapper.stateless_call(
        wrapper.trainable_variables, states, x, training=True, return_losses=True
    )
    assert len(losses) == 2
    assert wrapper.layer.count.numpy() == 0.0
    index = [v is wrapper.layer.count for v in wrapper.non_trainable_variables]
    assert float(new[index.index(True)]) == 3.0


# Precision, devices, other layers ---------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_layer_inside_keeps_its_precision(policy):
    keras.config.set_dtype_policy(policy)
    wide, narrow = L.Dense(2, dtype="float32"), L.Dense(2)
    eye = np.eye(2, dtype="float32")
    fine = np.float32(1.0 + 2.0**-20)  # rounded away in half precision
    inputs = keras.Input((2,))
    outputs = [DropConnect(wide, 1e-9)(inputs), DropConnect(narrow, 1e-9)(inputs)]
    model = keras.Model(inputs, outputs)
    for dense in (wide, narrow):
        dense.kernel.assign(fine * eye)
        assert dense.kernel.dtype == "float32"
    exact, rounded = model(eye, training=True)
    assert (exact.dtype, rounded.dtype) == ("float32", policy.removeprefix("mixed_"))
    same(exact, fine * eye, rtol=1e-7, atol=0)
    same(tf.cast(rounded, "float32"), eye, rtol=0, atol=0)
    same(DropConnect(wide, 1e-9)(eye, training=True), fine * eye, rtol=1e-7, atol=0)


def test_two_devices(two_cpus):
    """Each replica has masks of its own; the weights stay one."""
    x = np.tile(np.eye(32, dtype="float32"), (2, 1))
    with two_cpus.scope():
        dense = L.Dense(32, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((32,)), DropConnect(dense, seed=1)])
        model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices(x).batch(64)

    def masks(batch):
        return model(batch, training=True)

    (batch,) = two_cpus.experimental_distribute_dataset(data)
    results = two_cpus.run(tf.function(masks), args=(batch,))
    first, second = two_cpus.experimental_local_results(results)
    assert not np.array_equal(first, second)
    history = model.fit(x, x, batch_size=64, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert np.all(dense.kernel.numpy() != 0)


def test_inside_bidirectional():
    """The directions have masks of their own, with a seed as well."""
    layer = DropConnect(L.LSTM(3, return_sequences=True), rate=0.2, seed=4)
    both = L.Bidirectional(layer)
    both.build(SEQUENCE.shape)
    assert [
        part.layer.go_backwards for part in (both.forward_layer, both.backward_layer)
    ] == [False, True]
    assert (both.forward_layer.seed, both.backward_layer.seed) == (4, 5)
    padded = SEQUENCE.copy()
    padded[:, 3:] = 0.0
    mask = padded.any(-1)
    plain = L.Bidirectional(L.LSTM(3, return_sequences=True))
    plain.build(SEQUENCE.shape)
    plain.set_weights(both.get_weights())
    bit_equal(both(padded, mask=mask), plain(padded, mask=mask))
    again = L.Bidirectional.from_config(both.get_config())
    assert (again.forward_layer.seed, again.backward_layer.seed) == (4, 5)
    assert again.backward_layer.go_backwards


def test_hidden_states_and_initial_states():
    gru = L.GRU(3, return_state=True)
    wrapper = DropConnect(gru)
    inputs, start = keras.Input((None, 4)), keras.Input((3,))
    model = keras.Model([inputs, start], wrapper(inputs, initial_state=start))
    x, state = SEQUENCE, np.ones((3, 3), "float32")
    bit_equal(model([x, state]), gru(x, initial_state=state))
    assert len(model([x, state], training=True)) == 2


def test_seeds_reproduce():
    def fit(seed):
        keras.utils.set_random_seed(7)
        wrapper = DropConnect(L.Dense(2), seed=seed)
        model = keras.Sequential([keras.Input((5, 4)), wrapper])
        model.compile("sgd", "mse", jit_compile=False)
        history = model.fit(SEQUENCE, np.ones((3, 5, 2)), epochs=2, verbose=0)
        return history.history["loss"]

    first = fit(1)
    assert fit(1) == first
    assert fit(2) != first
    assert fit(None) == fit(None)


def test_one_trace():
    traces = []

    class Counted(L.Dense):
        def call(self, inputs, training=None):
            traces.append(training)
            return super().call(inputs)

    model = keras.Sequential([keras.Input((4,)), DropConnect(Counted(1), 0.2)])
    model.compile("sgd", "mse", jit_compile=False)
    traces.clear()
    model.fit(SEQUENCE[:, 0], SEQUENCE[:, 0, :1], epochs=4, verbose=0)
    assert traces == [True]


# Errors -----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match="Invalid value for argument `rate`"):
        DropConnect(L.Dense(1), rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layer": "dense"},
            "Invalid value for argument `layer`. Expected a keras.layers.Layer. "
            "Received: layer='dense'",
        ),
        (
            {"layer": L.Dense(1), "rate": "high"},
            "Invalid value for argument `rate`. Expected a number in [0, 1). "
            "Received: rate='high'",
        ),
        (
            {"layer": L.Dense(1), "weights": 3},
            "Invalid value for argument `weights`. Expected a glob pattern, a list of "
            "them or None. Received: weights=3",
        ),
    ],
)
def test_wrong_types(arguments, message):
    with pytest.raises(TypeError) as caught:
        DropConnect(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("cell", [L.LSTMCell(2), L.StackedRNNCells([L.GRUCell(2)])])
def test_no_cells(cell):
    with pytest.raises(ValueError, match=r"wrap the layer around it"):
        DropConnect(cell)
