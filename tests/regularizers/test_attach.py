"""as_penalty, penalties_of, and regularize on models of every kind."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    as_penalty,
    penalties_of,
    regularize,
)
from tests import models

# A warning of ours fails the test unless it is expected.
pytestmark = pytest.mark.filterwarnings("error:.*penal:UserWarning")


def mlp():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="hidden"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(2, name="head"),
        ],
        name="mlp",
    )


def functional(layer, shape, dtype=None):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


# as_penalty -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (keras.regularizers.L1(0.01), L1(0.01)),
        (keras.regularizers.L2(0.3), L2(0.3)),
        (keras.regularizers.L1L2(0.01, 0.3), ElasticNet(0.01, 0.3)),
        (keras.regularizers.L1L2(l2=0.3), ElasticNet(0.0, 0.3)),
        ("l1", L1(0.01)),
        ("l2", L2(0.01)),
        ("L1L2", ElasticNet()),
        ({"class_name": "L2", "config": {"l2": 0.3}}, L2(0.3)),
        (keras.regularizers.serialize(keras.regularizers.L1(0.2)), L1(0.2)),
        ({"class_name": "kerasreg>L1", "config": {"l1": 0.2}}, L1(0.2)),
        (keras.regularizers.L1, L1(0.01)),
    ],
)
def test_as_penalty(given, expected):
    penalty = as_penalty(given)
    assert repr(penalty) == repr(expected)
    assert type(penalty) is type(expected)


def test_as_penalty_of_a_registered_name():
    penalty = as_penalty("kerasreg>GroupLasso")
    assert type(penalty) is GroupLasso
    assert penalty.strength == 0.01


def test_as_penalty_keeps_the_value_and_what_is_one_already():
    w = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    for given in ("l1", "l2", keras.regularizers.L1L2(0.1, 0.7)):
        expected = float(keras.regularizers.get(given)(w))
        assert float(as_penalty(given)(w)) == pytest.approx(expected, rel=1e-6)
    penalty = MCP(0.1)
    assert as_penalty(penalty) is penalty


class Halved(keras.regularizers.L1):
    """A subclass of Keras's, with another value."""


@pytest.mark.parametrize(
    "given", [keras.regularizers.OrthogonalRegularizer(), Halved(), sum]
)
def test_as_penalty_of_what_has_none(given):
    with pytest.raises(TypeError) as error:
        as_penalty(given)
    assert str(error.value) == (
        "Invalid value for argument `regularizer`. Expected a "
        "kerasreg.regularizers.Penalty or keras.regularizers.L1, L2 or L1L2. "
        f"Received: regularizer={given!r}"
    )


def test_as_penalty_of_an_unknown_name():
    with pytest.raises(ValueError, match="no_such_thing"):
        as_penalty("no_such_thing")


# penalties_of -----------------------------------------------------------------


def test_penalties_of_finds_weights_wherever_they_are():
    inner = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.LSTM(3, recurrent_regularizer=L1(0.2), name="rnn"),
        ],
        name="inner",
    )
    inputs = keras.Input((5, 3))
    attention = layers.MultiHeadAttention(
        2, 3, kernel_regularizer=L1(0.3), name="attention"
    )(inputs, inputs)
    twice = layers.Dense(3, bias_regularizer=L2(0.1), name="twice")
    outputs = twice(inner(twice(attention)))
    found = penalties_of(keras.Model(inputs, outputs))
    assert [(path, penalty.strength) for path, penalty in found.items()] == [
        ("attention/query/kernel", 0.3),
        ("attention/key/kernel", 0.3),
        ("attention/value/kernel", 0.3),
        ("attention/attention_output/kernel", 0.3),
        ("twice/bias", 0.1),
        ("inner/rnn/lstm_cell/recurrent_kernel", 0.2),
    ]


def test_penalties_of_leaves_out_what_is_none():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(3, kernel_regularizer="l2", activity_regularizer=L1(0.1)),
            layers.Dense(3),
        ]
    )
    assert penalties_of(model) == {}


def test_penalties_of_lists_frozen_weights_too():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_regularizer=L1(0.1), name="a")],
        name="net",
    )
    model.layers[0].trainable = False
    assert model.losses == []
    assert list(penalties_of(model)) == ["net/a/kernel"]


class TwoHeads(keras.Model):
    """A subclassed model in which two weights have the same path."""

    def __init__(self):
        super().__init__(name="two_heads")
        self.heads = [
            layers.Dense(1, kernel_regularizer=L1(0.1 * i), name="head") for i in (1, 2)
        ]

    def call(self, inputs):
        return self.heads[0](inputs) + self.heads[1](inputs)


def test_penalties_of_weights_of_the_same_path():
    model = TwoHeads()
    model(np.ones((1, 3)))
    found = penalties_of(model)
    assert list(found) == ["two_heads/head/kernel", "two_heads/head/kernel#2"]
    assert [penalty.strength for penalty in found.values()] == [0.1, 0.2]


# What a rule means ------------------------------------------------------------


def test_kernels_by_default_and_each_with_its_own_strength():
    model, penalty = mlp(), L1(0.1)
    attached = regularize(model, penalty)
    assert list(attached) == ["mlp/hidden/kernel", "mlp/head/kernel"]
    assert attached == penalties_of(model)
    first, second = attached.values()
    assert first is not second
    assert first is not penalty
    first.strength = 0.7
    assert (second.strength, penalty.strength) == (0.1, 0.1)
    assert model.get_layer("hidden").kernel.regularizer is first
    assert model.get_layer("hidden").kernel_regularizer is first
    expected = [
        strength * float(ops.sum(ops.abs(model.get_layer(name).kernel)))
        for strength, name in ((0.7, "hidden"), (0.1, "head"))
    ]
    np.testing.assert_allclose(model.losses, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "paths"),
    [
        ("head", ["head/kernel"]),
        ("h*", ["hidden/kernel", "head/kernel"]),
        (layers.Dense, ["hidden/kernel", "head/kernel"]),
        (layers.Layer, ["hidden/kernel", "head/kernel"]),
        ("kernel", ["hidden/kernel", "head/kernel"]),
        ("head/kernel", ["head/kernel"]),
        ("mlp/head/kernel", ["head/kernel"]),
        ("*/kernel", ["hidden/kernel", "head/kernel"]),
        ("mlp/h?ad/*", ["head/kernel"]),
        ("bias", ["hidden/bias", "head/bias"]),
        ("head/bias", ["head/bias"]),
        ("*/bias", ["hidden/bias", "head/bias"]),
        ("gamma", ["norm/gamma"]),
        ("norm/beta", ["norm/beta"]),
        (("head", "bias"), ["head/bias"]),
        (("h*", "kernel"), ["hidden/kernel", "head/kernel"]),
        (("head", "*"), ["head/kernel"]),
        ((layers.Dense, "bias"), ["hidden/bias", "head/bias"]),
        ((layers.LayerNormalization, "gamma"), ["norm/gamma"]),
    ],
    ids=str,
)
def test_keys(key, paths):
    model = mlp()
    assert list(regularize(model, {key: L1(0.1)})) == [f"mlp/{path}" for path in paths]
    assert list(penalties_of(model)) == [f"mlp/{path}" for path in paths]


def test_the_later_rule_wins_and_none_removes():
    model = mlp()
    attached = regularize(
        model, {"*": L2(0.1), "head": L1(0.2), "bias": "l2", ("head", "bias"): None}
    )
    assert {path: repr(penalty) for path, penalty in attached.items()} == {
        "mlp/hidden/kernel": "L2(l2=0.1)",
        "mlp/hidden/bias": "L2(l2=0.01)",
        "mlp/head/kernel": "L1(l1=0.2)",
    }
    assert list(regularize(model, {"head": L1(0.3), layers.Dense: L2(0.4)})) == [
        "mlp/hidden/kernel",
        "mlp/head/kernel",
    ]
    # What no rule means stays.
    assert repr(penalties_of(model)["mlp/hidden/bias"]) == "L2(l2=0.01)"
    assert regularize(model, {"*": None, "bias": None}) == {}
    assert penalties_of(model) == {}
    assert model.losses == []
    assert model.get_layer("head").get_config()["kernel_regularizer"] is None


def test_keras_regularizers_are_replaced():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_regularizer="l2", name="a")],
        name="net",
    )
    regularize(model, {"a": keras.regularizers.L1(0.3)})
    assert repr(penalties_of(model)) == "{'net/a/kernel': L1(l1=0.3)}"
    assert len(model.losses) == 1


def test_only_kernels_are_meant_by_default():
    """No slope of an activation, no scale and no vector of a layer of one's own."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 2, name="conv")(inputs)
    x = layers.PReLU(name="prelu")(x)
    x = layers.GroupNormalization(3, name="group")(x)
    x = layers.RMSNormalization(name="rms")(x)
    x = Scale(name="scale")(x)
    model = keras.Model(inputs, x)
    assert list(regularize(model, L1(0.1))) == ["conv/kernel"]
    assert list(regularize(model, {"prelu/alpha": L1(0.1)})) == ["prelu/alpha"]


@keras.saving.register_keras_serializable("kerasreg-tests")
class Scale(layers.Layer):
    """A vector."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")
        self.built = True

    def call(self, inputs):
        return inputs * self.factor


def test_integers_and_seeds_are_no_weights_to_penalize():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dropout(0.5), layers.Dense(2, name="a")], name="net"
    )
    assert list(regularize(model, {layers.Layer: L1(0.1)})) == ["net/a/kernel"]


def test_a_shared_layer_is_found_in_both_models():
    shared = layers.Dense(3, name="shared")
    first = keras.Sequential([keras.Input((3,)), shared], name="first")
    second = keras.Sequential([keras.Input((3,)), shared], name="second")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, second(first(inputs)))
    for key in ("first", "second", "shared"):
        (path,) = regularize(model, {key: L1(0.1)})
        assert path == "first/shared/kernel"
    assert len(model.losses) == 1


def test_a_layer_alone():
    layer = layers.Dense(2, name="alone")
    layer.build((None, 3))
    assert list(regularize(layer, L1(0.1))) == ["alone/kernel"]
    assert list(regularize(layer, {"alone": L1(0.1), "bias": L1(0.1)})) == [
        "alone/kernel",
        "alone/bias",
    ]


# Errors -----------------------------------------------------------------------


FIRST = "['mlp/hidden/kernel', 'mlp/hidden/bias', 'mlp/norm/gamma', 'mlp/norm/beta', "


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("hidde", "Close to it are ['hidden']"),
        ("Hidden", "Close to it are ['hidden']"),
        ("mlp", f"The model has {FIRST}'mlp/head/kernel'] and 1 more"),
        (layers.Conv2D, f"The model has {FIRST}'mlp/head/kernel'] and 1 more"),
        (
            "nor*",
            "Its layers have only ['mlp/norm/gamma', 'mlp/norm/beta'], which a rule "
            "has to name",
        ),
        (
            ("head", "gamma"),
            "Its layers have only ['mlp/head/kernel', 'mlp/head/bias'], which a rule "
            "has to name",
        ),
    ],
)
def test_a_rule_that_matches_nothing(key, hint):
    model = mlp()
    with pytest.raises(ValueError) as error:
        regularize(model, {"*": L1(0.1), key: L2(0.1)})
    assert str(error.value) == (
        "Invalid value for argument `rules`. Expected keys that match a weight. "
        f"Received: the key {key!r}, which matches none. {hint}."
    )
    assert penalties_of(model) == {}


def test_penalties_of_what_has_no_weights_yet():
    with pytest.raises(ValueError, match=r"Expected a built model .* Received: model="):
        penalties_of(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match=r"Expected a keras.Model or keras.Layer\."):
        penalties_of([1.0])


@pytest.mark.parametrize(
    "key", [0, None, L1, ("a", "b", "c"), layers.Dense(2), (1, "kernel")], ids=str
)
def test_a_key_of_the_wrong_type(key):
    model = mlp()
    with pytest.raises(TypeError) as error:
        regularize(model, {key: L1(0.1)})
    received = key[0] if isinstance(key, tuple) and len(key) == 2 else key
    assert str(error.value) == (
        "Invalid key in argument `rules`. Expected a glob pattern, a layer class or a "
        f"pair of one of them and a weight name. Received: {received!r}"
    )
    assert penalties_of(model) == {}


def test_a_penalty_of_the_wrong_type():
    with pytest.raises(TypeError, match=r"argument `regularizer`\."):
        regularize(mlp(), {"*": keras.regularizers.OrthogonalRegularizer()})


def test_a_model_that_is_not_built():
    model = keras.Sequential([layers.Dense(2)])
    with pytest.raises(ValueError) as error:
        regularize(model, L1(0.1))
    assert str(error.value) == (
        "Invalid value for argument `model`. Expected a built model (call it on data "
        f"or give it an Input first). Received: model={model!r}"
    )


def test_a_penalty_that_does_not_fit_changes_nothing():
    model = mlp()
    regularize(model, L2(0.1))
    with pytest.raises(ValueError, match=r"Received: axis='input'"):
        regularize(model, {"*": L1(0.1), "bias": GroupLasso(0.1, axis="input")})
    assert [repr(p) for p in penalties_of(model).values()] == ["L2(l2=0.1)"] * 2


# At work ----------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}], ids=str)
def test_attached_after_training_it_takes_effect_in_the_next_fit(settings):
    model = models.model(None, keras.optimizers.SGD(0.0), **settings)
    x, y = models.data()
    before = models.fit(model, epochs=1).history["loss"][0]
    evaluated = model.evaluate(x, y, verbose=0)
    attached = regularize(model, {"hidden": L1(0.5)})
    penalty = 0.5 * float(ops.sum(ops.abs(model.layers[1].kernel)))
    after = models.fit(model, epochs=1).history["loss"][0]
    assert after == pytest.approx(before + penalty, rel=1e-5)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(evaluated + penalty, 1e-5)
    attached["hidden/kernel"].strength = 0.25
    assert models.fit(model, epochs=1).history["loss"][0] == pytest.approx(
        before + penalty / 2, rel=1e-5
    )
    regularize(model, {"hidden": None})
    assert models.fit(model, epochs=1).history["loss"][0] == pytest.approx(before, 1e-5)


def test_attached_after_training_with_proximal_it_is_mapped():
    model = models.model(None, Proximal(keras.optimizers.SGD(0.01)))
    models.fit(model, epochs=1)
    assert np.all(model.layers[1].kernel.numpy() != 0)
    regularize(model, {"hidden": L1(100.0)})
    models.fit(model, epochs=1)
    assert not np.any(model.layers[1].kernel.numpy())
    assert np.all(model.layers[2].kernel.numpy() != 0)


def pretrained():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), classes=3
    )


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A batch normalization follows")
        yield


@pytest.fixture(scope="module")
def mobilenet():
    return pretrained()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("key", "count", "example"),
    [
        ("*", 53, "Conv1/kernel"),
        ("block_1_*", 3, "block_1_depthwise/kernel"),
        ("block_*_expand", 16, "block_7_expand/kernel"),
        (layers.DepthwiseConv2D, 17, "block_1_depthwise/kernel"),
        (layers.Conv2D, 35, "block_1_project/kernel"),
        (layers.Dense, 1, "predictions/kernel"),
        ("kernel", 53, "predictions/kernel"),
        ("bias", 1, "predictions/bias"),
        ("gamma", 52, "bn_Conv1/gamma"),
        ((layers.BatchNormalization, "beta"), 52, "block_3_expand_BN/beta"),
    ],
    ids=str,
)
def test_on_a_pretrained_model(mobilenet, key, count, example):
    attached = regularize(mobilenet, {key: L1(1e-4)})
    try:
        assert len(attached) == count
        assert example in attached
        assert attached == penalties_of(mobilenet)
        assert len(mobilenet.losses) == count
        names = {path.rsplit("/")[-1] for path in attached}
        if key == "*":
            assert names == {"kernel"}
        assert len({id(penalty) for penalty in attached.values()}) == count
    finally:
        regularize(mobilenet, {key: None})
    assert penalties_of(mobilenet) == {}


@pytest.mark.usefixtures("quiet")
def test_a_pretrained_model_saves_what_it_was_given(mobilenet, tmp_path):
    attached = regularize(mobilenet, {"*": L2(1e-4), "block_1_*": L1(1e-3)})
    attached["predictions/kernel"].strength = 0.5
    mobilenet.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = penalties_of(loaded)
    assert {path: repr(penalty) for path, penalty in found.items()} == {
        path: repr(penalty) for path, penalty in attached.items()
    }
    assert found["predictions/kernel"].strength == 0.5
    np.testing.assert_allclose(
        float(sum(loaded.losses)), float(sum(mobilenet.losses)), rtol=1e-5
    )
    regularize(mobilenet, {"*": None})


# Saved with the model ---------------------------------------------------------

SAVED = {
    "Dense": (lambda: layers.Dense(2), (3,), 1),
    "Conv1D": (lambda: layers.Conv1D(2, 2), (4, 3), 1),
    "Conv2D": (lambda: layers.Conv2D(2, 2), (4, 4, 3), 1),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(2, 2), (4, 4, 3), 1),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), (4, 3), 1),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), (4, 4, 3), 1),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(2, 2), (4, 3), 2),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(2, 2), (4, 4, 3), 2),
    "LSTM": (lambda: layers.LSTM(2), (4, 3), 2),
    "GRU": (lambda: layers.GRU(2), (4, 3), 2),
    "SimpleRNN": (lambda: layers.SimpleRNN(2), (4, 3), 2),
    "stacked cells": (
        lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)]),
        (4, 3),
        4,
    ),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 2), (2, 3, 3, 1), 2),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2)), (4, 3), 4),
    "Bidirectional of two": (
        lambda: layers.Bidirectional(
            layers.GRU(2), backward_layer=layers.GRU(2, go_backwards=True)
        ),
        (4, 3),
        4,
    ),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(2)), (4, 3), 1),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(2)),
        (3,),
        1,
    ),
    "Embedding": (lambda: layers.Embedding(5, 2), (4,), 1),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d"),
        (4, 3),
        1,
    ),
    "nested": (
        lambda: keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(2),
                keras.Sequential([keras.Input((2,)), layers.Dense(2)]),
            ]
        ),
        (3,),
        2,
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_with_the_model_and_restored(name, tmp_path):
    """Each weight with the strength of the moment, biases too when named."""
    make, shape, kernels = SAVED[name]
    model = functional(make(), shape)
    rules = {"*": ElasticNet(0.1, 0.1)}
    if any(weight.name == "bias" for weight in model.weights):
        rules["bias"] = MCP(0.1)
    attached = regularize(model, rules)
    assert sum(isinstance(p, ElasticNet) for p in attached.values()) == kernels
    for index, penalty in enumerate(attached.values()):
        penalty.strength = 0.1 * (index + 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = [repr(penalty) for penalty in penalties_of(loaded).values()]
    assert found == [repr(penalty) for penalty in attached.values()]
    np.testing.assert_allclose(
        float(sum(loaded.losses)), float(sum(model.losses)), rtol=1e-5
    )


@pytest.mark.parametrize("group", [False, True])
def test_attention_saves_one_penalty_for_its_projections(group, tmp_path):
    inputs = keras.Input((4, 6))
    if group:
        attention = layers.GroupQueryAttention(4, 2, 2, name="attention")
    else:
        attention = layers.MultiHeadAttention(
            2, 3, name="attention", kernel_regularizer="l2"
        )
    model = keras.Model(inputs, attention(inputs, inputs))
    attached = regularize(model, {"attention": L1(0.1), ("attention", "bias"): L2(0.2)})
    assert len(attached) == 8
    assert len({id(penalty) for penalty in attached.values()}) == 8
    for penalty in attached.values():
        penalty.strength = 0.7
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert repr(penalties_of(loaded)) == repr(penalties_of(model))
    regularize(model, {"*": None, "bias": None})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert penalties_of(loaded) == {}
    assert loaded.losses == []


def test_attention_warns_about_projections_that_differ():
    inputs = keras.Input((4, 6))
    model = keras.Model(
        inputs, layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs)
    )
    with pytest.warns(UserWarning, match=r"\['mha/query/kernel'\] are at work but"):
        regularize(model, {"mha/query/kernel": L1(0.1)})
    assert len(model.losses) == 1


@keras.saving.register_keras_serializable("kerasreg-tests")
class Plain(layers.Layer):
    """A layer whose config has no argument for a regularizer."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2), name="w")
        self.built = True

    def call(self, inputs):
        return ops.matmul(inputs, self.w)


def test_a_layer_that_cannot_save_its_penalty_is_named():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, name="a")(Plain(name="plain")(inputs)))
    with pytest.warns(UserWarning, match="will not be saved") as record:
        attached = regularize(model, L1(0.1))
    assert [str(warning.message) for warning in record] == [
        "The penalties on ['plain/w'] are at work but will not be saved with the "
        "model: their layers have no argument in their config for them. Call "
        "`regularize` again after loading."
    ]
    assert len(attached) == len(model.losses) == 2
    assert record[0].filename == __file__


def test_a_subclassed_model_is_penalized_and_warned_about():
    model = TwoHeads()
    model(np.ones((1, 3)))
    with pytest.warns(UserWarning, match="will not be saved"):
        attached = regularize(model, L1(0.5))
    assert list(attached) == ["two_heads/head/kernel", "two_heads/head/kernel#2"]
    assert len(model.losses) == 2


# Before a batch normalization -------------------------------------------------

SENTENCE = (
    "A batch normalization follows the penalized kernels {}. It undoes their scale, so "
    "an L2 penalty there only changes the effective learning rate and a penalty can "
    "fall without the model getting simpler. Penalize the normalization's gamma "
    "instead, or whole units by GroupLasso (van Laarhoven 2017, arXiv 1706.05350)."
)


def normalized(**normalization):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 2, use_bias=False, name="a"),
            layers.BatchNormalization(name="batch_norm", **normalization),
            layers.Conv2D(4, 2, name="b"),
            layers.BatchNormalization(name="second", **normalization),
            layers.Conv2D(4, 2, name="c"),
            layers.LayerNormalization(name="bn_of_layers"),
            layers.DepthwiseConv2D(2, name="d"),
            layers.Flatten(),
            layers.Dense(1, name="e"),
        ],
        name="net",
    )


def messages(record):
    return [str(w.message) for w in record if "batch norm" in str(w.message)]


def test_one_warning_names_the_kernels_before_a_batch_normalization():
    model = normalized()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, L2(0.1))
        # The optimizer looks as well, and finds that it has been said.
        for _ in range(2):
            model.compile(Proximal("sgd"), "mse")
            model.fit(np.ones((2, 6, 6, 3)), np.ones((2, 1)), verbose=0)
    assert messages(record) == [
        SENTENCE.format(
            "['net/a/kernel (before batch_norm)', 'net/b/kernel (before second)']"
        )
    ]
    said = next(w for w in record if "batch norm" in str(w.message))
    assert said.filename == __file__


def test_the_warning_is_for_penalized_kernels_alone():
    model = normalized()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, {"[c-e]": L2(0.1), "gamma": L1(0.1), "bias": L1(0.1)})
    assert messages(record) == []
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, {"b": L2(0.1)})
    assert messages(record) == []  # the gamma behind it is penalized
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, {"gamma": None, "b": L2(0.1)})
    assert messages(record) == [SENTENCE.format("['net/b/kernel (before second)']")]


def test_one_penalty_on_two_kernels_names_both():
    penalty = L2(0.1)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(2, kernel_regularizer=penalty, name="a"),
            layers.BatchNormalization(name="bn_a"),
            layers.Dense(2, kernel_regularizer=penalty, name="b"),
            layers.BatchNormalization(name="bn_b"),
        ],
        name="net",
    )
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        Proximal("sgd").build(model.trainable_variables)
    assert messages(record) == [
        SENTENCE.format("['net/a/kernel (before bn_a)', 'net/b/kernel (before bn_b)']")
    ]


def test_a_pretrained_model_is_warned_about_once():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(pretrained(), {"Conv1": L2(0.1), "predictions": L2(0.1)})
    assert messages(record) == [SENTENCE.format("['Conv1/kernel (before bn_Conv1)']")]
