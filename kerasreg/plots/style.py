"""The look that all figures share."""

from kerasreg.extras import require

# Okabe and Ito's palette: told apart with any kind of colour vision.
PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # green
    "#CC79A7",  # purple
    "#E69F00",  # orange
    "#56B4E9",  # sky
    "#000000",
)
GREY = "#B8BCC2"
INK = "#1F2933"


def new_figure(width, height, **subplots):
    """Makes a figure that pyplot does not know of, and its axes.

    Args:
        width: Inches.
        height: Inches.
        **subplots: For `Figure.subplots`, e.g. `ncols=2, sharey=True`.

    Returns:
        The figure and what `Figure.subplots` returns.
    """
    figure = require("matplotlib.figure", "viz").Figure(
        figsize=(width, height), dpi=150, layout="constrained"
    )
    return figure, figure.subplots(**subplots)


def dress(axes, *, title=None, xlabel=None, ylabel=None):
    """Gives axes the shared look: few lines, quiet grid, dark labels.

    Args:
        axes: The matplotlib axes to change.
        title: Text above, aligned with the left edge.
        xlabel: Text below.
        ylabel: Text on the left.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(axis="y", color="#E8EAED", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    if title is not None:
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    if xlabel is not None:
        axes.set_xlabel(xlabel, fontsize=9.5, color=INK)
    if ylabel is not None:
        axes.set_ylabel(ylabel, fontsize=9.5, color=INK)


def label_rows(grid, used, xlabel):
    """Labels the outer panels of a grid and hides those that are not used.

    Args:
        grid: Array of axes, rows of panels.
        used: Number of panels with something in them.
        xlabel: Text below the lowest panel of each column.
    """
    columns = grid.shape[1]
    for number, axes in enumerate(grid.flat):
        axes.set_visible(number < used)
        axes.label_outer()
    for column in range(columns):  # The lowest visible panel carries the labels.
        lowest = grid[(used - 1 - column) // columns, column]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(xlabel, fontsize=9.5, color=INK)
