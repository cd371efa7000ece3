"""What is set later, and models that change."""

import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD
from tests.adversarial import models


def test_what_is_set_later_is_checked():
    attack = PGD(0.1)
    attack.norm = 2
    assert attack.norm == "2"
    for name, value in (("eps", -1.0), ("norm", 3), ("steps", 0), ("step", 0.0)):
        with pytest.raises(ValueError, match=f"argument `{name}`"):
            setattr(attack, name, value)
    assert attack.eps == 0.1


def test_a_model_that_is_changed():
    """With other weights of its losses, or another layer."""
    inputs, attack = keras.Input((2,)), FGSM(0.1)
    kernels = np.array([[1.0], [1.0]]), np.array([[1.0], [-1.0]])
    layers = [keras.layers.Dense(1, use_bias=False) for _ in kernels]
    model = keras.Model(inputs, [layer(inputs) for layer in layers])
    model.set_weights(kernels)
    x, y = np.zeros((1, 2)), -np.ones((1, 1))
    for weights, signs in (([1, 0], [1, 1]), ([0, 1], [1, -1])):
        model.compile("sgd", "mse", loss_weights=weights)
        moved = attack(model, x, [y, y])
        np.testing.assert_allclose(moved, [0.1 * np.array(signs)], rtol=1e-5)
    model = models.linear(kernels[0])
    np.testing.assert_allclose(attack(model, x, y), [[0.1, 0.1]], rtol=1e-5)
    model.pop()
    model.add(layers[1])
    np.testing.assert_allclose(attack(model, x, y), [[0.1, -0.1]], rtol=1e-5)


def test_attacks_in_a_loop_are_traced_without_a_warning(caplog):
    model = models.linear([[1.0]])
    for eps in np.linspace(0.1, 0.2, 7):
        FGSM(eps)(model, np.ones((1, 1)), np.ones((1, 1)))
    assert "retracing" not in caplog.text
