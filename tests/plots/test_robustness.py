import pytest

pytest.importorskip("matplotlib")

from kerasreg.adversarial import Check, RobustReport
from kerasreg.plots import robustness_curve
from kerasreg.plots.style import GREY


def report(failed=False, norm=None, model=""):
    checks = [Check("gradients are not zero", 0.9 if failed else 0.0, 0.01, "why")]
    curve = {0.2: 0.3, 0.0: 0.98, 0.1: 0.7}
    pgd = {} if norm is None else {"norm": norm, "eps": 0.1}
    return RobustReport(
        0.98, 0.3, {"PGD": 0.3}, curve, checks, 100, pgd=pgd, model=model
    )


def test_lines_are_the_curves():
    figure = robustness_curve({"plain": report(), "odd": report(True)}, title="MNIST")
    (axes,) = figure.axes
    first, second = axes.lines
    assert first.get_xdata().tolist() == [0.0, 0.1, 0.2]
    assert first.get_ydata().tolist() == [0.98, 0.7, 0.3]
    assert second.get_color() == GREY
    assert second.get_linestyle() == "--"
    assert [line.get_label() for line in axes.lines] == [
        "plain",
        "odd (a check failed)",
    ]
    assert figure.get_suptitle() == "MNIST"
    assert robustness_curve(report()).axes[0].get_legend() is None


def test_the_norm_and_the_model_are_named():
    (axes,) = robustness_curve(report(norm="2", model="net")).axes
    assert axes.get_xlabel() == "eps (norm 2)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["net"]
    assert robustness_curve(report()).axes[0].get_xlabel() == "eps"


@pytest.mark.parametrize("failed", [False, True])
def test_equal_curves_are_told_apart(failed):
    lines = robustness_curve({name: report(failed) for name in "abc"}).axes[0].lines
    assert len({line.get_marker() for line in lines}) == 3
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True)
    styles = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(styles) == 3


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        (
            {"a": RobustReport(0.9, 0.1, {}, {}, [], 9)},
            "Expected reports with a curve. Received: none in the report 'a'",
        ),
        (
            {"a": report(norm="2"), "b": report(norm="inf")},
            "Expected curves of one norm: their radii cannot be compared. Received: "
            "norms {'a': '2', 'b': 'inf'}",
        ),
    ],
)
def test_reports_that_cannot_be_drawn(reports, message):
    with pytest.raises(ValueError) as caught:
        robustness_curve(reports)
    assert str(caught.value) == f"Invalid value for argument `reports`. {message}"


@pytest.mark.parametrize("reports", [{}, {"a": 1}, None])
def test_bad_input(reports):
    with pytest.raises(ValueError) as caught:
        robustness_curve(reports)
    assert str(caught.value) == (
        "Invalid value for argument `reports`. Expected a report of `robust_evaluate`, "
        f"or a dict of them by name. Received: reports={reports!r}"
    )
