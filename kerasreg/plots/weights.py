"""Weights of one or several models as histograms."""

import numpy as np

from kerasreg.plots.style import GREY, INK, PALETTE, dress, label_rows, new_figure

_COLUMNS = 3
_KERNEL_RANK = 2


def weight_histogram(models, *, bins=61, title=None):
    """Draws the distribution of weights, with the exact zeros apart.

    One panel a model, at most three a row, on common axes with a logarithmic
    count: bars for the
    weights that are not zero, and a spike of its own for those that are exactly
    zero, with their number. A penalty that only shrinks (L2, or L1 under a
    plain optimizer) has no spike.

    Args:
        models: A Keras model, an array or a list of arrays; or a dict of these
            by name. Of a model, the trainable weights of rank 2 and more are
            counted: kernels and embeddings, no biases or normalization weights.
        bins: Number of bars over the common range; made odd, so that one bar is
            centred at zero.
        title: Text above the whole figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: There is no weight to draw, a model is not built, a weight is
            NaN or infinite, or `bins` is not positive.

    Example:
        >>> figure = weight_histogram({"L1": [0.0, 0.0, 0.3], "L2": [0.1, -0.2, 0.3]})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['L1', 'L2']
    """
    if not isinstance(models, dict):
        models = {"": models}
    weights = {str(name): _flat(model) for name, model in models.items()}
    _validate(weights, bins)
    edges = _edges(weights.values(), bins)
    columns = min(_COLUMNS, len(weights))
    rows = -(-len(weights) // columns)
    figure, grid = new_figure(
        4.2 * max(columns, 1.3),
        2.7 * rows + 0.4,
        nrows=rows,
        ncols=columns,
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    tallest = 1
    for axes, (name, values) in zip(grid.flat, weights.items()):  # noqa: B905
        tallest = max(tallest, _panel(axes, values, edges))
        dress(axes, title=name, ylabel="number of weights")
    grid[0, 0].set_yscale("log")
    grid[0, 0].set_ylim(0.7, tallest * 9)  # Room for the annotation.
    label_rows(grid, len(weights), "weight")
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _flat(model):
    if hasattr(model, "trainable_weights"):
        if not model.built:
            raise ValueError(
                "Invalid value for argument `models`. Expected built models: call "
                "them on data, or give them a `keras.Input`. "
                f"Received: {model.name}, which is not built"
            )
        arrays = [
            np.asarray(w.numpy() if hasattr(w, "numpy") else w)
            for w in model.trainable_weights
            if len(w.shape) >= _KERNEL_RANK
        ]
    elif isinstance(model, (list, tuple)):
        arrays = [np.asarray(part) for part in model]
    else:
        arrays = [np.asarray(model)]
    flat = [np.ravel(a).astype("float64") for a in arrays]
    return np.concatenate(flat) if flat else np.zeros(0)


def _validate(weights, bins):
    if not isinstance(bins, int) or bins < 1:
        raise ValueError(
            "Invalid value for argument `bins`. Expected a positive integer. "
            f"Received: bins={bins}"
        )
    empty = [name for name, values in weights.items() if not values.size]
    if empty or not weights:
        raise ValueError(
            "Invalid value for argument `models`. Expected models with kernels, or "
            f"arrays that are not empty. Received nothing to draw for: {empty}"
        )
    bad = {name: int(np.sum(~np.isfinite(w))) for name, w in weights.items()}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        raise ValueError(
            "Invalid value for argument `models`. Expected finite weights. Received "
            f"NaN or infinite ones, by name: {bad}"
        )


def _edges(samples, bins):
    bins += 1 - bins % 2
    reach = max(np.abs(sample).max() for sample in samples) or 1.0
    return np.linspace(-reach, reach, bins + 1)


def _panel(axes, values, edges):
    """Draws one model's weights; returns the height of the tallest bar."""
    zeros = int(np.sum(values == 0))
    counts, _ = np.histogram(values[values != 0], edges)
    axes.stairs(counts, edges, fill=True, color=PALETTE[0], alpha=0.85)
    width = edges[1] - edges[0]
    if zeros:
        axes.bar(0.0, zeros, width=width, color=PALETTE[1], zorder=3)
        text = f"{zeros} of {values.size} weights\nare exactly 0"
        text += f" ({zeros / values.size:.0%})"
    else:
        text = f"none of {values.size} weights\nis exactly 0"
    axes.annotate(
        text,
        xy=(0.0, 0.97),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="top",
        fontsize=8.5,
        color=PALETTE[1] if zeros else INK,
    )
    axes.axvline(0.0, 0.0, 0.8, color=GREY, linewidth=0.6, zorder=0)
    return max(int(counts.max()), zeros)
