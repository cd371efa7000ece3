import pytest

pytest.importorskip("matplotlib")

from kerasreg.adversarial import Check, RobustReport
from kerasreg.plots import robustness_curve
from kerasreg.plots.style import GREY


def report(failed=False):
    checks = [Check("gradients are not zero", 0.9 if failed else 0.0, 0.01, "why")]
    curve = {0.2: 0.3, 0.0: 0.98, 0.1: 0.7}
    return RobustReport(0.98, 0.3, {"PGD": 0.3}, curve, checks, 100)


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


@pytest.mark.parametrize("reports", [{}, {"a": 1}])
def test_bad_input(reports):
    with pytest.raises(ValueError) as caught:
        robustness_curve(reports)
    assert str(caught.value) == (
        "Invalid value for argument `reports`. Expected a report of `robust_evaluate`, "
        f"or a dict of them by name. Received: reports={reports!r}"
    )
