"""What every attack must pass, with one model of a few layers."""

import copy

import keras
import numpy as np

from kerasreg.adversarial.geometry import length
from kerasreg.layers import DropConnectDense
from tests.cases import Case


def model():
    """Dropout, BatchNormalization, a noisy layer, a penalty on activities."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", activity_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=1),
            DropConnectDense(3, 0.5, seed=2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile("sgd", loss)
    return built


def data(rows=12):
    rng = np.random.default_rng(3)
    return rng.random((rows, 6)).astype("float32"), rng.integers(0, 3, rows)


def check_ball(case: Case, norm):
    """It stays in its ball, its bounds and its mask, to 1e-6."""
    net, (x, y) = model(), data()
    x[0] = [0, 1, 0, 1, 0, 1]  # on the bounds
    mask = np.array([1, 1, 1, 0, 1, 1], bool)
    scale = np.array([0.5, 1, 2, 1, 1, 1])
    high = np.array([1, 1, 1, 1, 1, 1.5])
    plain = case.make(norm=norm)
    full = case.make(norm=norm, bounds=(0.0, high), mask=mask, scale=scale)
    for attack in (plain, full):
        moved = np.asarray(attack(net, x, y))
        change = (moved - x) / (1.0 if attack is plain else scale)
        size = np.asarray(length(keras.ops.convert_to_tensor(change), str(norm)))
        assert size.max() <= attack.eps + 1e-6
        assert np.median(size) > 0.2 * attack.eps
    assert moved.min() >= 0.0
    assert np.all(moved <= high)
    np.testing.assert_array_equal(moved[:, 3], x[:, 3])


def check_leaves_the_model(case: Case):
    """Weights, statistics, seeds and predictions stay as they were."""
    net, (x, y) = model(), data()
    before = [v.numpy() for v in net.variables]
    expected = np.asarray(net(x))
    case.make()(net, x, y)
    for variable, value in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    np.testing.assert_array_equal(net(x), expected)


def check_config_round_trip(case: Case):
    """Its config makes the same attack, and so do copies."""
    net, (x, y) = model(), data()
    where = {"bounds": (np.zeros(6), 1.5), "scale": np.full(6, 2.0), "mask": [True] * 6}
    attack = case.make(norm=2, **where)
    config = keras.saving.serialize_keras_object(attack)
    expected = np.asarray(attack(net, x, y, seed=5))
    others = [
        type(attack).from_config(attack.get_config()),
        copy.copy(attack),
        copy.deepcopy(attack),
        keras.saving.deserialize_keras_object(config),
    ]
    assert {repr(other) for other in others} == {repr(attack)}
    np.testing.assert_array_equal(others[-1](net, x, y, seed=5), expected)


def check_seed(case: Case):
    """A seed gives the same perturbation, another one another, if it is random."""
    net, (x, y) = model(), data()
    attack = case.make()
    first, again, other = (np.asarray(attack(net, x, y, seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    if case.public.__name__ == "Noise":
        assert np.mean(first == other) < 0.1


def check_zero(case: Case, norm):
    """A ball of radius 0 holds one point."""
    net, (x, y) = model(), data()
    config = case.make(norm=norm).get_config()
    attack = case.public.from_config({**config, "eps": 0.0})
    np.testing.assert_array_equal(attack(net, x, y), x)


def check_follows_changes(case: Case):
    """A new radius or a newly compiled model is not answered by an old trace."""
    net, (x, y) = model(), data()
    attack = case.make()
    attack(net, x, y)
    attack.eps = 0.0
    np.testing.assert_array_equal(attack(net, x, y), x)
    attack.eps = 0.1
    net.compile("sgd", "mse")
    assert np.asarray(attack(net, x, np.eye(3)[y])).shape == x.shape
