import dataclasses
import functools
import re

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from kerasreg import demo
from kerasreg.datasets import breast_cancer
from kerasreg.selection import Comparison, Row
from kerasreg.selection.recipe import recipes


def test_small_run(tmp_path, capsys, monkeypatch):
    few = {name: demo.candidates()[name] for name in ("L1", "L2")}
    monkeypatch.setattr(demo, "candidates", lambda: few)
    short = functools.partial(demo.coefficient_path, count=5)
    monkeypatch.setattr(demo, "coefficient_path", short)
    out = tmp_path / "new" / "report.html"
    demo.main(["--out", str(out), "--folds", "2", "--epochs", "2"])
    printed = capsys.readouterr().out
    for name in ["baseline", *few]:
        assert re.search(rf"^{name} +\d", printed, flags=re.MULTILINE)
    assert f"Report: {out}" in printed
    page = out.read_text("utf-8")
    assert page.count('src="data:image/png;base64,') == 3
    assert not re.search(r'(src|href)="(?!data:)', page), "needs no other file"
    assert "$" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    for tag in ("section", "table", "figure", "ul", "div"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>")


def test_every_candidate_makes_a_model():
    for recipe in recipes(demo.build, demo.candidates()).values():
        assert recipe.make(0, np.ones((1, 30), "float32")).count_params() == 1537


def test_dropout_leaves_the_initial_weights_alone():
    weights = []
    for rate in (0.0, 0.5):
        keras.utils.set_random_seed(5)
        weights.append(demo.build(rate).get_weights())
    for plain, dropped in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, dropped)


def test_path_is_optimal_at_each_strength():
    x, y, _ = breast_cancer()
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    strengths, coefs = demo.coefficient_path(x, y[:, None], count=6)
    assert not coefs[0].any()
    assert (np.count_nonzero(coefs, axis=1)[1:] > 0).all()
    for strength, coef in zip(strengths, coefs, strict=True):
        slope = _slope(x.astype("float64"), y, coef) / strength
        active = coef != 0
        np.testing.assert_allclose(slope[active], -np.sign(coef[active]), atol=0.05)
        assert (np.abs(slope[~active]) <= 1.05).all()


def _slope(x, y, coef):
    """The gradient of the mean log loss at the best intercept."""
    intercept = 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ coef + intercept)))
        intercept -= (p - y).mean() / (p * (1 - p)).mean()
    return x.T @ (p - y) / len(x)


def _row(name, losses, **changes):
    folds = tuple(
        {"train_loss": 0.1, "val_loss": loss, "features": [0, 1]} for loss in losses
    )
    row = Row(
        name=name,
        train_loss=0.1,
        train_loss_std=0.0,
        val_loss=float(np.mean(losses)),
        val_loss_std=0.0,
        gap=0.0,
        train_metric=None,
        train_metric_std=None,
        val_metric=None,
        val_metric_std=None,
        refit_loss=0.1,
        zeros=0,
        weights=10,
        features=2,
        seconds=1.0,
        folds=folds,
    )
    return dataclasses.replace(row, **changes)


def test_findings_are_computed():
    rows = [
        _row("baseline", [0.4, 0.6, 0.5]),
        _row("L1", [0.2, 0.3, 0.25], zeros=5, features=1),
        _row("worse", [0.8, 0.5, 0.8]),
        _row("close", [0.18, 0.33, 0.25]),
    ]
    result = Comparison(rows, {}, {}, None, ["a", "b"], None)
    assert demo.findings(result) == [
        "Without a penalty the loss is 0.100 on training and 0.500 on validation data: "
        "it overfits.",
        "L1: validation loss −50% against the baseline, lower in 3 of 3 folds; 50% of "
        "the weights are exactly zero and 1 of 2 features stay.",
        "Worse: validation loss +40% against the baseline, lower in 1 of 3 folds.",
        "Close: validation loss −49% against the baseline, lower in 3 of 3 folds.",
        "The lowest mean validation loss is that of L1 (0.250). Within one standard "
        "error of the difference, 3 folds cannot tell it from: close.",
    ]


def test_rows_that_diverged_are_left_out():
    nothing = {"zeros": None, "features": None}
    rows = [
        _row("baseline", [0.4, 0.6], val_metric=0.9),
        _row("wild", [np.nan, 1.0], **nothing),
        _row("L1", [0.2, 0.3], zeros=5, features=1, val_metric=0.95),
    ]
    result = Comparison(rows, {}, {}, "accuracy", ["a", "b"], None)
    assert demo.findings(result)[1] == "Wild: no comparison, a fit diverged."
    assert "50%" in demo._cards(result)
    assert "1 of 2" in demo._cards(result)
    assert demo._sparse(result) == ["L1"]


def test_findings_when_everything_diverged():
    rows = [_row(name, [np.nan, np.nan]) for name in ("baseline", "L1")]
    result = Comparison(rows, {}, {}, None, ["a", "b"], None)
    assert demo.findings(result)[-1] == "Every row diverged in some fit."
