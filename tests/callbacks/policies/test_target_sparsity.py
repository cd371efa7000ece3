"""`TargetSparsity`: the strength with just so many zeros, against LARS."""

import json

import keras
import numpy as np
import pytest
from sklearn import linear_model

from kerasreg.callbacks import LayerwiseAdaptiveLambda, State, TargetSparsity, Unit
from kerasreg.optimizers import Proximal, solve
from kerasreg.regularizers import L1, L2
from tests.exhaustive import exhaustive

N, P = 120, 60


def lasso_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, P)).astype("float32")
    y = x[:, :15] @ rng.normal(size=(15, 1)) + 0.5 * rng.normal(size=(N, 1))
    return x, y.astype("float32")


def segment(zeros):
    """The strengths for which the lasso has so many zeros, by LARS."""
    x, y = (a.astype("float64") for a in lasso_data())
    alphas, _, path = linear_model.lars_path(
        x - x.mean(axis=0), y[:, 0] - y.mean(), method="lasso"
    )
    inside = (path[:, :-1] == 0) & (path[:, 1:] == 0)
    (found,) = np.nonzero(inside.sum(axis=0) == zeros)
    return [(2 * alphas[k + 1], 2 * alphas[k]) for k in found]


def lasso(optimizer="sgd", **arguments):
    layer = keras.layers.Dense(1, kernel_regularizer=L1(0.0))
    model = keras.Sequential([keras.Input((P,)), layer])
    model.compile(optimizer, loss="mse", **arguments)
    return model


def control(policy, model, train, updates):
    """Train and update by hand, without a callback; the numbers of zeros."""
    kernel, counts = model.layers[0].kernel, []
    for _ in range(updates):
        train()
        counts.append(int(np.sum(kernel.numpy() == 0)))
        unit = Unit(kernel.regularizer.strength, P, sparsity=counts[-1] / P)
        (kernel.regularizer.strength,) = policy.update(State({"all": unit})).values()
    return counts


@pytest.mark.parametrize("zeros", [30, 48, 57])
def test_finds_the_segment_of_lars(zeros):
    model, data = lasso(), lasso_data()
    policy = TargetSparsity(zeros / P)
    counts = control(policy, model, lambda: solve(model, *data, tol=1e-4), 60)
    strength = model.layers[0].kernel.regularizer.strength
    assert counts[-5:] == [zeros] * 5
    assert any(low < strength < high for low, high in segment(zeros))


def test_finds_the_segment_while_proximal_trains():
    model = lasso(Proximal(keras.optimizers.SGD(0.1)), steps_per_execution=25)
    x, y = (np.tile(a, (25, 1)) for a in lasso_data())  # 25 full batches

    def train():
        model.fit(x, y, batch_size=N, shuffle=False, verbose=0)

    counts = control(TargetSparsity(0.8), model, train, 60)
    strength = model.layers[0].kernel.regularizer.strength
    assert counts[-5:] == [48] * 5
    assert any(low < strength < high for low, high in segment(48))


@pytest.mark.parametrize(
    ("hidden", "wide"), [(0.5, 0.8), pytest.param(0.8, 0.95, marks=exhaustive)]
)
def test_each_layer_hits_its_own_target(hidden, wide):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 20)).astype("float32")
    y = np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + x[:, 3:9] @ np.ones((6, 1))
    y = (y + 0.3 * rng.normal(size=y.shape)).astype("float32")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((20,))
    penalties = {"kernel_regularizer": L1(1e-3)}
    deep = keras.layers.Dense(10, "tanh", name="hidden", **penalties)(inputs)
    deep = keras.layers.Dense(1, kernel_regularizer=L2(0.01), name="out")(deep)
    linear = keras.layers.Dense(1, name="wide", **penalties)(inputs)
    model = keras.Model(inputs, keras.layers.Add()([deep, linear]))
    optimizer = Proximal(keras.optimizers.Adam(0.01))
    model.compile(optimizer, loss="mse", steps_per_execution=50)
    target = {"hidden": hidden, "wide": wide}
    model.fit(
        *(np.tile(a, (50, 1)) for a in (x, y)),  # 50 full batches
        batch_size=200,
        shuffle=False,
        epochs=100,
        verbose=0,
        callbacks=[LayerwiseAdaptiveLambda(TargetSparsity(target))],
    )
    for name, share in target.items():
        kernel = model.get_layer(name).kernel.numpy()
        assert abs(np.sum(kernel == 0) - share * kernel.size) <= 1
    assert model.get_layer("out").kernel.regularizer.strength == 0.01


def run(policy, zeros_at, updates, strength=0.0, size=10):
    """The strengths and zeros of a model that answers at once, by `zeros_at`."""
    steps = []
    for _ in range(updates):
        zeros = zeros_at(strength)
        steps.append((strength, zeros))
        unit = Unit(strength, size, sparsity=zeros / size)
        strength = policy.update(State({"all": unit}))["all"]
    return steps


@pytest.mark.parametrize(("target", "nearest"), [(0.4, 3), (0.6, 8), (0.7, 8)])
def test_a_target_that_is_jumped_over_settles_on_the_nearer_side(target, nearest):
    steps = run(
        TargetSparsity(target), lambda s: 0 if s < 1e-3 else 3 if s < 0.02 else 8, 80
    )
    assert {zeros for _, zeros in steps[-20:]} == {nearest}
    strengths = [strength for strength, _ in steps[-20:]]
    assert len(set(strengths)) == 1
    assert strengths[-1] == pytest.approx(0.02, rel=1e-2)


def test_follows_a_target_that_drifts():
    """Each ten updates it takes half again the strength for the same zeros."""
    policy, strength, misses = TargetSparsity(0.5), 1e-3, []
    for step in range(300):
        scale = 0.01 * 1.5 ** (step / 10)
        sparsity = round(1000 * strength / (strength + scale)) / 1000
        misses.append(abs(sparsity - 0.5))
        unit = Unit(strength, 1000, sparsity=sparsity)
        strength = policy.update(State({"all": unit}))["all"]
    assert max(misses[50:]) < 0.1


def test_starts_from_nothing_and_does_not_vanish():
    policy = TargetSparsity(0.5)
    (first, second, *_) = run(policy, lambda s: 0, 3)[1:]
    assert first[0] == 1e-6
    assert second[0] == pytest.approx(1e-6 * np.exp(0.5))
    least, _ = run(TargetSparsity(0.5), lambda s: 8, 200, strength=1.0)[-1]
    assert least == 1e-12
    assert run(TargetSparsity(0.5), lambda s: 8, 5)[-1][0] == 0


def test_stays_within_half_a_weight_and_while_zeros_come_by_themselves():
    policy = TargetSparsity(0.52)
    assert {s for s, _ in run(policy, lambda s: 5, 5, strength=0.1)} == {0.1}
    policy = TargetSparsity(0.8)
    counts = iter([0, 50, 70, 79, 80])
    steps = run(policy, lambda s: next(counts), 5, strength=0.1, size=100)
    assert len({strength for strength, _ in steps[1:]}) == 1


def test_resumes_where_it_was():
    def zeros_at(strength):
        return int(10 * strength / (strength + 0.03))

    straight = run(TargetSparsity(0.7), zeros_at, 30)
    policy = TargetSparsity(0.7)
    run(policy, zeros_at, 12)
    memory = json.loads(json.dumps(policy.get_state()))
    resumed = TargetSparsity(0.7)
    resumed.set_state(memory)
    run(policy, zeros_at, 5)  # does not change what was saved
    assert run(resumed, zeros_at, 18, straight[12][0]) == straight[12:]


def test_units_without_a_target_keep_their_strength():
    policy = TargetSparsity({"a": 0.5})
    units = {name: Unit(0.1, 10, sparsity=0.0) for name in "ab"}
    assert list(policy.update(State(units))) == ["a"]
    policy.check(None, units)
    with pytest.raises(ValueError) as error:
        policy.check(None, {"b": []})
    assert str(error.value) == (
        "Invalid value for argument `target`. Expected names of the units ['b']. "
        "Received: ['a']"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"target": 1.0},
            ValueError,
            "Invalid value for argument `target`. Expected numbers in [0, 1). "
            "Received: target=1.0",
        ),
        (
            {"target": {"a": 2}},
            ValueError,
            "Invalid value for argument `target`. Expected numbers in [0, 1). "
            "Received: target={'a': 2}",
        ),
        (
            {"target": {}},
            ValueError,
            "Invalid value for argument `target`. Expected at least one unit. "
            "Received: target={}",
        ),
        (
            {"target": "half"},
            TypeError,
            "Invalid value for argument `target`. Expected a non-negative finite "
            "number. Received: target='half'",
        ),
        (
            {"target": 0.5, "gain": 0},
            ValueError,
            "Invalid value for argument `gain`. Expected a finite number greater than "
            "0. Received: gain=0",
        ),
        (
            {"target": 0.5, "largest_step": -1},
            ValueError,
            "Invalid value for argument `largest_step`. Expected a finite number "
            "greater than 0. Received: largest_step=-1",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error) as raised:
        TargetSparsity(**arguments)
    assert str(raised.value) == message


def test_repr():
    assert repr(TargetSparsity(0.5)) == (
        "TargetSparsity(0.5, gain=2.0, largest_step=0.5)"
    )
