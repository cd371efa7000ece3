"""Where the monitor's numbers go: history, progress bar, CSV, event files."""

import csv

import keras
import pytest
import tensorflow as tf

from kerasreg.callbacks import RegularizationMonitor
from kerasreg.callbacks.writers import EventFiles, Table
from kerasreg.regularizers import L2
from tests.models import data, fit, model

X, Y = data()


def rows(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def events(folder):
    """What the event files of a folder hold: value and epoch by name."""
    found: dict = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_all_of_it_reaches_the_history_the_csv_and_the_event_files(tmp_path):
    built = model(L2(0.1))
    path, theirs = tmp_path / "log.csv", tmp_path / "keras.csv"
    monitor = RegularizationMonitor(csv=path, tensorboard=tmp_path / "tb")
    logger = keras.callbacks.CSVLogger(str(theirs))
    arguments = {"validation_data": (X, Y), "validation_freq": 2}
    logs = fit(built, 4, callbacks=[monitor, logger], **arguments).history
    train, validation = (events(tmp_path / "tb" / n) for n in ("train", "validation"))
    for name, values in logs.items():
        epochs = [0, 1, 2, 3] if len(values) == 4 else [1, 3]
        side = validation if name.startswith("val_") else train
        steps, numbers = zip(*side.pop(name.removeprefix("val_")), strict=True)
        assert list(steps) == epochs
        assert numbers == pytest.approx(values, rel=1e-6)
        column = [row[name] for row in rows(path)]
        assert [float(column[e]) for e in epochs] == pytest.approx(values)
        assert all(column[e] == "" for e in range(4) if e not in epochs)
    assert train == validation == {}
    assert [row["epoch"] for row in rows(path)] == ["0", "1", "2", "3"]
    for row, value in zip(rows(theirs), logs["norm/hidden"], strict=True):
        assert float(row["norm/hidden"]) == pytest.approx(value)


def test_a_resumed_fit_goes_on_with_the_files(tmp_path):
    built, path = model(L2(0.1)), tmp_path / "log.csv"
    monitor = RegularizationMonitor(csv=path, tensorboard=tmp_path)
    fit(built, 3, callbacks=[monitor])
    earlier = rows(path)
    again = RegularizationMonitor(csv=path, tensorboard=tmp_path)
    fit(built, 5, initial_epoch=2, callbacks=[again], validation_data=(X, Y))
    found = rows(path)
    assert [row["epoch"] for row in found] == ["0", "1", "2", "3", "4"]
    assert [row["loss"] for row in found[:2]] == [row["loss"] for row in earlier[:2]]
    assert [bool(row["gap"]) for row in found] == [False, False, True, True, True]
    steps = {step for step, _ in events(tmp_path / "train")["penalty"]}
    assert steps == {0, 1, 2, 3, 4}
    fit(built, 1, callbacks=[RegularizationMonitor(csv=path)])
    assert [row["epoch"] for row in rows(path)] == ["0"]


def test_the_progress_bar_shows_the_short_keys(capsys):
    built = model(L2(0.1))
    arguments = {"validation_data": (X, Y), "verbose": 2}
    logs = fit(built, 1, callbacks=[RegularizationMonitor()], **arguments).history
    printed = capsys.readouterr().out
    assert "gap:" in printed
    assert "val_data_loss:" in printed
    assert "/hidden" not in printed
    assert "strength/hidden" in logs


def test_metrics_that_are_no_scalar_are_left_out_of_the_event_files(tmp_path):
    writer = EventFiles(tmp_path)
    writer.write(3, {"loss": 0.5, "by_class": [0.1, 0.2]})
    writer.close()
    assert events(tmp_path / "train") == {"loss": [(3, 0.5)]}


def test_a_table_takes_new_columns(tmp_path):
    table = Table(tmp_path / "log.csv")
    table.write(0, {"a": 1})
    table.write(1, {"a": 2, "b": 3})
    table.write(2, {"b": 4})
    assert [(row["a"], row["b"]) for row in rows(tmp_path / "log.csv")] == [
        ("1", ""),
        ("2", "3"),
        ("", "4"),
    ]
