"""When noise is on, and what holds for all layers with it."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kerasreg.layers import (
    ConcreteDropout,
    DropConnect,
    DropConnectDense,
    SparseVariationalDense,
    VariationalDropout,
    noisy,
    sampling,
)
from kerasreg.optimizers import Proximal, solve
from kerasreg.regularizers import L1

LAYERS = {
    "DropConnect": lambda: DropConnect(layers.Dense(40)),
    "DropConnectDense": lambda: DropConnectDense(40),
    "ConcreteDropout": lambda: ConcreteDropout(layers.Dense(40), num_examples=8),
    "SparseVariational": lambda: SparseVariationalDense(
        40, num_examples=8, initial_log_sigma2=0.0
    ),
    "VariationalDropout": lambda: VariationalDropout(num_examples=8),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
LEARNED = ["ConcreteDropout", "SparseVariational", "VariationalDropout"]
each_learned = pytest.mark.parametrize(
    "make", [LAYERS[name] for name in LEARNED], ids=LEARNED
)


def test_sampling_nests_and_holds_in_all_threads():
    seen = []
    with sampling():
        with sampling():
            pass
        assert noisy(training=False)
        thread = threading.Thread(target=lambda: seen.append(noisy(training=None)))
        thread.start()
        thread.join()
    assert seen == [True]
    assert not noisy(training=False)


@each_layer
def test_sampling_on_two_replicas(make, two_cpus):
    ones = tf.ones((4, 40))
    with two_cpus.scope():
        layer = make()
        layer.build((None, 40))
    quiet = layer(ones, training=False)
    with sampling():
        draws = two_cpus.run(lambda: layer(ones, training=False)).values
    assert all(np.any(np.asarray(draw) != quiet) for draw in draws)


@each_layer
def test_no_noise_is_used_twice_on_two_replicas(make, two_cpus):
    with two_cpus.scope():
        layer = make()
        layer.build((None, 40))
    ones = tf.ones((4, 40))
    draws = [
        np.asarray(value).tobytes()
        for _ in range(4)
        for value in two_cpus.run(lambda: layer(ones, training=True)).values
    ]
    assert len(set(draws)) == 8


@each_layer
def test_integers(make):
    layer = make()
    layer.build((None, 40))
    numbers = np.random.default_rng(0).integers(0, 50, (6, 40))
    results = []
    for inputs in (numbers, numbers.astype("float32")):
        layer.seed_generator.state.assign([1, 2])
        results.append(np.asarray(layer(inputs, training=True)))
    assert results[0].dtype == np.float32
    np.testing.assert_array_equal(*results)


@each_learned
def test_float64_as_the_default(make):
    keras.config.set_floatx("float64")
    try:
        model = keras.Sequential([keras.Input((6,)), make(), layers.Dense(1)])
        model.compile("sgd", "mse")
        history = model.fit(np.ones((8, 6)), np.ones((8, 1)), verbose=0)
        assert np.isfinite(history.history["loss"][0])
    finally:
        keras.config.set_floatx("float32")


@each_learned
def test_strength_is_an_attribute(make):
    layer = make()
    model = keras.Sequential([keras.Input((6,)), layer])
    full = float(sum(model.losses))
    layer.kl_strength = 0.25
    assert layer.kl_strength == 0.25
    assert layer.get_config()["kl_strength"] == 0.25
    assert float(sum(model.losses)) == pytest.approx(full / 4)


@each_learned
def test_message_names_the_layer_without_num_examples(make):
    layer = make()
    layer.num_examples = None
    model = keras.Sequential([keras.Input((6,)), layer])
    with pytest.raises(ValueError, match=f"The layer `{layer.name}` needs the number"):
        sum(model.losses)


@each_learned
def test_proximal_with_noise_behind_a_penalized_kernel(make):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, kernel_regularizer=L1(10.0)),
            make(),
            layers.Dense(1),
        ]
    )
    model.compile(Proximal("adam"), "mse")
    x = np.random.default_rng(0).normal(size=(64, 6))
    model.fit(x, x[:, :1], epochs=30, batch_size=8, verbose=0)
    assert np.mean(model.layers[0].kernel.numpy() == 0) > 0.5


@each_learned
def test_solve_refuses(make):
    model = keras.Sequential([keras.Input((6,)), make(), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Expected layers without learned noise"):
        solve(model, np.ones((8, 6)), np.ones((8, 1)))


def test_threshold_reaches_a_traced_predict():
    layer = SparseVariationalDense(5, num_examples=8)
    model = keras.Sequential([keras.Input((6,)), layer])
    x = np.random.default_rng(0).normal(size=(8, 6))
    layer.log_sigma2.assign(np.random.default_rng(1).normal(size=(6, 5)))
    before = model.predict(x, verbose=0)
    plain = layer.prune(threshold=0.0)
    after = model.predict(x, verbose=0)
    assert np.any(before != after)
    np.testing.assert_allclose(after, plain(x), rtol=1e-6)


def test_no_pattern():
    with pytest.raises(ValueError, match="Expected at least one pattern"):
        DropConnect(layers.Dense(1), weights=[])


def test_plain_layer_of_an_average_warns():
    layer = DropConnectDense(3, activation="relu")
    layer.build((None, 4))
    with pytest.warns(UserWarning, match="mean weights"):
        layer.to_plain()
