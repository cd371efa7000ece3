"""Accuracy under attack as a curve over the size of the attack."""

from kerasreg.plots.style import GREY, PALETTE, dress, new_figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("--", ":", "-.")
_WIDEST, _NARROWER, _NARROWEST = 2.8, 0.7, 1.2


def robustness_curve(reports, *, title=None):
    """Draws the accuracy under PGD over its radius, one line a model.

    A model whose report failed a check is drawn dashed and grey: its curve is not to be
    believed. Later lines are narrower, with markers of another shape, so that one on
    top of another leaves both to be seen.

    Args:
        reports: What `kerasreg.adversarial.robust_evaluate` returned, or a dict of
            these by name, all with the same norm.
        title: Text above the figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: There is no report, or one without a curve, or the norms differ.

    Example:
        >>> from kerasreg.adversarial import RobustReport
        >>> curve = {0.0: 0.98, 0.1: 0.7, 0.2: 0.3}
        >>> report = RobustReport(0.98, 0.3, {"PGD": 0.3}, curve, [], 100)
        >>> figure = robustness_curve({"plain": report})
        >>> figure.axes[0].get_legend_handles_labels()[1]
        ['plain']
    """
    given = reports
    if not isinstance(reports, dict):
        reports = {getattr(reports, "model", ""): reports}
    if not reports or not all(hasattr(r, "curve") for r in reports.values()):
        raise ValueError(
            "Invalid value for argument `reports`. Expected a report of "
            "`robust_evaluate`, or a dict of them by name. "
            f"Received: reports={given!r}"
        )
    norm = _norm(reports)
    figure, axes = new_figure(4.8, 3.2)
    failed = 0
    for number, (name, report) in enumerate(reports.items()):
        eps, accuracy = zip(*sorted(report.curve.items()), strict=True)
        color, line = PALETTE[number % len(PALETTE)], "-"
        if not report.passed:
            color, line = GREY, _DASHES[failed % len(_DASHES)]
            name = f"{name} (a check failed)".strip()
            failed += 1
        axes.plot(
            eps,
            accuracy,
            label=str(name),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=6,
            markerfacecolor="none",
            linewidth=max(_WIDEST * _NARROWER**number, _NARROWEST),
            color=color,
            linestyle=line,
        )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(left=0.0)
    xlabel = f"eps (norm {norm})" if norm else "eps"
    dress(axes, xlabel=xlabel, ylabel="accuracy under PGD")
    if any(axes.get_legend_handles_labels()[1]):
        axes.legend(frameon=False, fontsize=8.5)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    return figure


def _norm(reports):
    """The norm of all curves; `None` if the reports, made by hand, do not say."""
    empty = [name for name, report in reports.items() if not report.curve]
    if empty:
        raise ValueError(
            "Invalid value for argument `reports`. Expected reports with a curve. "
            f"Received: none in the report {empty[0]!r}"
        )
    norms = {name: getattr(r, "pgd", {}).get("norm") for name, r in reports.items()}
    found = set(norms.values()) - {None}
    if len(found) > 1:
        raise ValueError(
            "Invalid value for argument `reports`. Expected curves of one norm: their "
            f"radii cannot be compared. Received: norms {norms}"
        )
    return found.pop() if found else None
