"""`to_deterministic`: the same predictions by plain Keras, and nothing of kerasreg."""

import json
import pickle
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from kerasreg import layers
from kerasreg.layers import (
    ConcreteDropout,
    DropConnect,
    SparseVariationalConv2D,
    SparseVariationalDense,
    VariationalDropout,
    to_deterministic,
)
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, regularize
from tests.cases import LAYERS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype("float32")
STEPS = RNG.normal(size=(3, 4, 5)).astype("float32")
IMAGES = RNG.normal(size=(2, 6, 6, 3)).astype("float32")
N = 100  # examples


def shake(model, seed=1):
    """Give all weights other values than those a new model would have."""
    rng = np.random.default_rng(seed)
    for w in model.weights:
        w.assign(w.value + rng.uniform(0.01, 0.3, size=w.shape))
    return model


def sparse(units, **arguments):
    """A layer of which about half the weights are pruned."""
    layer = SparseVariationalDense(units, num_examples=N, **arguments)
    layer.initial_log_sigma2 = -1.0
    return layer


def branches():
    """Two inputs and outputs, a shared layer, a nested model, arguments of calls."""
    first = keras.Input((4, 5), name="first")
    second = keras.Input((None, 5), name="second")
    shared = sparse(5, name="shared", activation="tanh")
    a, b = shared(first), shared(second)
    attention = DropConnect(L.MultiHeadAttention(2, 3), name="attention")
    mixed, scores = attention(a, value=b, key=b + 1.0, return_attention_scores=True)
    inner = keras.Input((4, 5))
    block = keras.Model(
        inner,
        [sparse(3, name="deep")(L.BatchNormalization()(inner)), inner * 2.0],
        name="block",
    )
    left, right = block(mixed)
    again, _ = block(a)
    x = L.Concatenate()([left, right, again, ops.relu(a)])
    x = L.Lambda(lambda t: t * 0.5)(x)
    x = L.Bidirectional(DropConnect(L.LSTM(3, return_sequences=True), name="lstm"))(x)
    x = L.TimeDistributed(ConcreteDropout(L.Dense(4), num_examples=N, name="td"))(x)
    x = VariationalDropout(num_examples=N, name="noise")(x)
    out = DropConnect(L.Dense(1, dtype="float32"), name="out")(x)
    return keras.Model(
        {"first": first, "second": second},
        {"out": out, "scores": scores, "mean": ops.mean(x, axis=1)},
        name="two",
    )


def convolutional():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3), name="image"),
            SparseVariationalConv2D(4, 3, num_examples=N, activation="relu"),
            L.BatchNormalization(),
            DropConnect(L.SeparableConv2D(4, 2), weights="pointwise_kernel"),
            layers.SpatialConcreteDropout(L.Conv2D(2, 2), num_examples=N),
            L.GlobalAveragePooling2D(),
            L.Dropout(0.5),
            keras.Sequential([sparse(8), DropConnect(L.Dense(3))], name="head"),
        ],
        name="pictures",
    )


def recurrent():
    words = keras.Input((None,), dtype="int32", name="words")
    x = DropConnect(L.Embedding(9, 5, mask_zero=True), name="table")(words)
    x = DropConnect(L.GRU(4), weights="recurrent_kernel", name="gru")(x)
    return keras.Model(words, sparse(1, name="out")(x))


WORDS = np.array([[1, 2, 0, 0], [3, 4, 5, 0], [6, 0, 0, 0]])
MODELS = {
    "branches": (branches, {"first": STEPS, "second": STEPS[:, :3]}),
    "convolutional": (convolutional, IMAGES),
    "recurrent": (recurrent, WORDS),
}
models = pytest.mark.parametrize(("make", "x"), MODELS.values(), ids=MODELS)


def predict(model, x):
    return keras.tree.flatten(model(x, training=False))


def equal(first, second):
    """Two lists of tensors, up to the last digits."""
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            ops.cast(a, "float32"), ops.cast(b, "float32"), rtol=1e-5, atol=1e-6
        )


def assert_plain(model):
    """Neither the layers nor anything they would save is of this package."""
    for layer in model._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer
    text = json.dumps(keras.saving.serialize_keras_object(model))
    assert "kerasreg" not in text


@models
def test_same_predictions(make, x):
    model = shake(make())
    before = [w.numpy() for w in model.weights]
    plain = to_deterministic(model)
    assert_plain(plain)
    equal(predict(plain, x), predict(model, x))
    equal([w.value for w in model.weights], before)
    assert not {id(w) for w in plain.weights} & {id(w) for w in model.weights}
    assert type(plain) is type(model)
    assert plain.name == model.name
    assert [layer.name for layer in plain.layers] == [y.name for y in model.layers]
    assert plain.count_params() < model.count_params()
    assert len({w.path for w in plain.weights}) == len(plain.weights)


def test_they_load_without_this_package(tmp_path):
    expected = {}
    for name, (make, x) in MODELS.items():
        plain = to_deterministic(shake(make()))
        expected[name] = predict(plain, x)
        plain.save(tmp_path / f"{name}.keras")
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            assert b"kerasreg" not in archive.read("config.json")
    with open(tmp_path / "inputs", "wb") as file:
        pickle.dump({name: x for name, (_, x) in MODELS.items()}, file)
    program = """
import keras, pickle, sys
keras.config.enable_unsafe_deserialization()  # for a Lambda layer
with open("inputs", "rb") as file:
    inputs = pickle.load(file)
outputs = {}
for name, x in inputs.items():
    model = keras.saving.load_model(f"{name}.keras")
    outputs[name] = [y.numpy() for y in keras.tree.flatten(model(x))]
with open("outputs", "wb") as file:
    pickle.dump(outputs, file)
assert not any(name.startswith("kerasreg") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    with open(tmp_path / "outputs", "rb") as file:
        for name, outputs in pickle.load(file).items():
            equal(map(ops.convert_to_tensor, outputs), expected[name])


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_every_layer_has_a_plain_counterpart(case):
    layer = case.make(name="mine")
    if layer.get_config().get("inference") == "gaussian":
        layer = type(layer).from_config({**layer.get_config(), "inference": "mean"})
    x = np.random.default_rng(0).normal(size=case.shape).astype("float32")
    layer(x)
    shake(layer)
    plain = to_deterministic(layer)
    assert_plain(plain)
    assert plain.name == "mine"
    equal([plain(x)], [layer(x)])
    model = keras.Sequential([keras.Input(case.shape[1:]), layer])
    equal([to_deterministic(model)(x)], [layer(x)])


def test_exact_zeros_stay():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            SparseVariationalDense(64, num_examples=N, initial_log_sigma2=-1.0),
            DropConnect(L.Dense(32)),
        ]
    )
    dense = model.layers[1].layer
    pruned = np.where(RNG.random((64, 32)) < 0.7, 0.0, dense.kernel.numpy())
    dense.kernel.assign(pruned)
    plain = to_deterministic(model)
    share = model.layers[0].sparsity()
    assert 0.2 < share < 0.95
    assert np.mean(plain.layers[0].kernel.numpy() == 0) == pytest.approx(share)
    np.testing.assert_array_equal(plain.layers[1].kernel, pruned)


def test_shared_layers_stay_shared():
    model = branches()
    plain = to_deterministic(model)
    count = sum(w.name == "kernel" for w in plain.weights)
    assert count == sum(w.name == "kernel" for w in model.weights)
    inputs = keras.Input((5,))
    dense = sparse(5)
    block = keras.Sequential([keras.Input((5,)), dense])
    both = keras.Model(inputs, dense(block(inputs)))
    plain = to_deterministic(shake(both))
    assert len(plain.weights) == 2  # shared with a model inside
    equal([plain(X)], [both(X)])


def test_flags_and_policies_are_kept():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            DropConnect(L.Dense(4, dtype="mixed_bfloat16"), name="half"),
            sparse(4, trainable=False, name="frozen"),
            keras.Sequential([L.Dense(3, name="a"), DropConnect(L.Dense(2), name="b")]),
            DropConnect(L.Dense(2, trainable=False), name="inside"),
            DropConnect(L.Dense(1, dtype="float32"), name="out"),
        ]
    )
    model.layers[2].layers[0].trainable = False
    plain = to_deterministic(model)
    assert [y.trainable for y in plain.layers] == [True, False, True, False, True]
    assert [y.trainable for y in plain.layers[2].layers] == [False, True]
    assert plain.layers[0].dtype_policy.name == "mixed_bfloat16"
    assert plain.layers[0].kernel.dtype == "float32"
    equal([plain(X)], [model(X)])
    model.trainable = False
    model.layers[0].trainable = True
    plain = to_deterministic(model)
    assert not plain.trainable
    assert [y.trainable for y in plain.layers] == [True, *[False] * 4]


def test_penalties_optimizers_and_losses_are_left_out():
    penalized = L.Dense(
        3, kernel_regularizer=L1(0.1), bias_regularizer=keras.regularizers.L2(0.5)
    )
    inputs = keras.Input((4, 5))
    x = DropConnect(penalized)(inputs)
    x = L.MultiHeadAttention(1, 2, kernel_regularizer=L1(0.1))(x, x)
    x = L.TimeDistributed(L.Dense(3, kernel_regularizer=L1(0.1)))(x)
    x = L.Bidirectional(L.LSTM(2, recurrent_regularizer=L1(0.1)))(x)
    model = keras.Model(inputs, L.Dense(1, name="out")(x))
    regularize(model, {"out": L1(0.2)})
    model.compile(Proximal("adam"), "mse")
    plain = to_deterministic(model)
    assert_plain(plain)
    assert not plain.compiled
    assert len(plain.losses) == 1  # Keras's own L2
    assert len(model.losses) > len(plain.losses)
    equal([plain(STEPS)], [model(STEPS)])


def test_states_are_copied():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            DropConnect(keras.Sequential([L.BatchNormalization(), L.Dense(2)])),
            L.BatchNormalization(),
        ]
    )
    for _ in range(3):
        model(X, training=True)
    plain = to_deterministic(model)
    equal([plain(X)], [model(X)])
    adapted = L.Normalization()
    adapted.adapt(X)
    model = keras.Sequential([keras.Input((5,)), adapted, DropConnect(L.Dense(2))])
    equal([to_deterministic(model)(X)], [model(X)])
    lookup = L.StringLookup(output_mode="multi_hot")
    lookup.adapt(np.array(["a", "b", "c"]))
    inputs = keras.Input((2,), dtype="string")
    model = keras.Model(inputs, DropConnect(L.Dense(2))(lookup(inputs)))
    text = tf.constant([["a", "c"], ["b", "?"]])
    equal([to_deterministic(model)(text)], [model(text)])


def test_wrappers_in_wrappers():
    layer = ConcreteDropout(
        DropConnect(DropConnect(sparse(3)), name="b"), num_examples=N, name="a"
    )
    layer(X)
    plain = to_deterministic(shake(layer))
    assert (type(plain), plain.name) == (L.Dense, "a")
    equal([plain(X)], [layer(X)])


def test_a_model_with_a_class_of_its_own():
    class Traced(keras.Model):
        def train_step(self, data):
            raise AssertionError

    inputs = keras.Input((5,))
    model = Traced(inputs, DropConnect(L.Dense(2))(inputs), name="mine")
    plain = to_deterministic(model)
    assert type(plain) is type(keras.Model(inputs, L.Dense(2)(inputs)))
    assert plain.name == "mine"
    equal([plain(X)], [model(X)])


def functional(layer, *shape, masked=False):
    inputs = keras.Input(shape)
    x = L.Masking()(inputs) if masked else inputs
    return keras.Model(inputs, layer(x))


CONCRETE = {
    "Dense": (lambda: ConcreteDropout(L.Dense(2)), X),
    "Conv2D": (lambda: ConcreteDropout(L.Conv2D(2, 3)), IMAGES),
    "spatial": (lambda: layers.SpatialConcreteDropout(L.Conv2D(2, 3)), IMAGES),
    "EinsumDense": (lambda: ConcreteDropout(L.EinsumDense("ab,bc->ac", (2,))), X),
    "LSTM": (lambda: ConcreteDropout(L.LSTM(2)), STEPS),
    "Bidirectional": (
        lambda: ConcreteDropout(L.Bidirectional(DropConnect(L.GRU(2)))),
        STEPS,
    ),
    "TimeDistributed": (lambda: ConcreteDropout(L.TimeDistributed(L.Dense(2))), STEPS),
    "inside": (lambda: L.TimeDistributed(ConcreteDropout(L.Dense(2))), STEPS),
    "DropConnect": (lambda: ConcreteDropout(DropConnect(L.Dense(2))), X),
}


@pytest.mark.parametrize(("make", "x"), CONCRETE.values(), ids=CONCRETE)
def test_concrete_dropout_in_functional_models(make, x):
    model = shake(functional(make(), *x.shape[1:]))
    plain = to_deterministic(model)
    assert_plain(plain)
    equal([plain(x)], [model(x)])


@pytest.mark.filterwarnings("ignore:.*does not support masking")  # Conv1D
@pytest.mark.parametrize("inner", [lambda: L.Dense(2), lambda: L.Conv1D(2, 1)])
def test_concrete_dropout_hands_masks_on(inner):
    """The plain layer in its place does so, with no argument for the mask."""
    inputs = keras.Input((None, 5))
    masked = L.Masking()(inputs)
    given = keras.Input((None,), dtype="bool")
    hidden = ConcreteDropout(inner())(masked)
    named = ConcreteDropout(L.Dense(2))(masked, mask=given, training=False)
    last = ConcreteDropout(L.LSTM(3))(named, mask=given)
    model = keras.Model([inputs, given], [DropConnect(L.GRU(3))(hidden), last])
    padded = STEPS.copy()
    padded[:, 2:] = 0.0
    mask = np.arange(4) < np.array([[1], [2], [4]])
    plain = to_deterministic(shake(model))
    assert_plain(plain)
    equal(plain([padded, mask]), model([padded, mask]))
    twice = functional(ConcreteDropout(inner()), None, 5, masked=True)
    again = to_deterministic(to_deterministic(shake(twice)))
    equal([again(padded)], [twice(padded)])


def test_states_inside_time_distributed():
    adapted = L.Normalization()
    adapted.adapt(3.0 * X + 1.0)
    block = keras.Sequential(
        [
            keras.Input((5,)),
            adapted,
            L.Lambda(lambda x: 2.0 * x),
            DropConnect(L.Dense(2)),
        ]
    )
    model = functional(L.TimeDistributed(block), 4, 5)
    plain = to_deterministic(model)
    assert_plain(plain)
    equal([plain(STEPS)], [model(STEPS)])
    block.layers[-1].layer.kernel.assign(np.zeros((5, 2)))
    assert np.ptp(plain(STEPS)) > 0  # its own weights


def test_layers_shared_with_wrappers_are_copied():
    inputs = keras.Input((5,))
    dense = L.Dense(5)
    x = dense(DropConnect(dense, name="a")(DropConnect(dense, name="b")(inputs)))
    model = keras.Model(inputs, x)
    plain = to_deterministic(shake(model))
    assert len(plain.weights) == 3 * len(model.weights)
    equal([plain(X)], [model(X)])


def test_padding_and_causality_survive():
    inputs = keras.Input((None, 5))
    x = L.Masking()(inputs)
    x = VariationalDropout(num_examples=N)(x)
    x = DropConnect(L.LSTM(3, return_sequences=True, go_backwards=True))(x)
    model = keras.Model(inputs, DropConnect(L.Bidirectional(L.GRU(2)))(x))
    padded = STEPS.copy()
    padded[:, 2:] = 0.0
    plain = to_deterministic(shake(model))
    equal([plain(padded)], [model(padded)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = DropConnect(L.Dense(3), name="hidden")

    def call(self, inputs):
        return self.hidden(inputs) + 1.0


@pytest.mark.parametrize("nested", [False, True])
def test_subclassed_models(nested):
    model = Subclassed()
    model(X)
    if nested:
        inputs = keras.Input((5,))
        model = keras.Model(inputs, model(inputs))
    with pytest.raises(ValueError) as caught:
        to_deterministic(model)
    message = str(caught.value)
    assert "of class Subclassed, whose `call` cannot be rewritten" in message
    assert (
        "Make the same with plain Keras layers in the places of ['hidden']" in message
    )


def test_overridden_calls():
    class Doubled(keras.Sequential):
        def call(self, inputs, **arguments):
            return 2.0 * super().call(inputs, **arguments)

    class Tripled(keras.Model):
        def call(self, inputs, **arguments):
            return 3.0 * super().call(inputs, **arguments)

    inputs = keras.Input((5,))
    for model in (Doubled([inputs, L.Dense(2)]), Tripled(inputs, L.Dense(2)(inputs))):
        with pytest.raises(ValueError, match="cannot be rewritten from outside"):
            to_deterministic(model)


def test_other_layers_around():
    class Twice(L.Wrapper):
        def call(self, inputs):
            return self.layer(inputs) * 2.0

    layer = Twice(DropConnect(L.Dense(2), name="mine"))
    layer(X)
    with pytest.raises(ValueError, match=r"layer 'twice.*' of class Twice.*'mine'"):
        to_deterministic(layer)
    plain = Twice(L.Dense(2))  # nothing of ours inside: copied
    plain(X)
    equal([to_deterministic(plain)(X)], [plain(X)])


def test_not_built():
    with pytest.raises(ValueError, match=r"Expected a built model \(call it on data"):
        to_deterministic(keras.Sequential([DropConnect(L.Dense(2))]))


def test_not_a_model():
    with pytest.raises(TypeError) as caught:
        to_deterministic("model")
    assert str(caught.value) == (
        "Invalid value for argument `model`. Expected a keras.Model or keras.Layer. "
        "Received: model='model'"
    )


def test_lite_export(tmp_path):
    """What it is for: the exported graph draws no random numbers."""
    plain = to_deterministic(shake(convolutional()))
    plain.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    equal([served.serve(IMAGES)], [plain(IMAGES)])
