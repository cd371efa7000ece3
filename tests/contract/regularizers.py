"""What every regularizer must pass, by itself and in each position of Keras."""

import copy
import json
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.regularizers import penalties_of
from tests import models
from tests.cases import Case


def _weight(shape=(6, 4), seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _penalty_of(model):
    """The one penalty of a model of `tests.models`."""
    (penalty,) = penalties_of(model).values()
    return penalty


def _same(first, second):
    """Two penalties with the same class, config, strength and value."""
    assert type(first) is type(second)
    assert first.get_config() == second.get_config()
    assert first.strength == second.strength
    np.testing.assert_array_equal(first(_weight()), second(_weight()))


def check_config_round_trip(case: Case):
    """The config is plain JSON, holds the current strength, and makes the same."""
    penalty = case.make()
    penalty.strength = 2 * penalty.strength
    config = json.loads(json.dumps(penalty.get_config()))
    _same(type(penalty).from_config(config), penalty)


def check_identifiers(case: Case):
    """Keras finds it by instance, by serialized config and by registered name."""
    penalty = case.make()
    registered = keras.saving.get_registered_name(type(penalty))
    assert registered == f"kerasreg>{case}"
    assert keras.saving.get_registered_object(registered) is case.public
    assert keras.regularizers.get(penalty) is penalty
    _same(keras.regularizers.get(keras.regularizers.serialize(penalty)), penalty)
    named = {"class_name": registered, "config": penalty.get_config()}
    _same(keras.regularizers.get(named), penalty)
    layer = keras.layers.Dense(3, kernel_regularizer=named)
    _same(layer.kernel_regularizer, penalty)


def check_strength(case: Case):
    """The strength is a float; the value follows it, zero at zero."""
    penalty, w = case.make(), _weight()
    penalty(w)  # an anchored penalty takes its anchor here
    w = 1.5 * w
    before = penalty.strength
    assert isinstance(before, float)
    assert before > 0
    value = float(penalty(w))
    penalty.strength = before / 2
    assert penalty.strength == pytest.approx(before / 2)
    assert float(penalty(w)) < value
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength"):
            penalty.strength = bad
    with pytest.raises(TypeError, match="strength"):
        penalty.strength = "much"
    assert penalty.strength == pytest.approx(before / 2)


def check_save_and_load(case: Case, folder: Path):
    """A `.keras` file keeps the penalty's value and its strength of the moment."""
    model = models.model(case.make())
    models.fit(model, epochs=1)
    penalty = _penalty_of(model)
    penalty.strength = 3 * penalty.strength
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert _penalty_of(loaded).strength == penalty.strength
    assert _penalty_of(loaded).get_config() == penalty.get_config()
    np.testing.assert_allclose(loaded.losses, model.losses, rtol=1e-6)
    x, y = models.data()
    np.testing.assert_allclose(
        loaded.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-6
    )
    models.fit(loaded, epochs=1)


def check_weights_file(case: Case, folder: Path):
    """A weights file fits a model with the penalty and one without."""
    model = models.model(case.make())
    model.save_weights(folder / "model.weights.h5")
    for penalty in (case.make(), None):
        other = models.model(penalty)
        other.layers[1].kernel.assign(ops.zeros_like(other.layers[1].kernel))
        other.load_weights(folder / "model.weights.h5")
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def check_clone(case: Case):
    """A cloned model has a penalty of its own, equal to the first one's."""
    model = models.model(case.make())
    penalty = _penalty_of(model)
    penalty.strength = 2 * penalty.strength
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    copied = _penalty_of(clone)
    assert copied is not penalty
    assert copied.get_config() == penalty.get_config()
    copied.strength = 0.5
    assert penalty.strength != 0.5


def check_not_a_weight(case: Case):
    """The strength is no weight: it is never averaged, counted or trained."""
    with_penalty, without = models.model(case.make()), models.model(None)
    for model in (with_penalty, without):
        models.fit(model, epochs=1)
    assert with_penalty.count_params() == without.count_params()
    assert len(with_penalty.variables) == len(without.variables)
    shapes = [w.shape for w in with_penalty.get_weights()]
    assert shapes == [w.shape for w in without.get_weights()]
    with_penalty.set_weights(with_penalty.get_weights())


def check_eager_and_traced(case: Case):
    """The value is the same scalar eagerly, in a graph, and compiled by XLA."""
    w = _weight()
    penalty = case.make()
    eager = penalty(ops.convert_to_tensor(w))
    assert eager.shape == ()
    assert keras.backend.standardize_dtype(eager.dtype) == "float32"
    shape = tf.TensorSpec((6 if "anchored" in case.labels else None, 4), "float32")
    for jit in (False, True):
        traced = tf.function(penalty, input_signature=[shape], jit_compile=jit)
        np.testing.assert_allclose(traced(w), eager, rtol=1e-5, atol=1e-7)


def check_gradient_at_zero(case: Case):
    """At zero, value and gradient are finite."""
    variable = tf.Variable(tf.zeros((6, 4)))
    penalty = case.make()
    with tf.GradientTape() as tape:
        value = penalty(variable)
    assert np.isfinite(value)
    assert np.all(np.isfinite(tape.gradient(value, variable)))


def check_half_precision(case: Case):
    """In float16 the value is computed in float32, so large weights stay finite."""
    penalty = case.make()
    wide = np.full((400, 400), 8.0, "float16")
    assert float(penalty(ops.convert_to_tensor(wide))) == pytest.approx(
        float(penalty(ops.convert_to_tensor(wide.astype("float32")))), rel=1e-3
    )
    keras.config.set_dtype_policy("mixed_float16")
    model = models.model(case.make())
    assert np.all(np.isfinite(models.fit(model).history["loss"]))


class _Halve(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            penalty = _penalty_of(self.model)
            penalty.strength = penalty.strength / 2


def check_live_strength(case: Case, jit_compile: bool):
    """A strength set between epochs counts in the running `fit`, without retracing."""
    losses = []
    for callbacks in ([], [_Halve()]):
        model = models.model(
            case.make(),
            keras.optimizers.SGD(0.0),
            models.TracedModel,
            jit_compile=jit_compile,
        )
        model.layers[1].kernel.assign(_weight((models.FEATURES, models.UNITS)))
        losses.append(models.fit(model, callbacks=callbacks).history["loss"])
        assert model.traces == 1
    same, halved = losses
    assert same[0] == pytest.approx(halved[0])
    assert halved[1] < same[1]


def check_gradient_accumulation(case: Case):
    """Accumulated over all batches of an epoch, a step is the full batch's step."""
    accumulated = models.model(
        case.make(), keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    )
    full = models.model(case.make(), keras.optimizers.SGD(0.1))
    models.fit(accumulated, epochs=2)
    models.fit(full, epochs=2, batch_size=models.ROWS)
    for a, b in zip(accumulated.get_weights(), full.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def check_two_devices(case: Case, strategy):
    """On two devices the penalty counts once, as on one."""
    with strategy.scope():
        mirrored = models.model(case.make(), keras.optimizers.SGD(0.1))
    single = models.model(case.make(), keras.optimizers.SGD(0.1))
    histories = [
        models.fit(model, batch_size=models.ROWS).history["loss"]
        for model in (mirrored, single)
    ]
    np.testing.assert_allclose(*histories, rtol=1e-4)
    for a, b in zip(mirrored.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    penalty = _penalty_of(mirrored)
    penalty.strength = 0.0
    assert penalty.strength == 0.0


def check_reproducible(case: Case):
    """The same seed gives the same weights, bit for bit."""
    first, second = (models.model(case.make()) for _ in range(2))
    for model in (first, second):
        models.fit(model)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def check_copies(case: Case):
    """`deepcopy` and `pickle` make equal penalties with a strength of their own."""
    penalty = case.make()
    penalty.strength = 2 * penalty.strength
    penalty(_weight())  # an anchored penalty takes its anchor here
    for copied in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        _same(copied, penalty)
        before = penalty.strength
        copied.strength = 0.75
        assert penalty.strength == before
    layer = keras.layers.Dense(3, kernel_regularizer=penalty)
    assert copy.deepcopy(layer.get_config()) == layer.get_config()


def check_prox_minimizes(case: Case):
    """`prox` returns the minimum of (u - w)^2/(2 step) + value(u)."""
    penalty = case.make()
    penalty.strength = 0.4
    w = _weight()
    penalty(w)  # an anchored penalty takes its anchor here
    w = 1.5 * w
    rng = np.random.default_rng(0)
    steps = (0.7, rng.uniform(0.2, 1.0, size=w.shape).astype("float32"))
    for step in steps:

        def objective(u, step=step):
            distance = np.sum((np.asarray(u, "float64") - w) ** 2 / (2 * step))
            return distance + float(penalty(ops.convert_to_tensor(u, "float32")))

        best = ops.convert_to_numpy(penalty.prox(ops.convert_to_tensor(w), step))
        lowest = objective(best)
        assert lowest <= objective(w)
        assert lowest <= objective(0 * w)
        for scale in (1e-2, 1e-1, 1.0):
            for _ in range(30):
                other = best + scale * rng.normal(size=w.shape) * (
                    rng.uniform(size=w.shape) < 0.3
                )
                assert lowest <= objective(other) + 1e-5


def check_position(case: Case, position):
    """Keras accepts the penalty there and counts its value, with a gradient."""
    layer = position.make(case.make())
    inputs = position.inputs()
    with tf.GradientTape() as tape:
        outputs = layer(inputs)
        losses = list(layer.losses)
    assert len(losses) == position.shared
    reference = case.make()
    total = float(sum(losses))
    if position.argument == "activity_regularizer":
        expected = float(reference(outputs)) / position.shape[0]
    else:
        carriers = [w for w in layer.trainable_weights if w.regularizer is not None]
        assert len(carriers) == position.shared
        expected = sum(float(case.make()(w.value)) for w in carriers)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-7)
    weights = [w.value for w in layer.trainable_weights]
    for gradient in tape.gradient(losses, weights):
        assert gradient is None or np.all(np.isfinite(tf.convert_to_tensor(gradient)))
    rebuilt = type(layer).from_config(layer.get_config())
    assert rebuilt.get_config() == layer.get_config()
