"""What `compare` found: a table, the models, the histories."""

import dataclasses

import numpy as np

from kerasreg.extras import require
from kerasreg.selection.support import kept_features


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Losses are data losses: the compiled loss without any penalty, measured in
    inference mode after training. Means and (sample) standard deviations are
    over folds; zeros and features are those of the model refitted to all data.
    If a fit diverged, what is not a loss means nothing: metrics, zeros and
    features are `None`.

    Attributes:
        name: Name of the candidate.
        train_loss: Mean data loss on the training parts.
        train_loss_std: Its standard deviation.
        val_loss: Mean data loss on the validation parts.
        val_loss_std: Its standard deviation.
        gap: Mean of validation minus training loss.
        train_metric: Mean metric on the training parts, `None` without metric or
            after divergence.
        train_metric_std: Its standard deviation.
        val_metric: Mean metric on the validation parts.
        val_metric_std: Its standard deviation.
        refit_loss: Data loss of the refitted model on all data.
        zeros: Number of weights that are exactly zero, `None` after divergence.
        weights: Number of weights looked at.
        features: Number of input features kept, `None` where undefined and
            after divergence.
        seconds: Mean duration of `fit`, tracing included.
        folds: What was measured in each fold, a tuple of dicts, as it was.
    """

    name: str
    train_loss: float
    train_loss_std: float
    val_loss: float
    val_loss_std: float
    gap: float
    train_metric: float | None
    train_metric_std: float | None
    val_metric: float | None
    val_metric_std: float | None
    refit_loss: float
    zeros: int | None
    weights: int
    features: int | None
    seconds: float
    folds: tuple[dict, ...] = dataclasses.field(repr=False)

    @property
    def zeros_share(self):
        """Share of the weights looked at that are exactly zero, or `None`."""
        if self.zeros is None:
            return None
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def diverged(self):
        """Number of fits (folds and refit) whose loss is not finite."""
        fits = [(fold["train_loss"], fold["val_loss"]) for fold in self.folds]
        fits.append((self.refit_loss, self.refit_loss))
        return sum(not np.isfinite(losses).all() for losses in fits)


class Comparison:
    """The result of `kerasreg.selection.compare`.

    Args:
        rows: One `Row` a candidate, the baseline first.
        models: One model a candidate, refitted to all data, by name.
        histories: The `history` of each fold's `fit`, lists by name.
        metric: Name of the metric, or `None`.
        features: Names (or column numbers) of the input features, or `None` if
            the input is not a table.
        preprocess: The preprocessing fitted to all data, a function of `x`, or
            `None`. Apply it to new data before you give them to a model.

    Attributes:
        rows: As given.
        models: As given.
        histories: As given.
        metric: As given.
        feature_names: The labels of the input features, or `None`.
        preprocess: As given.
    """

    def __init__(self, rows, models, histories, metric, features, preprocess):
        self.rows = list(rows)
        self.models = dict(models)
        self.histories = dict(histories)
        self.metric = metric
        self.preprocess = preprocess
        self.feature_names = features
        self._by_name = {row.name: row for row in self.rows}

    def __getitem__(self, name):
        if name not in self._by_name:
            raise KeyError(f"Expected one of {list(self._by_name)}. Received: {name!r}")
        return self._by_name[name]

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)

    @property
    def best(self):
        """Name of the row with the lowest mean validation loss.

        Rows with a fit that diverged are out; `None` if all have one.
        """
        finite = [row for row in self.rows if not row.diverged]
        return min(finite, key=lambda row: row.val_loss).name if finite else None

    def selected(self, name):
        """Lists the input features that a candidate keeps.

        A feature is kept if any weight that leads out of it is not exactly zero
        in the first kernel of the model refitted to all data.

        Args:
            name: Name of a row.

        Returns:
            Feature names in the order of the columns, or column numbers if the
            comparison was given no names.

        Raises:
            KeyError: There is no such row.
            ValueError: The model's first kernel does not meet the input
                features one by one, so there is nothing to select; or its loss
                is not finite.
        """
        if not np.isfinite(self[name].refit_loss):
            raise ValueError(
                f"The loss of '{name}' is not finite, so it selects no features."
            )
        kept = None
        if self.feature_names is not None:
            kept = kept_features(self.models[name], len(self.feature_names))
        if kept is None:
            raise ValueError(
                f"'{name}' has no kernel with one row an input feature, so it "
                "selects no features."
            )
        return [self.feature_names[column] for column in kept]

    def selection_counts(self, name):
        """Counts in how many folds a candidate kept each feature.

        A feature kept in all folds is a safer finding than one that only the
        final model keeps.

        Args:
            name: Name of a row.

        Returns:
            A dict from feature (as in `selected`) to a number of folds, for the
            features that any fold kept, in the order of the columns.
        """
        folds = [fold["features"] or () for fold in self[name].folds]
        kept = sorted({column for fold in folds for column in fold})
        return {
            self.feature_names[column]: sum(column in fold for fold in folds)
            for column in kept
        }

    def to_dict(self):
        """Returns rows and selected features as plain numbers, ready for JSON.

        Numbers that are not finite become `None`.
        """
        rows = [
            {**dataclasses.asdict(row), "zeros_share": row.zeros_share}
            for row in self.rows
        ]
        selected = {
            row.name: self.selected(row.name)
            for row in self.rows
            if row.features is not None
        }
        result = {"metric": self.metric, "best": self.best, "rows": rows}
        return _plain({**result, "selected": selected})

    def to_markdown(self):
        """Returns the table in Markdown."""
        header, *lines = self.cells()
        rule = ["---"] + ["---:"] * (len(header) - 1)
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))

    def to_frame(self):
        """Returns the rows as a `pandas.DataFrame` indexed by name.

        Raises:
            ImportError: pandas is not installed.
        """
        pd = require("pandas")
        rows = [dataclasses.asdict(row) for row in self.rows]
        frame = pd.DataFrame(rows).drop(columns="folds").set_index("name")
        share = [row.zeros_share for row in self.rows]
        frame.insert(frame.columns.get_loc("weights") + 1, "zeros_share", share)
        return frame

    def __str__(self):
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for name, *numbers in cells:
            padded = [name.ljust(widths[0])]
            padded += [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join(padded))
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, "", *self.notes()])

    __repr__ = __str__

    def cells(self):
        """Returns the table as lists of strings, the header first."""
        header = ["", "train loss", "val loss", "gap"]
        if self.metric is not None:
            header += [f"train {self.metric}", f"val {self.metric}"]
        cells = [[*header, "zeros", "features", "s/fit"]]
        for row in self.rows:
            line = [row.name, _spread(row.train_loss, row.train_loss_std)]
            line += [_spread(row.val_loss, row.val_loss_std), f"{row.gap:.4f}"]
            if self.metric is not None:
                line.append(_spread(row.train_metric, row.train_metric_std))
                line.append(_spread(row.val_metric, row.val_metric_std))
            zeros = "-"
            if row.zeros is not None:
                zeros = f"{row.zeros}/{row.weights} ({row.zeros_share:.0%})"
            features = "-" if row.features is None else str(row.features)
            cells.append([*line, zeros, features, f"{row.seconds:.1f}"])
        return cells

    def notes(self):
        """Returns what a reader of the table must know, as sentences."""
        folds = len(self.rows[0].folds)
        notes = [
            f"Mean ± standard deviation over {folds} folds; losses are without "
            "penalties.",
            "Zeros and features: of the model refitted to all data.",
        ]
        if self.best is not None:
            notes.append(f"Lowest validation loss: {self.best}.")
        notes += [
            f"Warning: the loss of {row.name} is not finite in {row.diverged} of "
            f"{folds + 1} fits."
            for row in self.rows
            if row.diverged
        ]
        return notes


def _spread(mean, std):
    return "-" if mean is None else f"{mean:.4f} ± {std:.4f}"


def _plain(value):
    """Makes JSON of it: plain numbers, and `None` for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
