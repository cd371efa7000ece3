import collections
import json
import re

import keras
import numpy as np
import pytest

from kerasreg.adversarial import PGD, Noise
from tests.adversarial.test_attack_inputs import two_inputs


def again(attack):
    """By its config, as JSON has it."""
    return type(attack).from_config(json.loads(json.dumps(attack.get_config())))


def squares(**where):
    """What may change of examples of shape (2, 2), by how much."""
    model = keras.Sequential([keras.Input((2, 2)), keras.layers.Flatten()])
    model.compile("sgd", "mse")
    return np.asarray(again(Noise(0.1, **where))(model, np.zeros((50, 2, 2))))


def test_arrays_and_nested_lists_of_several_axes_survive_the_config():
    for mask in (np.eye(2, dtype=bool), [[True, False], [False, True]]):
        changed = squares(mask=mask).any(axis=0)
        np.testing.assert_array_equal(changed, np.eye(2))
    sizes = np.abs(squares(scale=[[1.0, 2.0], [3.0, 4.0]])).max(axis=0)
    np.testing.assert_allclose(sizes, [[0.1, 0.2], [0.3, 0.4]], rtol=0.1)
    rows = squares(mask=[[True, False]])
    np.testing.assert_array_equal(rows.any(axis=0), [[True, False]] * 2)


def test_a_list_is_for_inputs_if_there_are_several():
    model, x, _ = two_inputs(as_dict=False)
    attack = again(Noise(0.1, scale=[1.0, 10.0, None], mask=[True, [True, False], 1]))
    x = [np.repeat(a, 20, axis=0) for a in x]
    pairs = zip(attack(model, x), x, strict=True)
    sizes = [np.max(np.abs(after - before), axis=0) for after, before in pairs]
    np.testing.assert_allclose(sizes[0], [0.1] * 3, rtol=0.1)
    np.testing.assert_allclose(sizes[1], [1.0, 0.0], rtol=0.1, atol=1e-6)


def test_inputs_in_any_order():
    inputs = collections.OrderedDict((n, keras.Input((2,), name=n)) for n in "ba")
    both = keras.layers.Concatenate()(list(inputs.values()))
    model = keras.Model(inputs, keras.layers.Dense(1)(both))
    model.compile("sgd", "mse")
    x = collections.OrderedDict(b=np.ones((3, 2)), a=np.zeros((3, 2)))
    moved = PGD(0.1, mask={"a": [True, False], "b": False})(model, x, np.ones(3))
    assert list(moved) == ["b", "a"]
    np.testing.assert_array_equal(moved["b"], x["b"])
    np.testing.assert_array_equal(np.any(moved["a"] != x["a"], axis=0), [True, False])


@pytest.mark.parametrize(
    ("where", "as_dict", "message"),
    [
        (
            {"mask": {"nun": False}},
            True,
            "argument `mask`. Expected a dict with entries for inputs among ['a', 'b', "
            "'c']. Received: a dict with entries ['nun']",
        ),
        (
            {"scale": [1.0, 10.0]},
            True,
            "argument `scale`. Expected a dict with entries for inputs among ['a', "
            "'b', 'c']. Received: a list of 2",
        ),
        (
            {"scale": [1.0, 10.0]},
            False,
            "argument `scale`. Expected a list with an entry for each of the 3 "
            "inputs. Received: a list of 2",
        ),
        (
            {"bounds": {"a": (0, 1)}},
            None,
            "argument `bounds`. Expected one value or an array, for one input. "
            "Received: a dict with entries ['a']",
        ),
    ],
)
def test_entries_for_other_inputs(where, as_dict, message):
    model, x, y = two_inputs(as_dict is not False)
    if as_dict is None:
        x = x["a"]
    attack = PGD(0.1, **where)
    with pytest.raises(ValueError, match=re.escape(message)):
        attack.check(x, y)
    with pytest.raises(ValueError, match=re.escape(message)):
        attack.attack(model, x, y, None)


WHERE_ERRORS = [
    ({"mask": "no"}, TypeError, "Expected a bool array of the shape of an example"),
    ({"mask": [0.5] * 30}, ValueError, "<array of shape (30,), 0.5 to 0.5>"),
    ({"mask": [3, 5]}, ValueError, "Received: mask=[3, 5]"),
    ({"mask": [False, False]}, ValueError, "Received: mask=[False, False], for none"),
    ({"bounds": (np.nan, 1)}, ValueError, "the least below the greatest everywhere"),
    ({"bounds": (1, 1)}, ValueError, "(-np.inf or np.inf for none)"),
    ({"scale": "std"}, TypeError, "Received: scale='std'"),
    (
        {"scale": [1.0, 0.0]},
        ValueError,
        "scale=[1.0, 0.0], which has 1 other(s), the first at (1,)",
    ),
]


@pytest.mark.parametrize(("where", "error", "message"), WHERE_ERRORS)
def test_bad_places(where, error, message):
    with pytest.raises(error, match=re.escape(message)):
        PGD(0.1, **where)


def test_large_arrays_are_shown_in_short():
    attack = Noise(0.1, bounds=(0, np.ones(784)), mask=np.arange(784) < 3)
    assert repr(attack) == (
        "Noise(eps=0.1, norm='inf', bounds=(0.0, <array of shape (784,), 1 to 1>), "
        "mask=<array of shape (784,), 3 of 784 True>)"
    )
