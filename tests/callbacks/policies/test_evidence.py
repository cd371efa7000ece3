"""`Evidence` on linear models: the strengths of scikit-learn's Bayesian regressions."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ARDRegression, BayesianRidge

from kerasreg.callbacks import Evidence, State, Unit
from kerasreg.callbacks.policies.base import next_strengths
from kerasreg.optimizers import solve
from kerasreg.regularizers import L2, Anchored, ElasticNet, Prior

FLAT = {"alpha_1": 0, "alpha_2": 0, "lambda_1": 0, "lambda_2": 0}


def linear(features, penalty, dtype="float64", outputs=1):
    layer = keras.layers.Dense(
        outputs, kernel_regularizer=penalty, dtype=dtype, name="head"
    )
    model = keras.Sequential([keras.Input((features,), dtype=dtype), layer])
    model.compile(loss="mse", jit_compile=False)
    return model, {"head": [layer.kernel]}


def ridge(x, y, strengths, weight=None):
    """The minimum of the loss with penalties, a strength for each feature."""
    weight = np.ones(len(x)) if weight is None else weight
    mean = [np.average(a, 0, weight) for a in (x, y)]
    xc, yc = (a - m for a, m in zip((x, y), mean, strict=True))
    size = len(x) * y.shape[1]
    gram = (xc.T * weight) @ xc + np.diag(np.broadcast_to(strengths, x.shape[1]) * size)
    w = np.linalg.solve(gram, (xc.T * weight) @ yc)
    return w, mean[1] - mean[0] @ w


def state(model, policy, units):
    extra = policy.measure(model, units)
    return State(
        {
            name: Unit(members[0].regularizer.strength, extra=extra[name])
            for name, members in units.items()
        }
    )


def step(model, policy, units):
    """One update; returns the strengths before it."""
    measured = state(model, policy, units)
    for name, strength in next_strengths(policy, measured).items():
        for weight in units[name]:
            weight.regularizer.strength = strength
    return {name: unit.strength for name, unit in measured.units.items()}


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return (x / x.std(0)), (y / y.std())[:, None]


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.parametrize("curvature", ["full", "kronecker"])
def test_bayesian_ridge(curvature, float64):
    """Solver and policy in turn converge to scikit-learn's BayesianRidge."""
    x, y = diabetes()
    n = len(x)
    theirs = BayesianRidge(**FLAT, tol=1e-13, max_iter=1000, compute_score=True)
    theirs.fit(x, y[:, 0])
    model, units = linear(10, L2(1e-3))
    policy = Evidence(x, y, curvature=curvature, damping=0.0)
    for _ in range(9):
        solve(model, x, y, tol=1e-10)
        (strength,) = step(model, policy, units).values()
    ratio = theirs.lambda_ / theirs.alpha_
    assert ratio == pytest.approx(14.85644, rel=1e-6)
    assert strength * n == pytest.approx(ratio, rel=1e-6)
    np.testing.assert_allclose(model.layers[-1].kernel[:, 0], theirs.coef_, atol=1e-7)
    assert policy.noise_variance == pytest.approx(1 / theirs.alpha_, rel=1e-6)
    assert policy.log_evidence == pytest.approx(theirs.scores_[-1], abs=1e-3)


def converge(x, y, penalty, rounds=14, weight=None, damping=0.0, ratio=1.0):
    model, units = linear(x.shape[1], penalty, outputs=y.shape[1])
    policy = Evidence(x, y, sample_weight=weight, damping=damping, batch_size=221)
    for _ in range(rounds):
        (weights,) = units.values()
        strength = weights[0].regularizer.strength * ratio
        model.set_weights(ridge(x, y, strength, weight))
        step(model, policy, units)
    return strength, policy


def test_sample_weights_as_scikit_learn():
    x, y = diabetes()
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(x))
    theirs = BayesianRidge(**FLAT, tol=1e-13, max_iter=1000)
    theirs.fit(x, y[:, 0], sample_weight=weight)
    strength, policy = converge(x, y, L2(1e-3), weight=weight)
    assert strength * len(x) == pytest.approx(theirs.lambda_ / theirs.alpha_, rel=1e-5)
    assert policy.noise_variance == pytest.approx(1 / theirs.alpha_, rel=1e-5)


def test_several_outputs():
    """The fixed point in closed form: Keras's loss is a mean over outputs, too."""
    x, y = diabetes()
    both = np.concatenate([y, np.roll(y, 7) + y], 1)
    two, _ = converge(x, both, L2(1e-3))
    data = np.linalg.svd(x - x.mean(0), full_matrices=False)[1] ** 2
    rho = two * both.size
    gamma = 2 * np.sum(data / (data + rho))
    w, bias = ridge(x, both, two)
    noise = np.sum((both - x @ w - bias) ** 2) / (both.size - gamma)
    assert rho == pytest.approx(noise * gamma / np.sum(w**2), rel=1e-6)


@pytest.mark.parametrize(
    ("penalty", "ratio"),
    [
        (ElasticNet(0.0, 1e-3), 1.0),
        (Anchored(L2(1e-3), mu=0.0, anchor=np.zeros((10, 1))), 1.0),
        (Anchored(None, mu=2e-3, anchor=np.zeros((10, 1))), 0.5),
        (Prior("Normal", 1e-4, params={"scale": 0.25}), 8.0),
    ],
    ids=str,
)
def test_penalties_of_the_same_meaning(penalty, ratio):
    """Every quadratic penalty finds the same posterior."""
    x, y = diabetes()
    expected, _ = converge(x, y, L2(1e-3), rounds=8)
    found, _ = converge(x, y, penalty, rounds=8, ratio=ratio)
    assert found == pytest.approx(expected, rel=1e-4)


def test_anchor():
    """A shrinkage towards an anchor is one of the difference from it."""
    x, y = diabetes()
    anchor = np.random.default_rng(0).normal(size=(10, 1)).astype("float32")
    expected, _ = converge(x, y - x @ anchor, L2(1e-3), rounds=8)
    model, units = linear(10, Anchored(None, mu=2e-3, anchor=anchor))
    policy = Evidence(x, y, damping=0.0, batch_size=221)
    for _ in range(8):
        strength = units["head"][0].regularizer.strength / 2
        w, bias = ridge(x, y - x @ anchor, strength)
        model.set_weights([w + anchor, bias])
        step(model, policy, units)
    assert strength == pytest.approx(expected, rel=1e-4)


def features_apart(features, strengths):
    """A linear model with a Dense layer for each feature."""
    x = keras.Input((features,), dtype="float64")
    parts = [
        keras.layers.Dense(
            1,
            use_bias=i == 0,
            kernel_regularizer=L2(float(s)),
            dtype="float64",
            name=f"f{i}",
        )
        for i, s in enumerate(strengths)
    ]
    columns = [x[:, i : i + 1] for i in range(features)]
    sums = keras.layers.Add(dtype="float64")(
        [part(c) for part, c in zip(parts, columns, strict=True)]
    )
    model = keras.Model(x, sums)
    model.compile(loss="mse")
    return model, parts


def test_ard():
    """With a unit for each feature, update by update as ARDRegression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5))
    y = x @ [[2.0], [1.0], [0.5], [0.3], [-1.0]] + 0.7 * rng.normal(size=(80, 1))
    model, parts = features_apart(5, np.full(5, np.var(y) / len(x)))
    units = {part.name: [part.kernel] for part in parts}
    policy = Evidence(x, y, damping=0.0, ascent=False)
    for rounds in range(1, 9):
        strengths = np.array([p.kernel.regularizer.strength for p in parts])
        w, bias = ridge(x, y, strengths)
        for part, each in zip(parts, w, strict=True):
            part.kernel.assign(each[None])
        parts[0].bias.assign(bias)
        step(model, policy, units)
        theirs = ARDRegression(
            **FLAT, max_iter=rounds, tol=0.0, threshold_lambda=1e9
        ).fit(x, y[:, 0])
        ours = [p.kernel.regularizer.strength * len(x) for p in parts]
        np.testing.assert_allclose(ours, theirs.lambda_ / theirs.alpha_, rtol=1e-5)
        assert policy.noise_variance == pytest.approx(1 / theirs.alpha_, rel=1e-5)


def test_recovers_the_ratio_of_variances():
    """Data of noise 1 and weights of variance 1/16: their ratio, in the median."""
    rng = np.random.default_rng(0)
    n, p = 100, 20
    model, units = linear(p, L2(0.1))
    found = []
    x = rng.normal(size=(n, p))
    policy = Evidence(x, np.zeros((n, 1)), damping=0.0, batch_size=n)
    for _ in range(31):
        y = x @ (rng.normal(size=(p, 1)) / 4) + rng.normal(size=(n, 1))
        policy._data = x, y, None
        policy.set_state({"trust": 1.0, "evidence": 0.0, "strengths": {}})
        for _ in range(6):
            strength = units["head"][0].regularizer.strength
            model.set_weights(ridge(x, y, strength))
            step(model, policy, units)
        found.append(strength * n)
    low, high = np.quantile(found, [0.25, 0.75])
    assert low < 16 < high
    # The deviation of a median is 1.25·(IQR/1.35)/√31, a sixth of the IQR.
    assert abs(np.median(found) - 16) < 0.4 * (high - low)


@pytest.mark.parametrize("damping", [0.0, 0.5, 0.9])
def test_damping(damping):
    """The log strength goes that much less far."""
    x, y = diabetes()
    model, units = linear(10, L2(1e-3))
    model.set_weights(ridge(x, y, 1e-3))
    unit = state(model, Evidence(x, y), units).units["head"]
    full = Evidence(x, y, damping=0.0).update(State({"head": unit}))["head"]
    less = Evidence(x, y, damping=damping).update(State({"head": unit}))["head"]
    share = np.log(less / unit.strength) / np.log(full / unit.strength)
    assert share == pytest.approx(1 - damping)


def test_burn_in():
    extra = {"gamma": 1.0, "square": 1.0, "log_ratio": 1.0, "error": 1.0}
    extra |= {"observations": 0.0, "scale": 10.0}
    units = {"a": Unit(0.5, extra=extra)}
    policy = Evidence(np.zeros((2, 1)), np.zeros(2), burn_in=3, damping=0.0)
    assert policy.update(State(units, step=2)) == {}
    assert policy.log_evidence is None
    assert policy.update(State(units, step=3)) == {"a": pytest.approx(0.1)}
    assert policy.noise_variance == 1.0


def test_goes_back_where_the_evidence_falls():
    """And then half as far; the memory survives a round trip."""

    def units(strength, error):
        extra = {"gamma": 1.0, "square": 1.0, "log_ratio": 0.0, "error": error}
        extra |= {"observations": 0.0, "scale": 1.0 / 16.0}
        return State({"a": Unit(strength, extra=extra)})

    policy = Evidence(np.zeros((2, 1)), np.zeros(2), damping=0.0)
    assert policy.update(units(1.0, 10.0)) == {"a": 16.0}
    other = Evidence(np.zeros((2, 1)), np.zeros(2), damping=0.0)
    other.set_state(policy.get_state())
    for each in (policy, other):
        assert each.update(units(16.0, 12.0)) == {"a": 1.0}
        assert each.update(units(1.0, 10.0)) == {"a": 4.0}
    plain = Evidence(np.zeros((2, 1)), np.zeros(2), damping=0.0, ascent=False)
    plain.update(units(1.0, 10.0))
    assert plain.update(units(16.0, 12.0)) == {"a": 16.0}


def test_weights_that_say_nothing():
    """No weight, or no data on them: finite strengths."""

    def new(strength, gamma, square):
        extra = {"gamma": gamma, "square": square, "log_ratio": 0.0, "error": 1.0}
        extra |= {"observations": 0.0, "scale": 10.0}
        policy = Evidence(np.zeros((2, 1)), np.zeros(2), damping=0.0)
        return policy.update(State({"a": Unit(strength, extra=extra)}))["a"]

    assert new(0.5, 0.0, 1.0) == 0.5
    assert new(0.5, 1.0, 0.0) == pytest.approx(50.0)
    assert new(0.5, 1e-9, 1.0) == pytest.approx(0.005)
    assert new(0.0, 0.0, 0.0) == new(0.0, 1.0, 0.0) == 0.0
    assert new(0.0, 1.0, 1.0) == pytest.approx(0.1)
