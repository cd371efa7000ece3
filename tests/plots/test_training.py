"""`training_report`: the panels that the data allow, readable with many layers."""

import itertools

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kerasreg.callbacks import RegularizationMonitor
from kerasreg.plots import training_report
from kerasreg.regularizers import L1
from tests import models

EPOCHS = np.arange(12)
LOSS = (0.1 + np.exp(-EPOCHS / 4)).tolist()


def _panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def _lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def _many(units):
    """A history of a model with many layers."""
    run = {"data_loss": LOSS, "val_data_loss": LOSS, "gap": [0.0] * 12}
    for number in range(units):
        run[f"strength/block_{number}"] = (10.0 ** (-number / 4) + EPOCHS).tolist()
        run[f"sparsity/block_{number}"] = (EPOCHS / 20).tolist()
        if number:  # a layer with a divergence only has no norm
            run[f"norm/block_{number}"] = (1.0 + EPOCHS).tolist()
    return run


def test_all_that_a_monitor_logs(tmp_path):
    built, monitor = models.model(L1(0.05)), RegularizationMonitor()
    x, y = models.data()
    arguments = {"validation_data": (x, y), "callbacks": [monitor]}
    history = models.fit(built, 4, **arguments)
    figure = training_report(history, advice=monitor.advice, title="hidden")
    panels = _panels(figure)
    assert [title for title in panels if title] == [
        "loss without penalties",
        "added to the loss",
        "gap: validation − training",
        "strength",
        "gradient of the penalty / of the data",
        "norm of the weights",
        "share of zero weights",
    ]
    logs = history.history
    for title, label, name in (
        ("loss without penalties", "training", "data_loss"),
        ("added to the loss", "penalties", "penalty"),
        ("gap: validation − training", "gap", "gap"),
        ("strength", "hidden", "strength/hidden"),
        ("norm of the weights", "hidden", "norm/hidden"),
    ):
        curve = _lines(panels[title])[label]
        assert curve[:, 0].tolist() == [1, 2, 3, 4]
        np.testing.assert_allclose(curve[:, 1], logs[name])
    written = figure.get_supxlabel().replace("\n    ", " ")
    assert "•  `hidden` has no exact zeros" in written
    figure.savefig(tmp_path / "report.png")


def test_what_was_not_logged_is_left_out():
    panels = _panels(training_report({"loss": LOSS}))
    assert list(panels) == ["loss"]
    run = {"data_loss": LOSS, "group_sparsity/a": [0.0] * 12, "kl": LOSS}
    assert list(_panels(training_report(run))) == [
        "loss without penalties",
        "added to the loss",
    ]


def test_many_layers_are_rows_of_a_map():
    figure = training_report(_many(20))
    for title in ("strength", "norm of the weights", "share of zero weights"):
        axes = _panels(figure)[title]
        (mesh,) = axes.collections
        assert mesh.get_array().shape == (20, 12)
    axes = _panels(figure)["strength"]
    names = [f"block_{number}" for number in range(20)]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    norms = _panels(figure)["norm of the weights"].collections[0].get_array()
    assert norms.mask[0].all()
    assert not norms.mask[1:].any()


def test_names_of_rows_do_not_overlap():
    figure = training_report(_many(40))
    figure.draw_without_rendering()
    axes = _panels(figure)["strength"]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    for upper, lower in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1


def test_few_layers_are_lines_in_colors_of_their_own():
    names = [f"block_{number}" for number in range(4)]
    run = _many(4)
    axes = _panels(training_report(run))["strength"]
    assert len({line.get_color() for line in axes.lines}) == 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    run["group_sparsity/block_0"] = [0.5] * 12  # now there is a place for the names
    figure = training_report(run)
    assert _panels(figure)["strength"].get_legend() is None
    texts = _panels(figure)[""].get_legend().get_texts()
    assert [text.get_text() for text in texts] == names


def test_the_epochs_of_a_resumed_run_and_of_validation_now_and_then():
    history = keras.callbacks.History()
    history.epoch = list(range(10, 22))
    history.history = {"data_loss": LOSS, "val_data_loss": LOSS[:6], "gap": LOSS[:6]}
    lines = _lines(_panels(training_report(history))["loss without penalties"])
    assert lines["training"][:, 0].tolist() == list(range(11, 23))
    curve = lines["validation, lowest in epoch 22"]
    assert curve[:, 0].tolist() == [12, 14, 16, 18, 20, 22]


def test_scales():
    run = {"data_loss": LOSS, "penalty": (10.0**-EPOCHS).tolist()}
    run["strength/a"] = [1e-3] * 12
    panels = _panels(training_report(run))
    assert panels["added to the loss"].get_yscale() == "log"
    assert panels["strength"].get_yscale() == "linear"
    low, high = panels["strength"].get_ylim()
    assert (low, high > 1e-3) == (0.0, True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_drawn(tmp_path, bad):
    run = {
        "data_loss": [0.3, bad, bad],
        "val_data_loss": [bad] * 3,
        "penalty": [0.0, bad, bad],
        "strength/a": [0.0] * 3,
        "gradient_ratio/a": [bad] * 3,
    }
    figure = training_report(run)
    figure.savefig(tmp_path / "report.png")
    lines = _lines(_panels(figure)["loss without penalties"])
    np.testing.assert_array_equal(lines["training"][:, 1], [0.3, np.nan, np.nan])
    assert "NaN or infinite from epoch 1 on" in figure.get_supxlabel()


def test_one_epoch(tmp_path):
    figure = training_report({"data_loss": [0.3], "strength/a": [0.1]})
    figure.savefig(tmp_path / "report.png")
    assert figure.get_supxlabel().startswith("•  Without validation data")


@pytest.mark.parametrize("history", [{}, 3, None, {"loss": []}, {"a": {"loss": [1]}}])
def test_no_history(history):
    with pytest.raises(ValueError) as caught:
        training_report(history)
    assert str(caught.value) == (
        "Invalid value for argument `history`. Expected what `fit` returned after an "
        f"epoch or more, or its `history` dict. Received: history={history!r}"
    )


def test_no_loss():
    with pytest.raises(ValueError) as caught:
        training_report({"accuracy": [0.5]})
    assert str(caught.value) == (
        "Invalid value for argument `history`. Expected a history with 'data_loss' or "
        "'loss'. Received one of ['accuracy']"
    )
