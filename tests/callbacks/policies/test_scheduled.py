"""`Scheduled`: the strengths of a schedule, at each step."""

import json

import keras
import numpy as np
import pytest

from kerasreg.callbacks import LayerwiseAdaptiveLambda, Scheduled, State, Unit
from kerasreg.regularizers import L2, penalties_of
from tests import models


class Record(keras.callbacks.Callback):
    """The strength at which each epoch, or each batch, begins."""

    def __init__(self):
        super().__init__()
        self.epochs, self.batches = [], []

    def strength(self):
        (penalty,) = penalties_of(self.model).values()
        return penalty.strength

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(self.strength())

    def on_train_batch_begin(self, batch, logs=None):
        self.batches.append(self.strength())


def fit(policy, epochs=3, initial_epoch=0, model=None):
    """Four batches an epoch; the strength they were trained with."""
    model = model or models.model(L2(0.5))
    record = Record()
    model.fit(
        *models.data(),
        batch_size=8,
        epochs=epochs,
        initial_epoch=initial_epoch,
        verbose=0,
        callbacks=[LayerwiseAdaptiveLambda(policy), record],
    )
    return record


def test_a_function_of_the_epoch():
    record = fit(Scheduled(lambda epoch: 0.1 / (1 + epoch)))
    expected = np.repeat([0.1, 0.1 / 2, 0.1 / 3], 4)
    np.testing.assert_allclose(record.batches, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        keras.optimizers.schedules.CosineDecay(0.1, 10),
        keras.optimizers.schedules.PiecewiseConstantDecay([3, 7], [0.1, 0.2, 0.3]),
    ],
    ids=["cosine", "piecewise"],
)
def test_a_schedule_of_keras_at_each_step(schedule):
    policy = Scheduled(schedule, unit="step")
    assert policy.every == 1
    record = fit(policy)
    expected = [float(schedule(step)) for step in range(12)]
    np.testing.assert_allclose(record.batches, expected, rtol=1e-6)


def test_the_next_fit_goes_on():
    policy = Scheduled(lambda epoch: 0.1 * (epoch + 1))
    model = models.model(L2(0.5))
    fit(policy, 2, model=model)
    record = fit(policy, 4, initial_epoch=2, model=model)
    np.testing.assert_allclose(record.batches, np.repeat([0.3, 0.4], 4), rtol=1e-6)


def test_a_number():
    assert set(fit(Scheduled(0.25)).batches) == {0.25}


def test_relative_to_the_first_strength():
    def make():
        return Scheduled(lambda epoch: 2.0**epoch, relative=True)

    record = fit(make())
    np.testing.assert_allclose(record.batches, np.repeat([0.5, 1.0, 2.0], 4))
    policy, resumed = make(), make()
    policy.update(State({"a": Unit(0.5), "b": Unit(0.25)}))
    resumed.set_state(json.loads(json.dumps(policy.get_state())))
    state = State({"a": Unit(7.0), "b": Unit(7.0)}, epoch=3)
    assert resumed.update(state) == {"a": 4.0, "b": 2.0}


def test_each_unit_its_own():
    policy = Scheduled({"a": 0.25, "b": lambda step: step / 8}, unit="step")
    units = {name: Unit(1.0) for name in "abc"}
    assert policy.update(State(units, step=4, epoch=9)) == {"a": 0.25, "b": 0.5}
    policy.check(None, units)
    with pytest.raises(ValueError) as error:
        policy.check(None, {"a": []})
    assert str(error.value) == (
        "Invalid value for argument `schedule`. Expected names of the units ['a']. "
        "Received: ['b']"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"schedule": "cosine"},
            TypeError,
            "Invalid value for argument `schedule`. Expected a "
            "keras.optimizers.schedules.LearningRateSchedule, a callable, a number, "
            "or a dict of these by unit. Received: schedule='cosine'",
        ),
        (
            {"schedule": {}},
            ValueError,
            "Invalid value for argument `schedule`. Expected at least one unit. "
            "Received: schedule={}",
        ),
        (
            {"schedule": {"a": -1.0}},
            ValueError,
            "Invalid value for argument `schedule`. Expected a non-negative finite "
            "number. Received: schedule=-1.0",
        ),
        (
            {"schedule": 0.1, "unit": "batch"},
            ValueError,
            "Invalid value for argument `unit`. Expected one of ('epoch', 'step'). "
            "Received: unit='batch'",
        ),
        (
            {"schedule": 0.1, "relative": "yes"},
            TypeError,
            "Invalid value for argument `relative`. Expected a bool. "
            "Received: relative='yes'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error) as raised:
        Scheduled(**arguments)
    assert str(raised.value) == message


def test_repr():
    assert repr(Scheduled(0.1)) == "Scheduled(0.1, unit='epoch', relative=False)"
