"""Every proximal map is the global minimum of its problem."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg import prox
from tests.optimality import (
    assert_group_optimal,
    assert_minimizes,
    group_minimum,
    integral,
)

STEPS = np.geomspace(1e-8, 1e4, 25)
VALUES = np.concatenate([np.linspace(-8, 8, 65), [-1e-6, 1e-6, 1e3]])

# Each scalar penalty: its map, its value in |u|, and whether it is convex.
LAM = 0.8
SCALAR_MAPS = {
    "soft": (
        lambda v, d: prox.soft_threshold(v, d * LAM),
        lambda size: LAM * size,
    ),
    "firm-1.2": (
        lambda v, d: prox.firm_threshold(v, d, LAM, 1.2),
        lambda size: mcp(size, LAM, 1.2),
    ),
    "firm-3": (
        lambda v, d: prox.firm_threshold(v, d, LAM, 3.0),
        lambda size: mcp(size, LAM, 3.0),
    ),
    "scad-2.1": (
        lambda v, d: prox.scad_threshold(v, d, LAM, 2.1),
        lambda size: scad(size, LAM, 2.1),
    ),
    "scad-3.7": (
        lambda v, d: prox.scad_threshold(v, d, LAM, 3.7),
        lambda size: scad(size, LAM, 3.7),
    ),
}
every_scalar_map = pytest.mark.parametrize("name", SCALAR_MAPS)


def mcp(size, lam, gamma):
    flat = gamma * lam**2 / 2
    return np.where(
        size < gamma * lam, flat - (gamma * lam - size) ** 2 / gamma / 2, flat
    )


def scad(size, lam, gamma):
    bowl = (gamma * lam - np.clip(size, lam, gamma * lam)) ** 2 / (gamma - 1) / 2
    return lam * np.minimum(size, lam) + (gamma - 1) * lam**2 / 2 - bowl


def numpy_map(name, v, step, dtype):
    v, step = (ops.convert_to_tensor(array, dtype=dtype) for array in (v, step))
    return ops.convert_to_numpy(SCALAR_MAPS[name][0](v, step))


# Maps of one weight -----------------------------------------------------------


@every_scalar_map
def test_scalar_map_is_the_global_minimum_for_every_step(name):
    v, step = np.meshgrid(VALUES, STEPS)
    best = numpy_map(name, v, step, "float64")
    assert_minimizes(best, v, step, SCALAR_MAPS[name][1])


@every_scalar_map
def test_scalar_map_with_steps_around_gamma(name):
    """Where the problem turns from convex to concave."""
    steps = np.unique(
        np.outer([1.1, 1.2, 2.7, 3.0, 4.7], 1 + np.linspace(-0.1, 0.1, 9))
    )
    v, step = np.meshgrid(np.linspace(-6, 6, 121), steps)
    assert_minimizes(numpy_map(name, v, step, "float64"), v, step, SCALAR_MAPS[name][1])


@every_scalar_map
def test_scalar_map_in_single_precision(name):
    v, step = np.meshgrid(VALUES, STEPS)
    v, step = v.astype("float32"), step.astype("float32")
    best = numpy_map(name, v, step, "float32")
    assert best.dtype == np.float32
    assert_minimizes(best, v, step, SCALAR_MAPS[name][1], rtol=1e-6)


@every_scalar_map
@pytest.mark.parametrize("step", [1e-8, 0.3, 1, 2.9, 50.0])
def test_scalar_step_equals_a_step_for_each_weight(name, step):
    v = ops.convert_to_tensor(VALUES, dtype="float64")
    one = SCALAR_MAPS[name][0](v, step)
    each = numpy_map(name, VALUES, np.full_like(VALUES, step), "float64")
    assert one.dtype == v.dtype
    np.testing.assert_allclose(one, each, rtol=1e-12)


@every_scalar_map
def test_zeros_are_exact_and_large_weights_untouched(name):
    for step in (1e-4, 0.1, 1.0, 10.0, 1e4):
        inside = np.linspace(-0.99, 0.99, 41) * step * LAM
        if name != "soft":
            inside *= min(1.0, 1 / np.sqrt(step))  # the jump of a concave penalty
        assert not np.any(numpy_map(name, inside, step, "float32"))
        if name != "soft":  # beyond its flat part a concave penalty has no pull
            beyond = LAM * np.array([3.8, 10.0, 1e6]) * max(1.0, np.sqrt(5 * step))
            beyond = beyond.astype("float32")
            np.testing.assert_array_equal(
                numpy_map(name, beyond, step, "float32"), beyond
            )


@every_scalar_map
def test_scalar_map_at_the_ends(name):
    """No step and no penalty change nothing; an endless step leaves nothing small."""
    v = np.array([-2.0, -1e-30, 0.0, 1e-30, 3.0], "float32")
    np.testing.assert_array_equal(numpy_map(name, v, 0.0, "float32"), v)
    assert not np.any(numpy_map(name, v, 1e30, "float32"))
    assert np.all(np.isfinite(numpy_map(name, v, np.float32(1e38), "float32")))
    nan = numpy_map(name, np.array([np.nan, 1.0]), 1.0, "float32")
    assert np.isnan(nan[0])
    assert not np.isnan(nan[1])


def test_strength_zero_is_the_identity():
    v = ops.convert_to_tensor(VALUES, dtype="float32")
    for step in (1e-8, 1.0, 1e4):
        for u in (
            prox.soft_threshold(v, step * 0.0),
            prox.firm_threshold(v, step, 0.0, 3.0),
            prox.scad_threshold(v, step, 0.0, 3.7),
            prox.block_soft_threshold(v, step, 0.0, (0,)),
            prox.block_soft_threshold(v, step * ops.ones_like(v), 0.0, (0,)),
        ):
            np.testing.assert_allclose(u, v, rtol=1e-6)


def test_soft_threshold_is_nonexpansive():
    rng = np.random.default_rng(0)
    a, b = 3 * rng.normal(size=(2, 10000))
    step = 10 ** rng.uniform(-3, 3, size=10000)
    gap = numpy_map("soft", a, step, "float64") - numpy_map("soft", b, step, "float64")
    assert np.all(np.abs(gap) <= np.abs(a - b) * (1 + 1e-12))


def test_soft_threshold_and_its_dual_add_up():
    """Moreau: v = prox(v) + the projection onto the dual ball, here an interval."""
    v, step = np.meshgrid(VALUES, STEPS)
    u = numpy_map("soft", v, step, "float64")
    np.testing.assert_allclose(u + np.clip(v, -step * LAM, step * LAM), v, atol=1e-12)


# Values -----------------------------------------------------------------------

SIZES = [0.0, 1e-3, 0.4, 0.8, 1.1, 2.0, 2.4, 2.96, 5.0]


@pytest.mark.parametrize("gamma", [1.2, 3.0, 10.0])
def test_mcp_value_integrates_its_slope(gamma):
    """Zhang 2010, eq. 2.1: the slope is (lam − t/gamma)₊."""
    expected = integral(lambda t: max(LAM - t / gamma, 0))
    value = prox.mcp_value(ops.convert_to_tensor(SIZES, "float64"), LAM, gamma)
    by_hand = [expected(size, [gamma * LAM]) for size in SIZES]
    np.testing.assert_allclose(value, by_hand, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mcp(np.array(SIZES), LAM, gamma), by_hand, atol=1e-10)


@pytest.mark.parametrize("gamma", [2.1, 3.7, 10.0])
def test_scad_value_integrates_its_slope(gamma):
    """Fan & Li 2001, eq. 2.7: lam·(1{t ≤ lam} + (gamma·lam − t)₊/((gamma−1)·lam))."""

    def slope(t):
        return LAM if t <= LAM else max(gamma * LAM - t, 0) / (gamma - 1)

    expected = integral(slope)
    value = prox.scad_value(ops.convert_to_tensor(SIZES, "float64"), LAM, gamma)
    by_hand = [expected(size, [LAM, gamma * LAM]) for size in SIZES]
    np.testing.assert_allclose(value, by_hand, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(scad(np.array(SIZES), LAM, gamma), by_hand, atol=1e-10)


def test_norm_and_its_gradient():
    v = tf.constant([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(v)
        norm = prox.safe_norm(v, (1,))
    np.testing.assert_allclose(norm, [[5.0], [0.0], [1e-12]], rtol=1e-6)
    gradient = tape.gradient(norm, v)
    np.testing.assert_allclose(gradient, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    assert np.isnan(prox.safe_norm(ops.array([np.nan, 1.0]), (0,))[0])


# Groups -----------------------------------------------------------------------


def groups(size, count=400, seed=0):
    """Groups and steps for each weight that span ten orders of magnitude.

    A fifth of the weights are zero, some groups wholly, and the dual norms lie on
    both sides of the strength 1.
    """
    rng = np.random.default_rng(seed)
    step = 10 ** rng.uniform(-6, 4, size=(count, size))
    step[::3] = 10 ** rng.uniform(-6, 4, size=(len(step[::3]), 1))  # agreeing steps
    v = rng.normal(size=(count, size)) * step ** rng.uniform(0, 1, size=(count, 1))
    v *= 10 ** rng.uniform(-2, 2, size=(count, 1))
    v[rng.uniform(size=v.shape) < 0.2] = 0
    return v, step


@pytest.mark.parametrize("size", [1, 2, 7, 60])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_block_map_is_the_minimum_in_any_metric(size, dtype):
    v, step = groups(size)
    v, step = v.astype(dtype), step.astype(dtype)
    u = ops.convert_to_numpy(
        prox.block_soft_threshold(
            ops.convert_to_tensor(v), ops.convert_to_tensor(step), 1.0, (1,)
        )
    )
    rtol = 2e-4 if dtype == "float32" else 1e-9
    zeros = 0
    for i in range(len(v)):
        expected = group_minimum(v[i], step[i], 1.0)
        norm = np.linalg.norm(np.divide(v[i], step[i], dtype="float64"))
        if abs(norm - 1) > 1e-5:  # rounding decides on the very border
            assert np.any(u[i]) == np.any(expected)
        error = np.linalg.norm(u[i] - expected)
        assert error <= rtol * np.linalg.norm(expected) + 1e-6 * (dtype == "float32")
        if dtype == "float64":
            assert_group_optimal(u[i], v[i], step[i], 1.0)
        zeros += not np.any(expected)
    assert 20 < zeros < 380


@pytest.mark.parametrize("step", [1e-8, 1e-3, 1.0, 1e4])
def test_block_map_with_one_step(step):
    rng = np.random.default_rng(1)
    v = rng.normal(size=(50, 4)) * 2 * step
    v[0] = 0
    u = prox.block_soft_threshold(ops.convert_to_tensor(v), step, 2.5, (1,))
    for i in range(50):
        np.testing.assert_allclose(
            u[i], group_minimum(v[i], step, 2.5), rtol=1e-9, atol=1e-30
        )
    each = prox.block_soft_threshold(
        ops.convert_to_tensor(v), np.full(v.shape, step), 2.5, (1,)
    )
    np.testing.assert_allclose(each, u, rtol=1e-9, atol=1e-12 * step)
    assert 0 < np.sum(~np.any(ops.convert_to_numpy(u), axis=1)) < 50


HARD_GROUPS = {
    "one endless step": ([1.0, 0.05, -2.0], [1e-3, 1e30, 0.1]),
    "all steps endless": ([1.0, 0.05, -2.0], [1e30, 1e30, 1e30]),
    "one step of zero": ([1e-3, 0.05, -2.0], [0.0, 1e4, 1e4]),
    "all steps zero": ([1.0, 0.05, -2.0], [0.0, 0.0, 0.0]),
    "zero weight, zero step": ([0.0, 0.05, -2.0], [0.0, 1.0, 1.0]),
    "tiny step, tiny strength": ([1.0, 0.05, 1e-3], [1e-8, 1e4, 1.0]),
    "a scale a weight": (np.geomspace(1e-6, 1e3, 10), np.geomspace(1e-8, 1e4, 10)),
    "scales against": (np.geomspace(1e-6, 1e3, 10), np.geomspace(1e4, 1e-8, 10)),
    "one weight": ([0.0, 0.0, 1.7], [1.0, 10.0, 2.0]),
    "all zero": ([0.0, 0.0, 0.0], [1e-8, 1.0, 1e4]),
}


@pytest.mark.parametrize("name", HARD_GROUPS)
@pytest.mark.parametrize("lam", [1e-7, 1e-3, 1.0, 1e3])
def test_block_map_of_hard_groups(name, lam):
    v, step = (np.array(array, "float32") for array in HARD_GROUPS[name])
    u = ops.convert_to_numpy(
        prox.block_soft_threshold(
            ops.convert_to_tensor(v), ops.convert_to_tensor(step), lam, (0,)
        )
    )
    expected = group_minimum(v, step, lam)
    np.testing.assert_allclose(u, expected, rtol=2e-4, atol=1e-9)
    assert np.any(u) == np.any(expected)
    assert np.all(np.abs(u) <= np.abs(v))


def test_block_map_in_a_compiled_graph():
    v, step = (array.astype("float32") for array in groups(7))
    compiled = tf.function(
        lambda v, step: prox.block_soft_threshold(v, step, 1.0, (1,)), jit_compile=True
    )
    np.testing.assert_allclose(
        compiled(v, step),
        prox.block_soft_threshold(ops.array(v), ops.array(step), 1.0, (1,)),
        rtol=1e-4,
        atol=1e-6,
    )


def test_block_map_with_a_strength_a_group():
    v = ops.array([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    lam = ops.array([[0.0], [2.5], [6.0]])
    for step in (1.0, ops.ones((3, 2))):
        u = prox.block_soft_threshold(v, step, lam, (1,))
        np.testing.assert_allclose(u, [[3, 4], [1.5, 2], [0, 0]], rtol=1e-6)


def test_block_map_of_groups_of_several_axes_and_of_none():
    v = np.random.default_rng(2).normal(size=(3, 2, 4))
    step = np.random.default_rng(3).uniform(0.1, 2, size=v.shape)
    u = prox.block_soft_threshold(ops.convert_to_tensor(v), step, 0.9, (0, 2))
    for j in range(2):
        expected = group_minimum(v[:, j].ravel(), step[:, j].ravel(), 0.9)
        np.testing.assert_allclose(
            ops.convert_to_numpy(u)[:, j].ravel(), expected, rtol=1e-9
        )
    # A group of one weight is the lasso.
    v = ops.convert_to_tensor(v)
    for each in (0.7, ops.convert_to_tensor(step)):
        alone = prox.block_soft_threshold(v, each, 0.9, ())
        np.testing.assert_allclose(
            alone, prox.soft_threshold(v, each * 0.9), rtol=1e-9, atol=1e-12
        )


def test_block_map_is_nonexpansive_and_moreau_holds():
    rng = np.random.default_rng(4)
    a, b = (ops.convert_to_tensor(v) for v in 2 * rng.normal(size=(2, 500, 3)))
    # In the metric of its steps.
    step = 10 ** rng.uniform(-2, 2, size=(500, 3))
    pa, pb = (prox.block_soft_threshold(v, step, 1.0, (1,)) for v in (a, b))
    mapped, given = (
        np.sum(np.square(ops.convert_to_numpy(gap)) / step, axis=1)
        for gap in (pa - pb, a - b)
    )
    assert np.all(mapped <= given * (1 + 1e-9))
    # With one step the rest is the projection onto the dual ball.
    rest = ops.convert_to_numpy(a - prox.block_soft_threshold(a, 0.7, 2.0, (1,)))
    norm = np.linalg.norm(a, axis=1, keepdims=True)
    ball = ops.convert_to_numpy(a) * np.minimum(1, 1.4 / norm)
    np.testing.assert_allclose(rest, ball, rtol=1e-9)


def test_nan_is_not_hidden():
    """A diverged group must not pass for a sparse one."""
    v = ops.array([[np.nan, 1.0], [0.1, 0.1]])
    for step in (1.0, ops.ones((2, 2))):
        u = ops.convert_to_numpy(prox.block_soft_threshold(v, step, 1.0, (1,)))
        assert np.any(np.isnan(u[0]))
        assert not np.any(u[1])


def test_maps_take_python_numbers():
    """Integers as steps and thresholds, and half precision as it is."""
    v = ops.array([0.5, -3.0])
    np.testing.assert_allclose(prox.soft_threshold(v, 1), [0, -2])
    np.testing.assert_allclose(prox.firm_threshold(v, 1, 1, 3), [0, -3])
    np.testing.assert_allclose(prox.scad_threshold(v, 1, 1, 3), [0, -3])
    np.testing.assert_allclose(prox.block_soft_threshold(v, 1, 5, (0,)), [0, 0])
    half = ops.cast(v, "bfloat16")
    assert keras.backend.standardize_dtype(prox.soft_threshold(half, 1).dtype) == (
        "bfloat16"
    )
