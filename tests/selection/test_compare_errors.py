"""What `compare` refuses."""

import keras
import numpy as np
import pytest

from kerasreg.regularizers import L1
from kerasreg.selection import compare
from tests.selection.fits import SMALL, X, Y, build, linear

BUILD = "Invalid value for argument `build`. Expected a function that "


CANDIDATES = "Invalid value for argument `candidates`. Expected "


MODEL = linear()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"y": Y[:10]},
            ValueError,
            "Invalid value for arguments `x` and `y`. Expected the same number of "
            "examples. Received: 60 in x, 10 in y",
        ),
        (
            {"x": np.array([["a"]] * 60)},
            TypeError,
            "Invalid value for argument `x`. Expected an array of numbers with one "
            "example a row. Received: dtype <U1, shape (60, 1)",
        ),
        (
            {"folds": 1},
            ValueError,
            "Invalid value for argument `folds`. Expected an integer from 2 to the "
            "number of examples, 60. Received: folds=1",
        ),
        (
            {"epochs": 0},
            ValueError,
            "Invalid value for argument `epochs`. Expected a positive integer. "
            "Received: epochs=0",
        ),
        (
            {"batch_size": 2.0},
            ValueError,
            "Invalid value for argument `batch_size`. Expected a positive integer. "
            "Received: batch_size=2.0",
        ),
        (
            {"x": np.where(X.max() > X, X, np.nan)},
            ValueError,
            "Invalid value for argument `x`. Expected finite numbers. Received: 1 NaN "
            "or infinite values, in 1 of 60 examples",
        ),
        (
            {"y": np.where(np.arange(60) < 2, np.inf, 0.0)},
            ValueError,
            "Invalid value for argument `y`. Expected finite numbers. Received: 2 NaN "
            "or infinite values, in 2 of 60 examples",
        ),
        (
            {"callbacks": []},
            TypeError,
            "Invalid value for argument `callbacks`. Expected a function of the "
            "training inputs and targets that returns a list of new Keras callbacks, "
            "such as `lambda x, y: [keras.callbacks.TerminateOnNaN()]`: each fit needs "
            "its own. Received: callbacks=[]",
        ),
        (
            {"callbacks": lambda x, y: 3},
            TypeError,
            "Invalid value for argument `callbacks`. Expected a function that returns "
            "a list of Keras callbacks. Received: a function that returns 3",
        ),
        (
            {"class_weight": "balanced"},
            TypeError,
            "Invalid value for argument `class_weight`. Expected a dict from class "
            "numbers to weights, or None. Received: class_weight='balanced'",
        ),
        (
            {"class_weight": {0: -1.0}},
            ValueError,
            "Invalid value for argument `class_weight`. Expected finite weights of at "
            "least 0. Received: class_weight={0: -1.0}",
        ),
        (
            {"class_weight": {0: 1.0, 2: 3.0}},
            ValueError,
            "Invalid value for argument `class_weight`. Expected keys among the "
            "classes of `y`, [0, 1]. Received: [2]",
        ),
        (
            {"y": X[:, 0], "class_weight": {0: 1.0}},
            ValueError,
            "Invalid value for argument `class_weight`. Expected None where the "
            "targets are not classes (whole numbers, or one-hot rows). "
            "Received: class_weight={0: 1.0}, targets of shape (60,)",
        ),
        (
            {"preprocess": "scale"},
            ValueError,
            "Invalid value for argument `preprocess`. Expected 'standardize', a "
            "function of the training inputs that returns a function of inputs, or "
            "None. Received: preprocess='scale'",
        ),
        (
            {"feature_names": ["a", "b"]},
            ValueError,
            "Invalid value for argument `feature_names`. Expected one name a column, "
            "for inputs of shape (60, 6). Received: 2 names",
        ),
        (
            {"metric": "auc"},
            ValueError,
            "Invalid value for argument `metric`. Expected one of ['accuracy'], the "
            "metrics that 'baseline' is compiled with. Received: metric='auc'",
        ),
        (
            {"candidates": {}},
            ValueError,
            CANDIDATES + "at least one candidate. Received: candidates={}",
        ),
        (
            {"candidates": {"baseline": None}},
            ValueError,
            CANDIDATES + "names other than 'baseline', which is the model of `build` "
            "as it is. Received: candidates={'baseline': None}",
        ),
        (
            {"candidates": {"a": 0.1}},
            TypeError,
            CANDIDATES + "a penalty, a dict of rules for `regularize`, or a function "
            "without arguments that returns a new compiled model. "
            "Received: candidates['a']=0.1",
        ),
        (
            {"candidates": {3: L1(0.1)}},
            TypeError,
            CANDIDATES + "strings as names. Received: 3",
        ),
        (
            {"candidates": [L1(0.1)]},
            TypeError,
            CANDIDATES + "a dict from names to candidates. "
            "Received: candidates=[L1(l1=0.1)]",
        ),
        (
            {"build": lambda: "model"},
            TypeError,
            BUILD + "returns a keras.Model. Received: a function that returns 'model'",
        ),
        (
            {"candidates": {"a": lambda: None}},
            TypeError,
            "Invalid value for candidate 'a'. Expected a function that returns a "
            "keras.Model. Received: a function that returns None",
        ),
        (
            {"build": lambda: keras.Sequential([keras.layers.Dense(1)], name="raw")},
            ValueError,
            BUILD + "returns a compiled model, with optimizer and loss. Received: a "
            "function that returns a model that is not compiled, raw",
        ),
    ],
)
def test_errors(change, error, message):
    arguments = {"build": build, "x": X, "y": Y, "candidates": {"L1": L1(0.1)}, **SMALL}
    with pytest.raises(error) as caught:
        compare(**{**arguments, **change})
    assert str(caught.value) == message


def test_build_must_be_a_function():
    with pytest.raises(TypeError, match="Expected a function without arguments"):
        compare(MODEL, X, Y, {"L1": L1(0.1)}, **SMALL)


def test_build_must_make_new_models():
    model = linear()
    with pytest.raises(ValueError, match="was trained before"):
        compare(lambda: model, X, X[:, 0], {"L1": L1(0.1)}, **SMALL)


def test_rules_that_match_nothing_raise_before_training():
    with pytest.raises(ValueError, match="Expected keys that match a weight"):
        compare(build, X, Y, {"a": {"nowhere": L1(0.1)}}, **SMALL)
