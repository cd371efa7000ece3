"""One figure of a regularized training: losses, penalties, strengths, zeros."""

import textwrap

import numpy as np

from kerasreg.callbacks.advice import advice as advice_of
from kerasreg.callbacks.record import Record
from kerasreg.extras import require
from kerasreg.plots.style import GREY, INK, PALETTE, dress, new_figure

_COLUMNS = 3
_PANEL = 3.7, 2.5  # inches
_ROW = 0.17  # inches, of a unit in a map

# More units than this are rows of a map, not lines.
_LINES = 7

# What is logged of each unit.
_QUANTITIES = {
    "strength": "strength",
    "gradient_ratio": "gradient of the penalty / of the data",
    "norm": "norm of the weights",
    "sparsity": "share of zero weights",
    "group_sparsity": "share of zero groups",
}
_SHARES = {"sparsity", "group_sparsity"}

# A linear axis would hide the small values of what spans more than this.
_WIDE = 10.0

# A logarithmic axis over more than this has ticks at powers of ten alone.
_MANY = 1e3

# Of fewer points than this, each has a dot.
_FEW = 4


def training_report(history, *, advice=None, title=None):
    """Draws all that a `RegularizationMonitor` has logged, and its advice.

    Above, the curves of the model: the losses without penalties, what penalties and
    divergences add to them, and the gap between training and validation. Below, those
    of the units: strength, gradient ratio, norm and zeros, as lines, or as a map with a
    row a unit where there are many. Last, the advice in words. What was not logged is
    left out; the epochs of a run that was resumed are its own.

    Args:
        history: What `fit` returned, or its `history` dict.
        advice: List of strings to print below: `monitor.advice`, which knows the model,
            too. By default what `kerasreg.callbacks.advice(history)` says.
        title: Text above the whole figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: `history` is no history, has no epoch, or has no loss.

    Example:
        >>> run = {"data_loss": [0.6, 0.3, 0.1], "strength/head": [0.1, 0.1, 0.2]}
        >>> figure = training_report(run)
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss without penalties', 'strength']
    """
    record = Record(history)
    if record.losses()[0] is None:
        raise ValueError(
            "Invalid value for argument `history`. Expected a history with "
            f"'data_loss' or 'loss'. Received one of {sorted(record)}"
        )
    units = {q: record.units(q) for q in _QUANTITIES}
    units = {q: curves for q, curves in units.items() if _worth_it(q, curves)}
    names = list(dict.fromkeys(name for curves in units.values() for name in curves))
    panels = [_losses, *([_added] if _parts(record) else [])]
    panels += [_gap] if "gap" in record else []
    figure, above, below, spare = _grid(len(panels), len(units), len(names))
    for axes, draw in zip(above, panels, strict=True):
        draw(axes, record)
    for axes, (quantity, curves) in zip(below, units.items(), strict=True):
        if len(names) > _LINES:
            _map(figure, axes, record, curves, names, quantity in _SHARES)
        else:
            _lines(axes, curves, names, quantity in _SHARES)
        dress(axes, title=_QUANTITIES[quantity], xlabel="epoch")
    _finish([*above, *below], record)
    if 0 < len(names) <= _LINES:
        _legend(spare or below[0], names, boxed=spare is None)
    if spare is not None:
        spare.axis("off")
    _write(figure, advice_of(history) if advice is None else advice)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _worth_it(quantity, curves):
    """Whether there is a curve, and one that says something."""
    zeros = quantity == "group_sparsity"
    return any(values.any() or not zeros for _, values in curves.values())


def _grid(above, below, units):
    """The figure, the axes of the model and of the units, and one that is free."""
    columns = min(_COLUMNS, max(above, below))
    rows = [_PANEL[1]] * -(-above // columns)
    height = max(_PANEL[1], _ROW * units + 0.7 if units > _LINES else 0.0)
    rows += [height] * -(-below // columns)
    figure, grid = new_figure(
        _PANEL[0] * max(columns, 1.6),
        sum(rows) + 0.4,
        nrows=len(rows),
        ncols=columns,
        squeeze=False,
        height_ratios=rows,
    )
    first = -(-above // columns) * columns
    flat = list(grid.flat)
    used = [*flat[:above], *flat[first : first + below]]
    spare = flat[first + below] if below and first + below < len(flat) else None
    for axes in flat:
        if axes not in used and axes is not spare:
            axes.remove()
    return figure, used[:above], used[above:], spare


def _losses(axes, record):
    train, validation = record.losses()
    _curve(axes, record.curve(train), PALETTE[4], "training", "--")
    if validation is not None:
        epochs, values = record.curve(validation)
        label = "validation"
        if np.isfinite(values).any():
            best = int(np.nanargmin(values))
            label += f", lowest in epoch {epochs[best]}"
            axes.plot(epochs[best], values[best], "o", color=PALETTE[0], markersize=5)
        _curve(axes, (epochs, values), PALETTE[0], label)
    plain = train == "loss"
    dress(axes, title="loss" if plain else "loss without penalties", xlabel="epoch")
    curves = [record.curve(name)[1] for name in (train, validation) if name]
    if _is_wide(curves):
        _logarithmic(axes, curves)
    axes.legend(frameon=False, fontsize=8.5)


def _parts(record):
    return [name for name in ("penalty", "kl") if name in record]


def _added(axes, record):
    words = {"penalty": "penalties", "kl": "KL divergences"}
    parts = _parts(record)
    for name, color in zip(parts, PALETTE[1:], strict=False):
        _curve(axes, record.curve(name), color, words[name])
    dress(axes, title="added to the loss", xlabel="epoch")
    _scale(axes, [record.curve(name)[1] for name in parts])
    axes.legend(frameon=False, fontsize=8.5)


def _gap(axes, record):
    axes.axhline(0.0, color=GREY, linewidth=0.9)
    _curve(axes, record.curve("gap"), INK, "gap")
    dress(axes, title="gap: validation − training", xlabel="epoch")


def _lines(axes, curves, names, share):
    for color, name in zip(PALETTE, names, strict=False):
        if name in curves:
            _curve(axes, curves[name], color, name)
    if share:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    else:
        _scale(axes, [values for _, values in curves.values()])


def _map(figure, axes, record, curves, names, share):
    """A row a unit, in the order of the layers."""
    table = np.full((len(names), len(record)), np.nan)
    for row, name in enumerate(names):
        if name in curves:
            epochs, values = curves[name]
            table[row, np.searchsorted(record.epochs, epochs)] = values
    norm = None
    if not share and _is_wide(table):
        norm = require("matplotlib.colors", "viz").LogNorm()
        table = np.where(table > 0, table, np.nan)
    edges = np.append(record.epochs, record.epochs[-1] + 1) - 0.5
    limits = {"vmin": 0.0, "vmax": 1.0} if share else {}
    axes.set_facecolor("#E8EAED")
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(table),
        cmap="viridis",
        norm=norm,
        **limits,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(mesh, ax=axes, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    if share:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _curve(axes, curve, color, label, style="-"):
    epochs, values = curve
    marker = {"marker": "o", "markersize": 3.5} if len(epochs) < _FEW else {}
    shown = np.where(np.isfinite(values), values, np.nan)
    axes.plot(epochs, shown, style, color=color, linewidth=1.7, label=label, **marker)


def _is_wide(curves):
    """Whether a logarithmic axis suits: positive values, of several magnitudes."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not positive.size or (values < 0).any():
        return False
    return positive.max() > _WIDE * positive.min()


def _scale(axes, curves):
    """An axis for what is not negative: logarithmic, or from zero on."""
    if _is_wide(curves):
        _logarithmic(axes, curves)
        return
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if values.size and values.min() >= 0:
        axes.set_ylim(0.0, 1.15 * values.max() or 1.0)


def _logarithmic(axes, curves):
    """Ticks at 1, 3, 10, or at powers of ten where there are many."""
    ticker = require("matplotlib.ticker", "viz")
    values = np.concatenate(curves)
    values = values[np.isfinite(values) & (values > 0)]
    axes.set_yscale("log", nonpositive="mask")
    fine = values.max() < _MANY * values.min()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0) if fine else (1.0,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _finish(used, record):
    """Whole epochs on all axes, and names of units where there is room for them."""
    ticker = require("matplotlib.ticker", "viz")
    left = min(axes.get_subplotspec().colspan.start for axes in used)
    for axes in used:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True))
        is_map = bool(axes.collections)
        first, last = record.epochs[[0, -1]]
        margin = 0.5 if is_map else max(0.5, 0.03 * (last - first))
        axes.set_xlim(first - margin, last + margin)
        if is_map:
            axes.grid(visible=False)
            axes.tick_params(axis="y", labelsize=8, length=0)
            if axes.get_subplotspec().colspan.start > left:
                axes.tick_params(labelleft=False)


def _legend(axes, names, boxed):
    """The names of the units, where there is room."""
    lines = require("matplotlib.lines", "viz")
    axes.legend(
        [
            lines.Line2D([], [], color=color, linewidth=1.7)
            for color, _ in zip(PALETTE, names, strict=False)
        ],
        names,
        loc="best" if boxed else "upper left",
        frameon=boxed,
        edgecolor="none",
        fontsize=8.5,
    )


def _write(figure, lines):
    """The advice below all panels."""
    width = int(figure.get_figwidth() * 13)
    text = [
        textwrap.fill(line, width, initial_indent="•  ", subsequent_indent="    ")
        for line in lines
    ]
    figure.supxlabel(
        "\n".join(text or ["No advice."]),
        x=0.01,
        ha="left",
        fontsize=9.5,
        color=INK,
    )
