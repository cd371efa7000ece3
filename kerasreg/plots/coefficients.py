"""Coefficients along a path of penalty strengths."""

import numpy as np

from kerasreg.plots.style import GREY, INK, PALETTE, dress, new_figure

_TABLE_RANK = 2


def coefficient_path(strengths, coefs, names=None, *, chosen=None, top=7, title=None):
    """Draws how each coefficient grows as the penalty weakens.

    The strength falls from left to right on a logarithmic axis, and the axis
    above counts the coefficients that are not zero. The coefficients that grow
    largest anywhere on the path are coloured and named; the others are grey.

    Args:
        strengths: Positive penalty strengths, one a model fitted, in any order.
        coefs: Coefficients, shape `(strengths, features)`.
        names: Names of the features; by default `x0, x1, ...`.
        chosen: A strength within the path to mark with a line, e.g. the
            cross-validated one.
        top: Number of coefficients to colour and name.
        title: Text above the figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: The shapes do not fit, a strength is not positive, `chosen` is
            off the path, or a coefficient is not finite.

    Example:
        >>> figure = coefficient_path([1.0, 0.1], [[0.0, 0.0], [0.5, -0.2]], ["a", "b"])
        >>> sorted(text.get_text() for text in figure.axes[0].texts)
        ['a', 'b']
    """
    strengths, coefs, names = _validated(strengths, coefs, names)
    if chosen is not None:
        _check_chosen(chosen, strengths)
    figure, axes = new_figure(8.4, 4.4)
    reach = np.abs(coefs).max(axis=0)
    largest = [j for j in np.argsort(-reach, kind="stable")[:top] if reach[j] > 0]
    for j in set(range(coefs.shape[1])) - set(largest):
        axes.plot(strengths, coefs[:, j], color=GREY, linewidth=0.9)
    colors = {j: PALETTE[i % len(PALETTE)] for i, j in enumerate(largest)}
    for j, color in colors.items():
        axes.plot(strengths, coefs[:, j], color=color, linewidth=1.9)
    axes.axhline(0.0, color=INK, linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(strengths[0], strengths[-1])
    dress(
        axes,
        xlabel="strength of the penalty (weaker to the right)",
        ylabel="coefficient",
    )
    _name_lines(axes, coefs[-1], names, colors)
    _count_axis(axes, strengths, coefs)
    if chosen is not None:
        axes.axvline(chosen, color=INK, linewidth=1.0, linestyle=":")
        axes.annotate(
            f" {chosen:.2g}",
            xy=(chosen, 0.02),
            xycoords=("data", "axes fraction"),
            fontsize=8.5,
            color=INK,
        )
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _validated(strengths, coefs, names):
    strengths = np.asarray(strengths, "float64")
    coefs = np.asarray(coefs, "float64")
    if strengths.ndim != 1 or not strengths.size or not _positive(strengths):
        raise ValueError(
            "Invalid value for argument `strengths`. Expected a sequence of positive "
            f"numbers. Received: strengths={strengths}"
        )
    if coefs.ndim != _TABLE_RANK or len(coefs) != len(strengths):
        raise ValueError(
            "Invalid value for argument `coefs`. Expected one row a strength, shape "
            f"({len(strengths)}, features). Received: shape {coefs.shape}"
        )
    if not np.isfinite(coefs).all():
        raise ValueError(
            "Invalid value for argument `coefs`. Expected finite numbers. Received: "
            f"{int(np.sum(~np.isfinite(coefs)))} NaN or infinite values"
        )
    if names is None:
        names = [f"x{j}" for j in range(coefs.shape[1])]
    if len(names) != coefs.shape[1]:
        raise ValueError(
            "Invalid value for argument `names`. Expected one name a column of "
            f"`coefs`, {coefs.shape[1]}. Received: {len(names)} names"
        )
    order = np.argsort(-strengths, kind="stable")
    return strengths[order], coefs[order], list(names)


def _positive(strengths):
    return bool(np.all(np.isfinite(strengths) & (strengths > 0)))


def _check_chosen(chosen, strengths):
    slack = 1 + 1e-6  # The end of a path may be rounded.
    number = isinstance(chosen, (int, float, np.number))
    if not number or not strengths[-1] / slack <= chosen <= strengths[0] * slack:
        raise ValueError(
            "Invalid value for argument `chosen`. Expected a number from the lowest to "
            f"the highest strength, {strengths[-1]:g} to {strengths[0]:g}. "
            f"Received: chosen={chosen!r}"
        )


def _name_lines(axes, ends, names, colors):
    """Writes the names beside the lines' right ends, moved apart if need be."""
    if not colors:
        return
    low, high = axes.get_ylim()
    below = sorted(colors, key=lambda j: ends[j])
    heights = _spread([ends[j] for j in below], (high - low) * 0.052)
    for height, j in zip(heights, below, strict=True):
        axes.annotate(
            names[j],
            xy=(1.0, ends[j]),
            xycoords=("axes fraction", "data"),
            xytext=(1.035, height),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=colors[j],
            arrowprops={
                "arrowstyle": "-",
                "color": colors[j],
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _spread(positions, gap):
    """Moves sorted positions as little as possible to be `gap` apart."""
    blocks = []  # Runs of touching labels: [mean of the lowest end, members].
    for index, position in enumerate(positions):
        blocks.append([position - index * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            total = blocks[-1][0] * blocks[-1][1] + mean * count
            blocks[-1] = [total / (blocks[-1][1] + count), blocks[-1][1] + count]
    lowest = [mean for mean, count in blocks for _ in range(count)]
    return [low + index * gap for index, low in enumerate(lowest)]


def _count_axis(axes, strengths, coefs):
    """Counts the coefficients that are not zero, above the plot."""
    count = np.sum(coefs != 0, axis=1)
    ticks = np.unique(np.linspace(0, len(strengths) - 1, 7).round().astype(int))
    above = axes.secondary_xaxis("top")
    above.set_xticks(strengths[ticks], [str(c) for c in count[ticks]])
    above.minorticks_off()
    above.spines["top"].set_visible(False)
    above.tick_params(labelsize=9, colors=INK, length=0)
    above.set_xlabel("coefficients that are not zero", fontsize=9, color=INK)
