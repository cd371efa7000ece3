import sys

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kerasreg.plots import weight_histogram


def _heights(axes):
    return [bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")]


def test_exact_zeros_are_counted_apart():
    weights = np.array([0.0] * 7 + [1e-9, -0.5, 0.5])
    figure = weight_histogram(weights)
    (axes,) = figure.axes
    assert axes.texts[0].get_text() == "7 of 10 weights\nare exactly 0 (70%)"
    assert _heights(axes) == [7]
    (steps,) = [p for p in axes.patches if not hasattr(p, "get_height")]
    assert steps.get_data().values.sum() == 3


def test_no_zeros_no_spike():
    (axes,) = weight_histogram([[0.1, -0.2], [1e-30]]).axes
    assert axes.texts[0].get_text() == "none of 3 weights\nis exactly 0"
    assert _heights(axes) == []


def test_models_are_their_kernels():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, bias_initializer="zeros"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    figure = weight_histogram({"a": model, "b": np.ones(5)})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert figure.axes[0].texts[0].get_text().startswith("none of 16 weights")
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_many_models_wrap_to_rows_of_three():
    figure = weight_histogram({name: np.ones(5) for name in "abcde"})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == list("abcde")
    places = [axes.get_subplotspec() for axes in shown]
    assert [(p.rowspan.start, p.colspan.start) for p in places] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]
    assert [axes.get_xlabel() for axes in shown] == ["", "", *["weight"] * 3]
    assert [bool(axes.get_ylabel()) for axes in shown] == [
        *[True, False, False],
        *[True, False],
    ]


def test_a_model_that_is_not_built():
    model = keras.Sequential([keras.layers.Dense(1)], name="raw")
    with pytest.raises(ValueError) as caught:
        weight_histogram(model)
    assert str(caught.value) == (
        "Invalid value for argument `models`. Expected built models: call them on "
        "data, or give them a `keras.Input`. Received: raw, which is not built"
    )


def test_weights_must_be_finite():
    with pytest.raises(ValueError) as caught:
        weight_histogram({"a": [1.0], "b": [np.nan, 1.0, np.inf]})
    assert str(caught.value) == (
        "Invalid value for argument `models`. Expected finite weights. Received NaN or "
        "infinite ones, by name: {'b': 2}"
    )


def test_all_zero_weights():
    (axes,) = weight_histogram(np.zeros(4)).axes
    assert _heights(axes) == [4]


def test_pyplot_is_left_alone():
    before = "matplotlib.pyplot" in sys.modules
    weight_histogram([1.0])
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "kerasreg\[viz\]"'):
        weight_histogram([1.0])


@pytest.mark.parametrize("bins", [0, -3, 2.5])
def test_bins(bins):
    with pytest.raises(ValueError) as caught:
        weight_histogram([1.0], bins=bins)
    assert str(caught.value) == (
        "Invalid value for argument `bins`. Expected a positive integer. "
        f"Received: bins={bins}"
    )


@pytest.mark.parametrize("models", [{}, {"a": []}, {"a": np.ones(2), "b": []}])
def test_nothing_to_draw(models):
    with pytest.raises(ValueError, match="Invalid value for argument `models`"):
        weight_histogram(models)
