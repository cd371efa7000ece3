import keras
import numpy as np
import pytest

from kerasreg.adversarial import PGD, RandomSearch, robust_evaluate
from kerasreg.adversarial.judge import Judge
from kerasreg.adversarial.masking import (
    _deterministic,
    _large_ball,
    masking_checks,
    one_class,
    strongest,
)
from tests.adversarial import models

LOGIT = keras.losses.BinaryCrossentropy(from_logits=True)


class Rounded(keras.layers.Layer):
    def call(self, x):
        return keras.ops.round(x)


class Noisy(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


def behind(layer):
    """A linear classifier of two features, behind another layer."""
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    model.layers[-1].set_weights([np.ones((2, 1)), np.zeros(1)])
    model.compile(loss=LOGIT)
    return model


def clusters(centre=4.0):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    x = rng.normal(size=(120, 2)) + centre * (2 * y[:, None] - 1)
    return x.astype("float32"), y


@pytest.mark.parametrize(
    ("eps", "bounds", "kernel"),
    [
        (0.0, None, 1.0),
        (0.03, None, 1.0),
        (0.05, (-20, 20), 1.0),
        (0.05, (-200, 200), 4.0),
    ],
)
def test_an_honest_model_has_nothing_left_in_a_large_ball(eps, bounds, kernel):
    model = models.linear([[kernel], [kernel]], loss=LOGIT)
    (check,) = _large_ball(Judge(model, *clusters()), PGD(eps, bounds=bounds))
    assert check.figure == 0.0
    assert "where each example can become any other of them" in check.why


def test_one_class_is_noted():
    """Nothing else was seen, and it may be that there is nothing else."""
    x, y = clusters()
    judge = Judge(models.linear([[0.1], [0.1]], 50.0, LOGIT), x, y)
    assert one_class(judge) == 1
    assert _large_ball(judge, PGD(0.05, bounds=(-20, 20))) == []


def test_a_saturated_sigmoid_has_gradients():
    x, y = clusters()
    for activation, loss in (("sigmoid", "binary_crossentropy"), (None, LOGIT)):
        model = models.linear([[4.0], [4.0]], loss=loss, activation=activation)
        assert not np.any(Judge(model, x, y).flat(PGD(0.1)))


def test_a_model_without_gradients():
    """It is reported, and the attacks that need none go on."""
    x, y = clusters(1.0)
    found = robust_evaluate(behind(Rounded()), x, y, PGD(0.5, steps=2), eps=[0.5])
    failed = {check.name: check.figure for check in found.checks if not check.passed}
    assert failed["gradients are not zero"] == 1.0
    assert "no gradients do no better" in failed
    assert found.robust < found.accuracy["PGD"] - 0.1


def test_a_randomized_model_is_flagged():
    x, y = clusters(1.0)
    check = _deterministic(Judge(behind(Noisy()), x, y))
    assert not check.passed
    assert check.figure == 1.0
    assert _deterministic(Judge(behind(Rounded()), x, y)).figure == 0.0


def test_half_precision_and_nan():
    keras.config.set_dtype_policy("mixed_float16")
    x, y = clusters(1.0)
    kernel = [[-1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]
    judge = Judge(models.linear(kernel, loss=models.logits_loss()), x, y)
    checks, rest = masking_checks(judge, PGD(0.5))
    assert all(check.passed for check in checks)
    expected = (np.sum(x, axis=1) > 0) == y
    expected &= np.abs(np.sum(x, axis=1)) > 1.0
    assert np.mean(rest == expected) > 0.97
    nan = models.linear(kernel, np.nan, loss=models.logits_loss())
    assert not np.any(Judge(nan, x, 0 * y).clean())


def test_the_strongest_pgd():
    attacks = [PGD(0.1, steps=30), PGD(0.2, steps=10, restarts=4)]
    assert strongest(attacks) is attacks[1]
    made = strongest([RandomSearch(0.3, 2)])
    assert made.get_config() == PGD(0.3, 2, steps=40).get_config()
