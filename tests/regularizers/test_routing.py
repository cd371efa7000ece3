"""Who takes a penalty's gradient: the loss, or the optimizer that claims it."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.regularizers import L1, L2, Penalty, routing


class NoMap(Penalty):
    """A penalty that no proximal map can take from the loss."""

    def value(self, w):
        return ops.multiply(self.lam, ops.sum(ops.square(w)))

    def get_config(self):
        return {"strength": self.strength}


LASSO, RIDGE, NO_MAP = L1(0.5), L2(0.5), NoMap(0.5)


def weight(values=(1.0, -2.0, 3.0), penalty=LASSO):
    variable = keras.Variable(np.array(values, "float32"))
    variable.regularizer = penalty
    return variable


def penalized(variable, penalty, claims=None):
    """Loss, gradient, and whether the penalty's part is marked as being in it."""
    with tf.GradientTape() as tape:
        loss = ops.sum(3.0 * variable) + penalty(variable)
        if claims is not None:
            routing.claim(1, loss, claims)
        gradient = tape.gradient(loss, variable.value)
    released = routing.release(1)
    return loss, gradient, routing.flowed(variable, gradient), released


@pytest.fixture(params=["eager", "graph", "xla"])
def run(request):
    """Calls a function of no arguments, as it is or traced."""
    if request.param == "eager":
        return lambda function: function()

    def traced(function):
        seen = []

        def body():
            result = function()
            seen.append(result[2:])
            return result[:2]

        loss, gradient = tf.function(body, jit_compile=request.param == "xla")()
        return loss, gradient, *seen[0]

    return traced


def test_unclaimed_the_gradient_flows_and_is_marked(run):
    variable = weight()
    loss, gradient, flowed, released = run(lambda: penalized(variable, LASSO))
    assert float(loss) == pytest.approx(6 + 3)
    np.testing.assert_allclose(gradient, [3.5, 2.5, 3.5])
    assert flowed
    assert released is None


def test_claimed_the_gradient_is_withheld_and_the_loss_is_not(run):
    variable = weight()
    loss, gradient, flowed, released = run(
        lambda: penalized(variable, LASSO, lambda v: True)
    )
    assert float(loss) == pytest.approx(6 + 3)
    np.testing.assert_allclose(gradient, [3, 3, 3])
    assert not flowed
    assert list(released.withheld.values()) == [variable]


def test_a_claim_covers_the_weights_it_names(run):
    mine, other = weight(), weight(penalty=RIDGE)

    def both():
        with tf.GradientTape() as tape:
            loss = LASSO(mine) + RIDGE(other)
            routing.claim(1, loss, lambda v: v is mine)
            gradients = tape.gradient(loss, [mine.value, other.value])
        marks = [routing.flowed(v, g) for v, g in ((mine, loss), (other, gradients[1]))]
        return loss, gradients[1], gradients[0], marks, routing.release(1)

    _, gradient, nothing, marks, released = run(both)
    assert nothing is None
    np.testing.assert_allclose(gradient, [1, -2, 3])
    assert marks == [False, True]
    assert list(released.withheld.values()) == [mine]


def test_a_penalty_without_a_map_is_never_withheld(run):
    variable = weight()
    _, gradient, flowed, released = run(
        lambda: penalized(variable, NO_MAP, lambda v: True)
    )
    np.testing.assert_allclose(gradient, [4, 1, 6])
    assert not flowed
    assert released.withheld == {}


def test_a_claim_ends_with_its_step():
    """One that nobody released has no hold on the next step, or on a trace."""
    variable = weight()
    with tf.GradientTape() as tape:
        loss = LASSO(variable)
    routing.claim(1, loss, lambda v: True)
    assert tape.gradient(loss, variable.value) is None
    del loss, tape
    gc.collect()
    assert penalized(variable, LASSO)[2]
    assert routing.release(1) is None

    loss = ops.convert_to_tensor(0.0)
    routing.claim(1, loss, lambda v: True)  # an eager claim

    @tf.function
    def traced():
        with tf.GradientTape() as tape:
            value = LASSO(variable)
        return tape.gradient(value, variable.value)

    np.testing.assert_allclose(traced(), [0.5, -0.5, 0.5])
    routing.release(1)


def test_marks_belong_to_one_weight_and_one_trace():
    variable, other = weight(), weight()
    _, gradient, flowed, _ = penalized(variable, LASSO)
    assert flowed
    assert not routing.flowed(other, gradient)
    routing.forget(variable)
    assert not routing.flowed(variable, gradient)

    seen = []

    @tf.function
    def penalized_trace():
        _, gradient, flowed, _ = penalized(variable, LASSO)
        seen.append(flowed)
        return gradient

    @tf.function
    def plain_trace(gradient):
        seen.append(routing.flowed(variable, gradient))
        return gradient

    plain_trace(penalized_trace())
    assert seen == [True, False]

    # A loss read anew, and not differentiated, is no mark.
    penalized(variable, LASSO)
    LASSO(variable)
    assert not routing.flowed(variable, gradient)


def test_a_mark_is_seen_from_an_inner_graph():
    """Keras applies accumulated gradients inside a `cond` of the train step."""
    variable, seen = weight(), []

    @tf.function
    def step(condition):
        _, gradient, _, _ = penalized(variable, LASSO)

        def apply():
            seen.append(routing.flowed(variable, tf.identity(gradient)))
            return gradient

        return tf.cond(condition, apply, lambda: gradient)

    step(tf.constant(True))
    assert seen == [True]


@pytest.mark.parametrize("penalty", [LASSO, RIDGE, NO_MAP], ids=repr)
def test_a_plain_optimizer_follows_the_penalty(penalty):
    """One step of SGD on the penalty alone, eager, traced and compiled."""
    start = np.array([[2.0], [-1.0], [0.5]])
    slope = 0.5 * np.sign(start) if isinstance(penalty, L1) else start
    for settings in ({"run_eagerly": True}, {}, {"jit_compile": True}):
        layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=penalty)
        model = keras.Sequential([keras.Input((3,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse", **settings)
        layer.kernel.assign(start)
        x = np.zeros((4, 3))
        model.fit(x, x[:, :1], epochs=1, verbose=0)
        np.testing.assert_allclose(layer.kernel, start - 0.1 * slope, rtol=1e-5)
