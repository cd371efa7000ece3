"""Accuracy under attack as a curve over the size of the attack."""

from kerasreg.plots.style import GREY, PALETTE, dress, new_figure


def robustness_curve(reports, *, title=None):
    """Draws the accuracy under PGD over its radius, one line a model.

    A model whose report failed a check is drawn dashed and grey: its curve is not to be
    believed.

    Args:
        reports: What `kerasreg.adversarial.robust_evaluate` returned, or a dict of
            these by name.
        title: Text above the figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: There is no report.

    Example:
        >>> from kerasreg.adversarial import RobustReport
        >>> curve = {0.0: 0.98, 0.1: 0.7, 0.2: 0.3}
        >>> report = RobustReport(0.98, 0.3, {"PGD": 0.3}, curve, [], 100)
        >>> figure = robustness_curve({"plain": report})
        >>> figure.axes[0].get_legend_handles_labels()[1]
        ['plain']
    """
    if not isinstance(reports, dict):
        reports = {"": reports}
    if not reports or not all(hasattr(r, "curve") for r in reports.values()):
        raise ValueError(
            "Invalid value for argument `reports`. Expected a report of "
            "`robust_evaluate`, or a dict of them by name. "
            f"Received: reports={reports!r}"
        )
    figure, axes = new_figure(4.8, 3.2)
    for number, (name, report) in enumerate(reports.items()):
        eps, accuracy = zip(*sorted(report.curve.items()), strict=True)
        look = {"color": PALETTE[number % len(PALETTE)], "marker": "o"}
        if not report.passed:
            look.update(color=GREY, linestyle="--", marker="x")
            name = f"{name} (a check failed)".strip()
        axes.plot(eps, accuracy, label=str(name), markersize=4, **look)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(left=0.0)
    dress(axes, xlabel="eps", ylabel="accuracy under PGD")
    if any(axes.get_legend_handles_labels()[1]):
        axes.legend(frameon=False, fontsize=8.5)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    return figure
