"""`RegularizationMonitor`: what it logs is true, and it changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.callbacks import (
    KLWarmup,
    LayerwiseAdaptiveLambda,
    Policy,
    RegularizationMonitor,
)
from kerasreg.layers import ConcreteDropout
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, GroupLasso, SparseGroupLasso, regularize
from tests import models
from tests.models import TracedModel, data, fit

X, Y = data()
VALIDATION = (X[:20] + 0.3, Y[:20])


def watch(built, epochs=2, monitor=None, **arguments):
    """Fits with a monitor; returns it and the history."""
    monitor = monitor or RegularizationMonitor()
    callbacks = [*arguments.pop("before", []), monitor, *arguments.pop("after", [])]
    arguments = {"validation_data": VALIDATION, **arguments}
    history = fit(built, epochs, callbacks=callbacks, **arguments)
    return monitor, history.history


def standing(penalty, optimizer=None, **arguments):
    """A model whose weights stand still: what is logged can be computed after."""
    return models.model(penalty, optimizer or keras.optimizers.SGD(0.0), **arguments)


def mse(built, x, y):
    return float(np.mean((built.predict(x, verbose=0) - y) ** 2))


@pytest.mark.parametrize("proximal", [False, True])
def test_losses_penalty_norm_and_gradients_are_those_of_the_model(proximal):
    optimizer = keras.optimizers.SGD(0.0)
    built = standing(L2(0.3), Proximal(optimizer) if proximal else optimizer)
    _, logs = watch(built, epochs=1, batch_size=32)
    kernel = built.get_layer("hidden").kernel
    w = kernel.numpy()
    expected = {
        "data_loss": mse(built, X, Y),
        "val_data_loss": mse(built, *VALIDATION),
        "gap": mse(built, *VALIDATION) - mse(built, X, Y),
        "penalty": 0.3 * np.sum(w**2),
        "penalty/hidden/kernel": 0.3 * np.sum(w**2),
        "strength/hidden": 0.3,
        "norm/hidden": np.linalg.norm(w),
        "sparsity/hidden": 0.0,
        "group_sparsity/hidden": 0.0,
    }
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((built(X) - Y) ** 2)
    gradient = np.linalg.norm(tape.gradient(loss, kernel.value))
    expected["gradient_ratio/hidden"] = 0.6 * np.linalg.norm(w) / gradient
    found = {name: logs[name][0] for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)
    assert set(logs) == {*expected, "loss", "val_loss"}
    both = logs["data_loss"][0] + logs["penalty"][0]
    assert logs["loss"][0] == pytest.approx(both, rel=1e-5)


def test_the_data_loss_is_the_mean_over_the_epoch_of_what_keras_adds_penalties_to():
    built = models.model(L2(0.3))
    built.compile("sgd", "mse", metrics=["mse"])
    _, logs = watch(built, epochs=3)
    np.testing.assert_allclose(logs["data_loss"], logs["mse"], rtol=1e-5)
    np.testing.assert_allclose(logs["val_data_loss"], logs["val_mse"], rtol=1e-5)


def test_activity_penalties_and_added_losses_are_in_no_data_loss():
    x = keras.Input((6,))
    hidden = keras.layers.Dense(8, activity_regularizer=L1(0.1))(x)
    out = keras.layers.Dense(1, kernel_regularizer=L2(0.1), name="out")(hidden)
    built = keras.Model(x, out)
    built.compile("sgd", "mse", metrics=["mse"])
    _, logs = watch(built)
    np.testing.assert_allclose(logs["data_loss"], logs["mse"], rtol=1e-5)
    np.testing.assert_allclose(logs["val_data_loss"], logs["val_mse"], rtol=1e-5)


def test_zeros_of_weights_and_groups():
    penalties = {
        "each": L1(0.1),
        "units": GroupLasso(0.1, axis="output"),
        "inputs": GroupLasso(0.1, axis="input"),
        "sparse": SparseGroupLasso(0.1, 0.1, axis="input"),
    }
    x = keras.Input((6,))
    dense = [
        keras.layers.Dense(8, kernel_regularizer=penalty, name=name)
        for name, penalty in penalties.items()
    ]
    summed = keras.layers.Add()([layer(x) for layer in dense])
    built = keras.Model(x, keras.layers.Dense(1)(summed))
    built.compile(keras.optimizers.SGD(0.0), "mse")
    w = np.ones((6, 8), "float32")
    w[:, 3], w[0, :4] = 0.0, 0.0
    for layer in dense:
        layer.kernel.assign(w)
    _, logs = watch(built, epochs=1)
    units = {"each": 1 / 8, "units": 1 / 8, "inputs": 0.0, "sparse": 0.0}
    for name, groups in units.items():
        assert logs[f"sparsity/{name}"] == [pytest.approx(9 / 48)]
        assert logs[f"group_sparsity/{name}"] == [pytest.approx(groups)]


def test_units():
    built = standing(L1(0.1))
    regularize(built, {"out": L2(0.2), "hidden/bias": L2(0.5)})
    built.get_layer("hidden").bias.assign(np.ones(8))
    others = [
        RegularizationMonitor(granularity="weight", pattern="hidden"),
        RegularizationMonitor(granularity="model"),
    ]
    _, logs = watch(built, 1, after=others)
    weights = ("hidden/kernel", "hidden/bias", "out/kernel")
    names = {"hidden", "out", *weights[:2], "model"}
    for quantity in ("strength", "norm", "sparsity", "group_sparsity"):
        keys = {key for key in logs if key.startswith(quantity + "/")}
        assert keys == {f"{quantity}/{name}" for name in names}
    assert logs["norm/hidden/bias"] == [pytest.approx(8**0.5)]
    parts = [logs[f"norm/hidden/{name}"][0] ** 2 for name in ("kernel", "bias")]
    assert logs["norm/hidden"][0] ** 2 == pytest.approx(sum(parts))
    total = sum(logs[f"penalty/{name}"][0] for name in weights)
    assert logs["penalty"][0] == pytest.approx(total)


@pytest.mark.parametrize(
    ("optimizer", "jit_compile", "steps_per_execution"),
    [("sgd", False, 1), ("adam", True, 1), ("proximal", True, 2)],
)
def test_weights_are_the_same_bit_by_bit(optimizer, jit_compile, steps_per_execution):
    weights = []
    for callbacks in ([], [RegularizationMonitor()]):
        built = models.model(
            L1(0.05),
            Proximal("adam") if optimizer == "proximal" else optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        fit(built, 3, callbacks=callbacks)
        weights.append(built.get_weights())
    for without, with_monitor in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_monitor)


def test_noise_and_normalization_are_the_same_beside_other_callbacks():
    def run(callbacks):
        keras.utils.set_random_seed(5)
        built = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, name="hidden", kernel_regularizer=L2(0.01)),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3, seed=1),
                keras.layers.Dense(1),
            ]
        )
        built.compile("adam", "mse")
        others = [
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1),
            keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
        ]
        arguments = {"validation_data": VALIDATION, "callbacks": [*callbacks, *others]}
        history = fit(built, 6, **arguments).history
        return history, built.get_weights()

    plain, before = run([])
    logged, after = run([RegularizationMonitor()])
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {name: logged[name] for name in plain} == plain


def test_early_stopping_can_watch_what_it_logs():
    stop = keras.callbacks.EarlyStopping("val_data_loss", mode="max", patience=1)
    _, logs = watch(models.model(L2(0.1)), 9, after=[stop])
    assert len(logs["loss"]) == 2


def test_several_replicas(two_cpus):
    with two_cpus.scope():
        built = standing(L2(0.3))
        built.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mse"])
    _, logs = watch(built, 1)
    alone = standing(L2(0.3))
    alone.set_weights(built.get_weights())
    _, expected = watch(alone, 1)
    for name in expected:
        assert logs[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_unknown_steps():
    def batches():
        for start in range(0, 32, 8):
            yield X[start : start + 8], Y[start : start + 8]

    signature = tuple(tf.TensorSpec((None, n), "float32") for n in (6, 1))
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    built, monitor = models.model(L2(0.3)), RegularizationMonitor()
    arguments = {"epochs": 1, "verbose": 0, "shuffle": False}
    logs = built.fit(stream, callbacks=[monitor], **arguments).history
    _, expected = watch(models.model(L2(0.3)), 1, validation_data=None)
    assert set(logs) == set(expected)
    for name in expected:
        assert logs[name] == pytest.approx(expected[name], rel=1e-5), name


def test_without_validation_and_with_validation_now_and_then():
    _, logs = watch(models.model(L2(0.3)), 1, validation_data=None)
    assert not {"gap", "val_data_loss"} & set(logs)
    _, logs = watch(models.model(L2(0.3)), 5, validation_freq=2)
    assert [len(logs[name]) for name in ("gap", "val_data_loss", "loss")] == [2, 2, 5]
    np.testing.assert_allclose(
        logs["gap"], np.subtract(logs["val_data_loss"], logs["data_loss"][1::2])
    )


def test_a_model_without_penalties_says_so():
    monitor, logs = watch(models.model())
    assert set(logs) == {"loss", "val_loss", "data_loss", "val_data_loss", "gap"}
    assert logs["data_loss"] == pytest.approx(logs["loss"])
    assert monitor.advice == [
        "The model has no penalty on a trainable weight: these are the curves of a "
        "baseline."
    ]


def test_a_frozen_layer_has_no_penalty():
    built = models.model(L1(0.1))
    built.get_layer("hidden").trainable = False
    built.compile("sgd", "mse")
    monitor, logs = watch(built)
    assert "penalty" not in logs
    assert monitor.advice[0].startswith("The model has no penalty on a trainable")


def test_penalties_of_keras_count():
    monitor, logs = watch(standing(keras.regularizers.L2(0.2)), epochs=1)
    assert logs["loss"][0] - logs["data_loss"][0] == pytest.approx(logs["penalty"][0])
    assert "norm/hidden" not in logs
    assert monitor.advice == [
        "The penalties are Keras's own, so strengths, zeros and gradients are not "
        "measured. Use those of kerasreg.regularizers, or `as_penalty`."
    ]


def test_divergences_are_apart_and_as_a_warmup_logs_them():
    built = models.model(
        L2(0.1), wrap=lambda layer: ConcreteDropout(layer, num_examples=32)
    )
    alone, together = KLWarmup(0, 3), RegularizationMonitor()
    logs = fit(built, 3, callbacks=[alone], validation_data=VALIDATION).history["kl"]
    built = models.model(
        L2(0.1), wrap=lambda layer: ConcreteDropout(layer, num_examples=32)
    )
    built.compile("sgd", "mse", metrics=["mse"])
    _, found = watch(built, 3, together, before=[KLWarmup(0, 3)])
    np.testing.assert_allclose(found["kl"], logs, rtol=1e-3)
    parts = [value for name, value in found.items() if name.startswith("kl/")]
    np.testing.assert_allclose(np.sum(parts, axis=0), found["kl"])
    np.testing.assert_allclose(found["val_data_loss"], found["val_mse"], rtol=1e-5)
    assert found["penalty"] == found["penalty/hidden/kernel"]


class Tenfold(Policy):
    def update(self, state):
        return {name: 10 * unit.strength for name, unit in state.units.items()}


@pytest.mark.parametrize("order", [1, -1])
def test_beside_an_adaptive_strength(order):
    built = models.model(L1(1e-4), Proximal(keras.optimizers.SGD(0.05)))
    built.compile(built.optimizer, "mse", metrics=["mse"])
    callbacks = [LayerwiseAdaptiveLambda(Tenfold()), RegularizationMonitor()][::order]
    logs = fit(built, 3, callbacks=callbacks, validation_data=VALIDATION).history
    np.testing.assert_allclose(logs["strength/hidden"], [1e-3, 1e-2, 1e-1], rtol=1e-5)
    # Validation ran with the strengths before.
    np.testing.assert_allclose(logs["val_data_loss"], logs["val_mse"], rtol=1e-4)


def test_a_second_fit_is_not_traced_again():
    built, monitor = models.model(L1(0.1), cls=TracedModel), RegularizationMonitor()
    watch(built, 1, monitor)
    before = built.traces
    watch(built, 1, monitor)
    fit(built, 1, validation_data=VALIDATION)
    assert built.traces == before


def test_a_shared_penalty_stays_shared():
    shared = L1(0.1)
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, kernel_regularizer=shared),
            keras.layers.Dense(1, kernel_regularizer=shared),
        ]
    )
    built.compile("sgd", "mse")
    watch(built, 1)
    assert [layer.kernel.regularizer for layer in built.layers] == [shared, shared]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"granularity": "unit"},
            ValueError,
            "Invalid value for argument `granularity`. Expected one of ('layer', "
            "'weight', 'model'). Received: granularity='unit'",
        ),
        (
            {"baseline": {}},
            ValueError,
            "Invalid value for argument `history`. Expected what `fit` returned after "
            "an epoch or more, or its `history` dict. Received: history={}",
        ),
    ],
)
def test_invalid_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        RegularizationMonitor(**arguments)
    assert str(caught.value) == message


def test_a_pattern_that_fits_nothing():
    with pytest.raises(ValueError, match="Invalid value for argument `pattern`"):
        watch(models.model(L1(0.1)), 1, RegularizationMonitor(pattern="head"))
