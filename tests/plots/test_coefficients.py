import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kerasreg.plots import coefficient_path
from kerasreg.plots.coefficients import _spread

STRENGTHS = [0.1, 1.0, 0.01]
COEFS = np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.9, -0.4, 0.0]])


def test_strong_to_weak_whatever_the_order():
    axes = coefficient_path(STRENGTHS, COEFS).axes[0]
    assert axes.get_xlim() == (1.0, 0.01)
    for line in axes.lines[:3]:
        np.testing.assert_array_equal(line.get_xdata(), [1.0, 0.1, 0.01])
    named = {tuple(line.get_ydata()) for line in axes.lines[:3]}
    assert (0.0, 0.5, 0.9) in named


def test_only_what_is_not_zero_is_named_and_counted():
    figure = coefficient_path(STRENGTHS, COEFS, ["a", "b", "c"], top=7)
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["a", "b"]
    (above,) = axes.child_axes
    counts = [label.get_text() for label in above.get_xticklabels()]
    assert counts == ["0", "1", "2"]


def test_chosen_strength_is_marked():
    axes = coefficient_path(STRENGTHS, COEFS, chosen=0.05).axes[0]
    assert " 0.05" in [text.get_text() for text in axes.texts]


def test_names_do_not_overlap():
    wanted = [0.0, 0.01, 0.02, 1.0]
    placed = np.array(_spread(wanted, 0.1))
    assert (np.diff(placed) >= 0.1 - 1e-12).all()
    assert placed[:3].mean() == pytest.approx(0.01)
    assert placed[3] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([1.0, 0.0], [[1.0], [2.0]]),
            "Invalid value for argument `strengths`. Expected a sequence of positive "
            "numbers. Received: strengths=[1. 0.]",
        ),
        (
            ([1.0, 0.5], [[1.0], [np.nan]]),
            "Invalid value for argument `coefs`. Expected finite numbers. Received: 1 "
            "NaN or infinite values",
        ),
        (
            ([1.0, 0.5], [[1.0]]),
            "Invalid value for argument `coefs`. Expected one row a strength, shape "
            "(2, features). Received: shape (1, 1)",
        ),
        (
            ([1.0], [[1.0, 2.0]], ["a"]),
            "Invalid value for argument `names`. Expected one name a column of "
            "`coefs`, 2. Received: 1 names",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError) as caught:
        coefficient_path(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("chosen", [-1, 0.0, 2.0, float("nan"), "0.1"])
def test_the_chosen_strength_must_be_on_the_path(chosen):
    with pytest.raises(ValueError) as caught:
        coefficient_path(STRENGTHS, COEFS, chosen=chosen)
    assert str(caught.value) == (
        "Invalid value for argument `chosen`. Expected a number from the lowest to the "
        f"highest strength, 0.01 to 1. Received: chosen={chosen!r}"
    )


@pytest.mark.parametrize("chosen", [1.0, 0.01])
def test_the_ends_of_the_path_can_be_chosen(chosen):
    assert coefficient_path(STRENGTHS, COEFS, chosen=chosen)
