import functools
import json
import sys

import keras
import numpy as np
import pytest

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, GroupLasso, penalties_of, regularize
from kerasreg.selection import compare
from kerasreg.selection.compare import _standardize

FEATURES = 6


def _data(examples=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, FEATURES)).astype("float32")
    y = (x[:, 0] - x[:, 1] + 0.1 * rng.normal(size=examples) > 0).astype("int64")
    return x, y


X, Y = _data()
SMALL = {"folds": 2, "epochs": 3, "batch_size": 16, "progress": False}


def build(dropout=0.0, units=4, eager=False):
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(units, "relu")]
    if dropout:
        layers.append(keras.layers.Dropout(dropout, seed=1))
    model = keras.Sequential([*layers, keras.layers.Dense(1, "sigmoid")])
    model.compile(
        keras.optimizers.Adam(0.05),
        "binary_crossentropy",
        metrics=["accuracy"],
        run_eagerly=eager,
    )
    return model


def linear():
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)  # No tracing.
    return model


@pytest.fixture(scope="module")
def result():
    candidates = {
        "L1": L1(0.05),
        "rules": {"dense*": L2(0.01), "*/kernel": GroupLasso(0.05)},
        "dropout": lambda: build(dropout=0.5),
    }
    names = list("abcdef")
    return compare(build, X, Y, candidates, feature_names=names, **SMALL)


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


def _parts():
    from kerasreg.selection.folds import split

    return split(Y, 2, seed=0)


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
    result = compare(linear, x, y, {"L2": L2(0.1)}, preprocess=preprocess, **SMALL)
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

    result = compare(still, X, Y, {"L2": L2(1e6)}, **SMALL)
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
    result = compare(linear, X, X[:, 0], {"L1": penalty}, **SMALL)
    (attached,) = penalties_of(result.models["L1"]).values()
    assert attached is not penalty
    assert attached.strength == penalty.strength == 0.1


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


def test_imputing_preprocessing_may_be_given_nan():
    x = X.copy()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="Received: 1 NaN or infinite values, in 1"):
        compare(linear, x, X[:, 0], {"L1": L1(0.1)}, preprocess="standardize", **SMALL)
    result = compare(
        linear,
        x,
        X[:, 0],
        {"L1": L1(0.1)},
        preprocess=lambda part: np.nan_to_num,
        **SMALL,
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


def test_a_data_frame_brings_its_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("uvwxyz"))
    result = compare(linear, frame, pandas.Series(X[:, 0]), {"L2": L2(0.1)}, **SMALL)
    assert result.selected("L2") == list("uvwxyz")


def test_plain_progress(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    compare(linear, X, X[:, 0], {"L1": L1(0.1)}, **{**SMALL, "progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15] for line in lines] == ["[1/2] baseline:", "[2/2] L1: val l"]


def test_rich_progress(capsys):
    pytest.importorskip("rich")
    compare(linear, X, X[:, 0], {"[b]L1": L1(0.1)}, **{**SMALL, "progress": True})
    assert "✓ [b]L1: val loss" in capsys.readouterr().out


BUILD = "Invalid value for argument `build`. Expected a function that "
CANDIDATES = "Invalid value for argument `candidates`. Expected "
MODEL = linear()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"y": Y[:10]},
            ValueError,
            "Invalid value for arguments `x` and `y`. Expected the same number of "
            "examples. Received: 60 in x, 10 in y",
        ),
        (
            {"x": np.array([["a"]] * 60)},
            TypeError,
            "Invalid value for argument `x`. Expected an array of numbers with one "
            "example a row. Received: dtype <U1, shape (60, 1)",
        ),
        (
            {"folds": 1},
            ValueError,
            "Invalid value for argument `folds`. Expected an integer from 2 to the "
            "number of examples, 60. Received: folds=1",
        ),
        (
            {"epochs": 0},
            ValueError,
            "Invalid value for argument `epochs`. Expected a positive integer. "
            "Received: epochs=0",
        ),
        (
            {"batch_size": 2.0},
            ValueError,
            "Invalid value for argument `batch_size`. Expected a positive integer. "
            "Received: batch_size=2.0",
        ),
        (
            {"x": np.where(X.max() > X, X, np.nan)},
            ValueError,
            "Invalid value for argument `x`. Expected finite numbers. Received: 1 NaN "
            "or infinite values, in 1 of 60 examples",
        ),
        (
            {"y": np.where(np.arange(60) < 2, np.inf, 0.0)},
            ValueError,
            "Invalid value for argument `y`. Expected finite numbers. Received: 2 NaN "
            "or infinite values, in 2 of 60 examples",
        ),
        (
            {"callbacks": []},
            TypeError,
            "Invalid value for argument `callbacks`. Expected a function of the "
            "training inputs and targets that returns a list of new Keras callbacks, "
            "such as `lambda x, y: [keras.callbacks.TerminateOnNaN()]`: each fit needs "
            "its own. Received: callbacks=[]",
        ),
        (
            {"callbacks": lambda x, y: 3},
            TypeError,
            "Invalid value for argument `callbacks`. Expected a function that returns "
            "a list of Keras callbacks. Received: a function that returns 3",
        ),
        (
            {"class_weight": "balanced"},
            TypeError,
            "Invalid value for argument `class_weight`. Expected a dict from class "
            "numbers to weights, or None. Received: class_weight='balanced'",
        ),
        (
            {"class_weight": {0: -1.0}},
            ValueError,
            "Invalid value for argument `class_weight`. Expected finite weights of at "
            "least 0. Received: class_weight={0: -1.0}",
        ),
        (
            {"class_weight": {0: 1.0, 2: 3.0}},
            ValueError,
            "Invalid value for argument `class_weight`. Expected keys among the "
            "classes of `y`, [0, 1]. Received: [2]",
        ),
        (
            {"y": X[:, 0], "class_weight": {0: 1.0}},
            ValueError,
            "Invalid value for argument `class_weight`. Expected None where the "
            "targets are not classes (whole numbers, or one-hot rows). "
            "Received: class_weight={0: 1.0}, targets of shape (60,)",
        ),
        (
            {"preprocess": "scale"},
            ValueError,
            "Invalid value for argument `preprocess`. Expected 'standardize', a "
            "function of the training inputs that returns a function of inputs, or "
            "None. Received: preprocess='scale'",
        ),
        (
            {"feature_names": ["a", "b"]},
            ValueError,
            "Invalid value for argument `feature_names`. Expected one name a column, "
            "for inputs of shape (60, 6). Received: 2 names",
        ),
        (
            {"metric": "auc"},
            ValueError,
            "Invalid value for argument `metric`. Expected one of ['accuracy'], the "
            "metrics that 'baseline' is compiled with. Received: metric='auc'",
        ),
        (
            {"candidates": {}},
            ValueError,
            CANDIDATES + "at least one candidate. Received: candidates={}",
        ),
        (
            {"candidates": {"baseline": None}},
            ValueError,
            CANDIDATES + "names other than 'baseline', which is the model of `build` "
            "as it is. Received: candidates={'baseline': None}",
        ),
        (
            {"candidates": {"a": 0.1}},
            TypeError,
            CANDIDATES + "a penalty, a dict of rules for `regularize`, or a function "
            "without arguments that returns a new compiled model. "
            "Received: candidates['a']=0.1",
        ),
        (
            {"candidates": {3: L1(0.1)}},
            TypeError,
            CANDIDATES + "strings as names. Received: 3",
        ),
        (
            {"candidates": [L1(0.1)]},
            TypeError,
            CANDIDATES + "a dict from names to candidates. "
            "Received: candidates=[L1(l1=0.1)]",
        ),
        (
            {"build": lambda: "model"},
            TypeError,
            BUILD + "returns a keras.Model. Received: a function that returns 'model'",
        ),
        (
            {"candidates": {"a": lambda: None}},
            TypeError,
            "Invalid value for candidate 'a'. Expected a function that returns a "
            "keras.Model. Received: a function that returns None",
        ),
        (
            {"build": lambda: keras.Sequential([keras.layers.Dense(1)], name="raw")},
            ValueError,
            BUILD + "returns a compiled model, with optimizer and loss. Received: a "
            "function that returns a model that is not compiled, raw",
        ),
    ],
)
def test_errors(change, error, message):
    arguments = {"build": build, "x": X, "y": Y, "candidates": {"L1": L1(0.1)}, **SMALL}
    with pytest.raises(error) as caught:
        compare(**{**arguments, **change})
    assert str(caught.value) == message


def test_build_must_be_a_function():
    with pytest.raises(TypeError, match="Expected a function without arguments"):
        compare(MODEL, X, Y, {"L1": L1(0.1)}, **SMALL)


def test_build_must_make_new_models():
    model = linear()
    with pytest.raises(ValueError, match="was trained before"):
        compare(lambda: model, X, X[:, 0], {"L1": L1(0.1)}, **SMALL)


def test_rules_that_match_nothing_raise_before_training():
    with pytest.raises(ValueError, match="Expected keys that match a weight"):
        compare(build, X, Y, {"a": {"nowhere": L1(0.1)}}, **SMALL)
