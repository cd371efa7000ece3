import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kerasreg.plots import learning_curves

RUN = {"loss": [0.8, 0.4, 0.2, 0.1], "val_loss": [0.9, 0.6, 0.5, 0.7]}


def _lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_a_history_of_fit():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 2)), np.ones(8)
    history = model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0)
    (axes,) = learning_curves(history).axes
    lines = _lines(axes)
    np.testing.assert_allclose(lines["training"][:, 1], history.history["loss"])
    np.testing.assert_allclose(lines["validation"][:, 1], history.history["val_loss"])
    assert lines["training"][:, 0].tolist() == [1, 2, 3]
    assert axes.get_yscale() == "log"


def test_runs_are_averaged_and_early_stops_counted_while_they_last():
    short = {"loss": [0.4, 0.2], "val_loss": [0.5, 0.4]}
    (axes,) = learning_curves([RUN, short]).axes
    np.testing.assert_allclose(_lines(axes)["training"][:, 1], [0.6, 0.3, 0.2, 0.1])
    assert len(axes.collections) == 2  # the bands


def test_sparse_validation_points_keep_their_epochs():
    run = {"loss": [0.5] * 10, "val_loss": [0.6, 0.7]}
    (axes,) = learning_curves(run).axes
    assert _lines(axes)["validation"][:, 0].tolist() == [5, 10]


def test_one_panel_a_name_with_the_first_as_reference():
    figure = learning_curves({name: [RUN] for name in "abcde"}, log=False)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == list("abcde")
    assert "validation, a" not in _lines(shown[0])
    assert "validation, a" in _lines(shown[1])
    assert shown[0].get_yscale() == "linear"


def test_the_metric_must_be_logged():
    with pytest.raises(ValueError) as caught:
        learning_curves({"a": RUN}, metric="acc")
    assert str(caught.value) == (
        "Invalid value for argument `metric`. Expected one of ['loss', 'val_loss'], "
        "which were logged for 'a'. Received: metric=acc"
    )


@pytest.mark.parametrize(
    "histories",
    [{}, 3, [], None, [3], [{}], {"a": []}, {"loss": []}, {"a": {"loss": []}}],
)
def test_nothing_to_draw(histories):
    with pytest.raises(ValueError) as caught:
        learning_curves(histories)
    assert str(caught.value) == (
        "Invalid value for argument `histories`. Expected what `fit` returned after an "
        "epoch or more, a list of such, or a dict of either by name. "
        f"Received: histories={histories}"
    )


def test_the_data_loss_is_drawn_where_every_history_has_it():
    both = {**RUN, "data_loss": [0.4, 0.3, 0.2, 0.1], "val_data_loss": [0.5] * 4}
    axes = learning_curves({"a": [both], "b": both}).axes[0]
    assert axes.get_ylabel() == "data loss"
    assert _lines(axes)["training"][:, 1].tolist() == both["data_loss"]
    assert _lines(axes)["validation"][:, 1].tolist() == both["val_data_loss"]
    for axes in (
        learning_curves({"a": [both], "b": [RUN]}).axes[0],
        learning_curves(both, metric="loss").axes[0],
    ):
        assert axes.get_ylabel() == "loss"
        assert _lines(axes)["training"][:, 1].tolist() == both["loss"]


def test_what_diverged_is_not_drawn():
    axes = learning_curves([{"loss": [0.3, np.nan]}] * 2, log=False).axes[0]
    np.testing.assert_array_equal(_lines(axes)["training"][:, 1], [0.3, np.nan])
