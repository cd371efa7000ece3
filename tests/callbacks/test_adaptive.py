"""`LayerwiseAdaptiveLambda`: what it sets, when, and what it leaves alone."""

import csv
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

from kerasreg.callbacks import KLWarmup, LayerwiseAdaptiveLambda, Policy
from kerasreg.layers import BayesianDense
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, ElasticNet, Prior, penalties_of
from tests.models import TracedModel


class Scale(Policy):
    """Multiplies by a factor, and notes what it was given."""

    def __init__(self, factor=2.0, **attributes):
        self.factor, self.states = factor, []
        vars(self).update(attributes)

    def update(self, state):
        self.states.append(state)
        return {name: u.strength * self.factor for name, u in state.units.items()}


def data(rows=32):
    x = np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")
    return x, x[:, :1] - 0.5 * x[:, 1:2]


def network(first=None, second=None, optimizer="sgd", cls=TracedModel, **arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(
        4, "tanh", kernel_regularizer=first or L2(0.01), name="hidden"
    )(inputs)
    out = keras.layers.Dense(1, kernel_regularizer=second or L2(0.01), name="out")
    built = cls(inputs, out(hidden))
    built.compile(optimizer, "mse", **{"jit_compile": False, **arguments})
    return built


def fit(built, *callbacks, epochs=2, **arguments):
    return built.fit(
        *data(),
        **{"batch_size": 8, "shuffle": False, "verbose": 0, **arguments},
        epochs=epochs,
        callbacks=list(callbacks),
    ).history


def strengths(built):
    return [penalty.strength for penalty in penalties_of(built).values()]


# What it sets, and when -------------------------------------------------------


def test_strengths_reach_the_loss_and_the_history():
    built = network(L2(0.01), L2(0.02), keras.optimizers.SGD(0.0))
    history = fit(built, LayerwiseAdaptiveLambda(Scale()), epochs=3)
    np.testing.assert_allclose(history["strength/hidden"], [0.02, 0.04, 0.08])
    np.testing.assert_allclose(history["strength/out"], [0.04, 0.08, 0.16])
    squares = [np.sum(layer.kernel.numpy() ** 2) for layer in built.layers[1:]]
    unit = 0.01 * squares[0] + 0.02 * squares[1]
    assert built.traces == 1
    np.testing.assert_allclose(np.diff(history["loss"]), [unit, 2 * unit], rtol=1e-4)


@pytest.mark.parametrize(
    ("every", "executed", "updates"),
    [("epoch", 1, [1, 2, 3]), (1, 1, range(12)), (3, 1, range(4)), (3, 2, range(4))],
)
def test_every(every, executed, updates):
    """The third batch ends within the second execution of two steps, and so on."""
    policy = Scale(1.0)
    built = network(steps_per_execution=executed)
    fit(built, LayerwiseAdaptiveLambda(policy, every=every), epochs=3)
    assert len(policy.states) == len(updates)
    if every == "epoch":
        assert [state.epoch for state in policy.states] == list(updates)
    elif executed == 1:
        steps = [state.step for state in policy.states]
        assert steps == list(range(every, 13, every))


def test_one_unit_keeps_the_ratio_of_its_penalties():
    built = network(L1(0.01), L2(0.04))
    adaptive = LayerwiseAdaptiveLambda(Scale(3.0), granularity="model")
    fit(built, adaptive, epochs=2)
    np.testing.assert_allclose(strengths(built), [0.09, 0.36], rtol=1e-6)
    assert adaptive.strengths == {"model": pytest.approx(0.09)}


def test_strengths_of_zero_begin_together():
    class Start(Policy):
        def update(self, state):
            return dict.fromkeys(state.units, 0.5)

    built = network(L1(0.0), L2(0.0))
    fit(built, LayerwiseAdaptiveLambda(Start(), granularity="model"))
    assert strengths(built) == [0.5, 0.5]


def test_a_shared_penalty_is_tuned_for_each_weight():
    shared = ElasticNet(0.01, 0.01)

    class Apart(Policy):
        def update(self, state):
            return {"hidden": 0.1, "out": 0.2}

    built = network(shared, shared)
    fit(built, LayerwiseAdaptiveLambda(Apart()))
    np.testing.assert_allclose(strengths(built), [0.1, 0.2], rtol=1e-6)
    assert built.traces == 1


def test_bounds():
    built = network(L2(0.01), L2(1.0))
    adaptive = LayerwiseAdaptiveLambda(Scale(10.0), max_strength=0.5)
    fit(built, adaptive, epochs=1)
    np.testing.assert_allclose(strengths(built), [0.1, 0.5])
    adaptive = LayerwiseAdaptiveLambda(Scale(0.01), min_strength=0.05)
    fit(built, adaptive, epochs=1)
    np.testing.assert_allclose(strengths(built), [0.05, 0.05])


def test_units_left_out_keep_theirs():
    class One(Policy):
        def update(self, state):
            return {"out": 0.3}

    built = network()
    fit(built, LayerwiseAdaptiveLambda(One()))
    np.testing.assert_allclose(strengths(built), [0.01, 0.3], rtol=1e-6)


def test_units_left_out_are_not_bounded():
    class One(Policy):
        def update(self, state):
            return {"out": 0.3}

    built = network(L2(0.7), L2(0.1))
    fit(built, LayerwiseAdaptiveLambda(One(), max_strength=0.5))
    np.testing.assert_allclose(strengths(built), [0.7, 0.3], rtol=1e-6)


def test_two_callbacks_tune_different_parts():
    built = network()
    history = fit(
        built,
        LayerwiseAdaptiveLambda(Scale(2.0), pattern="hidden"),
        LayerwiseAdaptiveLambda(Scale(3.0), pattern="out"),
        epochs=1,
    )
    np.testing.assert_allclose(strengths(built), [0.02, 0.03], rtol=1e-6)
    assert {"strength/hidden", "strength/out"} <= history.keys()


def test_any_kind_of_penalty():
    """Also those without a map, and divergences."""
    built = network(Prior("StudentT", 0.01, df=3.0), L1(0.02))
    fit(built, LayerwiseAdaptiveLambda(Scale()), epochs=1)
    np.testing.assert_allclose(strengths(built), [0.02, 0.04])
    keras.utils.set_random_seed(0)
    bayes = keras.Sequential(
        [keras.Input((6,)), BayesianDense(1, num_examples=32, name="bayes")]
    )
    bayes.compile("sgd", "mse", jit_compile=False)
    history = fit(bayes, KLWarmup(0, 4), LayerwiseAdaptiveLambda(Scale(0.5)), epochs=2)
    assert history["strength/bayes"] == [0.5, 0.25]
    assert bayes.layers[0].divergence.strength == 0.25
    assert history["kl_factor"] == [0.0, 0.25]  # another number, not overwritten


# Data losses ------------------------------------------------------------------


def test_losses_without_penalties():
    policy = Scale(1.0, needs_logs=("data_loss", "val_data_loss", "val_mse"))
    built = network(L2(1.0), L2(1.0), metrics=["mse"])
    history = fit(
        built, LayerwiseAdaptiveLambda(policy), validation_data=data(16), epochs=2
    )
    logs = [state.logs for state in policy.states]
    np.testing.assert_allclose([log["data_loss"] for log in logs], history["mse"], 1e-4)
    np.testing.assert_allclose(
        [log["val_data_loss"] for log in logs], history["val_mse"], 1e-4
    )


def test_validation_data_is_missing():
    policy = Scale(1.0, needs_logs=("data_loss", "val_data_loss"))
    with pytest.raises(ValueError) as error:
        fit(network(), LayerwiseAdaptiveLambda(policy))
    assert str(error.value) == (
        "Scale needs ['val_data_loss'] at the end of each epoch. Expected "
        "`validation_data` or `validation_split` in `fit`, with `validation_freq=1`. "
        "Received: metrics ['data_loss', 'loss']"
    )
    with pytest.raises(ValueError) as error:
        LayerwiseAdaptiveLambda(policy, every=5)
    assert str(error.value) == (
        'Invalid value for argument `every`. Expected "epoch": Scale needs validation '
        "metrics, which there are after epochs only. Received: every=5"
    )


def test_a_metric_is_missing():
    policy = Scale(1.0, needs_logs=("accuracy",))
    with pytest.raises(ValueError) as error:
        fit(network(), LayerwiseAdaptiveLambda(policy))
    assert str(error.value) == (
        "Scale needs the metrics ['accuracy']. Expected a model compiled with them. "
        "Received: metrics ['loss']"
    )


# What does not suit ------------------------------------------------------------


def test_exact_zeros_are_needed():
    policy = Scale(1.0, needs_exact_zeros=True)
    built = network(L1(), L1(), "adam")
    with pytest.raises(ValueError) as error:
        fit(built, LayerwiseAdaptiveLambda(policy))
    start = (
        "Scale needs weights that reach exact zeros. Expected a model compiled with "
        "kerasreg.optimizers.Proximal, and penalties such as L1, whose proximal map "
        "makes them. "
    )
    assert str(error.value) == start + "Received: optimizer=Adam"
    built = network(Prior("StudentT", 0.01, df=3.0), L1(0.0), Proximal("adam"))
    with pytest.raises(ValueError) as error:
        fit(built, LayerwiseAdaptiveLambda(policy))
    path = built.layers[1].kernel.path
    assert str(error.value) == (
        start + f"Received: penalties that make no zeros on ['{path}']"
    )
    with pytest.raises(ValueError, match="make no zeros"):
        fit(network(optimizer=Proximal("adam")), LayerwiseAdaptiveLambda(policy))  # L2
    scaled = keras.optimizers.LossScaleOptimizer(Proximal("sgd"))
    fit(network(L1(), ElasticNet(0.1, 0.1), scaled), LayerwiseAdaptiveLambda(policy))


def test_no_penalty():
    inputs = keras.Input((6,))
    built = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    built.compile("sgd", "mse")
    with pytest.raises(ValueError, match="has no penalty whose strength could be set"):
        fit(built, LayerwiseAdaptiveLambda(Scale()))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number(factor):
    """All stay, training goes on, and there is one warning."""
    built = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(built, LayerwiseAdaptiveLambda(Scale(factor)), epochs=3)
    assert strengths(built) == [0.01, 0.01]
    (message,) = [str(w.message) for w in caught if "Scale" in str(w.message)]
    assert message == (
        "A number that Scale needs or returned is NaN or infinite: all strengths stay "
        "as they are."
    )


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (None, TypeError),
        (0.1, TypeError),
        ({"out": "0.1"}, ValueError),
        ({"out": [0.1]}, TypeError),
        ({"out": -1.0}, ValueError),
        ({"outt": 0.1}, ValueError),
    ],
    ids=str,
)
def test_what_a_policy_returns(returned, kind):
    class Wrong(Policy):
        def update(self, state):
            return returned

    with pytest.raises(kind) as error:
        fit(network(), LayerwiseAdaptiveLambda(Wrong()))
    assert str(error.value) == (
        "Invalid result of `Wrong.update`. Expected a dict from some of the units "
        f"['hidden', 'out'] to non-negative numbers. Received: {returned!r}"
    )


def test_a_loss_that_is_no_number():
    policy = Scale(needs_logs=("loss",))
    built = network()
    x, y = data()
    with pytest.warns(UserWarning, match="NaN or infinite"):
        built.fit(x, y * np.nan, verbose=0, callbacks=[LayerwiseAdaptiveLambda(policy)])
    assert policy.states == []
    assert strengths(built) == [0.01, 0.01]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"policy": "target"},
            TypeError,
            "Invalid value for argument `policy`. Expected a "
            "kerasreg.callbacks.Policy. Received: policy='target'",
        ),
        (
            {"granularity": "unit"},
            ValueError,
            "Invalid value for argument `granularity`. Expected one of "
            "('layer', 'weight', 'model'). Received: granularity='unit'",
        ),
        (
            {"min_strength": 2.0, "max_strength": 1.0},
            ValueError,
            "Invalid value for argument `min_strength`. Expected a number up to "
            "`max_strength`. Received: min_strength=2.0, max_strength=1.0",
        ),
        ({"every": 0}, ValueError, None),
        (
            {"every": "batch"},
            ValueError,
            'Invalid value for argument `every`. Expected "epoch" or a number of '
            "batches. Received: every='batch'",
        ),
        (
            {"policy": Scale(needs="norm")},
            ValueError,
            "Invalid value for `Scale.needs`. Expected a tuple of some of ['strength', "
            "'size', 'sparsity', 'norm', 'gradient_norm', 'penalty_gradient_norm', "
            "'penalty']. Received: needs='norm'",
        ),
        (
            {"policy": Scale(needs_logs="loss")},
            ValueError,
            "Invalid value for `Scale.needs_logs`. Expected a tuple of names of "
            "metrics. Received: needs_logs='loss'",
        ),
        ({"max_strength": 0.0}, ValueError, None),
    ],
)
def test_arguments(arguments, kind, message):
    with pytest.raises(kind) as error:
        LayerwiseAdaptiveLambda(**{"policy": Scale(), **arguments})
    if message is not None:
        assert str(error.value) == message


# Beside other callbacks and layers ----------------------------------------------


def test_csv_logger_and_tensorboard_order(tmp_path):
    path = tmp_path / "log.csv"
    built = network()
    fit(built, LayerwiseAdaptiveLambda(Scale()), keras.callbacks.CSVLogger(path))
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["strength/out"]) for row in rows] == pytest.approx([0.02, 0.04])


def test_early_stopping_restores_weights_and_strengths_stay_live():
    built = network()
    stopping = keras.callbacks.EarlyStopping(
        "loss", patience=0, mode="max", restore_best_weights=True
    )
    adaptive = LayerwiseAdaptiveLambda(Scale(0.5))
    history = fit(built, adaptive, stopping, epochs=9)
    assert len(history["loss"]) < 9
    assert strengths(built) == pytest.approx([0.01 * 0.5 ** len(history["loss"])] * 2)


def test_learning_rate_falls():
    built = network()
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=1, min_delta=1e9)
    history = fit(built, LayerwiseAdaptiveLambda(Scale()), plateau, epochs=4)
    assert history["learning_rate"][-1] < history["learning_rate"][0]
    np.testing.assert_allclose(history["strength/out"][-1], 0.16)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_normalization_dropout_and_clipping(jit_compile):
    keras.utils.set_random_seed(1)
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1, kernel_regularizer=L1(0.01), name="out"),
        ]
    )
    policy = Scale(needs=("gradient_norm", "sparsity"), every=3)
    built.compile(
        Proximal(keras.optimizers.Adam(0.01, clipnorm=0.5)),
        "mse",
        jit_compile=jit_compile,
    )
    history = fit(built, LayerwiseAdaptiveLambda(policy), epochs=3)
    assert np.all(np.isfinite(history["loss"]))
    assert all(state.units["out"].gradient_norm > 0 for state in policy.states)


# Saving -------------------------------------------------------------------------


def test_a_saved_model_is_read_by_plain_keras(tmp_path):
    """In a process that has kerasreg only for its penalties, with their strengths."""
    built = network(cls=keras.Model)
    fit(built, LayerwiseAdaptiveLambda(Scale()))
    built.save(tmp_path / "m.keras")
    program = (
        "import sys, keras, kerasreg.regularizers\n"
        "m = keras.models.load_model(sys.argv[1])\n"
        "print(m.layers[1].kernel_regularizer.strength, len(m.weights))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m.keras")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0.04", "4"]


def test_resuming_from_a_file_without_state(tmp_path):
    path = str(tmp_path / "m.keras")
    built = network(cls=keras.Model)
    built.save(path)
    with pytest.raises(ValueError) as error:
        fit(built, LayerwiseAdaptiveLambda(Scale(), resume_from=path))
    assert str(error.value) == (
        "Invalid value for argument `resume_from`. Expected a file that was saved "
        "while the same policy, granularity and pattern were at work. "
        f"Received: resume_from={path!r}"
    )


def test_what_a_policy_remembers_is_of_one_model():
    class Count(Policy):
        count = 0

        def update(self, state):
            self.count += 1
            return {}

        def get_state(self):
            return {"count": self.count}

        def set_state(self, state):
            self.count = state["count"]

    adaptive = LayerwiseAdaptiveLambda(Count())
    built = network()
    fit(built, adaptive)
    fit(built, adaptive)
    assert adaptive.policy.count == 4
    fit(network(), adaptive)
    assert adaptive.policy.count == 2


def test_weights_and_losses_of_the_model_are_as_they_were():
    built = network()
    before = len(built.weights), len(built.losses), len(built.metrics)
    config = built.get_config()
    fit(built, LayerwiseAdaptiveLambda(Scale(1.0)))
    assert (len(built.weights), len(built.losses), len(built.metrics)) == before
    assert str(built.get_config()) == str(config)
