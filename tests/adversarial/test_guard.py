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
    with pytest.warns(UserWarning, match="fell from .* in epoch 2"):
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


def test_bad_arguments():
    x, y = data()
    for arguments, message in (
        (
            {"action": "wait"},
            'Invalid value for argument `action`. Expected "stop" or "fallback". '
            "Received: action='wait'",
        ),
        (
            {"attack": "pgd"},
            "Invalid value for argument `attack`. Expected an attack. Received: "
            "attack='pgd'",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            OverfittingGuard(x, y, **arguments)
        assert str(caught.value) == message
    plain = models.linear(np.zeros((4, 1)))
    with pytest.raises(ValueError) as caught:
        plain.fit(x, y, verbose=0, callbacks=[OverfittingGuard(x, y)])
    assert str(caught.value) == (
        "OverfittingGuard is for an AdversarialModel. Received: Sequential"
    )
