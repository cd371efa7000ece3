import warnings

import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD, AdversarialModel, OverfittingGuard
from tests.adversarial import models


class Spoil(keras.callbacks.Callback):
    """Makes the model useless after one epoch, as catastrophic overfitting does."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.before = epoch, None

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            inner = self.model.model
            self.before = inner.get_weights()
            inner.set_weights([-w for w in self.before])


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("float32")
    return x, (x @ [1.0, -2.0, 0.5, 0.0] > 0).astype("int32")


def fit(guard, epochs=5, spoil=2):
    inner = models.linear(
        np.zeros((4, 1)), loss="binary_crossentropy", activation="sigmoid"
    )
    model = AdversarialModel(inner, FGSM(0.1, random_start=True))
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
    breaker = Spoil(spoil)
    x, y = data()
    history = model.fit(
        x[:40], y[:40], epochs=epochs, verbose=0, callbacks=[breaker, guard]
    ).history
    return model, breaker, history


def test_it_stops_and_restores():
    guard = OverfittingGuard(*[a[40:] for a in data()], drop=0.3)
    with pytest.warns(UserWarning, match=r"in epoch 3, by more than drop=0\.3\."):
        model, _, history = fit(guard)
    assert guard.acted == 2
    assert len(history["loss"]) == 3
    accuracy = history["robust_accuracy"]
    assert accuracy[2] < guard.best - 0.3
    assert guard.best == max(accuracy)
    best = int(np.argmax(accuracy[::-1]))
    assert best > 0
    for weight in model.model.get_weights():
        assert np.any(weight)
    x, y = (a[40:] for a in data())
    moved = PGD(0.1)(model, x, y)
    restored = np.mean((model.predict(moved, verbose=0)[:, 0] > 0.5) == y)
    assert restored == pytest.approx(guard.best)


@pytest.mark.parametrize("fallback", [None, PGD(0.05, steps=3)])
def test_it_falls_back_to_pgd(fallback):
    guard = OverfittingGuard(
        *[a[40:] for a in data()], drop=0.3, action="fallback", fallback=fallback
    )
    with pytest.warns(UserWarning, match="Catastrophic overfitting"):
        model, _, history = fit(guard, epochs=4, spoil=1)
    assert len(history["loss"]) == 4
    assert isinstance(model.attack, PGD)
    assert model.attack.eps == (0.1 if fallback is None else 0.05)
    assert history["robust_accuracy"][-1] > guard.best - 0.3


def test_a_good_run_is_left_alone():
    guard = OverfittingGuard(*[a[40:] for a in data()], drop=0.3)
    model, _, history = fit(guard, epochs=3, spoil=None)
    assert guard.acted is None
    assert len(history["robust_accuracy"]) == 3
    assert isinstance(model.attack, FGSM)


@pytest.mark.parametrize(
    ("weight", "same", "warned"),
    [(0.0, False, True), (1.0, False, False), (0.0, True, False)],
)
def test_a_model_that_holds_nothing_is_warned_of(weight, same, warned):
    """Unless one class is all that there is to judge by."""
    x = np.array([[-1.0], [1.0], [1.0]] * 4)
    y = np.ones(12, int) if same else (x[:, 0] > 0).astype(int)
    inner = models.linear([[weight]], loss="binary_crossentropy", activation="sigmoid")
    model = AdversarialModel(inner, FGSM(0.1))
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, verbose=0, callbacks=[OverfittingGuard(x, y)])
    found = [str(w.message) for w in caught if "one class for all" in str(w.message)]
    assert len(found) == warned
    if warned:
        assert "examples, 0.667: it was at most 0.333" in found[0]


def test_each_fit_begins_anew():
    """Neither weights nor attack of one model come into another."""
    guard, found = OverfittingGuard(*data()), []
    for eps in (0.0, 9.0):
        inner = models.linear([[1.0], [-2.0], [0.5], [0.0]], loss="binary_crossentropy")
        model, logs = AdversarialModel(inner, FGSM(eps)), {}
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        guard.set_model(model)
        guard.on_train_begin()
        guard.on_epoch_end(0, logs)
        assert (guard.acted, guard.attack) == (None, None)
        assert guard.best == logs["robust_accuracy"]
        found.append(guard.best)
    assert found[0] == 1.0
    assert found[1] < 0.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"action": "wait"}, ValueError, 'Expected "stop" or "fallback". Received: '),
        (
            {"attack": "pgd"},
            TypeError,
            "argument `attack`. Expected an attack such as kerasreg.adversarial.PGD. "
            "Received: attack='pgd'",
        ),
        (
            {"fallback": PGD(0.1)},
            ValueError,
            'argument `fallback`. Expected none unless action="fallback". Received: '
            "action='stop' and fallback=PGD(",
        ),
        ({"drop": 1.0}, ValueError, "a number between 0 and 1. Received: drop=1.0"),
        ({"drop": 0.0}, ValueError, "Received: drop=0.0"),
        ({"batch_size": "8"}, TypeError, "Received: batch_size='8'"),
        ({"batch_size": 0}, ValueError, "Received: batch_size=0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        OverfittingGuard(*data(), **arguments)
    assert str(caught.value).startswith("Invalid value for argument")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (None, [0, 1], "argument `x`. Expected one example or more"),
        (np.zeros((0, 4)), [], "Received: shapes [(0, 4)]"),
        (np.zeros((3, 4)), None, "Received: y=None"),
        (np.zeros((3, 4)), [0, 1], "Received: y of shape (2,)"),
        (np.zeros((3, 4)), np.eye(3), "Received: y of shape (3, 3)"),
    ],
)
def test_bad_data(x, y, message):
    """They are found before the first epoch."""
    guard = OverfittingGuard(x, y)
    inner = models.linear(np.zeros((4, 1)), loss="binary_crossentropy")
    guard.set_model(AdversarialModel(inner, FGSM(0.1)))
    guard.model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError) as caught:
        guard.on_train_begin()
    assert message in str(caught.value)


def test_models_that_do_not_suit_it():
    x, y = data()
    plain = models.linear(np.zeros((4, 1)))
    with pytest.raises(TypeError) as caught:
        plain.fit(x, y, verbose=0, callbacks=[OverfittingGuard(x, y)])
    assert str(caught.value) == (
        "Invalid value for argument `callbacks`. Expected OverfittingGuard for an "
        "AdversarialModel. Received: one for a Sequential"
    )
    guard = OverfittingGuard(x, y, action="fallback", fallback=FGSM(0.1))
    inner = models.linear(np.zeros((4, 1)), loss="binary_crossentropy")
    model = AdversarialModel(inner, PGD(0.1), "trades")
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match="random_start=True"):
        model.fit(x, y, verbose=0, callbacks=[guard])
    assert isinstance(model.attack, PGD)
