"""`Proximal` beside what else Keras does to an update."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg import prox
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, MCP, ElasticNet, GroupLasso
from tests.optimizers.networks import assert_same_weights, build, data, fitted


def test_gradient_accumulation_is_the_large_batch():
    accumulate, whole = build(L1(0.05)), build(L1(0.05))
    options = {"learning_rate": 0.1, "momentum": 0.9}
    fitted(whole, Proximal(keras.optimizers.SGD(**options)), 6, 32)
    inner = keras.optimizers.SGD(**options, gradient_accumulation_steps=4)
    fitted(accumulate, Proximal(inner), 6, 8)
    assert_same_weights(accumulate, whole, atol=1e-6)
    assert (whole.get_weights()[0] == 0).any()
    assert int(inner.iterations) == 6


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_acts_on_the_data_gradient(clip):
    start, free, plain, model = build(), build(), build(), build(L1(0.4))
    fitted(free, keras.optimizers.SGD(0.3), 1, 32)
    fitted(plain, keras.optimizers.SGD(0.3, **{clip: 0.05}), 1, 32)
    fitted(model, Proximal(keras.optimizers.SGD(0.3, **{clip: 0.05})), 1, 32)
    first, whole, kernel = (m.get_weights()[0] for m in (start, free, plain))
    share = np.abs(kernel - first) / np.abs(whole - first)  # left by the clip
    expected = ops.convert_to_numpy(prox.soft_threshold(kernel, 0.3 * 0.4 * share))
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-4)
    for mine, theirs in zip(
        model.get_weights()[1:], plain.get_weights()[1:], strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("frequency", [None, 3])
def test_averaged_weights_keep_the_zeros(frequency):
    model = build(L1(0.2))
    inner = keras.optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=frequency
    )
    last = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: last.append(model.get_weights()[0])
    )
    fitted(model, Proximal(inner), epochs=10, fit={"callbacks": [note]})
    zeros = last[-1] == 0
    assert 0 < zeros.sum() < zeros.size
    np.testing.assert_array_equal(model.get_weights()[0] == 0, zeros)
    if frequency is None:
        assert np.abs(model.get_weights()[0] - last[-1]).max() > 0


def test_swap_ema_weights_callback():
    model = build(L1(0.1))
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fitted(model, Proximal(inner), fit={"callbacks": [swap]})
    assert np.isfinite(model.get_weights()[0]).all()


def test_the_rate_of_a_schedule_is_read_before_the_update():
    """The last rate of this schedule is not zero, the one after it is."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.3, 0.0])
    model = build(L1(0.7))
    fitted(model, Proximal(keras.optimizers.SGD(schedule)), epochs=4, batch_size=32)
    reference = build(L1(0.7))
    fitted(reference, Proximal(keras.optimizers.SGD(0.3)), epochs=4, batch_size=32)
    assert_same_weights(model, reference)


def test_reduce_lr_on_plateau_sets_the_inner_rate():
    model = build(L1(0.01))
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=0, min_delta=1e9
    )
    history = fitted(model, Proximal("adam"), fit={"callbacks": [plateau]})
    rates = history.history["learning_rate"]
    np.testing.assert_allclose(rates, [0.001, 0.001, 0.0005], rtol=1e-6)
    assert float(model.optimizer.inner_optimizer.learning_rate) == pytest.approx(
        0.00025
    )


def test_steps_per_execution_changes_nothing():
    one, many = build(L1(0.05)), build(L1(0.05))
    fitted(one, Proximal("adam"))
    fitted(many, Proximal("adam"), steps_per_execution=4)
    assert_same_weights(one, many, atol=1e-6)


def test_several_fits_are_one_long_fit():
    whole, parts = build(L1(0.05)), build(L1(0.05))
    fitted(whole, Proximal(keras.optimizers.SGD(0.1, momentum=0.9)), epochs=4)
    fitted(parts, Proximal(keras.optimizers.SGD(0.1, momentum=0.9)), epochs=1)
    parts.fit(*data(), epochs=3, batch_size=8, shuffle=False, verbose=0)
    assert_same_weights(whole, parts)


@pytest.mark.parametrize("dynamic", [True, False])
def test_mixed_float16_with_loss_scaling(dynamic):
    """Keras puts its LossScaleOptimizer around `Proximal`."""
    options = {} if dynamic else {"loss_scale_factor": 128.0}
    keras.config.set_dtype_policy("mixed_float16" if dynamic else "float32")
    plain, model = build(), build(L1(0.5))
    fitted(plain, keras.optimizers.SGD(0.3, **options), 1, 32)
    fitted(model, Proximal(keras.optimizers.SGD(0.3, **options)), 1, 32)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) is dynamic
    kernel, *rest = plain.get_weights()
    expected = ops.convert_to_numpy(prox.soft_threshold(kernel, 0.3 * 0.5))
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-4)
    assert (model.get_weights()[0] == 0).any()
    for mine, theirs in zip(model.get_weights()[1:], rest, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_two_replicas_are_one_device(two_cpus, name, policy):
    def optimizer():
        if name == "adam":
            return keras.optimizers.Adam(0.05)
        return keras.optimizers.SGD(0.1, momentum=0.9 if name == "momentum" else 0.0)

    keras.config.set_dtype_policy(policy)
    one = build(ElasticNet(0.05, 0.01))
    fitted(one, Proximal(optimizer()))
    with two_cpus.scope():
        two = build(ElasticNet(0.05, 0.01))
        two.compile(Proximal(optimizer()), loss="mse")
    options = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": 0}
    two.fit(*data(), **options)
    tolerance = 1e-5 if policy == "float32" else 2e-2
    assert_same_weights(one, two, atol=tolerance)
    if policy == "float32":
        zeros = [model.get_weights()[0] == 0 for model in (one, two)]
        np.testing.assert_array_equal(*zeros)


@pytest.mark.parametrize(
    "clip", [{"clipnorm": 0.1}, {"global_clipnorm": 0.1}, {"clipvalue": 0.02}], ids=str
)
def test_two_replicas_that_clip_are_one_device(two_cpus, clip):
    """What is clipped is the gradient of all the batch."""

    def optimizer():
        return Proximal(keras.optimizers.SGD(0.1, momentum=0.9, **clip))

    one = build(L1(0.5))
    fitted(one, optimizer(), epochs=6, batch_size=16)
    with two_cpus.scope():
        two = build(L1(0.5))
        two.compile(optimizer(), loss="mse")
    two.fit(*data(), epochs=6, batch_size=16, shuffle=False, verbose=0)
    assert_same_weights(one, two, atol=1e-6)
    zeros = [model.get_weights()[0] == 0 for model in (one, two)]
    np.testing.assert_array_equal(*zeros)
    assert zeros[0].any()


def test_two_replicas_that_clip_under_loss_scaling(two_cpus):
    keras.config.set_dtype_policy("mixed_float16")
    models = []
    for scope in (contextlib.nullcontext(), two_cpus.scope()):
        with scope:
            model = build(L1(0.5))
            optimizer = Proximal(keras.optimizers.SGD(0.1, global_clipnorm=0.1))
            model.compile(optimizer, loss="mse", jit_compile=False)
        model.fit(*data(), epochs=6, batch_size=16, shuffle=False, verbose=0)
        models.append(model)
    assert_same_weights(*models, atol=1e-3)


def lookup(penalty):
    keras.utils.set_random_seed(1)
    table = keras.layers.Embedding(20, 3, embeddings_regularizer=penalty)
    pool = keras.layers.GlobalAveragePooling1D()
    return keras.Sequential([keras.Input((2,)), table, pool, keras.layers.Dense(1)])


TOKENS = np.array([[0, 1], [1, 1], [2, 5], [5, 0], [3, 4], [4, 4], [0, 2], [7, 7]])


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_of_an_embedding(clip):
    """Its gradient is a list of rows, some of them several times."""
    y = np.linspace(3.0, 9.0, 8)[:, None]
    tables = []
    for penalty, options in (
        (None, {}),
        (None, {clip: 0.1}),
        (L1(0.4), {clip: 0.1}),
    ):
        model = lookup(penalty)
        start = model.get_weights()[0]
        optimizer = keras.optimizers.SGD(0.3, **options)
        model.compile(Proximal(optimizer), loss="mse")
        model.fit(TOKENS, y, shuffle=False, verbose=0)
        tables.append(model.get_weights()[0])
    free, plain, table = tables
    share = np.abs(plain - start)[:8] / np.maximum(np.abs(free - start)[:8], 1e-12)
    used = [0, 1, 2, 3, 4, 5, 7]
    expected = ops.convert_to_numpy(
        prox.soft_threshold(plain[used], 0.3 * 0.4 * share[used])
    )
    np.testing.assert_allclose(table[used], expected, atol=1e-4)


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue"])
def test_clipping_of_an_embedding_on_two_replicas(two_cpus, clip):
    tables = []
    for scope in (contextlib.nullcontext(), two_cpus.scope()):
        with scope:
            model = lookup(L1(0.1))
            optimizer = keras.optimizers.SGD(0.3, **{clip: 0.1})
            model.compile(Proximal(optimizer), loss="mse", jit_compile=False)
        y = np.linspace(3.0, 9.0, 8)[:, None]
        model.fit(TOKENS, y, epochs=4, shuffle=False, verbose=0)
        tables.append(model.get_weights()[0])
    np.testing.assert_allclose(*tables, atol=1e-6)


def test_frozen_and_later_unfrozen_layers():
    model = build(L1(1.0))
    model.layers[1].trainable = False
    before = model.get_weights()[0]
    fitted(model, Proximal("sgd"))
    np.testing.assert_array_equal(model.get_weights()[0], before)
    model.layers[1].trainable = True
    fitted(model, Proximal(keras.optimizers.SGD(0.1)), epochs=30)
    assert (model.get_weights()[0] == 0).mean() > 0.5


def test_an_embedding_is_mapped_as_a_whole():
    model = keras.Sequential(
        [
            keras.layers.Embedding(20, 3, embeddings_regularizer=L1(1.0)),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(Proximal(keras.optimizers.SGD(0.01)), loss="mse")
    tokens = np.arange(8).reshape(4, 2)
    model.fit(tokens, np.ones((4, 1)), epochs=6, verbose=0)
    assert (model.get_weights()[0][8:] == 0).all()


@pytest.mark.parametrize("name", ["adam", "nadam", "adamax", "rmsprop", "sgd"])
def test_weights_without_a_gradient_are_not_wiped_out_at_once(name):
    """They shrink by the learning rate a step, or less under SGD."""
    table = keras.layers.Embedding(50, 3, embeddings_regularizer=L1(1e-3))
    model = keras.Sequential([table, keras.layers.Flatten(), keras.layers.Dense(1)])
    optimizer = keras.optimizers.get(name)
    optimizer.learning_rate = 0.001
    model.compile(Proximal(optimizer), loss="mse")
    tokens = np.arange(8).reshape(4, 2)
    model.build((None, 2))
    before = table.embeddings.numpy()[8:]
    model.fit(tokens, np.ones((4, 1)), verbose=0)
    rate = 0.001 * (1e-3 if name == "sgd" else 1.0)
    expected = np.sign(before) * np.maximum(np.abs(before) - rate, 0)
    np.testing.assert_allclose(table.embeddings.numpy()[8:], expected, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("penalty", [L1(0.1), ElasticNet(0.1, 0.1), GroupLasso(0.1)])
def test_a_diverged_weight_does_not_pass_for_a_zero(name, penalty):
    model = build(penalty)
    model.compile(Proximal(name), loss="mse")
    x, y = data()
    x[0, 0] = np.nan
    model.fit(x, y, epochs=2, verbose=0)
    assert np.isnan(model.get_weights()[0]).all()


def test_weight_decay_is_the_inner_optimizers():
    plain, model = build(), build(L1(0.0))
    optimizers = [keras.optimizers.AdamW(0.01, weight_decay=0.5) for _ in range(2)]
    mine = Proximal(optimizers[1])
    for optimizer in (optimizers[0], mine):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    fitted(plain, optimizers[0])
    fitted(model, mine)
    assert_same_weights(model, plain, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("clip", [{"clipnorm": 0.3}, {"global_clipnorm": 0.3}])
def test_clipping_does_not_change_the_solution(clip, momentum):
    def solution(**options):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(1, kernel_regularizer=L1(0.5))
        model = keras.Sequential([keras.Input((6,)), dense])
        rate = 0.02 if momentum else 0.1
        optimizer = keras.optimizers.SGD(rate, momentum=momentum, **options)
        x, y = data()
        model.compile(Proximal(optimizer), loss="mse", steps_per_execution=100)
        batches = tf.data.Dataset.from_tensors((x, 3 * y)).repeat()
        model.fit(batches, steps_per_epoch=1500, shuffle=False, verbose=0)
        return dense.kernel.numpy()

    free, clipped = solution(), solution(**clip)
    assert 0 < (free == 0).sum() < 6
    np.testing.assert_allclose(clipped, free, atol=1e-4)
    np.testing.assert_array_equal(clipped == 0, free == 0)


def test_a_settled_concave_weight_stays():
    """Its gradient and so Adam's second moment have vanished."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    dense = keras.layers.Dense(1, kernel_regularizer=MCP(0.2, 3.0))
    model = keras.Sequential([keras.Input((4,)), dense])
    optimizer = keras.optimizers.Adam(0.01, beta_2=0.99)
    model.compile(Proximal(optimizer), loss="mse", steps_per_execution=10)
    batches = tf.data.Dataset.from_tensors((x, x[:, :1])).repeat()
    history = model.fit(
        batches, steps_per_epoch=10, epochs=300, shuffle=False, verbose=0
    )
    late = history.history["loss"][100:]
    assert max(late) < 1.01 * min(late)
