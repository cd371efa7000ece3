"""`compare`: the same start and batches for all, and losses without penalties."""

import sys

import keras
import numpy as np
import pytest

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, penalties_of, regularize
from kerasreg.selection import compare
from kerasreg.selection.compare import _standardize
from tests.selection.fits import FEATURES, SMALL, X, Y, build, linear

SHORT = {**SMALL, "epochs": 1}


def test_rows_and_histories(result):
    names = ["baseline", "L1", "rules", "dropout"]
    assert [row.name for row in result] == names
    assert list(result.models) == list(result.histories) == names
    assert len(result) == 4
    assert result.metric == "accuracy"
    for name in names:
        assert len(result.histories[name]) == 2
        assert len(result.histories[name][0]["val_loss"]) == 3
        assert 0 <= result[name].val_metric <= 1
        assert result[name].seconds > 0


def test_the_baseline_is_plain_keras(result):
    for number, (training, validation) in enumerate(_parts(), 1):
        keras.utils.set_random_seed(number)
        model = build()
        keras.utils.set_random_seed(number)
        held_out = X[validation], Y[validation]
        history = model.fit(
            X[training],
            Y[training],
            batch_size=16,
            epochs=3,
            validation_data=held_out,
            verbose=0,
        )
        loss, accuracy = model.evaluate(*held_out, verbose=0)
        fold = result["baseline"].folds[number - 1]
        logs = dict(result.histories["baseline"][number - 1])
        assert logs.pop("data_loss") == logs["loss"]
        assert logs.pop("val_data_loss") == logs["val_loss"]
        assert logs == history.history
        assert fold["val_loss"] == pytest.approx(loss, rel=1e-5)
        assert fold["val_metric"] == pytest.approx(accuracy)


class Traced(keras.layers.Dense):
    """Counts how often its `call` is traced."""

    traces = 0

    def call(self, inputs, training=None):
        Traced.traces += 1
        return super().call(inputs, training=training)


def _traced(units=4):
    layers = [Traced(units, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=[keras.metrics.AUC()])
    return model


def test_folds_share_one_graph_and_train_as_new_models():
    folds = [(np.arange(0, 60, 2), np.arange(1, 60, 2))] * 3
    counts = []
    for parts in (folds[:2], folds):
        Traced.traces = 0
        result = compare(
            _traced, X, Y, {"L1": L1(0.01)}, **{**SMALL, "folds": parts, "epochs": 2}
        )
        counts.append(Traced.traces)
    # A fold more: two models made (one call each) and four eager losses.
    assert counts[1] - counts[0] <= 2 + 4
    assert result.metric == "auc"
    for number, (training, _) in enumerate(folds, 1):
        keras.utils.set_random_seed(number)
        model = _traced()
        regularize(model, L1(0.01))
        model.optimizer = Proximal(model.optimizer)
        keras.utils.set_random_seed(number)
        history = model.fit(X[training], Y[training], 16, epochs=2, verbose=0).history
        assert result.histories["L1"][number - 1]["loss"] == history["loss"]


def test_models_of_unlike_settings_do_not_share_a_graph():
    rates = iter([0.3, 0.3, 0.9, 0.3])  # The rehearsal, two folds, the refit.
    candidates = {
        "steady": lambda: build(dropout=0.3),
        "unsteady": lambda: build(dropout=next(rates)),
    }
    result = compare(build, X, Y, candidates, **SMALL)
    losses = [[f["train_loss"] for f in result[name].folds] for name in candidates]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def _parts():
    from kerasreg.selection.folds import split

    return split(Y, 2, seed=0)


def test_penalties_are_trained_by_proximal(result):
    for name, proximal in [("baseline", False), ("L1", True), ("rules", True)]:
        model = result.models[name]
        assert isinstance(model.optimizer, Proximal) == proximal
        assert bool(penalties_of(model)) == proximal


def test_penalized_models_can_be_saved(result, tmp_path):
    model = result.models["L1"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )
    assert isinstance(loaded.optimizer, Proximal)
    assert loaded.optimizer.iterations == model.optimizer.iterations > 0


class Recorder(keras.layers.Layer):
    """Keeps what `fit` feeds it, in the order of the batches."""

    def __init__(self, seen):
        super().__init__()
        self._note = seen.append  # Keras would copy a list.

    def call(self, x, training=False):
        if training:
            self._note(keras.ops.convert_to_numpy(x))
        return x


def _recorded(penalty, seen, starts):
    def make():
        recorder = Recorder(seen)
        dense = keras.layers.Dense(1)
        model = keras.Sequential([keras.Input((FEATURES,)), recorder, dense])
        starts.append(dense.kernel.numpy())
        if penalty is not None:
            regularize(model, penalty)
        optimizer = keras.optimizers.SGD(0.01)
        model.compile(
            Proximal(optimizer) if penalty else optimizer, "mse", run_eagerly=True
        )
        return model

    return make


def test_same_weights_and_batches_and_no_leak():
    seen, starts = ([], []), ([], [])
    x = X.astype("float32")
    compare(
        _recorded(None, seen[0], starts[0]),
        x,
        x[:, 0],
        {"penalty": _recorded(L1(0.1), seen[1], starts[1])},
        **{**SMALL, "epochs": 2},
    )
    np.testing.assert_array_equal(starts[0], starts[1])
    for mine, theirs in zip(*seen, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    first_fit = np.concatenate(seen[0][:4])  # 2 epochs of 30 examples in batches of 16
    assert len(first_fit) == 60
    assert len(np.unique(first_fit, axis=0)) == 30


def test_preprocessing_sees_training_data_only():
    fitted, applied = [], []

    def preprocess(x):
        fitted.append(x)

        def transform(other):
            applied.append(other)
            return other

        return transform

    x = np.arange(20.0)[:, None] * np.ones((1, FEATURES))
    y = np.arange(20.0)
    result = compare(linear, x, y, {"L2": L2(0.1)}, preprocess=preprocess, **SHORT)
    sizes = [len(part) for part in fitted]
    assert sizes == [20, 10, 10, 20, 10, 10, 20]
    for part, validation in [(fitted[1], applied[2]), (fitted[2], applied[4])]:
        assert not set(part[:, 0]) & set(validation[:, 0])
    assert result.preprocess is not None


def test_standardize():
    x = np.array([[1.0, 5.0, 1e6], [3.0, 5.0, 1e6 + 2]])
    transform = _standardize(x)
    np.testing.assert_allclose(transform(x), [[-1, 0, -1], [1, 0, 1]])
    np.testing.assert_allclose(transform(x[:1] + 2), [[1, 2, 1]])


def test_losses_are_without_penalties():
    # At a rate of zero all models keep the same weights, so the same loss.
    def still():
        model = build(eager=True)
        model.optimizer.learning_rate = 0.0
        return model

    result = compare(still, X, Y, {"L2": L2(1e6)}, **SHORT)
    assert result["L2"].train_loss == result["baseline"].train_loss
    assert result["L2"].val_loss == result["baseline"].val_loss
    assert result.histories["L2"][0]["loss"][0] > 1e5


def test_histories_hold_the_loss_without_penalties(result):
    for name in ("L1", "rules"):
        for fold, logs in zip(result[name].folds, result.histories[name], strict=True):
            assert len(logs["data_loss"]) == len(logs["val_data_loss"]) == 3
            assert logs["val_data_loss"][-1] == pytest.approx(
                fold["val_loss"], rel=1e-4
            )
            assert logs["loss"][-1] > logs["data_loss"][-1] > 0


def test_the_candidate_is_not_changed():
    penalty = L1(0.1)
    result = compare(linear, X, X[:, 0], {"L1": penalty}, **SHORT)
    (attached,) = penalties_of(result.models["L1"]).values()
    assert attached is not penalty
    assert attached.strength == penalty.strength == 0.1


def test_imputing_preprocessing_may_be_given_nan():
    x = X.copy()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="Received: 1 NaN or infinite values, in 1"):
        compare(linear, x, X[:, 0], {"L1": L1(0.1)}, preprocess="standardize", **SHORT)
    result = compare(
        linear,
        x,
        X[:, 0],
        {"L1": L1(0.1)},
        preprocess=lambda part: np.nan_to_num,
        **SHORT,
    )
    assert np.isfinite(result["L1"].val_loss)


def test_class_weights_weigh_the_training_alone():
    y = (np.arange(60) % 6 == 0).astype("int64")
    weight = {0: 0.0, 1: 1.0}
    results = [
        compare(build, X, y, {"L1": L1(0.001)}, class_weight=w, **SMALL)
        for w in (None, weight)
    ]
    for name in ("baseline", "L1"):
        plain, weighted = (result[name] for result in results)
        assert weighted.val_loss > plain.val_loss  # It only saw the rare class.
    model = results[1].models["baseline"]
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    loss, _ = model.evaluate(X, y, verbose=0)
    assert results[1]["baseline"].refit_loss == pytest.approx(loss, rel=1e-5)


def test_callbacks_are_new_for_each_fit_and_know_its_data():
    sizes = []

    def callbacks(x, y):
        sizes.append((len(x), len(y)))
        return [keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)]

    result = compare(linear, X, X[:, 0], {"L1": L1(0.1)}, callbacks=callbacks, **SMALL)
    assert sizes == [(30, 30), (30, 30), (60, 60)] * 2
    assert len(result.histories["L1"][0]["loss"]) == 2


def test_a_data_frame_brings_its_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("uvwxyz"))
    result = compare(linear, frame, pandas.Series(X[:, 0]), {"L2": L2(0.1)}, **SHORT)
    assert result.selected("L2") == list("uvwxyz")


def test_plain_progress(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    compare(linear, X, X[:, 0], {"L1": L1(0.1)}, **{**SHORT, "progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15] for line in lines] == ["[1/2] baseline:", "[2/2] L1: val l"]


def test_rich_progress(capsys):
    pytest.importorskip("rich")
    compare(linear, X, X[:, 0], {"[b]L1": L1(0.1)}, **{**SHORT, "progress": True})
    assert "✓ [b]L1: val loss" in capsys.readouterr().out
