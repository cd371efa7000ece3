import keras
import numpy as np
import pytest

from kerasreg.adversarial import (
    FGSM,
    PGD,
    Noise,
    robust_evaluate,
)
from kerasreg.adversarial.judge import Judge, with_radius
from tests.adversarial import models

ATTACKS = [FGSM(0.15, bounds=(0, 1)), PGD(0.15, bounds=(0, 1), steps=10)]


def report(model, attacks=ATTACKS, rows=120, **arguments):
    x, y = models.digits()[1]
    return robust_evaluate(model, x[:rows], y[:rows], attacks, **arguments)


@pytest.fixture(scope="module")
def honest():
    return report(models.trained(), batch_size=50)


def test_an_honest_model_passes(honest):
    assert honest.passed, honest
    assert len(honest.checks) == 7
    assert honest.clean > 0.85
    assert honest.accuracy["PGD"] <= honest.accuracy["FGSM"] < honest.clean
    assert honest.robust <= honest.accuracy["PGD"]
    curve = list(honest.curve.values())
    assert list(honest.curve) == pytest.approx(
        [0, 0.0375, 0.075, 0.1125, 0.15, 0.225, 0.3]
    )
    assert curve[0] == honest.clean
    assert curve[4] == pytest.approx(honest.accuracy["PGD"])
    assert curve == sorted(curve, reverse=True)


def test_logits_times_1000_are_flagged():
    """It seems robust to FGSM and PGD, and the report says that it is not."""
    masked = report(models.trained(1000.0), surrogate=models.trained())
    assert masked.accuracy["PGD"] > 0.8
    assert not masked.passed
    failed = {check.name for check in masked.checks if not check.passed}
    assert failed >= {"another loss does no better", "transfer does no better"}
    assert masked.robust < 0.4
    assert "is not to be believed" in repr(masked)
    assert "FAIL  another loss does no better" in repr(masked)


def test_a_binary_model_in_all_forms():
    """Sigmoid, logit and two classes, with a mask: one answer, worked out by hand."""
    x = np.array([[0.05, 9.0], [0.3, 9.0], [-0.05, -9.0], [-0.3, -9.0], [0.2, 0.0]])
    y = np.array([1, 1, 0, 0, 0])
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    kernel = np.array([[4.0], [0.0]])
    both = np.hstack([-kernel / 2, kernel / 2])
    for model in (
        models.linear(kernel, loss="binary_crossentropy", activation="sigmoid"),
        models.linear(kernel, loss=logits),
        models.linear(both, loss=models.logits_loss()),
    ):
        attacks = {"weak": PGD(0.1, mask=[True, False]), "none": Noise(0.0)}
        found = robust_evaluate(model, x, y, attacks, eps=[0.0, 0.1, 0.4])
        assert (found.clean, found.robust) == (0.8, 0.4)
        assert found.accuracy == {"weak": 0.4, "none": 0.8}
        assert found.curve == {0.0: 0.8, 0.1: 0.4, 0.4: 0.0}
        assert len(found.checks) == 6  # With a mask not everything can be reached.
        assert found.passed


def test_batches_make_no_difference():
    x, y = models.digits()[1]
    model = models.trained()
    whole, parts = (
        Judge(model, x, y, batch_size=size).right(FGSM(0.1)) for size in (200, 33)
    )
    np.testing.assert_array_equal(whole, parts)
    moved = FGSM(0.1)(model, x, y)
    expected = np.argmax(model.predict(moved, verbose=0), axis=1) == y
    np.testing.assert_array_equal(whole[0], expected)
    clean = Judge(model, x, np.eye(10)[y], batch_size=64).clean()
    assert np.mean(clean) == pytest.approx(model.evaluate(x, y, verbose=0)[1])


def test_another_radius_has_steps_in_proportion():
    attack = PGD(0.2, step=0.05)
    twin = with_radius(attack, 0.4)
    assert (twin.eps, twin.step) == (0.4, pytest.approx(0.1))
    assert (attack.eps, attack.step) == (0.2, 0.05)
    assert with_radius(PGD(0.0, step=0.05), 0.4).step is None


def test_attacks_have_names():
    attacks = [FGSM(0.0), FGSM(0.1), FGSM(0.2)]
    found = report(models.trained(), attacks, rows=20)
    assert list(found.accuracy) == ["FGSM", "FGSM 2", "FGSM 3"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attacks": []}, ValueError, "a dict by name. Received: attacks=[]"),
        ({"attacks": None}, TypeError, "Received: attacks=None"),
        ({"attacks": "pgd"}, TypeError, "Received: attacks='pgd'"),
        ({"attacks": ["pgd"]}, TypeError, "Received: attacks=['pgd']"),
        ({"eps": 0.1}, TypeError, "a sequence of non-negative numbers, or None."),
        ({"eps": []}, ValueError, "Received: eps=[]"),
        ({"eps": [0.1, -0.1]}, ValueError, "Received: eps=-0.1"),
        ({"eps": ["a"]}, TypeError, "Received: eps='a'"),
        ({"batch_size": 0}, ValueError, "Received: batch_size=0"),
        ({"batch_size": "8"}, TypeError, "Received: batch_size='8'"),
        ({"seed": 0.5}, TypeError, "an integer. Received: seed=0.5"),
        ({"y": None}, ValueError, "Received: y=None"),
        ({"x": np.zeros((0, 2))}, ValueError, "Received: shapes [(0, 2)]"),
        ({"x": np.zeros((1, 2)), "y": [0]}, ValueError, "Received: 1 example"),
        ({"surrogate": "net"}, TypeError, "Received: surrogate='net'"),
        (
            {"surrogate": keras.Sequential([keras.layers.Dense(1)], name="twin")},
            ValueError,
            "argument `surrogate`. Expected a compiled model, also for attacks with a "
            "loss of their own: compile it with a loss (model.compile(loss=...)). "
            "Received: the model 'twin' without a loss",
        ),
        ({"model": "net"}, TypeError, "a keras.Model. Received: model='net'"),
        (
            {"model": models.linear([[1.0], [1.0]])},
            ValueError,
            "Invalid value for argument `model`. Expected one that is compiled with a "
            "cross-entropy and has one output, of classes. Received: loss='mse'",
        ),
        (
            {"model": models.linear(np.ones((2, 2)), loss="binary_crossentropy")},
            ValueError,
            "Received: outputs of shapes [(3, 2)]",
        ),
        (
            {"surrogate": models.linear(np.ones((2, 3)), loss=models.logits_loss())},
            ValueError,
            "for the same classes, with 1 outputs. Received: one with 3",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    given = {
        "model": models.linear([[1.0], [1.0]], loss="binary_crossentropy"),
        "x": [[0.1, 0.2], [0.3, 0.4], [0.0, -0.4]],
        "y": [0, 1, 1],
        "attacks": FGSM(0.1),
        **arguments,
    }
    with pytest.raises(error) as caught:
        robust_evaluate(**given)
    assert str(caught.value).startswith("Invalid value for argument")
    assert message in str(caught.value)
