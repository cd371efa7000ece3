"""`KLWarmup`: the schedules, their effect in a running `fit`, resuming."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

from kerasreg.callbacks import KLWarmup
from kerasreg.layers import BayesianDense, ConcreteDropout
from kerasreg.regularizers import penalties_of
from tests.models import TracedModel

N, STEPS = 32, 4


def data():
    x = np.random.default_rng(0).normal(size=(N, 5)).astype("float32")
    return x, x[:, :1] - x[:, 1:2]


class Reseed(keras.callbacks.Callback):
    """Noise that depends on the epoch alone: Keras saves no seeds."""

    def on_epoch_begin(self, epoch, logs=None):
        for layer in self.model.layers[1:]:
            layer.seed_generator.state.assign([7, 1000 * epoch])


class Batches(keras.callbacks.Callback):
    """Records the KL factor while each batch runs."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        (first, second) = penalties_of(self.model).values()
        assert first.factor == second.factor
        self.seen.append(first.factor)


class Interrupt(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise RuntimeError("interrupted")


def _no_loss(y, outputs):
    return 0.0 * ops.mean(outputs, axis=-1)


def model(loss="mse", learning_rate=0.02, strengths=(1.0, 0.5), **arguments):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5,))
    first, second = (
        ConcreteDropout(
            keras.layers.Dense(units),
            num_examples=N,
            kl_strength=strength,
            initial_rate=0.3,
        )
        for units, strength in zip((8, 1), strengths, strict=True)
    )
    made = TracedModel(inputs, second(first(inputs)))
    made.compile(
        keras.optimizers.Adam(learning_rate),
        loss,
        **{"jit_compile": False, **arguments},
    )
    made.optimizer.build(made.trainable_variables)
    return made


def fit(made, callbacks, epochs=6, **arguments):
    return made.fit(
        *data(),
        epochs=epochs,
        batch_size=N // STEPS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **arguments,
    )


# Schedules --------------------------------------------------------------------


def test_linear():
    warmup = KLWarmup(2, 6.5)
    assert [warmup.factor(t) for t in (0, 1.99, 2, 6.5, 7, 1000)] == [0, 0, 0, 1, 1, 1]
    assert warmup.factor(4.25) == 0.5
    other = KLWarmup(0, 4, initial=0.2, final=0.6)
    np.testing.assert_allclose(
        [other.factor(t) for t in range(6)], [0.2, 0.3, 0.4, 0.5, 0.6, 0.6]
    )
    falling = KLWarmup(0, 2, initial=2.0, final=1.0)
    assert [falling.factor(t) for t in range(3)] == [2.0, 1.5, 1.0]


def test_sigmoid():
    """The logistic curve over (−6, 6), with its ends moved to 0 and 1 exactly."""
    warmup = KLWarmup(1, 5, schedule="sigmoid", initial=0.1, final=0.9)
    assert [warmup.factor(t) for t in (0, 1, 5, 6)] == [0.1, 0.1, 0.9, 0.9]
    assert warmup.factor(3) == pytest.approx(0.5)
    t = np.linspace(1, 5, 41)
    logistic = 1 / (1 + np.exp(-(3 * t - 9)))
    logistic = (logistic - logistic[0]) / (logistic[-1] - logistic[0])
    np.testing.assert_allclose([warmup.factor(u) for u in t], 0.1 + 0.8 * logistic)


def test_cyclical():
    """Fu et al.: M cycles, each rising in its first part R and then full."""
    warmup = KLWarmup(0, 8, schedule="cyclical", cycles=2, ratio=0.5)
    found = [warmup.factor(t) for t in np.arange(0, 9, 0.5)]
    cycle = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert found == [*cycle, *cycle, 1, 1]
    whole = KLWarmup(10, 19, schedule="cyclical", cycles=3, ratio=1.0, final=0.3)
    found = [whole.factor(t) for t in range(10, 20)]
    np.testing.assert_allclose(found, [*[0, 0.1, 0.2] * 3, 0.3], atol=1e-12)


def test_cycles_too_short_for_epochs():
    with pytest.raises(ValueError, match="Expected cycles of at least two epochs"):
        KLWarmup(0, 4, schedule="cyclical")
    assert KLWarmup(0, 4, schedule="cyclical", every="batch").factor(0.25) > 0


def test_cycles_start_low_in_spite_of_rounding():
    for cycles in range(1, 30):
        for start in (0, 0.1, 3):
            end = start + 0.7 * cycles
            warmup = KLWarmup(
                start, end, schedule="cyclical", cycles=cycles, every="batch"
            )
            for i in range(1, cycles):
                assert warmup.factor(start + 0.7 * i) < 1e-6


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_rises_without_a_step(schedule):
    warmup = KLWarmup(3, 11, schedule=schedule)
    values = np.array([warmup.factor(t) for t in np.linspace(0, 14, 2801)])
    assert np.all(np.diff(values) >= 0)
    assert np.max(np.diff(values)) < 0.003


# In a running fit -------------------------------------------------------------


@pytest.mark.parametrize(("jit_compile", "steps"), [(False, 1), (True, 1), (False, 3)])
def test_reaches_a_running_fit(jit_compile, steps):
    """The loss without data is the KL, each layer's times its own strength."""
    made = model(_no_loss, 0.0, jit_compile=jit_compile, steps_per_execution=steps)
    full = made.evaluate(*data(), verbose=0)
    history = fit(made, [KLWarmup(1, 5, final=2.0)]).history
    factors = [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert history["kl_factor"] == factors
    np.testing.assert_allclose(history["loss"], np.array(factors) * full, rtol=1e-5)
    assert [p.strength for p in penalties_of(made).values()] == [1.0, 0.5]


def test_no_second_trace():
    made = model(jit_compile=True)
    warmup = KLWarmup(0, 4, every="batch")
    for _ in range(2):
        fit(made, [warmup], epochs=3)
    assert made.traces == 1


def test_validation_counts_the_factor_and_evaluate_does_not():
    made = model(_no_loss, 0.0)
    full = made.evaluate(*data(), verbose=0)
    history = fit(made, [KLWarmup(0, 4)], epochs=3, validation_data=data()).history
    np.testing.assert_allclose(
        history["val_loss"], np.array([0.0, 0.25, 0.5]) * full, rtol=1e-5
    )
    # Training ended in mid-warm-up; the layers' own strengths are at work again.
    assert made.evaluate(*data(), verbose=0) == pytest.approx(full)


def test_every_batch():
    seen = Batches()
    history = fit(model(), [KLWarmup(0.5, 2.5, every="batch"), seen], epochs=3).history
    expected = [KLWarmup(0.5, 2.5).factor(i / STEPS) for i in range(3 * STEPS)]
    assert seen.seen == expected
    assert history["kl_factor"] == expected[STEPS - 1 :: STEPS]
    assert len(set(expected)) == 2 * STEPS + 1


def test_every_batch_is_every_group_of_steps():
    """With `steps_per_execution` the factor is that of the first step of a group."""
    seen = Batches()
    made = model(steps_per_execution=2)
    fit(made, [KLWarmup(0, 2, every="batch"), seen], epochs=2)
    assert seen.seen == [0.0, 0.25, 0.5, 0.75]


def test_more_kl_is_less_weight():
    """It works on training, too: a KL that comes in late leaves larger weights."""
    norms = []
    for callbacks in ([], [KLWarmup(11, 12)]):
        made = model(strengths=(20.0, 20.0))
        fit(made, callbacks, epochs=12)
        norms.append(np.linalg.norm(made.layers[1].layer.kernel))
    assert norms[1] > 1.1 * norms[0]


def test_two_devices(two_cpus):
    histories = []
    for scope in (two_cpus.scope, None):
        if scope:
            with scope():
                made = model(_no_loss, 0.01)
        else:
            made = model(_no_loss, 0.01)
        history = fit(made, [KLWarmup(0, 4, every="batch")]).history
        histories.append((history["kl_factor"], history["loss"]))
    assert histories[0][0] == histories[1][0]
    np.testing.assert_allclose(histories[0][1], histories[1][1], rtol=1e-4)


def test_logged_for_those_behind_it(tmp_path):
    """CSVLogger has the column, whatever other callbacks stand before them."""
    path = tmp_path / "log.csv"
    before = [keras.callbacks.TerminateOnNaN(), keras.callbacks.History()]
    log = keras.callbacks.CSVLogger(path)
    history = fit(model(), [*before, KLWarmup(0, 4), log], epochs=5).history
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["kl_factor"]) for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    assert "loss" in history


def test_a_strength_that_is_set_stays():
    """A tuner's strength and the warm-up's factor do not overwrite one another."""
    made = model(_no_loss, 0.0)
    full = made.evaluate(*data(), verbose=0)
    warmup = KLWarmup(0, 2)
    for factor in (1.0, 3.0):
        for penalty, own in zip(penalties_of(made).values(), (1.0, 0.5), strict=True):
            penalty.strength = factor * own
        history = fit(made, [warmup], epochs=3).history
        np.testing.assert_allclose(
            history["loss"], np.array([0, 0.5, 1]) * factor * full, rtol=1e-5
        )


# Resuming ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted():
    made = model()
    fit(made, [Reseed(), KLWarmup(1, 5, every="batch")])
    return made.get_weights()


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("how", ["same model", "saved model"])
def test_resumed_by_initial_epoch(how, uninterrupted, tmp_path):
    made = model()
    fit(made, [Reseed(), KLWarmup(1, 5, every="batch")], epochs=3)
    if how == "saved model":
        made.save(tmp_path / "model.keras")
        made = keras.saving.load_model(
            tmp_path / "model.keras", {"TracedModel": TracedModel}
        )
        assert [p.strength for p in penalties_of(made).values()] == [1.0, 0.5]
    fit(made, [Reseed(), KLWarmup(1, 5, every="batch")], initial_epoch=3)
    assert_same(made.get_weights(), uninterrupted)


@pytest.mark.parametrize("how", ["same model", "new model"])
def test_resumed_by_backup_and_restore(how, uninterrupted, tmp_path):
    def callbacks():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [backup, Reseed(), KLWarmup(1, 5, every="batch")]

    made = model()
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(made, [*callbacks(), Interrupt(3)])
    if how == "new model":
        made = model()
    history = fit(made, callbacks()).history
    assert history["kl_factor"] == [0.6875, 0.9375, 1.0]
    assert_same(made.get_weights(), uninterrupted)


# Errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, 5), ValueError, "`start`. Expected a non-negative finite number"),
        ((0, float("inf")), ValueError, "`end`. Expected a non-negative finite"),
        (
            (5, 5),
            ValueError,
            "`end`. Expected a number greater than `start`. Received: ",
        ),
        (("0", 5), TypeError, "Received: start='0'"),
        ((True, 5), TypeError, "Received: start=True"),
        ((0, None), TypeError, "Received: end=None"),
    ],
)
def test_bad_span(arguments, error, message):
    with pytest.raises(error) as caught:
        KLWarmup(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": "cosine"}, ValueError, "Received: schedule='cosine'"),
        ({"every": "step"}, ValueError, "Expected one of ('epoch', 'batch')"),
        ({"initial": -0.1}, ValueError, "Received: initial=-0.1"),
        ({"final": float("nan")}, ValueError, "Received: final=nan"),
        ({"cycles": 0}, ValueError, "`cycles`. Expected a positive integer"),
        ({"cycles": 2.5}, TypeError, "Received: cycles=2.5"),
        ({"ratio": 0.0}, ValueError, "Received: ratio=0.0"),
        (
            {"ratio": 1.5},
            ValueError,
            "Expected a number in (0, 1]. Received: ratio=1.5",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        KLWarmup(0, 5, **arguments)
    assert message in str(caught.value)


def test_a_model_without_kl():
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`KLWarmup` needs a model with a KL diverg"):
        fit(plain, [KLWarmup(0, 2)])


def test_batches_of_unknown_number():
    def generator():
        while True:
            yield data()

    made = model()
    with pytest.raises(ValueError, match="Expected `steps_per_epoch` in `fit`"):
        made.fit(generator(), callbacks=[KLWarmup(0, 2, every="batch")], verbose=0)
    made.fit(
        generator(),
        steps_per_epoch=2,
        callbacks=[KLWarmup(0, 2, every="batch")],
        verbose=0,
    )


def test_logs_what_the_divergences_add_to_the_loss():
    layer = BayesianDense(2, num_examples=32, kl_strength=0.5)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    y = x[:, :2]
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[KLWarmup(0, 1)]).history
    assert history["kl"][0] == 0.0
    assert history["kl"][1] == pytest.approx(float(layer.losses[0]), rel=1e-6)
    layer.trainable = False
    assert float(sum(layer.losses)) == 0.0
