"""`LayerwiseAdaptiveLambda`, and what measures for it, on unusual models."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.callbacks import (
    Evidence,
    GradientRatio,
    LayerwiseAdaptiveLambda,
    Policy,
    RegularizationMonitor,
    Scheduled,
    TargetSparsity,
)
from kerasreg.callbacks.units import units_of
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2
from tests.callbacks.test_adaptive import Scale, data, fit, network, strengths

X, Y = data()


def one(penalty, cls=keras.Model, **arguments):
    """A linear model of class `cls`."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    out = keras.layers.Dense(1, kernel_regularizer=penalty, name="out", **arguments)
    return cls(inputs, out(inputs))


def mse(built):
    return float(np.mean((built.predict(X, verbose=0) - Y) ** 2))


# Losses of the user's own -----------------------------------------------------------


class Guide(keras.Model):
    """The train step of Keras's guide, which gives `compute_loss` no inputs."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_a_train_step_of_the_users_own():
    built = one(L2(0.1), Guide)
    built.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    history = fit(built, RegularizationMonitor(), epochs=3)
    assert int(built.optimizer.iterations) == 12
    np.testing.assert_allclose(history["data_loss"], [mse(built)] * 3, rtol=1e-4)


class Own(keras.Model):
    """The `compute_loss` of Keras's docstring, which adds the penalties by itself."""

    def compute_loss(self, x, y, y_pred, sample_weight, training=True, beta=1.0):
        return beta * ops.mean((y_pred - y) ** 2) + ops.sum(self.losses)


def test_a_compute_loss_of_the_users_own():
    built = one(L2(1.0), Own)
    built.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    history = fit(built, RegularizationMonitor())
    np.testing.assert_allclose(history["data_loss"], [mse(built)] * 2, rtol=1e-4)
    assert history["loss"][0] > history["data_loss"][0] + 0.1
    loss = built.compute_loss(X, Y, built(X), None, beta=0.5)
    assert float(loss) == pytest.approx(
        0.5 * mse(built) + float(sum(built.losses)), rel=1e-4
    )


def test_another_callback_evaluates_other_data():
    class Test(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(X, Y + 100, verbose=0)

    policy = Scale(1.0, needs_logs=("val_data_loss", "val_mse"))
    built = network(metrics=["mse"])
    fit(built, Test(), LayerwiseAdaptiveLambda(policy), validation_data=(X, Y))
    for state in policy.states:
        assert state.logs["val_data_loss"] == pytest.approx(state.logs["val_mse"])


def test_data_loss_in_mid_epoch():
    policy = Scale(1.0, needs_logs=("data_loss",))
    built = network(optimizer=keras.optimizers.SGD(0.0), metrics=["mse"])
    fit(built, LayerwiseAdaptiveLambda(policy, every=2), epochs=1)
    for state in policy.states:
        assert state.logs["data_loss"] == pytest.approx(state.logs["mse"], rel=1e-4)


# Names ------------------------------------------------------------------------------


def tower(name, strength):
    inputs = keras.Input((6,))
    dense = keras.layers.Dense(5, kernel_regularizer=L1(strength), name="fc")
    return keras.Model(inputs, dense(inputs), name=name)


def test_layers_of_one_name_in_several_models(tmp_path):
    inputs = keras.Input((6,))
    both = [tower("p", 0.01)(inputs), tower("q", 0.04)(inputs)]
    out = keras.layers.Dense(1, name="out")(keras.layers.Concatenate()(both))
    built = keras.Model(inputs, out)
    built.compile("sgd", "mse", jit_compile=False)
    assert list(units_of(built)) == ["p/fc", "q/fc"]
    history = fit(built, LayerwiseAdaptiveLambda(Scale()), RegularizationMonitor())
    assert strengths(built) == pytest.approx([0.04, 0.16])
    assert history["penalty"][-1] == pytest.approx(float(sum(built.losses)), rel=0.1)
    built.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert list(units_of(loaded)) == ["p/fc", "q/fc"]
    resumed = LayerwiseAdaptiveLambda(Scale(), resume_from=tmp_path / "m.keras")
    fit(loaded, resumed, epochs=3, initial_epoch=2)
    assert strengths(loaded) == pytest.approx([0.08, 0.32])


def test_names_of_wrapped_layers():
    layers = [
        keras.layers.TimeDistributed(
            keras.layers.Dense(3, kernel_regularizer=L2(), name="fc"), name=name
        )
        for name in ("first", "second")
    ]
    built = keras.Sequential([keras.Input((4, 6)), *layers])
    assert list(units_of(built)) == ["first/fc", "second/fc"]


# Bounds, ratios, steps ----------------------------------------------------------------


def test_bounds_hold_for_all_penalties_of_a_unit():
    built = network(L2(0.01), L2(1.0))
    adaptive = LayerwiseAdaptiveLambda(
        Scheduled(lambda epoch: 1.0), granularity="model", max_strength=1.0
    )
    fit(built, adaptive)
    assert strengths(built) == pytest.approx([0.01, 1.0])
    adaptive = LayerwiseAdaptiveLambda(
        Scheduled(lambda epoch: 0.01), granularity="model", min_strength=0.1
    )
    fit(built, adaptive)
    assert strengths(built) == pytest.approx([0.1, 10.0])


def test_the_ratio_outlives_a_strength_of_zero():
    built = network(L2(0.1), L2(0.001))
    adaptive = LayerwiseAdaptiveLambda(
        Scheduled(lambda epoch: 0.1 * (epoch > 1)), granularity="model"
    )
    fit(built, adaptive, epochs=1)
    assert strengths(built) == [0.0, 0.0]
    fit(built, adaptive, epochs=3, initial_epoch=1)
    assert strengths(built) == pytest.approx([0.1, 0.001])


def test_accumulated_batches_are_counted_as_batches():
    seen = []
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
    built = network(optimizer=optimizer)
    record = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(strengths(built)[0])
    )
    schedule = Scheduled(lambda step: float(step), unit="step")
    fit(built, LayerwiseAdaptiveLambda(schedule), record)
    assert seen == list(range(8))


def test_burn_in_is_not_measured():
    class Late(Policy):
        burn_in, every, asked = 5, 1, 0

        def measure(self, model, units):
            self.asked += 1
            return {}

        def update(self, state):
            return {}

    policy = Late()
    fit(network(), LayerwiseAdaptiveLambda(policy))
    assert policy.asked == 8 - 4


def test_weights_that_are_no_numbers():
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.layers[1].kernel.assign(np.full((6, 4), np.nan))

    built = network()
    with pytest.warns(UserWarning, match="Evidence needs or returned is NaN"):
        fit(built, Break(), LayerwiseAdaptiveLambda(Evidence(X, Y)), epochs=3)
    built = network(L1(0.01), L1(0.01), Proximal("sgd"))
    with pytest.warns(UserWarning, match="TargetSparsity needs or returned is NaN"):
        fit(built, Break(), LayerwiseAdaptiveLambda(TargetSparsity(0.5)), epochs=9)
    assert max(strengths(built)) < 1.0


# Resuming -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "epochs", "every", "optimizer"),
    [
        # An interval of measuring that does not divide the steps of an epoch.
        (132, 3, "epoch", lambda: keras.optimizers.Adam(0.01)),
        (
            64,
            4,
            None,
            lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2),
        ),
    ],
    ids=["epoch", "accumulated"],
)
def test_gradients_are_resumed(tmp_path, rows, epochs, every, optimizer):
    path = tmp_path / "w.weights.h5"

    def run(epochs, first=0, **arguments):
        built = network(optimizer=optimizer())
        adaptive = LayerwiseAdaptiveLambda(GradientRatio(0.1), every=every, **arguments)
        built.fit(
            *data(rows),
            batch_size=4,
            shuffle=False,
            epochs=epochs,
            initial_epoch=first,
            verbose=0,
            callbacks=[adaptive],
        )
        built.save_weights(path)
        return adaptive.strengths

    straight = run(epochs)
    run(1)
    assert run(epochs, 1, resume_from=path) == straight


def test_a_backup_is_newer_than_the_file_to_resume_from(tmp_path):
    path = tmp_path / "m.keras"
    built = network(cls=keras.Model)
    fit(built, LayerwiseAdaptiveLambda(Scale()), epochs=1)
    built.save(path)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def again(*callbacks):
        loaded = keras.models.load_model(path)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        adaptive = LayerwiseAdaptiveLambda(Scale(), resume_from=path)
        fit(loaded, backup, adaptive, *callbacks, epochs=3)
        return int(loaded.optimizer.iterations)

    with pytest.raises(KeyboardInterrupt):
        again(Stop())
    assert again() == 4 * 4


def test_renamed_layers_keep_what_the_policy_remembers(tmp_path):
    path = tmp_path / "w.weights.h5"

    def run(name, epochs, first=0, **arguments):
        inputs = keras.Input((6,))
        dense = keras.layers.Dense(1, kernel_regularizer=L2(0.01), name=name)
        built = keras.Model(inputs, dense(inputs))
        built.compile("sgd", "mse", jit_compile=False)
        policy = Scheduled(lambda epoch: 0.5**epoch, relative=True)
        adaptive = LayerwiseAdaptiveLambda(policy, **arguments)
        fit(built, adaptive, epochs=epochs, initial_epoch=first)
        built.save_weights(path)
        return adaptive.strengths

    run("dense", 3)
    found = run("other", 4, 3, resume_from=path)
    assert found == {"other": pytest.approx(0.01 / 16)}


def test_other_weights_are_trained_now(tmp_path):
    path = tmp_path / "w.weights.h5"
    built = network()
    built.get_layer("hidden").trainable = False
    built.compile("sgd", "mse", jit_compile=False)
    fit(built, LayerwiseAdaptiveLambda(Scale()))
    built.save_weights(path)
    built.get_layer("hidden").trainable = True
    built.compile("sgd", "mse", jit_compile=False)
    fit(built, LayerwiseAdaptiveLambda(Scale()))
    with pytest.warns(UserWarning, match="are not restored: now"):
        built.load_weights(path)


def test_two_callbacks_of_one_kind():
    built = network(L1(0.01), L1(0.01), Proximal("sgd"))
    both = [
        LayerwiseAdaptiveLambda(TargetSparsity({name: 0.5}))
        for name in ("hidden", "out")
    ]
    for _ in range(2):  # a message of the same `fit` only
        with pytest.raises(ValueError) as error:
            fit(built, *both)
        fit(built, both[0])
    paths = [layer.kernel.path for layer in built.layers[1:]]
    assert str(error.value) == (
        "Invalid value for argument `pattern`. Expected patterns with which each "
        "weight is tuned by one callback of a `fit`. Received: pattern=None and "
        f"pattern=None, which both fit {paths}"
    )


# Traces and memory ------------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    [RegularizationMonitor, lambda: LayerwiseAdaptiveLambda(GradientRatio(0.1))],
    ids=["monitor", "adaptive"],
)
def test_kept_callbacks_cost_no_trace(callback):
    built = network()
    built.optimizer.build(built.trainable_variables)
    kept = [callback() for _ in range(3)]
    for each in kept:
        fit(built, each)
    assert built.traces == 1


def test_optimizers_are_not_kept():
    left = []
    for _ in range(2):
        built = network(optimizer=keras.optimizers.Adam(0.01))
        fit(built, RegularizationMonitor(), LayerwiseAdaptiveLambda(GradientRatio(0.1)))
        left.append(weakref.ref(built.optimizer))
        del built
        keras.backend.clear_session()
    gc.collect()
    assert [each() for each in left] == [None, None]
