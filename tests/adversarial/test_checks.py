import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.adversarial import FGSM, PGD, VAT
from tests.adversarial import models
from tests.adversarial.test_attack_inputs import two_inputs

X, Y = np.random.default_rng(0).random((5, 3)), np.zeros((5, 1))
HOLED = np.where(np.arange(15).reshape(5, 3) == 7, np.nan, X)


def linear(loss="mse"):
    return models.linear([[1.0], [2.0], [3.0]], loss=loss)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": HOLED}, ValueError, "1 of 5 examples of x with NaN or infinite ones; "),
        ({"x": HOLED}, ValueError, "the first is number 2"),
        ({"y": Y - np.inf}, ValueError, "5 of 5 examples of y with NaN"),
        ({"y": Y[:3]}, ValueError, "Received: {'x': 5, 'y': 3}"),
        ({"y": ["u"] * 5}, TypeError, "argument `y`. Expected arrays of numbers"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "Expected examples. Received: none"),
        ({"x": X.astype(object)}, TypeError, "Received: ndarray of object"),
        ({"x": tf.data.Dataset.from_tensors(X)}, TypeError, "one batch at a time"),
        ({"x": [[1.0], [1.0, 2.0]]}, ValueError, "or rows of one length"),
        ({"x": list(X)}, ValueError, "takes, 1. Received: 5 (of rows in a list make"),
        ({"x": X[:, :2]}, ValueError, "an input of shape (None, 3), as the model"),
        ({"x": (X > 0).astype(int)}, TypeError, 'a table by x.astype("float32")'),
        ({"model": None}, TypeError, "Expected a keras.Model. Received: model=None"),
        ({"seed": "a"}, TypeError, "Received: seed='a'"),
        ({"seed": 0.5}, TypeError, "Received: seed=0.5"),
        ({"seed": 2**40}, ValueError, "Expected an integer of at most 32 bits"),
    ],
)
def test_bad_calls(change, error, message):
    given = {"model": linear(), "x": X, "y": Y, "seed": 0, **change}
    attack = PGD(0.1, scale=[1.0, 2.0, 3.0], bounds=(-1, 1))
    with pytest.raises(error, match=re.escape(message)):
        attack(given.pop("model"), given.pop("x"), given.pop("y"), **given)


def test_classes_are_checked_before_the_attack():
    with pytest.raises(ValueError, match="targets from 0 to 1"):
        FGSM(0.1)(linear("binary_crossentropy"), X, Y - 1)
    with pytest.raises(ValueError, match="integers from 0 to 9"):
        FGSM(0.1)(models.classifier(), np.zeros((1, 64)), [10])


def test_inputs_of_different_lengths():
    model, x, y = two_inputs()
    with pytest.raises(ValueError, match=re.escape("""{"x['a']": 2, "x['b']": 5""")):
        PGD(0.1)(model, {**x, "a": x["a"][:2]}, y)


def test_targets_that_are_not_used_may_be_missing():
    assert VAT(0.1)(linear(), X, Y * np.nan).shape == (5, 3)


def test_lists_of_rows_and_targets_of_either_rank():
    model, attack = linear(), FGSM(0.1)
    moved = attack(model, X, Y)
    for x, y in ((X.tolist(), Y.tolist()), (X, Y[:, 0]), (X[:2], Y[:2, 0])):
        np.testing.assert_array_equal(attack(model, x, y), moved[: len(y)])


def test_bounds_from_the_data_themselves():
    x = 1e6 + 100 * X
    attack = FGSM(0.1, bounds=(x.min(axis=0), x.max(axis=0)))
    assert attack(linear(), x, Y).shape == (5, 3)
    with pytest.raises(ValueError, match="outside of them"):
        attack(linear(), x + 3, Y)


def test_text_beside_numbers():
    n, s = keras.Input((2,), name="n"), keras.Input((1,), dtype="string", name="s")
    words = keras.layers.StringLookup(vocabulary=["u", "v"], output_mode="one_hot")
    both = keras.layers.Concatenate()([n, words(s)])
    model = keras.Model({"n": n, "s": s}, keras.layers.Dense(1)(both))
    model.compile("sgd", "mse")
    x = {"n": np.zeros((2, 2)), "s": np.array([["u"], ["v"]])}
    moved = FGSM(0.1)(model, x, np.ones((2, 1)))
    other = FGSM(0.1)(model, {**x, "s": tf.constant(x["s"])}, np.ones((2, 1)))
    np.testing.assert_array_equal(moved["n"], other["n"])
    np.testing.assert_allclose(np.abs(moved["n"]), 0.1)
    np.testing.assert_array_equal(moved["s"], other["s"])
