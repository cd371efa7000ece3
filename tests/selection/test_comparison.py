"""The result of `compare`: its rows, counts, table and files."""

import functools
import json
import sys

import keras
import numpy as np
import pytest

from kerasreg.regularizers import L1
from kerasreg.selection import compare
from tests.selection.fits import SMALL, X, Y, build, linear


def test_rows_are_means_over_folds(result):
    for row in result:
        train = [fold["train_loss"] for fold in row.folds]
        val = [fold["val_loss"] for fold in row.folds]
        assert row.train_loss == pytest.approx(np.mean(train))
        assert row.val_loss_std == pytest.approx(np.std(val, ddof=1))
        assert row.gap == pytest.approx(np.mean(val) - np.mean(train))


def test_zeros_are_those_of_the_same_kernels(result):
    for name in ("baseline", "L1", "rules", "dropout"):
        kernels = [w.numpy() for w in result.models[name].weights if len(w.shape) == 2]
        assert result[name].weights == sum(k.size for k in kernels) == 28
        assert result[name].zeros == sum((k == 0).sum() for k in kernels)
    assert result["baseline"].zeros == 0
    assert result["L1"].zeros > 0
    assert result["L1"].zeros_share == result["L1"].zeros / 28


def test_selected_features_are_the_rows_of_the_first_kernel(result):
    for name in ("baseline", "L1", "rules"):
        kernel = result.models[name].layers[0].kernel.numpy()
        kept = [f for f, row in zip("abcdef", kernel, strict=True) if row.any()]
        assert result.selected(name) == kept
        assert result[name].features == len(kept)
        counts = result.selection_counts(name)
        assert set(counts.values()) <= {1, 2}
    assert result.selection_counts("baseline") == dict.fromkeys("abcdef", 2)


def test_best(result):
    assert result.best == min(result, key=lambda row: row.val_loss).name


def test_table(result):
    text = str(result)
    header, rule, *lines = text.splitlines()
    assert " ".join(header.split()) == (
        "train loss val loss gap train accuracy val accuracy zeros features s/fit"
    )
    assert {len(rule), *map(len, lines[:4])} == {len(header)}
    assert lines[1].startswith("L1 ")
    assert f"{result['L1'].val_loss:.4f} ± {result['L1'].val_loss_std:.4f}" in lines[1]
    assert (
        "Mean ± standard deviation over 2 folds; losses are without penalties." in text
    )
    assert repr(result) == text


def test_markdown(result):
    lines = result.to_markdown().splitlines()
    assert len(lines) == 6
    assert len({line.count("|") for line in lines}) == 1


def test_dict_is_json(result):
    back = json.loads(json.dumps(result.to_dict()))
    assert back["selected"]["L1"] == result.selected("L1")
    assert back["rows"][1]["val_loss"] == result["L1"].val_loss
    assert back["rows"][1]["zeros_share"] == result["L1"].zeros_share


def test_frame(result):
    pytest.importorskip("pandas")
    frame = result.to_frame()
    assert frame.loc["L1", "zeros"] == result["L1"].zeros
    assert frame.loc["L1", "zeros_share"] == result["L1"].zeros_share


def test_frame_without_pandas(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_frame()


def test_unknown_row(result):
    with pytest.raises(KeyError, match="Received: 'L3'"):
        result.selected("L3")


def test_divergence_is_reported():
    def wild():
        model = linear()
        model.optimizer.learning_rate = 1e30
        return model

    result = compare(linear, X, X[:, 0], {"wild": wild}, **SMALL)
    assert result["wild"].diverged == 3
    assert not np.isfinite(result["wild"].val_loss)
    assert result.best == "baseline"
    assert "Warning: the loss of wild is not finite in 3 of 3 fits." in str(result)
    back = result.to_dict()["rows"][1]
    for key in ("val_loss", "zeros", "zeros_share", "features", "val_metric"):
        assert back[key] is None
    with pytest.raises(ValueError, match="The loss of 'wild' is not finite"):
        result.selected("wild")


def test_what_diverged_shows_dashes_for_all_but_losses(capsys):
    def explode():
        model = build(eager=True)
        model.layers[0].kernel.assign(model.layers[0].kernel * np.nan)
        return model

    settings = {**SMALL, "progress": True}
    result = compare(build, X, Y, {"wild": explode}, **settings)
    row = result.cells()[2]
    assert row[0] == "wild"
    assert row[4:8] == ["-", "-", "-", "-"]
    assert "nan" in row[1]
    assert result["wild"].diverged == 3
    line = next(text for text in capsys.readouterr().out.splitlines() if "wild" in text)
    assert "zeros" not in line
    assert "features" not in line


def test_other_architectures_are_counted_over_their_own_kernels():
    small, wide = (functools.partial(build, units=n, eager=True) for n in (4, 8))
    result = compare(small, X, Y, {"L1": {"*": L1(0.1)}, "wide": wide}, **SMALL)
    assert [row.weights for row in result] == [28, 28, 56]


def test_zeros_are_counted_over_what_is_penalized():
    def named():
        first = keras.layers.Dense(4, name="first")
        model = keras.Sequential([keras.Input((6,)), first, keras.layers.Dense(1)])
        model.compile("adam", "mse", run_eagerly=True)
        return model

    result = compare(named, X, X[:, 0], {"L1": {"first": L1(0.1)}}, **SMALL)
    assert [row.weights for row in result] == [24, 24]


def test_models_that_are_not_built_and_inputs_that_are_no_table():
    def small():
        flat = keras.layers.Flatten()
        model = keras.Sequential([flat, keras.layers.Dense(1)])
        model.compile("adam", "mse", run_eagerly=True)
        return model

    x = X.reshape(-1, 2, 3)
    result = compare(small, x, X[:, 0], {"L1": L1(0.1)}, **SMALL)
    assert result["L1"].features is None
    assert result.metric is None
    assert "accuracy" not in str(result)
    with pytest.raises(ValueError, match="selects no features"):
        result.selected("L1")
