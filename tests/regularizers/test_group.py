"""GroupLasso and SparseGroupLasso: which groups, which value, which minimum."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from kerasreg.regularizers import L1, GroupLasso, SparseGroupLasso
from tests.optimality import assert_group_optimal, group_minimum

# For each way to say it: shape of the weight, and the axis that counts groups.
AXES = [
    ("input", (5, 3), 0),
    ("output", (5, 3), 1),
    ("input", (3, 3, 4, 2), 2),
    ("output", (3, 3, 4, 2), 3),
    (0, (3, 3, 4, 2), 0),
    (-4, (3, 3, 4, 2), 0),
    (1, (5, 3), 1),
    (np.int64(1), (5, 3), 1),
    ("output", (6,), 0),
    (0, (6,), 0),
]


def groups_of(w, axis):
    return np.moveaxis(np.asarray(w), axis, 0).reshape(w.shape[axis], -1)


@pytest.mark.parametrize(("axis", "shape", "counted"), AXES)
def test_the_value_is_the_sum_of_the_norms(axis, shape, counted):
    w = np.random.default_rng(0).normal(size=shape)
    rows = groups_of(w, counted)
    norms = np.sqrt(rows.shape[1]) * np.linalg.norm(rows, axis=1).sum()
    assert float(GroupLasso(0.3, axis)(w)) == pytest.approx(0.3 * norms, rel=1e-6)
    both = SparseGroupLasso(0.2, 0.3, axis)
    expected = 0.2 * np.abs(w).sum() + 0.3 * norms
    assert float(both(w)) == pytest.approx(expected, rel=1e-6)
    # The same when the batch size of an activity is known only at run time.
    unknown = tf.TensorSpec((None, *shape[1:]), "float64")
    assert float(tf.function(both, input_signature=[unknown])(w)) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize(("axis", "shape", "counted"), AXES)
@pytest.mark.parametrize("l1", [0.0, 0.2])
@pytest.mark.parametrize("metric", ["scalar", "close", "wild"])
def test_the_map_is_the_minimum_of_each_group(axis, shape, counted, l1, metric):
    rng = np.random.default_rng(1)
    w = rng.normal(size=shape)
    w = w * 10 ** rng.uniform(
        -1, 1, size=[n if i == counted else 1 for i, n in enumerate(shape)]
    )
    step = {
        "scalar": np.array(0.8),
        "close": rng.uniform(0.5, 1.0, size=shape),
        "wild": 10 ** rng.uniform(-6, 4, size=shape),
    }[metric]
    penalty = SparseGroupLasso(l1, 0.25, axis) if l1 else GroupLasso(0.25, axis)
    u = np.asarray(penalty.prox(ops.convert_to_tensor(w), ops.convert_to_tensor(step)))
    steps = groups_of(np.broadcast_to(step, shape), counted)
    lam = 0.25 * np.sqrt(steps.shape[1])
    for got, v, d in zip(
        groups_of(u, counted), groups_of(w, counted), steps, strict=True
    ):
        expected = group_minimum(v, d, lam, np.float32(l1))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-8)
        assert_group_optimal(got, v, d, lam, l1, rtol=1e-5)


def test_zeros_are_exact_and_some_groups_stay():
    w = np.random.default_rng(2).normal(size=(200, 4)).astype("float32")
    for step in (1.0, ops.ones((200, 4))):
        u = np.asarray(GroupLasso(1.0, "input").prox(ops.array(w), step))
        alive = np.any(u, axis=1)
        assert 0 < alive.sum() < 200
        assert np.all(u[alive] != 0)  # the group lasso alone leaves groups whole
        u = np.asarray(SparseGroupLasso(0.5, 0.5, "input").prox(ops.array(w), step))
        inside = u[np.any(u, axis=1)]
        assert np.any(inside == 0)


def test_groups_of_one_weight_are_the_lasso():
    w = ops.array(np.random.default_rng(3).normal(size=6), dtype="float32")
    group, lasso = GroupLasso(0.5, "output"), L1(0.5)
    assert float(group(w)) == pytest.approx(float(lasso(w)), rel=1e-6)
    for step in (0.7, ops.array(np.geomspace(1e-3, 1e3, 6), dtype="float32")):
        np.testing.assert_allclose(
            group.prox(w, step), lasso.prox(w, step), rtol=1e-5, atol=1e-6
        )


def test_the_gradient_against_differences_and_at_zero():
    w = np.random.default_rng(4).normal(size=(3, 2))
    w[1] = 0
    penalty = SparseGroupLasso(0.3, 0.4, "input")
    tensor = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = penalty(tensor)
    gradient = tape.gradient(value, tensor).numpy()
    np.testing.assert_array_equal(gradient[1], [0, 0])
    for i, j in [(0, 0), (0, 1), (2, 0), (2, 1)]:
        nudge = np.zeros_like(w)
        nudge[i, j] = 1e-5
        difference = float(penalty(w + nudge) - penalty(w - nudge)) / 2e-5
        assert gradient[i, j] == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape", "axis", "groups"),
    [
        (layers.Dense(4), (2, 7), "input", 7),
        (layers.Dense(4), (2, 7), "output", 4),
        (layers.Conv2D(4, 3), (2, 5, 5, 3), "input", 3),
        (layers.Conv2D(4, 3), (2, 5, 5, 3), "output", 4),
        (layers.Conv2DTranspose(4, 3), (2, 5, 5, 3), 3, 3),
        (layers.DepthwiseConv2D(3), (2, 5, 5, 3), "input", 3),
        (layers.Embedding(9, 4), (2, 5), "input", 9),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (2, 4, 5), 0, 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else None,
)
def test_what_a_group_is_in_keras_layers(layer, shape, axis, groups):
    layer.build(shape)
    (kernel, *_) = layer.weights
    penalty = GroupLasso(0.1, axis)
    inside = penalty.group_axes(kernel)
    assert int(np.prod(kernel.shape)) // np.prod([kernel.shape[i] for i in inside]) == (
        groups
    )


def test_an_axis_that_is_none():
    sentence = (
        "Invalid value for argument `axis`. Expected 'input', 'output' or an int. "
        "Received: axis={!r}"
    )
    for make in (GroupLasso, SparseGroupLasso):
        for axis in ("inputs", "", "INPUT"):
            with pytest.raises(ValueError) as error:
                make(axis=axis)
            assert str(error.value) == sentence.format(axis)
        for axis in (None, 1.0, True, (0, 1)):
            with pytest.raises(TypeError) as error:
                make(axis=axis)
            assert str(error.value) == sentence.format(axis)


@pytest.mark.parametrize(
    ("axis", "shape"), [("input", (4,)), (2, (4, 3)), (-3, (4, 3)), (0, ())]
)
def test_an_axis_that_the_weight_does_not_have(axis, shape):
    sentence = (
        "Invalid value for argument `axis` of {}. Expected an axis of a weight of "
        f"shape {shape}. Received: axis={axis!r}"
    )
    w = np.ones(shape, "float32")
    for penalty in (GroupLasso(0.1, axis), SparseGroupLasso(0.1, 0.1, axis)):
        for use in (
            penalty,
            lambda w, penalty=penalty: penalty.prox(w, 1.0),
            penalty.attach,
        ):
            with pytest.raises(ValueError) as error:
                use(w)
            assert str(error.value) == sentence.format(type(penalty).__name__)


def test_the_wrong_rank_is_found_when_a_layer_is_used():
    layer = keras.layers.Dense(3, bias_regularizer=GroupLasso(0.1, axis="input"))
    layer.build((None, 2))
    with pytest.raises(ValueError, match=r"a weight of shape \(3,\)\. Received: axis"):
        _ = layer.losses


def test_configs():
    penalty = GroupLasso(0.1, axis=np.int64(1))
    penalty.strength = 0.3
    assert penalty.get_config() == {"l": 0.3, "axis": 1}
    assert type(penalty.get_config()["axis"]) is int
    penalty = SparseGroupLasso(0.1, 0.3, axis="output")
    assert penalty.get_config() == {"l1": 0.1, "group": 0.3, "axis": "output"}
    assert (penalty.l1, penalty.group, penalty.strength) == (0.1, 0.3, 0.4)
    with pytest.raises(ValueError, match=r"argument `l`\..*Received: l=-1"):
        GroupLasso(-1)
    with pytest.raises(TypeError, match=r"argument `l`\..*Received: l=None"):
        GroupLasso(None)
