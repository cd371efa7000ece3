import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kerasreg.plots import reliability_diagram
from kerasreg.plots.style import PALETTE
from kerasreg.uncertainty import ExpectedCalibrationError


def draw(classes, rows=400):
    rng = np.random.default_rng(classes)
    p = rng.dirichlet(np.ones(classes), rows)
    return rng.integers(0, classes, rows), p


def bars(axes):
    """Of each kind of bar: left end, bottom and height."""
    return {
        kind.get_label(): [
            (bar.get_x(), bar.get_y(), bar.get_height()) for bar in kind.patches
        ]
        for kind in axes.containers
    }


def test_bars_gaps_and_shares():
    # Bin 0.8-0.9 is right at 3 of 4, bin 0.5-0.6 at 1 of 1.
    p = np.array([[0.85, 0.1, 0.05]] * 4 + [[0.2, 0.55, 0.25]])
    figure = reliability_diagram([0, 0, 0, 1, 1], p, bins=10)
    upper, lower = figure.axes
    drawn = bars(upper)
    np.testing.assert_allclose(drawn["accuracy"], [(0.5, 0, 1), (0.8, 0, 0.75)])
    np.testing.assert_allclose(drawn["overconfident"], [(0.8, 0.75, 0.1)])
    np.testing.assert_allclose(drawn["underconfident"], [(0.5, 0.55, 0.45)])
    (shares,) = bars(lower).values()
    np.testing.assert_allclose(shares, [(0.5, 0, 0.2), (0.8, 0, 0.8)])
    assert upper.texts[0].get_text() == "ECE 0.170"
    assert upper.containers[1].patches[0].get_hatch()
    lines = upper.collections[0]
    assert lines.get_colors()[0] == pytest.approx(_rgba(PALETTE[0]))
    assert [line[0, 1] for line in lines.get_segments()] == [1.0, 0.75]


def _rgba(color):
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0]


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("bins", [1, 15])
def test_the_error_is_that_of_the_metric(classes, bins):
    y, p = draw(classes)
    expected = float(ExpectedCalibrationError(bins)(y, p))
    forms = [p, p[:, 1], p[:, 1:]] if classes == 2 else [p]
    labels = [y, y[:, None], np.eye(classes)[y]]
    for form in forms:
        for label in labels:
            upper = reliability_diagram(label, form, bins).axes[0]
            assert upper.texts[0].get_text() == f"ECE {expected:.3f}"


def test_two_classes_have_their_own_words():
    y, p = draw(2)
    figure = reliability_diagram(y, p)
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_xlabel()) == ("share of y = 1", "p(y = 1)")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "share of y = 1",
        "p(y = 1) too high",
        "p(y = 1) too low",
        "calibrated",
    ]


def test_a_perfect_model():
    figure = reliability_diagram([0, 1, 2], np.eye(3))
    assert list(bars(figure.axes[0])) == ["accuracy"]
    assert figure.axes[0].texts[0].get_text() == "ECE 0.000"
    figure.draw_without_rendering()


def test_models_are_panels_with_one_scale():
    y, p = draw(3)
    sharp = p**4 / (p**4).sum(axis=1, keepdims=True)
    models = {"a": p, "b": sharp, "c": p, "d": sharp}
    figure = reliability_diagram(y, models, title="All")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert [title for title in titles if title] == list("abcd")
    assert figure.get_suptitle() == "All"
    lowers = [axes for axes in shown if axes.get_xlabel()]
    assert len(lowers) == 4
    assert len({axes.get_ylim() for axes in lowers}) == 1
    assert [bool(axes.get_ylabel()) for axes in lowers] == [True, False, False, True]
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in shown]
    assert boxes[0].x0 == pytest.approx(boxes[3].x0)
    assert boxes[0].width == pytest.approx(boxes[3].width)


def test_a_legend_fits_its_figure():
    for models in [{"a": draw(2)[1]}, dict.fromkeys("ab", draw(2)[1])]:
        figure = reliability_diagram(draw(2)[0], models)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        (
            [0, 1],
            np.zeros((2, 2, 2)),
            "Invalid value for argument `y_prob`. Expected the shape (examples,) or "
            "(examples, classes). Received: shape=(2, 2, 2)",
        ),
        (
            [0, 1],
            [2.5, -3.0],
            "Invalid value for argument `y_prob`. Expected probabilities, in [0, 1]. "
            "Received: values from -3 to 2.5",
        ),
        (
            [0, 1],
            {},
            "Invalid value for argument `y_prob`. Expected probabilities, or a dict of "
            "them by name. Received: y_prob={}",
        ),
        (
            [0, 1, 1],
            [0.5, 0.5],
            "Invalid value for argument `y_true`. Expected one label an example, (2,), "
            "or one-hot, (2, 2). Received: shape=(3,)",
        ),
        (
            [0, 2],
            [0.5, 0.5],
            "Invalid value for argument `y_true`. Expected class numbers from 0 to 1. "
            "Received: [0 2]",
        ),
    ],
)
def test_bad_input(y, p, message):
    with pytest.raises(ValueError) as caught:
        reliability_diagram(y, p)
    assert str(caught.value) == message


@pytest.mark.parametrize("bins", [0, True, 2.5])
def test_bins(bins):
    with pytest.raises(ValueError) as caught:
        reliability_diagram([0], [0.5], bins)
    assert str(caught.value) == (
        "Invalid value for argument `bins`. Expected a positive integer. "
        f"Received: bins={bins!r}"
    )
