"""A training history, read with its epochs."""

import numpy as np


class Record:
    """The curves of a `fit`, each with the epochs of its points.

    Args:
        history: What `fit` returned, or its `history` dict.

    Raises:
        ValueError: If it is neither, or has no epoch.
    """

    def __init__(self, history):
        logs = getattr(history, "history", history)
        if (
            not isinstance(logs, dict)
            or not logs
            or not all(map(_is_curve, logs.values()))
        ):
            raise ValueError(
                "Invalid value for argument `history`. Expected what `fit` returned "
                "after an epoch or more, or its `history` dict. "
                f"Received: history={history!r}"
            )
        self._logs = {name: np.asarray(v, dtype=float) for name, v in logs.items()}
        length = max(map(len, self._logs.values()))
        numbers = getattr(history, "epoch", None)
        if numbers is None or len(numbers) != length:
            numbers = range(length)
        self.epochs = np.asarray(numbers, dtype=int) + 1
        self.resumed = self.epochs[0] > 1

    def __contains__(self, name):
        return name in self._logs

    def __iter__(self):
        return iter(self._logs)

    def __len__(self):
        return len(self.epochs)

    def curve(self, name):
        """The values that were logged under a name, and their epochs, from 1 on.

        Where there are fewer values than epochs, as of validation metrics with
        `validation_freq`, Keras does not say whose they are: they are taken to be
        those of every so many epochs.

        Args:
            name: Key of the history.

        Returns:
            Two arrays of the same length: epochs and values.
        """
        values = self._logs[name]
        missing = len(self) - len(values)
        if not missing:
            return self.epochs, values
        for every in range(2, len(self) + 1):
            epochs = self.epochs[self.epochs % every == 0]
            if len(epochs) == len(values):
                return epochs, values
        spread = np.linspace(self.epochs[0], self.epochs[-1], len(values))
        return spread.round().astype(int), values

    def units(self, quantity):
        """The curves of all units.

        Args:
            quantity: What was measured, e.g. `"strength"`.

        Returns:
            A dict from the name of each unit to what `curve` returns.
        """
        prefix = quantity + "/"
        return {
            name.removeprefix(prefix): self.curve(name)
            for name in self
            if name.startswith(prefix)
        }

    def losses(self):
        """The training and the validation loss, without penalties if it was logged.

        Returns:
            Their names, the second one `None` without validation data, or a pair of
            `None` if no loss was logged.
        """
        name = next((n for n in ("data_loss", "loss") if n in self), None)
        return name, f"val_{name}" if f"val_{name}" in self else None


def _is_curve(values):
    if not isinstance(values, (list, tuple, np.ndarray)) or not len(values):
        return False
    try:
        return np.ndim(np.asarray(values, dtype=float)) == 1
    except (TypeError, ValueError):
        return False
