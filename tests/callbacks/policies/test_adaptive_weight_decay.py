"""`AdaptiveWeightDecay`: the decay is a constant share of the gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.callbacks import AdaptiveWeightDecay, LayerwiseAdaptiveLambda, State, Unit
from kerasreg.regularizers import L1, L2, Anchored, ElasticNet
from tests import models


class Shares(keras.callbacks.Callback):
    """At each full batch, the decay and the gradient, by another tape."""

    def __init__(self, by_layer):
        super().__init__()
        self.by_layer, self.wanted, self.strengths = by_layer, [], []

    def kernels(self):
        return [layer.kernel for layer in self.model.layers if layer.weights]

    def on_train_batch_begin(self, batch, logs=None):
        x, y = models.data()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(x, training=True) - y))
        gradients = tape.gradient(loss, [kernel.value for kernel in self.kernels()])
        norms = [
            (np.linalg.norm(gradient), np.linalg.norm(kernel))
            for gradient, kernel in zip(gradients, self.kernels(), strict=True)
        ]
        if not self.by_layer:
            norms = [np.sqrt(np.sum(np.square(norms), axis=0))] * len(norms)
        self.wanted.append([gradient / weight for gradient, weight in norms])

    def on_train_batch_end(self, batch, logs=None):
        self.strengths.append([k.regularizer.strength for k in self.kernels()])


def shares(policy, by_layer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((models.FEATURES,)),
            keras.layers.Dense(8, "tanh", kernel_regularizer=L2(0.0)),
            keras.layers.Dense(1, kernel_regularizer=L2(0.0)),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    granularity = "layer" if by_layer else "model"
    adaptive = LayerwiseAdaptiveLambda(policy, every=1, granularity=granularity)
    record = Shares(by_layer)
    model.fit(
        *(np.tile(a, (8, 1)) for a in models.data()),
        batch_size=models.ROWS,
        shuffle=False,
        verbose=0,
        callbacks=[adaptive, record],
    )
    return np.array(record.wanted), np.array(record.strengths)


@pytest.mark.parametrize("by_layer", [True, False], ids=["layer", "model"])
def test_the_decay_is_a_constant_share_at_each_step(by_layer):
    wanted, strengths = shares(AdaptiveWeightDecay(0.05, smoothing=0.0), by_layer)
    # The gradient of strength·Σw² is 2·strength·w.
    np.testing.assert_allclose(2 * strengths / wanted, 0.05, rtol=1e-4)
    assert wanted.max() > 2 * wanted.min()


def test_smoothed_it_is_a_running_average():
    wanted, strengths = shares(AdaptiveWeightDecay(0.05), by_layer=True)
    ages = np.subtract.outer(np.arange(8), np.arange(8))
    averages = np.where(ages < 0, 0.0, 0.9 * 0.1 ** np.abs(ages)) @ (0.05 * wanted)
    np.testing.assert_allclose(2 * strengths, averages, rtol=1e-4)


def test_weights_that_are_all_zero_keep_their_strength():
    policy = AdaptiveWeightDecay(0.05)
    units = {"dead": Unit(0.1, norm=0.0, gradient_norm=1.0)}
    assert policy.update(State(units)) == {}


class Weight:
    def __init__(self, regularizer):
        self.regularizer = regularizer


@pytest.mark.parametrize(
    "penalty",
    [
        L1(0.0),
        L1(0.1),
        ElasticNet(0.1, 0.1),
        ElasticNet(0.0, 0.0),
        Anchored(L2(0.1), 0.1),
    ],
    ids=repr,
)
def test_other_penalties_are_refused(penalty):
    with pytest.raises(ValueError) as error:
        AdaptiveWeightDecay(0.05).check(None, {"out": [Weight(penalty)]})
    assert str(error.value) == (
        "`AdaptiveWeightDecay` needs penalties whose gradient is a weight decay. "
        "Expected kerasreg.regularizers.L2 (`GradientRatio` takes any penalty). "
        f"Received: [{penalty!r}] in the unit 'out'"
    )


def test_an_elastic_net_that_is_an_l2_is_one():
    weights = [Weight(ElasticNet(0.0, 0.1)), Weight(L2(0.1))]
    AdaptiveWeightDecay(0.05).check(None, {"out": weights})
    weights.append(Weight(L2(0.2)))
    with pytest.raises(ValueError) as error:
        AdaptiveWeightDecay(0.05).check(None, {"out": weights})
    assert str(error.value) == (
        "`AdaptiveWeightDecay` sets one weight decay for all weights of a unit. "
        'Expected penalties of equal strength, or granularity="weight". '
        "Received: strengths [0.1, 0.1, 0.2] in the unit 'out'"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"ratio": -1},
            ValueError,
            "Invalid value for argument `ratio`. Expected a non-negative finite "
            "number. Received: ratio=-1",
        ),
        (
            {"ratio": 0.1, "smoothing": 1},
            ValueError,
            "Invalid value for argument `smoothing`. Expected a number in [0, 1). "
            "Received: smoothing=1",
        ),
        (
            {"ratio": 0.1, "smoothing": None},
            TypeError,
            "Invalid value for argument `smoothing`. Expected a non-negative finite "
            "number. Received: smoothing=None",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error) as raised:
        AdaptiveWeightDecay(**arguments)
    assert str(raised.value) == message


def test_repr():
    assert repr(AdaptiveWeightDecay(0.05)) == (
        "AdaptiveWeightDecay(ratio=0.05, smoothing=0.1)"
    )
