"""How far a comparison has come: a rich progress bar, or plain lines."""

import keras


class Silent:
    """Shows nothing; the interface of the others."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def fit(self, name, part):
        """A fit of candidate `name` starts; `part` says on which data."""

    def epochs(self, count):
        """`count` more epochs are done, or skipped."""

    def row(self, row):
        """A candidate is done."""


class Plain(Silent):
    """Prints one line a candidate.

    Args:
        candidates: Number of candidates.
    """

    def __init__(self, candidates):
        self._total, self._done = candidates, 0

    def row(self, row):
        """Prints what the candidate reached."""
        self._done += 1
        print(f"[{self._done}/{self._total}] {_line(row)}", flush=True)


class Rich(Silent):
    """Shows a bar of all epochs of all fits, and a line each finished candidate.

    Args:
        epochs: Number of epochs of the whole comparison.
        rich: The modules `rich.console` and `rich.progress`.
    """

    def __init__(self, epochs, rich):
        console, progress = rich
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            console=console.Console(highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task("", total=epochs)

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *error):
        self._bar.stop()

    def fit(self, name, part):
        """Names the fit that runs."""
        self._bar.update(self._task, description=f"{_escape(name)}, {part}")

    def epochs(self, count):
        """Moves the bar."""
        self._bar.advance(self._task, count)

    def row(self, row):
        """Prints what the candidate reached, above the bar."""
        self._bar.console.print(f"[green]✓[/] {_escape(_line(row))}")


def choose(show, candidates, epochs):
    """Makes the best display there is.

    Args:
        show: Whether to show anything.
        candidates: Number of candidates.
        epochs: Number of epochs of the whole comparison.

    Returns:
        A context manager with the methods of `Silent`.
    """
    if not show:
        return Silent()
    try:
        from rich import console, progress
    except ImportError:
        return Plain(candidates)
    return Rich(epochs, (console, progress))


class EpochTicker(keras.callbacks.Callback):
    """Tells the display about the epochs of one `fit`.

    Args:
        display: What `choose` returned.
        epochs: Epochs the fit may take; those it skips count as done at the end.
    """

    # Epochs only, so Keras need not wait for the logs of every batch.
    async_safe = True

    def __init__(self, display, epochs):
        super().__init__()
        self._display, self._left = display, epochs

    def on_epoch_end(self, epoch, logs=None):
        """Counts the epoch."""
        self._left -= 1
        self._display.epochs(1)

    def on_train_end(self, logs=None):
        """Counts the epochs that early stopping skipped."""
        self._display.epochs(self._left)
        self._left = 0


def _line(row):
    text = f"{row.name}: val loss {row.val_loss:.4f} ± {row.val_loss_std:.4f}"
    if row.features is not None:
        text += f", {row.features} features"
    if row.zeros is not None:
        text += f", {row.zeros}/{row.weights} zeros"
    return text


def _escape(text):
    return text.replace("[", r"\[")
