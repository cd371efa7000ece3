"""Penalties that regularize has attached: at work, and saved with the model."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, MCP, ElasticNet, penalties_of, regularize
from tests import models
from tests.regularizers.networks import TwoHeads, pretrained

# A warning of ours fails the test unless it is expected.
pytestmark = pytest.mark.filterwarnings("error:.*penal:UserWarning")


def functional(layer, shape, dtype=None):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


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
