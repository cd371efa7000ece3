"""Reliability diagrams of predicted probabilities."""

import numpy as np

from kerasreg.plots.style import GREY, INK, PALETTE, dress, new_figure

_COLUMNS = 3
_BINARY = 2
_TABLE_RANK = 2
_SLACK = 1e-3

# Labels of the axis, the bars, and gaps that are too high and too low: for two
# classes and for more.
_WORDS = {
    True: ("p(y = 1)", "share of y = 1", "p(y = 1) too high", "p(y = 1) too low"),
    False: ("confidence", "accuracy", "overconfident", "underconfident"),
}
_PALE = ("#FBE6D8", "#D6F0E7")  # The gaps: vermilion and green, opaque.


def reliability_diagram(y_true, y_prob, bins=15, *, title=None):
    """Draws how often predictions of each confidence are right.

    One panel a model, at most three a row. Above, bars of accuracy over bins of
    confidence: a calibrated model's end on the diagonal. The hatched gap between the
    accuracy and the mean confidence of a bin is vermilion where the model is
    overconfident and green where it is underconfident. The expected calibration
    error is written in. Below, the share of the examples in each bin.

    Bins and error are those of `kerasreg.uncertainty.ExpectedCalibrationError`: for
    two classes confidence is p(y = 1) and the bars say how often y = 1; for more it
    is the largest probability.

    Args:
        y_true: Class numbers, shape `(examples,)` or `(examples, 1)`, or one-hot rows.
        y_prob: Probabilities, shape `(examples,)`, `(examples, 1)` or `(examples,
            classes)`; or a dict of these by name.
        bins: Number of bins between 0 and 1.
        title: Text above the whole figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: Shapes do not fit, something is not a probability or not a class,
            or `bins` is not a positive integer.

    Example:
        >>> figure = reliability_diagram([1, 1, 1, 0], {"mine": [0.9, 0.9, 0.9, 0.9]})
        >>> figure.axes[0].texts[0].get_text()
        'ECE 0.150'
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(
            "Invalid value for argument `bins`. Expected a positive integer. "
            f"Received: bins={bins!r}"
        )
    if not isinstance(y_prob, dict):
        y_prob = {"": y_prob}
    if not y_prob:
        raise ValueError(
            "Invalid value for argument `y_prob`. Expected probabilities, or a dict of "
            "them by name. Received: y_prob={}"
        )
    models = {str(name): _confidence(y_true, p) for name, p in y_prob.items()}
    columns = min(_COLUMNS, len(models))
    rows = -(-len(models) // columns)
    figure, grid = new_figure(
        3.2 * max(columns, 1.2),
        4.1 * rows + 0.2,
        nrows=2 * rows,
        ncols=columns,
        sharex=True,
        squeeze=False,
        height_ratios=[3.2, 1] * rows,
    )
    for axes in grid.flat:
        axes.set_visible(False)
    for number, (name, (confidence, hit, binary)) in enumerate(models.items()):
        row, column = divmod(number, columns)
        upper, lower = grid[2 * row : 2 * row + 2, column]
        words = _WORDS[binary]
        _panel(upper, lower, confidence, hit, bins, words)
        first = column == 0
        dress(upper, title=name, ylabel=words[1] if first else None)
        dress(lower, xlabel=words[0], ylabel="examples" if first else None)
        lower.tick_params(labelbottom=True)
        upper.tick_params(labelleft=first)
        lower.tick_params(labelleft=first)
        upper.set_visible(True)
        lower.set_visible(True)
    _share_heights(grid)
    _legend(figure, grid[::2])
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _confidence(y_true, y_prob):
    """Confidence, whether right, and whether the problem has two classes."""
    y, p = np.asarray(y_true), np.asarray(y_prob, "float64")
    p = p[:, None] if p.ndim == 1 else p
    if p.ndim != _TABLE_RANK or not p.size:
        raise ValueError(
            "Invalid value for argument `y_prob`. Expected the shape (examples,) or "
            f"(examples, classes). Received: shape={p.shape}"
        )
    if not ((p >= -_SLACK) & (p <= 1 + _SLACK)).all():
        raise ValueError(
            "Invalid value for argument `y_prob`. Expected probabilities, in [0, 1]. "
            f"Received: values from {p.min():g} to {p.max():g}"
        )
    p = np.clip(p, 0.0, 1.0)
    classes = max(p.shape[1], _BINARY)
    if y.ndim == _TABLE_RANK and y.shape[1] == classes:
        y = y.argmax(axis=1)
    if y.shape not in ((len(p),), (len(p), 1)):
        raise ValueError(
            "Invalid value for argument `y_true`. Expected one label an example, "
            f"({len(p)},), or one-hot, ({len(p)}, {classes}). "
            f"Received: shape={y.shape}"
        )
    y = y.ravel()
    if not np.isin(y, np.arange(classes)).all():
        raise ValueError(
            "Invalid value for argument `y_true`. Expected class numbers from 0 to "
            f"{classes - 1}. Received: {np.unique(y)[:10]}"
        )
    if p.shape[1] <= _BINARY:
        return p[:, -1], y == 1, True
    return p.max(axis=1), p.argmax(axis=1) == y, False


def _panel(upper, lower, confidence, hit, bins, words):
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.searchsorted(edges[1:-1], confidence, side="right")
    count = np.bincount(index, minlength=bins)
    used = count > 0
    middle, width = (edges[:-1] + edges[1:])[used] / 2, 1.0 / bins
    accuracy = np.bincount(index, hit, bins)[used] / count[used]
    mean = np.bincount(index, confidence, bins)[used] / count[used]
    error = np.sum(count[used] * np.abs(accuracy - mean)) / count.sum()

    bar = {"width": width, "edgecolor": "white", "linewidth": 0.6}
    upper.bar(middle, accuracy, color=PALETTE[0], label=words[1], **bar)
    for name, here, color, pale in (
        (words[2], mean > accuracy, PALETTE[1], _PALE[0]),
        (words[3], mean < accuracy, PALETTE[2], _PALE[1]),
    ):
        if not here.any():
            continue
        upper.bar(
            middle[here],
            np.abs(mean - accuracy)[here],
            bottom=np.minimum(mean, accuracy)[here],
            width=width,
            facecolor=pale,
            edgecolor=color,
            hatch="////",
            linewidth=0.8,
            label=name,
        )
    # The bars' tops again, where a gap hides them.
    ends = edges[:-1][used], edges[1:][used]
    upper.hlines(accuracy, *ends, color=PALETTE[0], linewidth=2.0)
    upper.plot(
        [0, 1], [0, 1], color=INK, linewidth=0.9, linestyle="--", label="calibrated"
    )
    upper.set_xlim(0.0, 1.0)
    upper.set_ylim(0.0, 1.0)
    upper.annotate(
        f"ECE {error:.3f}",
        xy=(0.04, 0.95),
        xycoords="axes fraction",
        va="top",
        fontsize=10,
        color=INK,
    )
    lower.bar(middle, count[used] / count.sum(), color=GREY, **bar)


def _share_heights(grid):
    """Gives the histograms one scale, in percent."""
    lowers = [axes for axes in grid[1::2].flat if axes.get_visible()]
    top = max(axes.get_ylim()[1] for axes in lowers)
    for axes in lowers:
        axes.set_ylim(0.0, top)
        axes.locator_params(axis="y", nbins=3)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _legend(figure, panels):
    """One legend for all panels: a kind of bar may be in some of them only."""
    found: dict = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    words = [word for row in _WORDS.values() for word in row]
    names = [name for name in [*words, "calibrated"] if name in found]
    figure.legend(
        [found[name] for name in names],
        names,
        loc="outside lower center",
        ncols=len(names) if panels.shape[1] > 1 else 2,
        frameon=False,
        fontsize=8.5,
    )
