"""`GradientRatio`: the gradient of a penalty is a constant share of the loss's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.callbacks import GradientRatio, LayerwiseAdaptiveLambda, State, Unit
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, MCP, ElasticNet, GroupLasso
from tests import models


class Ratio(keras.callbacks.Callback):
    """‖∇h‖/‖∇L‖ at the weights of each full batch, `h` with the strength set by it."""

    def __init__(self):
        super().__init__()
        self.ratios = []

    def on_train_batch_begin(self, batch, logs=None):
        x, y = models.data()
        kernel = self.model.layers[1].kernel
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(x, training=True) - y))
        self.data = np.linalg.norm(tape.gradient(loss, kernel.value))
        self.kernel = tf.constant(kernel.numpy())

    def on_train_batch_end(self, batch, logs=None):
        with tf.GradientTape() as tape:
            tape.watch(self.kernel)
            value = self.model.layers[1].kernel.regularizer.value(self.kernel)
        penalty = np.linalg.norm(tape.gradient(value, self.kernel))
        self.ratios.append(penalty / self.data)


def ratios(penalty, optimizer, steps=8, **arguments):
    model = models.model(penalty, optimizer)
    record = Ratio()
    adaptive = LayerwiseAdaptiveLambda(GradientRatio(0.1, **arguments), every=1)
    model.fit(
        *(np.tile(a, (steps, 1)) for a in models.data()),
        batch_size=models.ROWS,
        shuffle=False,
        verbose=0,
        callbacks=[adaptive, record],
    )
    return record.ratios


@pytest.mark.parametrize(
    "penalty",
    [L1(0.01), L2(3.0), ElasticNet(0.01, 0.1), GroupLasso(0.01, axis="input")],
    ids=repr,
)
@pytest.mark.parametrize("proximal", [False, True])
def test_the_share_is_constant_at_each_step(penalty, proximal):
    optimizer = keras.optimizers.SGD(0.05)
    penalty = type(penalty)(**penalty.get_config())
    optimizer = Proximal(optimizer) if proximal else optimizer
    found = ratios(penalty, optimizer, smoothing=0.0)
    np.testing.assert_allclose(found, 0.1, rtol=1e-4)


def test_from_a_strength_of_zero_it_takes_two_updates():
    first, *others = ratios(L1(0.0), keras.optimizers.SGD(0.05), smoothing=0.0)
    assert first < 0.001
    np.testing.assert_allclose(others, 0.1, rtol=1e-4)


def test_a_concave_penalty_is_approached():
    found = ratios(MCP(0.01, 20.0), "sgd", steps=30, smoothing=0.0)
    np.testing.assert_allclose(found[-10:], 0.1, rtol=0.05)


def test_smoothed_it_is_a_running_geometric_mean():
    policy = GradientRatio(0.1, smoothing=0.25)
    strength = 0.5
    for gradient in (1.0, 4.0):
        unit = Unit(
            strength, gradient_norm=gradient, penalty_gradient_norm=3.0 * strength
        )
        strength = policy.update(State({"a": unit}))["a"]
    instant = 0.1 * np.array([1.0, 4.0]) / 3.0
    logs = 0.75 * np.log(instant) @ [0.25, 1.0] + 0.25**2 * np.log(0.5)
    assert strength == pytest.approx(np.exp(logs))


@pytest.mark.parametrize("gradients", [(0.0, 1.0), (1.0, 0.0)])
def test_a_gradient_that_vanishes_leaves_the_strength(gradients):
    data, penalty = gradients
    unit = Unit(0.1, gradient_norm=data, penalty_gradient_norm=penalty)
    assert GradientRatio(0.1).update(State({"a": unit})) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"ratio": 0},
            "Invalid value for argument `ratio`. Expected a finite number greater "
            "than 0. Received: ratio=0",
        ),
        (
            {"ratio": 0.1, "smoothing": 1.5},
            "Invalid value for argument `smoothing`. Expected a number in [0, 1]. "
            "Received: smoothing=1.5",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as raised:
        GradientRatio(**arguments)
    assert str(raised.value) == message


def test_repr():
    assert repr(GradientRatio(0.1)) == "GradientRatio(ratio=0.1, smoothing=0.1)"
