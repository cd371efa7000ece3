"""ElasticNet, L1, L2, MCP, SCAD: values, maps and parametrizations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.regularizers import L1, L2, MCP, SCAD, ElasticNet
from tests.optimality import assert_minimizes, integral

PENALTIES = {
    "ElasticNet": ElasticNet(l1=0.7, l2=0.3),
    "L1": L1(0.7),
    "L2": L2(0.3),
    "MCP": MCP(0.7, gamma=1.8),
    "SCAD": SCAD(0.7, gamma=3.7),
}
# The slope of each for |w| = t, and where it breaks, from the papers.
SLOPES = {
    "ElasticNet": (lambda t: 0.7 + 0.6 * t, []),
    "L1": (lambda t: 0.7, []),
    "L2": (lambda t: 0.6 * t, []),
    "MCP": (lambda t: max(0.7 - t / 1.8, 0), [0.7 * 1.8]),
    "SCAD": (
        lambda t: 0.7 if t <= 0.7 else max(3.7 * 0.7 - t, 0) / 2.7,
        [0.7, 0.7 * 3.7],
    ),
}
every_penalty = pytest.mark.parametrize("name", PENALTIES)


@every_penalty
def test_the_value_integrates_the_published_slope(name):
    slope, breaks = SLOPES[name]
    value = integral(slope)
    for size in (0.0, 1e-4, 0.3, 0.7, 1.2, 2.0, 2.6, 9.0):
        w = ops.array([size, -size])
        assert float(PENALTIES[name](w)) == pytest.approx(
            2 * value(size, breaks), rel=1e-5, abs=1e-8
        )


@every_penalty
def test_the_gradient_is_the_published_slope(name):
    """Against the slope, against differences of the value, and zero at zero."""
    slope, _ = SLOPES[name]
    w = np.array([-3.0, -1.5, -0.9, -0.2, 0.2, 0.9, 1.5, 3.0])
    tensor = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = PENALTIES[name](tensor)
    gradient = tape.gradient(value, tensor).numpy()
    expected = np.sign(w) * [slope(abs(each)) for each in w]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)
    nudge = 1e-5 * np.eye(len(w))
    differences = [
        float(PENALTIES[name](w + each) - PENALTIES[name](w - each)) / 2e-5
        for each in nudge
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)
    zero = tf.zeros(3)
    with tf.GradientTape() as tape:
        tape.watch(zero)
        value = PENALTIES[name](zero)
    assert float(value) == 0.0
    np.testing.assert_array_equal(tape.gradient(value, zero), np.zeros(3))


@every_penalty
@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0, 30.0])
def test_the_map_is_the_global_minimum_of_the_value(name, strength):
    """For scalar steps and a step for each weight, of the very value it has."""
    penalty = type(PENALTIES[name]).from_config(PENALTIES[name].get_config())
    penalty.strength = strength
    # The value of single weights, from the slope at this strength.
    given = PENALTIES[name].strength
    if name in ("MCP", "SCAD"):
        gamma = penalty.gamma
        edge = np.array([1.0, gamma]) * strength

        def value(size):
            if name == "MCP":
                size = np.minimum(size, edge[1])
                return strength * size - size**2 / (2 * gamma)
            bowl = np.maximum(np.clip(size, *edge) - edge[0], 0)
            return strength * (np.minimum(size, edge[0]) + bowl) - bowl**2 / (
                2 * (gamma - 1)
            )
    else:
        l1, l2 = (getattr(PENALTIES[name], k) * strength / given for k in ("l1", "l2"))

        def value(size):
            return l1 * size + l2 * size**2

    v, step = np.meshgrid(np.linspace(-6, 6, 49), np.geomspace(1e-8, 1e4, 13))
    sizes = ops.convert_to_tensor(np.abs(v[0]))
    assert float(penalty(sizes)) == pytest.approx(value(np.abs(v[0])).sum(), rel=1e-6)
    best = penalty.prox(ops.convert_to_tensor(v), ops.convert_to_tensor(step))
    # The strength is a float32, so the maps agree to its precision.
    assert_minimizes(best, v, step, value, rtol=1e-6)
    for row in range(len(step)):
        one = penalty.prox(ops.convert_to_tensor(v[row]), float(step[row, 0]))
        np.testing.assert_allclose(one, best[row], rtol=1e-6, atol=1e-6)
    single = penalty.prox(
        ops.convert_to_tensor(v, "float32"), ops.convert_to_tensor(step, "float32")
    )
    assert keras.backend.standardize_dtype(single.dtype) == "float32"
    assert_minimizes(single, v, step, value, rtol=1e-5)
    if strength == 0:
        np.testing.assert_allclose(best, v)


@every_penalty
def test_the_map_turns_small_weights_into_zeros(name):
    """All but the ridge, which has none."""
    w = ops.array([0.5, -0.1, 0.0, 4.0])
    for step in (1.0, ops.ones(4)):
        u = ops.convert_to_numpy(PENALTIES[name].prox(w, step))
        zeros = [False, False, True, False]
        if name != "L2":
            zeros = [True, True, True, False]
        np.testing.assert_array_equal(u == 0, zeros)


@every_penalty
def test_convex_maps_are_nonexpansive(name):
    if name in ("MCP", "SCAD"):  # where the problem is convex they expand
        return
    a, b = 3 * np.random.default_rng(0).normal(size=(2, 1000))
    step = 10 ** np.random.default_rng(1).uniform(-3, 3, size=1000)
    gap = np.abs(PENALTIES[name].prox(a, step) - PENALTIES[name].prox(b, step))
    assert np.all(gap <= np.abs(a - b) * (1 + 1e-9))


# Parametrizations -------------------------------------------------------------


def test_elastic_net_is_keras_l1l2():
    w = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    for l1, l2 in [(0.1, 0.2), (0.3, 0.0), (0.0, 0.4), (0.0, 0.0), (1e-4, 10.0)]:
        expected = float(keras.regularizers.L1L2(l1, l2)(w))
        assert float(ElasticNet(l1, l2)(w)) == pytest.approx(expected, rel=1e-6)
    assert float(L1(0.3)(w)) == pytest.approx(float(keras.regularizers.L1(0.3)(w)))
    assert float(L2(0.3)(w)) == pytest.approx(float(keras.regularizers.L2(0.3)(w)))


@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.1, 0.3), (0.02, 1.0), (0.5, 0.1)])
def test_from_ratio_is_scikit_learns_objective(alpha, l1_ratio):
    """Iterated on scikit-learn's loss, its map ends at scikit-learn's solution."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8))
    y = x[:, 0] - 2 * x[:, 1] + 0.1 * rng.normal(size=60)
    fitted = linear_model.ElasticNet(
        alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-12, max_iter=10**5
    ).fit(x, y)
    penalty = ElasticNet.from_ratio(alpha, l1_ratio)
    # Its objective, from its manual page, at any weights at all.
    w = rng.normal(size=8)
    written = alpha * l1_ratio * np.sum(np.abs(w)) + (
        0.5 * alpha * (1 - l1_ratio) * np.sum(w**2)
    )
    assert float(penalty(w)) == pytest.approx(written, rel=1e-6)
    step = len(x) / np.linalg.norm(x, 2) ** 2
    w = np.zeros(8)
    for _ in range(300):
        gradient = x.T @ (x @ w - y) / len(x)
        w = np.asarray(penalty.prox(ops.convert_to_tensor(w - step * gradient), step))
    np.testing.assert_allclose(w, fitted.coef_, atol=1e-6)
    np.testing.assert_array_equal(w == 0, fitted.coef_ == 0)


def test_from_ratio_checks_its_arguments():
    assert ElasticNet.from_ratio(0.1).get_config() == {"l1": 0.05, "l2": 0.025}
    with pytest.raises(ValueError) as error:
        ElasticNet.from_ratio(0.1, 1.5)
    assert str(error.value) == (
        "Invalid value for argument `l1_ratio`. Expected a number in [0, 1]. "
        "Received: l1_ratio=1.5"
    )
    with pytest.raises(ValueError) as error:
        ElasticNet.from_ratio(-1)
    assert str(error.value) == (
        "Invalid value for argument `alpha`. Expected a non-negative finite number. "
        "Received: alpha=-1"
    )


@pytest.mark.parametrize(("make", "least"), [(MCP, 1), (SCAD, 2)])
def test_gamma(make, least):
    assert make(0.1, gamma=least + 1e-3).gamma == least + 1e-3
    for gamma in (least, 0, -3, float("nan"), float("inf")):
        with pytest.raises(ValueError) as error:
            make(0.1, gamma=gamma)
        assert str(error.value) == (
            "Invalid value for argument `gamma`. Expected a finite number greater "
            f"than {least}. Received: gamma={gamma!r}"
        )
    for gamma in ("3", None, True):
        with pytest.raises(TypeError) as error:
            make(0.1, gamma=gamma)
        assert str(error.value).endswith(f"Received: gamma={gamma!r}")
    penalty = make(0.1, gamma=3.5)
    penalty.strength = 0.4
    assert penalty.get_config() == {"lam": 0.4, "gamma": 3.5}


@pytest.mark.parametrize("make", [MCP, SCAD])
def test_a_large_gamma_is_the_lasso(make):
    w = np.array([-2.0, 0.4, 1.0])
    concave, lasso = make(0.5, gamma=1e7), L1(0.5)
    assert float(concave(w)) == pytest.approx(float(lasso(w)), rel=1e-5)
    np.testing.assert_allclose(concave.prox(w, 0.7), lasso.prox(w, 0.7), atol=1e-5)
