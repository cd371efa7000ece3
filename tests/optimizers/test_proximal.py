"""`Proximal` inside Keras: what it sees, what it reports, what it leaves behind."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg import prox
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import (
    L1,
    L2,
    MCP,
    ElasticNet,
    GroupLasso,
    Penalty,
    regularize,
)


def data(rows=32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).astype("float32")


def build(penalty=None, cls=keras.Model, dtype=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(
        5, "tanh", kernel_regularizer=penalty, name="hidden", dtype=dtype
    )(inputs)
    outputs = keras.layers.Dense(1, name="out", dtype="float32")(hidden)
    return cls(inputs, outputs)


def fitted(model, optimizer, epochs=3, batch_size=8, fit=(), **compile_arguments):
    model.compile(optimizer, loss="mse", **compile_arguments)
    options = {"epochs": epochs, "batch_size": batch_size, "shuffle": False}
    return model.fit(*data(), verbose=0, **{**options, **dict(fit)})


def assert_same_weights(first, second, **tolerance):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


# What the inner optimizer sees.


class Step(keras.Model):
    """Keras's documented custom train step, without `scale_loss`."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class StepWithoutPenalties(keras.Model):
    """A custom train step whose loss leaves `model.losses` out."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(y - self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


WAYS = {
    "graph": {},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "custom step": {"cls": Step},
    "custom step, jit": {"cls": Step, "jit_compile": True},
    "custom step, eager": {"cls": Step, "run_eagerly": True},
    "penalties left out": {"cls": StepWithoutPenalties},
    "penalties left out, eager": {"cls": StepWithoutPenalties, "run_eagerly": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("penalty", [ElasticNet(0.7, 0.4), GroupLasso(1.5)])
def test_the_inner_optimizer_sees_the_data_gradient_alone(way, penalty):
    """One step of SGD is the plain step without a penalty, then the map."""
    arguments = dict(WAYS[way])
    cls = arguments.pop("cls", keras.Model)
    plain, model = build(), build(penalty, cls)
    rate = keras.optimizers.SGD(0.3)
    fitted(plain, keras.optimizers.SGD(0.3), epochs=1, batch_size=32)
    fitted(model, Proximal(rate), epochs=1, batch_size=32, **arguments)
    kernel, *rest = plain.get_weights()
    expected = ops.convert_to_numpy(penalty.prox(ops.convert_to_tensor(kernel), 0.3))
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=2e-7)
    for mine, theirs in zip(model.get_weights()[1:], rest, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-7)
    assert (model.get_weights()[0] == 0).any()


@pytest.mark.parametrize("way", ["graph", "custom step", "eager"])
def test_the_state_of_adam_is_that_of_the_data_gradient(way):
    arguments = dict(WAYS[way])
    model = build(L1(5.0), arguments.pop("cls", keras.Model))
    plain, inner = build(), keras.optimizers.Adam()
    fitted(plain, keras.optimizers.Adam(), epochs=1, batch_size=32)
    fitted(model, Proximal(inner), epochs=1, batch_size=32, **arguments)
    for mine, theirs in zip(inner.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=2e-7)


def test_a_weight_that_only_its_penalty_touches_is_still_mapped():
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.Dense(1)
            self.idle = self.add_weight(shape=(3,), initializer="ones", name="idle")
            self.idle.regularizer = L1(1.0)

        def call(self, x):
            return self.used(x)

    model = Idle()
    fitted(model, Proximal(keras.optimizers.SGD(0.3)), epochs=1, batch_size=32)
    np.testing.assert_allclose(model.idle.numpy(), 0.7, rtol=1e-6)


def test_regularizers_without_a_map_stay_in_the_loss():
    class Ridge(Penalty):
        def value(self, w):
            return self.lam * ops.sum(ops.square(w))

        def get_config(self):
            return {"strength": self.strength}

    for penalty in (Ridge(0.3), keras.regularizers.L2(0.3)):
        model, plain = build(penalty), build(keras.regularizers.L2(0.3))
        fitted(plain, "sgd")
        fitted(model, Proximal("sgd"))
        assert_same_weights(model, plain, rtol=1e-5)


def test_a_plain_optimizer_after_proximal_has_the_penalty_again():
    penalty = ElasticNet(0.05, 0.02)
    optimizer = Proximal("sgd")  # stays alive: nothing may hang on its death
    model = build(penalty)
    fitted(model, optimizer)
    start = model.get_weights()
    plain = build(keras.regularizers.L1L2(0.05, 0.02))
    plain.set_weights(start)
    fitted(model, keras.optimizers.SGD(0.1))
    fitted(plain, keras.optimizers.SGD(0.1))
    assert_same_weights(model, plain, rtol=1e-5, atol=1e-7)
    assert optimizer.built


def test_two_optimizers_must_be_told_their_weights():
    class Two(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
                loss = self.optimizer.scale_loss(loss)
            first, second = self.layers[1].weights, self.layers[2].weights
            g1, g2 = (lambda g: (g[:2], g[2:]))(tape.gradient(loss, first + second))
            self.optimizer.apply(g1, first)
            self.second.apply(g2, second)
            return {"loss": loss}

    def two(build_first):
        model = build(L1(0.1), Two)
        model.layers[2].kernel.regularizer = L1(0.1)
        model.second = keras.optimizers.SGD()
        optimizer = Proximal("sgd")
        if build_first:
            optimizer.build(model.layers[1].weights)
        fitted(model, optimizer, epochs=1, batch_size=32)
        return model

    with pytest.raises(ValueError, match=r"the loss .* also has penalties on.*out/ker"):
        two(build_first=False)
    plain = build(cls=Two)
    plain.layers[2].kernel.regularizer = keras.regularizers.L1(0.1)
    plain.second = keras.optimizers.SGD()
    fitted(plain, "sgd", epochs=1, batch_size=32)
    for mine, theirs in zip(
        two(build_first=True).layers[2].get_weights(),
        plain.layers[2].get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


# What is reported.


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_reported_loss_counts_each_penalty_once(jit_compile):
    model = build(ElasticNet(0.2, 0.1))
    regularize(model, {"out": L2(0.3)})
    x, y = data()
    mse = float(np.mean((model.predict(x, verbose=0) - y) ** 2))
    first, second = model.layers[1].kernel.numpy(), model.layers[2].kernel.numpy()
    penalty = 0.2 * np.abs(first).sum() + 0.1 * (first**2).sum()
    penalty += 0.3 * (second**2).sum()
    history = fitted(
        model, Proximal("sgd"), epochs=1, batch_size=32, jit_compile=jit_compile
    )
    np.testing.assert_allclose(history.history["loss"][0], mse + penalty, rtol=1e-5)
    total = model.evaluate(x, y, verbose=0)
    mse = float(np.mean((model.predict(x, verbose=0) - y) ** 2))
    penalties = float(sum(model.losses))
    assert len(model.losses) == 2
    np.testing.assert_allclose(total, mse + penalties, rtol=1e-5)


def test_one_trace_for_all_epochs_and_strengths():
    traces = []

    class Counted(L1):
        def value(self, w):
            traces.append(1)
            return super().value(w)

    penalty = Counted(0.01)
    model = build(penalty)
    fitted(model, Proximal("adam"), epochs=1)
    first = len(traces)  # two: TensorFlow traces a function that makes variables twice
    penalty.strength = 10.0
    model.fit(*data(), epochs=3, batch_size=8, verbose=0)
    assert len(traces) == first <= 2
    assert (model.get_weights()[0] == 0).mean() > 0.5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_strength_reaches_a_running_fit(jit_compile):
    penalty = L1(0.0)
    change = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(
            penalty, "strength", 100.0 * (epoch == 1)
        )
    )
    model, kernels = build(penalty), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kernels.append(model.get_weights()[0])
    )
    fitted(
        model,
        Proximal("sgd"),
        fit={"callbacks": [note, change]},
        jit_compile=jit_compile,
    )
    assert [(kernel == 0).all() for kernel in kernels] == [False, False, True]


# Beside what else Keras does to an update.


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


# Saving.


@pytest.mark.parametrize("name", ["momentum", "adam", "nadam"])
@pytest.mark.parametrize("saved", ["model", "weights"])
def test_resumed_training_is_bit_equal(tmp_path, name, saved):
    def optimizer():
        return {
            "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
            "adam": lambda: keras.optimizers.Adam(0.05),
            "nadam": lambda: keras.optimizers.Nadam(0.05),
        }[name]()

    def more(model):
        model.fit(*data(), epochs=3, batch_size=8, shuffle=False, verbose=0)

    model = build(ElasticNet(0.01, 0.01))
    fitted(model, Proximal(optimizer()))
    model.layers[1].kernel_regularizer.strength = 0.123
    if saved == "model":
        model.save(tmp_path / "model.keras")
        resumed = keras.models.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        resumed = build(ElasticNet(0.01, 0.01))
        resumed.compile(Proximal(optimizer()), loss="mse")
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(tmp_path / "model.weights.h5")
    assert resumed.layers[1].kernel.regularizer.strength == 0.123
    more(model)
    more(resumed)
    assert_same_weights(model, resumed)
    assert (model.get_weights()[0] == 0).any()


def test_backup_and_restore_resumes(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = build(L1(0.05))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fitted(
            model,
            Proximal(keras.optimizers.SGD(0.1, momentum=0.9)),
            epochs=4,
            fit={"callbacks": [backup, *callbacks]},
        )
        return model

    whole = build(L1(0.05))
    fitted(whole, Proximal(keras.optimizers.SGD(0.1, momentum=0.9)), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        run(Stop())
    assert_same_weights(whole, run())


def test_an_exported_model_needs_no_penalty(tmp_path):
    model = build(L1(0.1))
    model.layers[1].activity_regularizer = L1(0.1)
    fitted(model, Proximal("sgd"), epochs=1)
    model.export(tmp_path / "saved_model", verbose=False)
    x, _ = data()
    served = tf.saved_model.load(tmp_path / "saved_model")
    np.testing.assert_allclose(served.serve(x), model.predict(x, verbose=0), rtol=1e-5)


# Arguments and warnings.


def test_takes_names_configs_and_optimizers():
    assert isinstance(Proximal("adam").inner_optimizer, keras.optimizers.Adam)
    config = keras.optimizers.serialize(keras.optimizers.SGD(0.5))
    assert float(Proximal(config).learning_rate) == 0.5
    inner = keras.optimizers.Nadam()
    assert Proximal(inner).inner_optimizer is inner


@pytest.mark.parametrize("bad", [None, 3, keras.optimizers.Adam, ["adam"]])
def test_refuses_what_is_no_optimizer(bad):
    with pytest.raises(TypeError) as error:
        Proximal(bad)
    assert str(error.value) == (
        "Invalid value for argument `optimizer`. Expected a Keras optimizer, its "
        f"name or its config. Received: optimizer={bad!r}"
    )


def test_refuses_itself():
    with pytest.raises(ValueError, match="Received: optimizer=Proximal"):
        Proximal(Proximal("adam"))


def test_batch_normalization_after_a_penalized_kernel_warns_once():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="first", kernel_regularizer=L2(0.1)),
            keras.layers.BatchNormalization(name="bn_first"),
            keras.layers.Dense(4, name="second", kernel_regularizer=L2(0.1)),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(1, name="third", kernel_regularizer=L2(0.1)),
        ]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(model, Proximal("sgd"), epochs=2)
    found = [str(w.message) for w in caught if "batch normalization" in str(w.message)]
    assert len(found) == 1
    assert "first/kernel (before bn_first)']" in found[0]
    assert "second" not in found[0]


# Its own bounds.


def test_the_inner_optimizer_alone_is_as_it_was():
    plain, model = build(), build()
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    Proximal(inner)
    fitted(plain, keras.optimizers.SGD(0.1, momentum=0.9))
    regularize(model, {"hidden": L1(0.0)})
    fitted(model, inner)
    assert_same_weights(model, plain, atol=1e-6)
    penalized = build(L1(0.3))
    inner = keras.optimizers.SGD(0.1)
    Proximal(inner)
    fitted(penalized, inner)
    assert not (penalized.get_weights()[0] == 0).any()


def test_a_look_at_the_penalty_gradient_leaves_no_mark():
    """An eager loop without the penalties in its loss, but with `scale_loss`."""

    def looped(look):
        model = build(L1(0.5))
        optimizer = Proximal(keras.optimizers.SGD(0.1))
        optimizer.build(model.trainable_variables)
        x, y = data()
        for _ in range(3):
            if look:
                with tf.GradientTape() as tape:
                    penalty = sum(model.losses)
                tape.gradient(penalty, model.trainable_variables[0])
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(ops.mean(ops.square(y - model(x))))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        return model

    assert_same_weights(looped(False), looped(True))


def test_a_penalty_in_add_loss_trains_through_its_gradient():
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.penalty = L1(0.3)
            self.w = self.add_weight(shape=(shape[-1], 1), name="w")

        def call(self, x):
            self.add_loss(self.penalty(self.w))
            return x @ self.w

    models = []
    for wrap in (Proximal, lambda optimizer: optimizer):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), Own()])
        fitted(model, wrap(keras.optimizers.SGD(0.1)))
        models.append(model)
    assert_same_weights(*models, atol=1e-6)


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


def test_two_claims_at_once():
    """Both losses are scaled before either optimizer applies."""
    models = [build(L1(0.1)), build(L1(0.1))]
    optimizers = [Proximal(keras.optimizers.SGD(0.1)) for _ in models]
    x, y = data()
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)
    with tf.GradientTape(persistent=True) as tape:
        losses = [
            optimizer.scale_loss(ops.mean((y - model(x)) ** 2) + sum(model.losses))
            for model, optimizer in zip(models, optimizers, strict=True)
        ]
    pairs = list(zip(losses, models, optimizers, strict=True))
    gradients = [tape.gradient(loss, m.trainable_variables) for loss, m, _ in pairs]
    for gradient, (_, model, optimizer) in zip(gradients, pairs, strict=True):
        optimizer.apply(gradient, model.trainable_variables)
    assert_same_weights(*models)
