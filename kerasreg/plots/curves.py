"""Training histories as learning curves."""

import numpy as np

from kerasreg.plots.style import GREY, INK, PALETTE, dress, label_rows, new_figure

_COLUMNS = 3


def learning_curves(histories, *, metric=None, log=True, title=None):
    """Draws training and validation curves, one panel a model.

    With several runs (folds, seeds) the line is their mean and the band reaches
    from the lowest to the highest. From the second panel on, the validation
    curve of the first one is repeated in grey for comparison.

    Args:
        histories: What `fit` returned (or its `history` dict), a list of these
            for several runs, or a dict of either by name, such as the
            `histories` of a `Comparison`.
        metric: Name of the logged quantity; `"val_" + metric` is drawn too if
            it was logged. By default `"data_loss"`, the loss without penalties,
            if every history has it, as those of a `Comparison` do; else `"loss"`,
            which contains the penalties: models with different ones cannot be
            compared by it.
        log: Whether the vertical axis is logarithmic.
        title: Text above the whole figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: `histories` is empty, or holds something else or a run without
            epochs; or `metric` was not logged.

    Example:
        >>> run = {"loss": [0.6, 0.3, 0.1], "val_loss": [0.7, 0.5, 0.6]}
        >>> figure = learning_curves({"baseline": [run, run]})
        >>> figure.axes[0].get_title(loc="left")
        'baseline'
    """
    named = _named(histories)
    if metric is None:
        every = all("data_loss" in log for logs in named.values() for log in logs)
        metric = "data_loss" if every else "loss"
    curves = {name: _collect(name, runs, metric) for name, runs in named.items()}
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure, grid = new_figure(
        3.1 * max(columns, 1.6),
        2.4 * rows + 0.5,
        nrows=rows,
        ncols=columns,
        sharex=True,
        sharey=True,
        squeeze=False,
    )

    reference = None
    for axes, (name, (train, validation)) in zip(grid.flat, curves.items()):  # noqa: B905
        _panel(axes, train, validation, reference)
        if reference is None:
            reference = (validation, name)
        dress(axes, title=name, ylabel=metric.replace("_", " "))
    label_rows(grid, len(curves), "epoch")
    if log:
        grid[0, 0].set_yscale("log")
    _legend(figure, grid, len(curves))
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _named(histories):
    """Returns the logs of all runs, a list of dicts by name."""
    if not isinstance(histories, dict) or _is_log(histories):
        histories = {"": histories}
    named = {
        str(name): [
            getattr(run, "history", run)
            for run in (runs if isinstance(runs, (list, tuple)) else [runs])
        ]
        for name, runs in histories.items()
    }
    if not named or not all(
        logs and all(map(_is_log, logs)) for logs in named.values()
    ):
        raise ValueError(
            "Invalid value for argument `histories`. Expected what `fit` returned "
            "after an epoch or more, a list of such, or a dict of either by name. "
            f"Received: histories={histories.get('', histories)}"
        )
    return named


def _is_log(run):
    """Whether it is the `history` dict of a run: a sequence for each name."""
    return isinstance(run, dict) and bool(run) and all(map(_is_curve, run.values()))


def _is_curve(values):
    sequence = isinstance(values, (list, tuple, np.ndarray)) and len(values) > 0
    if not sequence or isinstance(values[0], (dict, list, tuple, np.ndarray)):
        return False
    return not hasattr(values[0], "history")


def _collect(name, logs, metric):
    """Returns the training and validation curves, `None` where not logged."""
    if any(metric not in log for log in logs):
        logged = sorted({key for log in logs for key in log})
        raise ValueError(
            f"Invalid value for argument `metric`. Expected one of {logged}, which "
            f"were logged for '{name}'. Received: metric={metric}"
        )
    validation = None
    if all("val_" + metric in log for log in logs):
        validation = _stack([log["val_" + metric] for log in logs])
    return _stack([log[metric] for log in logs]), validation


def _stack(curves):
    """Runs as rows; a run that stopped early is continued with NaN."""
    table = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    return table


def _panel(axes, train, validation, reference):
    epochs = np.arange(1, train.shape[1] + 1)
    if reference is not None and reference[0] is not None:
        table, name = reference
        axes.plot(
            _epochs(table, train),
            _mean(table),
            color=GREY,
            linewidth=1.6,
            label=f"validation, {name}",
        )
    _line(axes, epochs, train, PALETTE[4], "training", "--")
    if validation is not None:
        epochs = _epochs(validation, train)
        _line(axes, epochs, validation, PALETTE[0], "validation", "-")


def _line(axes, epochs, table, color, label, style):
    axes.plot(epochs, _mean(table), style, color=color, linewidth=1.8, label=label)
    if len(table) > 1:
        low, high = np.fmin.reduce(table), np.fmax.reduce(table)
        axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)


def _mean(table):
    counted = np.sum(~np.isnan(table), axis=0)
    means = np.nansum(table, axis=0) / np.maximum(counted, 1)
    return np.where(counted > 0, means, np.nan)


def _epochs(validation, train):
    """Epochs of the validation points, fewer when `validation_freq` is used."""
    every = max(1, round(train.shape[1] / validation.shape[1]))
    return np.minimum(
        np.arange(1, validation.shape[1] + 1) * every, max(train.shape[1], 1)
    )


def _legend(figure, grid, used):
    last = list(grid.flat)[used - 1]
    handles, labels = last.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: "," in labels[i])
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
    )
