"""Where the monitor writes besides the history: a CSV file, event files."""

import csv
import os

import numpy as np


class Table:
    """A CSV file with a row an epoch, whose columns may come later.

    Keras's CSVLogger knows the columns of the first epoch only, and adds a `val_` to
    each where that has no validation.

    Args:
        path: Path of the file. A `fit` that begins with a later epoch goes on with
            what is there; one that begins with the first starts it anew.
    """

    def __init__(self, path):
        self._path = os.fspath(path)
        self._rows: list[dict] | None = None
        self._names: list[str] = ["epoch"]

    def write(self, epoch, logs):
        """Add a row.

        Args:
            epoch: Number of the epoch, from 0.
            logs: Dict from the name of each column to a number.
        """
        if self._rows is None:
            self._rows = self._earlier(epoch)
        self._rows.append({"epoch": epoch, **logs})
        new = [name for name in self._rows[-1] if name not in self._names]
        self._names += new
        whole = new or len(self._rows) == 1
        with open(self._path, "w" if whole else "a", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, self._names, restval="")
            if whole:
                writer.writeheader()
            writer.writerows(self._rows if whole else self._rows[-1:])

    def _earlier(self, epoch):
        """The rows of earlier epochs that the file has."""
        if not epoch or not os.path.exists(self._path):
            return []
        with open(self._path, newline="", encoding="utf-8") as f:
            rows = csv.DictReader(f)
            self._names = list(rows.fieldnames or self._names)
            return [row for row in rows if int(row["epoch"]) < epoch]


class EventFiles:
    """Event files for TensorBoard, as its callback lays them out: two runs.

    They are written by TensorFlow itself. To look at them takes the package
    `tensorboard`; to write them does not.

    Args:
        log_dir: Folder. Metrics of the validation data go to `validation/` in it,
            without their `val_`, the others to `train/`: TensorBoard draws a pair of
            them in one chart.
    """

    def __init__(self, log_dir):
        self._log_dir = os.fspath(log_dir)
        self._writers = {}

    def write(self, epoch, logs):
        """Add an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            logs: Dict from the name of each scalar to a number; what is no number is
                left out.
        """
        # tensorflow: it writes the event files.
        import tensorflow as tf

        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class=1)
        for name, value in logs.items():
            if np.ndim(value):
                continue
            run = "validation" if name.startswith("val_") else "train"
            if run not in self._writers:
                folder = os.path.join(self._log_dir, run)
                self._writers[run] = tf.summary.create_file_writer(folder)
            with self._writers[run].as_default(), tf.summary.record_if(True):
                number = tf.constant(float(value), "float32")
                name = name.removeprefix("val_")
                tf.summary.write(name, number, step=epoch, metadata=metadata)
        for writer in self._writers.values():
            writer.flush()

    def close(self):
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
