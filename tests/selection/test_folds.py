import numpy as np
import pytest

from kerasreg.selection.folds import class_labels, split


def test_every_example_is_validated_once():
    parts = split(np.arange(11.0), 3, seed=0)
    assert sorted(np.concatenate([v for _, v in parts])) == list(range(11))
    for training, validation in parts:
        assert sorted([*training, *validation]) == list(range(11))
    assert [len(v) for _, v in parts] == [4, 4, 3]


def test_classes_are_stratified():
    y = np.array([0] * 50 + [1] * 13)
    for _, validation in split(y, 4, seed=3):
        assert 12 <= (y[validation] == 0).sum() <= 13
        assert 3 <= (y[validation] == 1).sum() <= 4


def test_the_seed_decides():
    y = np.arange(30.0)
    first, again, other = (split(y, 3, seed)[0][1].tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        ([3, 1, 3], [1, 0, 1]),
        ([[3], [1], [3]], [1, 0, 1]),
        ([True, False], [1, 0]),
        ([1.0, 0.0], [1, 0]),
        ([[0.0, 1.0], [1.0, 0.0]], [1, 0]),
        ([0.5, 1.0], None),
        ([[0.2, 0.8], [1.0, 0.0]], None),
        (list(range(51)), None),
    ],
)
def test_class_labels(y, labels):
    found = class_labels(np.array(y))
    assert found is labels or found.tolist() == labels


def test_given_pairs():
    sklearn = pytest.importorskip("sklearn.model_selection")
    splitter = sklearn.TimeSeriesSplit(2)
    parts = split(np.arange(9.0), splitter.split(np.zeros(9)), seed=0)
    assert [v.tolist() for _, v in parts] == [[3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("folds", [1, 0, -2, 6, True])
def test_number_of_folds(folds):
    with pytest.raises(ValueError) as caught:
        split(np.arange(5.0), folds, seed=0)
    assert str(caught.value) == (
        "Invalid value for argument `folds`. Expected an integer from 2 to the number "
        f"of examples, 5. Received: folds={folds}"
    )


@pytest.mark.parametrize(
    "folds",
    [2.5, [], [([0], [0])], [([0, 1], [5])], [([0], [])], [([0.5], [1])], [[0, 1, 2]]],
)
def test_bad_pairs(folds):
    with pytest.raises(ValueError, match="Expected an integer, or pairs of disjoint"):
        split(np.arange(5.0), folds, seed=0)
