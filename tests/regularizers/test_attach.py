"""as_penalty and penalties_of, and what the rules of regularize mean."""

import keras
import numpy as np
import pytest
from keras import layers, ops

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
from tests.regularizers.networks import TwoHeads

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
