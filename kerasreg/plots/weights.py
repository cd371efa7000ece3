"""Weights of one or several models as histograms."""

import numpy as np

from kerasreg.plots.style import GREY, INK, PALETTE, dress, new_figure

_KERNEL_RANK = 2


def weight_histogram(models, *, bins=61, title=None):
    """Draws the distribution of weights, with the exact zeros apart.

    One panel a model, on common axes with a logarithmic count: bars for the
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
        ValueError: There is no weight to draw, or `bins` is not positive.

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
    figure, grid = new_figure(
        4.2 * max(len(weights), 1.3),
        3.1,
        ncols=len(weights),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    tallest = 1
    for axes, (name, values) in zip(grid[0], weights.items(), strict=True):
        tallest = max(tallest, _panel(axes, values, edges))
        dress(axes, title=name, xlabel="weight")
    first = grid[0, 0]
    first.set_yscale("log")
    first.set_ylim(0.7, tallest * 9)  # Room for the annotation.
    first.set_ylabel("number of weights", fontsize=9.5, color=INK)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _flat(model):
    if hasattr(model, "trainable_weights"):
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


def _edges(samples, bins):
    bins += 1 - bins % 2
    finite = [np.abs(s[np.isfinite(s)]).max(initial=0.0) for s in samples]
    reach = max(*finite, 0.0) or 1.0
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
