"""Figures of federated runs (matplotlib, extra `viz`)."""

import numpy as np

from federated.clients import Clients
from federated.partition import labels_of
from kerasreg.extras import require

_COLUMNS = 3
_BARS = 60  # more clients than this are columns of a map
_ROWS = 20  # more labels than this have no name in a map
_LINES = 7  # strengths of more weights than this are drawn alike
_WIDE = 30.0  # a linear axis would hide what is small beside this


def partition(clients, labels=None, *, title=None):
    """Draws who has what: the examples of each client by their labels.

    A bar for each client, or, of more than 60, a map with a column for each.

    Args:
        clients: `federated.Clients`, or a list of `(x, y)`.
        labels: Array with a label for each row of the data that was partitioned, see
            `federated.partition.dirichlet`; `y` by default.
        title: Text above the figure.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is not one label for each row.

    Example:

    >>> import numpy as np
    >>> from federated import partition, plots
    >>> clients = partition.shards((np.zeros(100), np.arange(100) % 10), 5)
    >>> figure = plots.partition(clients)
    >>> figure.axes[0].get_ylabel()
    'examples'
    """
    from kerasreg.plots.style import INK, new_figure

    clients = Clients.from_list(clients)
    codes, names = labels_of(clients.data, labels)
    counts = np.array(
        [np.bincount(codes[rows], minlength=len(names)) for rows in clients.rows]
    )
    number = len(clients)
    draw = _bars if number <= _BARS else _map
    figure, axes = new_figure(min(4.5 + 0.12 * number, 11), 3.4)
    draw(figure, axes, counts, names)
    axes.set_title(title or "", loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel("client", fontsize=9.5, color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if clients.names != list(range(number)) and number <= _BARS:
        axes.set_xticks(range(number), [str(name) for name in clients.names])
        if max(len(str(name)) for name in clients.names) * number > 30:
            axes.tick_params(axis="x", labelrotation=90)
    return figure


def _bars(figure, axes, counts, names):
    """A bar for each client, with a part for each label."""
    from kerasreg.plots.style import dress

    bottom, colors = np.zeros(len(counts)), _colors(names)
    for label, color in enumerate(colors):
        part = counts[:, label]
        axes.bar(range(len(counts)), part, 0.8, bottom, color=color, linewidth=0)
        bottom += part
    dress(axes, ylabel="examples")
    axes.set_xlim(-0.6, len(counts) - 0.4)
    if len(names) == 1:
        return
    shown = np.linspace(0, len(names) - 1, min(len(names), 10)).round().astype(int)
    figure.legend(
        [axes.bar(0, 0, color=colors[i]) for i in reversed(shown)],
        [str(names[i]) for i in reversed(shown)],
        title="label" if len(shown) == len(names) else f"{len(names)} labels",
        loc="outside right center",
        frameon=False,
        fontsize=8.5,
        title_fontsize=8.5,
    )


def _map(figure, axes, counts, names):
    """A column for each of many clients, a row for each label."""
    from kerasreg.plots.style import INK

    norm = require("matplotlib.colors", "viz").PowerNorm(0.5)  # few stand out
    image = axes.imshow(
        counts.T, norm=norm, aspect="auto", cmap="Blues", interpolation="none"
    )
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("examples", fontsize=9.5, color=INK)
    bar.outline.set_visible(False)
    axes.set_ylabel("label", fontsize=9.5, color=INK)
    if len(names) <= _ROWS:
        axes.set_yticks(range(len(names)), [str(name) for name in names])
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.spines[:].set_visible(False)


def _colors(names):
    """Colours of labels: told apart while they are few, else in their order."""
    maps, number = require("matplotlib", "viz").colormaps, len(names)
    if number <= 10 and not str(names[0]).startswith("-inf to"):
        return [maps["tab10"](i) for i in range(number)]
    return [maps["viridis"](i / (number - 1)) for i in range(number)]


def history(history, *, title=None):
    """Draws a run by its rounds: loss, metrics, clients, traffic, strengths.

    One panel a quantity: of each metric, the clients' training, the clients'
    evaluation and the server's evaluation, with the range of the clients where they
    evaluated; the clients that replied, were rejected or failed; bytes sent so far;
    strengths, and whatever else strategies report as a number.

    Args:
        history: `federated.History`, such as `result.history`.
        title: Text above the figure.

    Returns:
        The `matplotlib.figure.Figure`; of a run without a round it is nearly empty.

    Example:

    >>> from federated import History, Round, plots
    >>> run = History([Round(1, train={"loss": 0.5}), Round(2, train={"loss": 0.4})])
    >>> [axes.get_title(loc="left") for axes in plots.history(run).axes[:3]]
    ['loss', 'clients', 'MB sent']
    """
    from kerasreg.plots.style import INK, dress, new_figure

    rounds = list(history)
    panels = [(name, _metric) for name in _metrics(rounds)]
    panels += [("clients", _clients), ("MB sent", _traffic)]
    panels += [(name, _reported) for name in _reports(rounds)]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(
        3.6 * columns, 2.6 * rows + 0.2, nrows=rows, ncols=columns, squeeze=False
    )
    for axes, panel in zip(grid.flat, panels, strict=False):
        name, draw = panel
        draw(axes, name, rounds)
        dress(axes, title=name, xlabel="round")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    return figure


def _metrics(rounds):
    """The names of all metrics, loss first."""
    names = {
        name: None
        for r in rounds
        for numbers in (r.train, r.evaluate, r.server)
        for name in numbers
    }
    return sorted(names, key=lambda name: name != "loss")


def _metric(axes, name, rounds):
    from kerasreg.plots.style import PALETTE

    for label, color, field in (
        ("training", PALETTE[0], "train"),
        ("clients' evaluation", PALETTE[1], "evaluate"),
        ("server's evaluation", PALETTE[2], "server"),
    ):
        _line(
            axes, {r.number: getattr(r, field).get(name) for r in rounds}, label, color
        )
    spread = {
        r.number: [c[f"val_{name}"] for c in r.clients.values() if f"val_{name}" in c]
        for r in rounds
    }
    spread = {number: values for number, values in spread.items() if len(values) > 1}
    if spread:
        low, high = map(min, spread.values()), map(max, spread.values())
        axes.fill_between(
            list(spread), list(low), list(high), color=PALETTE[1], alpha=0.15, lw=0
        )


def _clients(axes, _, rounds):
    from kerasreg.plots.style import GREY, PALETTE

    rounds = [r for r in rounds if r.number]
    numbers = [r.number for r in rounds]
    out = [r.report.get("rejected", {}).keys() for r in rounds]
    parts = {
        "replied": [
            len(r.clients.keys() - r.errors.keys() - rejected)
            for r, rejected in zip(rounds, out, strict=True)
        ],
        "rejected": list(map(len, out)),
        "failed": [len(r.errors) for r in rounds],
    }
    height = np.zeros(len(rounds))
    for (label, part), color in zip(
        parts.items(), (GREY, PALETTE[2], PALETTE[1]), strict=True
    ):
        if label == "replied" or any(part):
            axes.bar(numbers, part, 0.8, height, color=color, label=label)
        height += part
    axes.set_ylim(0, 1.3 * height.max(initial=1.0))  # room for the legend
    axes.yaxis.get_major_locator().set_params(integer=True)


def _traffic(axes, _, rounds):
    from kerasreg.plots.style import PALETTE

    for label, color, field in (
        ("to clients", PALETTE[0], "bytes_down"),
        ("to the server", PALETTE[1], "bytes_up"),
    ):
        sent = np.cumsum([getattr(r, field) for r in rounds]) / 1e6
        numbers = [r.number for r in rounds]
        _line(axes, dict(zip(numbers, sent, strict=True)), label, color)
    for line in axes.lines[1:]:  # the two are often the same
        line.set_linestyle("--")
    axes.set_ylim(bottom=0)


def _reports(rounds):
    """The names of what strategies report as a number, or as numbers by name."""
    return {
        name: None
        for r in rounds
        for name, value in r.report.items()
        if _numbers(value) and not isinstance(value, bool)
    }


def _numbers(value):
    """A reported value as a dict of numbers by name, or nothing."""
    values = value if isinstance(value, dict) else {"": value}
    values = {k: v for k, v in values.items() if k != "delta"}  # never changes
    good = all(isinstance(v, int | float) for v in values.values())
    return values if good else {}


def _reported(axes, name, rounds):
    from kerasreg.plots.style import GREY, PALETTE

    curves: dict[str, dict] = {}
    for r in rounds:
        for part, value in _numbers(r.report.get(name, {})).items():
            curves.setdefault(part, {})[r.number] = value
    few = len(curves) <= _LINES
    for i, (part, curve) in enumerate(curves.items()):
        _line(axes, curve, part or None if few else None, PALETTE[i] if few else GREY)
    values = [v for curve in curves.values() for v in curve.values()]
    if values and min(values) > 0 and max(values) > _WIDE * min(values):
        axes.set_yscale("log")


def _line(axes, values, label, color):
    """A line through the values by round that there are, dots if they are few."""
    points = [(number, v) for number, v in values.items() if v is not None]
    if points:
        marker = "o" if len(points) < 4 else None
        axes.plot(
            *zip(*points, strict=True), color=color, label=label, marker=marker, ms=4
        )
