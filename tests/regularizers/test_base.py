"""The strength: a number that is checked, live in a running `fit`, and saved."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasreg.regularizers import L1, MCP, SCAD, ElasticNet, Penalty, penalties_of
from tests import models

NOT_NUMBERS = [None, "0.1", b"1", True, np.True_, [0.1, 0.2], 1j, object]
OUT_OF_RANGE = [-0.1, -1, float("nan"), float("inf"), -float("inf"), 1e39]


class Tilted(Penalty):
    """A penalty with a value and no proximal map."""

    def value(self, w):
        return ops.multiply(self.lam, ops.sum(w))

    def get_config(self):
        return {"strength": self.strength}


# What a strength may be -------------------------------------------------------


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_a_strength_that_is_not_a_number(value):
    sentence = (
        "Invalid value for argument `{0}`. Expected a non-negative finite number. "
        f"Received: {{0}}={value!r}"
    )
    with pytest.raises(TypeError) as error:
        Tilted(value)
    assert str(error.value) == sentence.format("strength")
    with pytest.raises(TypeError) as error:
        L1(value)
    assert str(error.value) == sentence.format("l1")
    penalty = L1(0.1)
    with pytest.raises(TypeError) as error:
        penalty.strength = value
    assert str(error.value) == sentence.format("strength")
    assert penalty.strength == 0.1


@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_a_strength_out_of_range(value):
    sentence = (
        "Invalid value for argument `{0}`. Expected a non-negative finite number. "
        f"Received: {{0}}={value!r}"
    )
    with pytest.raises(ValueError) as error:
        Tilted(value)
    assert str(error.value) == sentence.format("strength")
    with pytest.raises(ValueError) as error:
        MCP(lam=value)
    assert str(error.value) == sentence.format("lam")
    penalty = SCAD(0.1)
    with pytest.raises(ValueError) as error:
        penalty.strength = value
    assert str(error.value) == sentence.format("strength")
    assert penalty.strength == 0.1


@pytest.mark.parametrize(
    "value",
    [
        0,
        2,
        np.float32(0.5),
        np.int64(3),
        np.array(0.25),
        keras.ops.array(0.125),
        keras.Variable(0.75),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_strength_may_be_any_real_scalar(value):
    assert L1(value).strength == float(value)
    assert type(L1(value).strength) is float
    penalty = L1(0.1)
    penalty.strength = value
    assert penalty.strength == float(value)


@pytest.mark.parametrize("value", [0.01, 0.1, 1e-4, 3e-5, 0.3, 1 / 3, 1e-20, 1e20, 7])
def test_a_strength_reads_as_it_was_written(value):
    """The strength is a float32, and 0.01 is still shown as 0.01."""
    for penalty in (L1(value), MCP(value), Tilted(value)):
        assert penalty.strength == pytest.approx(value, rel=1e-7)
        if value != 1 / 3:
            assert penalty.strength == value
            assert repr(float(value)) in repr(penalty)
        (first, *_) = penalty.get_config().values()
        assert first == pytest.approx(value, rel=1e-7)
        penalty.strength = 0.5
        penalty.strength = value
        assert type(penalty).from_config(penalty.get_config()).strength == (
            penalty.strength
        )


# A penalty of one's own -------------------------------------------------------


def test_a_penalty_without_a_map_says_so():
    penalty = Tilted(0.5)
    assert not penalty.has_prox
    assert L1(0.5).has_prox
    with pytest.raises(NotImplementedError) as error:
        penalty.prox(ops.ones(2), 1.0)
    assert str(error.value) == (
        "Tilted has no proximal map: it stays in the loss. "
        "To give it one, implement `prox(self, w, step)`."
    )


def test_a_penalty_that_is_not_finished_says_what_is_missing():
    with pytest.raises(NotImplementedError) as error:
        Penalty(0.1)(ops.ones(2))
    assert str(error.value) == "Penalty must implement `value(self, w)`."
    with pytest.raises(NotImplementedError) as error:
        Penalty(0.1).get_config()
    assert str(error.value) == "Penalty must implement `get_config(self)`."


def test_the_dtype_of_the_value():
    """Half precision is computed in float32, float64 in float64; arrays are taken."""
    penalty = Tilted(0.1)
    for dtype, result in [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ]:
        value = penalty(ops.ones((300, 300), dtype=dtype))
        assert keras.backend.standardize_dtype(value.dtype) == result
        assert float(value) == pytest.approx(9000, rel=1e-6)
    assert float(penalty(np.ones(3))) == pytest.approx(0.3)
    assert float(penalty([1.0, 2.0])) == pytest.approx(0.3)


# In a running fit -------------------------------------------------------------


class Turn(keras.callbacks.Callback):
    """Sets the strength before each batch and keeps the loss of each."""

    def __init__(self, penalty, strengths):
        super().__init__()
        self.penalty, self.strengths, self.losses = penalty, list(strengths), []

    def on_train_batch_begin(self, batch, logs=None):
        self.penalty.strength = self.strengths[len(self.losses)]

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_strength_set_between_batches_is_in_their_loss(jit_compile):
    penalty = L1(0.0)
    model = models.model(
        penalty, keras.optimizers.SGD(0.0), models.TracedModel, jit_compile=jit_compile
    )
    x, y = models.data()
    data_loss = model.evaluate(x, y, verbose=0)
    size = float(ops.sum(ops.abs(model.layers[1].kernel)))
    strengths = [0.0, 0.5, 2.0, 0.0, 0.25, 0.01]
    turn = Turn(penalty, strengths)
    # One batch an epoch: the logged loss is the mean since the epoch began.
    model.fit(x, y, batch_size=len(x), epochs=6, callbacks=[turn], verbose=0)
    np.testing.assert_allclose(
        turn.losses, [data_loss + s * size for s in strengths], rtol=1e-5
    )
    assert model.traces == 1
    assert model.evaluate(x, y, verbose=0) == pytest.approx(
        data_loss + 0.01 * size, rel=1e-5
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_strength_set_between_batches_steers_the_gradient(jit_compile):
    """With no data loss, SGD moves the weights by rate times strength."""
    penalty = L1(0.0)
    layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=penalty)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    layer.kernel.assign([[5.0], [-5.0]])
    x = np.zeros((6, 2), "float32")
    turn = Turn(penalty, [0.5, 0.0, 1.0, 0.0, 0.0, 0.25])
    model.fit(x, x[:, :1], batch_size=1, epochs=1, callbacks=[turn], verbose=0)
    np.testing.assert_allclose(layer.kernel, [[3.25], [-3.25]], rtol=1e-6)


def test_two_weights_have_two_strengths(tmp_path):
    first, second = ElasticNet(0.1, 0.1), L1(0.3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, kernel_regularizer=first, name="a"),
            keras.layers.Dense(1, kernel_regularizer=second, name="b"),
        ],
        name="net",
    )
    model.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    model.fit(x, x[:, :1], verbose=0)
    count = len(model.get_weights())
    first.strength, second.strength = 0.5, 0.02
    assert penalties_of(model)["net/a/kernel"].strength == 0.5
    assert penalties_of(model)["net/b/kernel"].strength == 0.02
    assert count == len(model.get_weights()) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    first, second = penalties_of(loaded).values()
    assert (first.l1, first.l2, second.strength) == (0.25, 0.25, 0.02)
    np.testing.assert_allclose(loaded.losses, model.losses, rtol=1e-6)
    # Loaded, it is as live as before.
    first.strength = 0.0
    assert float(loaded.losses[0]) == 0
    assert float(loaded.losses[1]) == pytest.approx(float(model.losses[1]))


def test_a_penalty_of_ones_own_is_checked():
    class Shaped(Penalty):
        def value(self, w):
            return self.lam * ops.abs(w)

    class Forgetful(L1):
        def __init__(self):
            pass

    with pytest.raises(ValueError, match=r"Expected a scalar: .* shape=\(2,\)"):
        Shaped(1.0)(ops.ones(2))
    with pytest.raises(AttributeError, match="Forgetful has no strength: call"):
        Forgetful()(ops.ones(2))
