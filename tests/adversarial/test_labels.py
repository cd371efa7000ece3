import keras
import numpy as np
import pytest

from kerasreg.adversarial.labels import as_targets, check_examples, class_numbers
from tests.adversarial import models


@pytest.mark.parametrize(
    ("y", "outputs"),
    [
        ([1, 0], 3),
        ([[1.0], [0.0]], 3),
        ([[0, 1, 0], [1, 0, 0]], 3),
        (np.array([True, False]), 1),
        ([[1.0], [0.0]], 1),
        ([[0, 1], [1, 0]], 2),
    ],
)
def test_all_forms(y, outputs):
    assert class_numbers(y, 2, outputs).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("y", "outputs", "received"),
    [
        ([-1, 1], 1, "-1.0 among them"),
        ([-1, 1], 2, "-1.0 among them"),
        ([0.5, 1], 3, "0.5 among them"),
        ([np.nan, 1], 3, "nan among them"),
        ([[1 / 2, 1 / 4, 1 / 4], [1, 0, 0]], 3, "[0.5, 0.25, 0.25] among them"),
        ([[1, 1, 0], [1, 0, 0]], 3, "[1.0, 1.0, 0.0] among them"),
        ([[1, 0], [0, 1]], 1, "y of shape (2, 2)"),
        ([[1, 0], [0, 1]], 3, "y of shape (2, 2)"),
        ([0, 3], 3, "3.0 among them"),
        ([0, 1, 2], 3, "y of shape (3,)"),
        (["a", "b"], 3, "y of list"),
        (None, 3, "y=None"),
    ],
)
def test_bad_labels(y, outputs, received):
    with pytest.raises(ValueError) as caught:
        class_numbers(y, 2, outputs)
    expected = "0 or 1 for each of 2 examples"
    if outputs > 1:
        expected = (
            f"a class number for each of 2 examples, below {outputs}, or one-hot rows"
        )
    assert str(caught.value) == (
        f"Invalid value for argument `y`. Expected {expected}. Received: {received}"
    )


@pytest.mark.parametrize(
    ("loss", "outputs", "expected"),
    [
        (models.logits_loss(), 2, [1, 0]),
        (keras.losses.binary_crossentropy, 1, [[1], [0]]),
        (keras.losses.CategoricalCrossentropy(), 3, [[0, 1, 0], [1, 0, 0]]),
        (lambda y, y_pred: y, 3, [5, 6]),  # of what it takes, nothing is known
    ],
)
def test_each_loss_has_its_form(loss, outputs, expected):
    classes, given = (keras.ops.convert_to_tensor(a) for a in ([1, 0], [5, 6]))
    found = as_targets(classes, given, loss, outputs)
    assert found.numpy().tolist() == expected


def test_examples():
    inputs, count = check_examples([[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]])
    assert (inputs.shape, inputs.dtype, count) == ((3, 2), "float32", 3)
    inputs, count = check_examples([np.ones((2, 4)), np.ones((2, 1))])
    assert ([part.shape for part in inputs], count) == ([(2, 4), (2, 1)], 2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (None, "one example or more, as many of each input. Received: x=None"),
        ([], "Received: x=[]"),
        ([np.ones((2, 1)), np.ones((3, 1))], "Received: shapes [(2, 1), (3, 1)]"),
        ([[1.0, 2.0], [3.0]], "Expected rows of the same length."),
    ],
)
def test_bad_examples(x, message):
    with pytest.raises(ValueError) as caught:
        check_examples(x)
    assert message in str(caught.value)
