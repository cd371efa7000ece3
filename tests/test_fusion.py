"""A compiled update of one weight is the same update."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg import fusion
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import MCP, ElasticNet, GroupLasso

OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.05, clipnorm=1.0),
    "average": lambda: keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5),
    "accumulation": lambda: keras.optimizers.RMSprop(
        0.01, gradient_accumulation_steps=2
    ),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.05, 20)
    ),
}


def trained(optimizer, penalty, policy="float32"):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, "tanh", kernel_regularizer=penalty),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(Proximal(optimizer), loss="mse", jit_compile=False)
    model.fit(x, x[:, :1], epochs=4, batch_size=16, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("penalty", [ElasticNet(0.05, 0.01), GroupLasso(0.1), MCP(0.1)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_updates_are_the_same(monkeypatch, name, penalty, policy):
    plain = trained(OPTIMIZERS[name](), penalty, policy)
    compiled = []

    def function(*args, **kwargs):
        compiled.append(kwargs.get("jit_compile"))
        return original(*args, **kwargs)

    original = tf.function
    monkeypatch.setattr(fusion, "_LEAST_SIZE", 1)
    with monkeypatch.context() as context:
        context.setattr(tf, "function", function)
        fused = trained(OPTIMIZERS[name](), penalty, policy)
    assert True in compiled
    for a, b in zip(plain.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 if policy == "float32" else 1e-2)
    if policy == "float32":
        zeros = [model.get_weights()[0] == 0 for model in (plain, fused)]
        np.testing.assert_array_equal(*zeros)


def test_small_weights_sparse_gradients_and_eager_steps_are_left_alone():
    def update():
        raise AssertionError

    small, large = tf.Variable(tf.zeros(10)), tf.Variable(tf.zeros(fusion._LEAST_SIZE))
    slices = tf.IndexedSlices(tf.zeros((1,)), tf.constant([0]), tf.constant([10]))

    @tf.function
    def step():
        assert fusion.fused(update, tf.zeros(10), small) is update
        assert fusion.fused(update, slices, large) is update
        assert fusion.fused(update, tf.zeros(1), large) is not update

    step()
    assert fusion.fused(update, tf.zeros(1), large) is update
