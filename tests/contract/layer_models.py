"""What every layer must pass inside a model: training, saving, devices, wrappers."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerasreg.layers import sampling
from tests import models
from tests.cases import Case
from tests.contract.layers import (
    assert_same,
    built,
    config_of,
    divergences,
    inputs_of,
    numbers,
)

BATCHES = 2


class SeenMask(keras.layers.Layer):
    """Returns the mask that reaches it; -1 where none does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        if mask is None:
            return -keras.ops.ones(keras.ops.shape(inputs)[:2])
        return keras.ops.cast(mask, "float32")


def model(case: Case, cls=keras.Model, optimizer=None, **arguments):
    """The layer, then one Dense unit."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(case.shape[1:])
    hidden = keras.layers.Flatten()(case.make(name="noisy")(inputs))
    outputs = keras.layers.Dense(1, dtype="float32", name="out")(hidden)
    made = cls(inputs, outputs)
    made.compile(
        optimizer or keras.optimizers.SGD(0.02, momentum=0.9),
        loss="mse",
        **{"jit_compile": False, **arguments},
    )
    return made


def data(case: Case):
    x = inputs_of(case, BATCHES * case.shape[0])
    return x, x.reshape(len(x), -1)[:, :1] + 0.5


def fit(case: Case, made, **arguments):
    x, y = data(case)
    return made.fit(
        x,
        y,
        **{
            "batch_size": case.shape[0],
            "epochs": 1,
            "shuffle": False,
            "verbose": 0,
            **arguments,
        },
    )


def noisy(made):
    return made.get_layer("noisy")


def predict(case: Case, made):
    return made(data(case)[0], training=False)


def check_save_and_load(case: Case, folder: Path):
    """Two equal runs agree bit for bit; a saved one is loaded and goes on as it was."""
    made, again = (model(case, run_eagerly=True) for _ in range(2))
    for each in (made, again):
        for kl in divergences(noisy(each)):
            kl.strength = 0.375
    losses = [fit(case, each).history["loss"] for each in (made, again)]
    assert losses[0] == losses[1]
    assert np.all(np.isfinite(losses))
    assert_same(made.get_weights(), again.get_weights())
    made.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    assert config_of(noisy(loaded)) == config_of(noisy(made))
    assert [kl.strength for kl in divergences(noisy(loaded))] == [
        0.375 for _ in divergences(noisy(made))
    ]
    assert_same([predict(case, loaded)], [predict(case, made)])
    assert_same([predict(case, loaded)], [predict(case, loaded)])
    assert_same(loaded.losses, made.losses)
    # Keras does not save the state of a seed: the noise goes on from the same one.
    for ours, theirs in zip(loaded.variables, made.variables, strict=True):
        ours.assign(theirs)
    loaded.run_eagerly = True
    for each in (loaded, made):
        fit(case, each)
    assert_same(loaded.get_weights(), made.get_weights())


def check_weights_file(case: Case, folder: Path):
    """A weights file, and a clone with the weights set, predict the same."""
    made = model(case)
    for w in made.trainable_weights:
        w.assign_add(keras.random.uniform(w.shape, 0.02, 0.1, seed=3))
    for kl in divergences(noisy(made)):
        kl.strength = 0.375
    made.save_weights(folder / "model.weights.h5")
    other, clone = model(case), keras.models.clone_model(made)
    other.load_weights(folder / "model.weights.h5")
    clone.set_weights(made.get_weights())
    for copied in (other, clone):
        assert noisy(copied) is not noisy(made)
        assert_same(copied.get_weights(), made.get_weights())
        assert_same([predict(case, copied)], [predict(case, made)])
    assert_same(clone.losses, made.losses)
    assert config_of(noisy(clone)) == config_of(noisy(made))
    for kl in divergences(noisy(clone)):
        kl.strength = 0.75
    assert all(kl.strength == 0.375 for kl in divergences(noisy(made)))


def check_trace(case: Case):
    """Two fits are one trace and the same bits; XLA trains to the same numbers."""
    histories, weights = [], []
    for jit_compile in (False, True):
        made = model(case, models.TracedModel, jit_compile=jit_compile)
        made.optimizer.build(made.trainable_variables)
        variables = [*made.variables, *made.optimizer.variables]
        start = numbers(variables)
        first = fit(case, made, epochs=2).history["loss"]
        weights.append(made.get_weights())
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        assert fit(case, made, epochs=2).history["loss"] == first
        assert_same(made.get_weights(), weights[-1])
        assert made.traces == 1
        histories.append(first)
    np.testing.assert_allclose(*histories, rtol=1e-3)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


def check_gradient_accumulation(case: Case):
    """Where inputs are zero, and noise with them, micro-batches are the full batch."""
    x, y = data(case)
    weights = []
    for steps in (BATCHES, None):
        made = model(
            case,
            optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps),
            run_eagerly=True,
        )
        _quiet_at_zero(case, made)
        x0, batch = np.zeros_like(x), len(x) // (steps or 1)
        made.fit(x0, y, batch_size=batch, shuffle=False, verbose=0)
        weights.append(made.get_weights())
        if steps:
            assert np.isfinite(fit(case, made).history["loss"])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _quiet_at_zero(case: Case, made):
    """Take the noise from a layer that has some where its inputs are zero."""
    if "integers" in case.labels:
        for w in noisy(made).trainable_weights:
            if w.name.endswith("log_scale"):
                w.assign(keras.ops.full(w.shape, -30.0))


def check_half_precision(case: Case, policy):
    """Under a half-precision policy a fit stays finite, and the loss is float32."""
    keras.config.set_dtype_policy(policy)
    made = model(case, run_eagerly=True)
    assert np.all(np.isfinite(fit(case, made).history["loss"]))
    assert all(np.all(np.isfinite(w)) for w in made.get_weights())
    for loss in made.losses:
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"


def check_two_devices(case: Case, strategy):
    """Two replicas draw different noise, and the KL counts once, as on one device."""
    with strategy.scope():
        mirrored = model(case)
    single = model(case, run_eagerly=True)
    x, y = data(case)
    one = tf.constant(x[: case.shape[0]])
    drawn = strategy.run(lambda: noisy(mirrored)(one, training=True))
    first, second = strategy.experimental_local_results(drawn)
    assert np.all(np.isfinite(first))
    assert not np.array_equal(first, second)

    arguments = {"batch_size": len(x), "shuffle": False, "verbose": 0}
    losses = []
    for each in (mirrored, single):  # zero inputs: no noise
        _quiet_at_zero(case, each)
        losses.append(each.fit(np.zeros_like(x), y, **arguments).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for a, b in zip(mirrored.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.isfinite(mirrored.fit(x, y, **arguments).history["loss"])


def check_masks(case: Case):
    """Where the plain layer keeps a mask, this one does, also in training."""
    layer, shape = case.make(), case.shape
    if len(shape) > 3:
        assert layer.supports_masking == built(case).to_plain().supports_masking
        return
    steps = shape[1:] if len(shape) == 3 else (5, *shape[1:])
    x = np.random.default_rng(0).normal(size=(4, *steps)).astype("float32")
    x[:, -2:] = 0.0
    seen = []
    layer.build(x.shape)
    for each in (layer, layer.to_plain()):
        if not each.supports_masking:
            seen.append(None)
            continue
        inputs = keras.Input((None, steps[-1]))
        outputs = SeenMask()(each(keras.layers.Masking()(inputs)))
        model = keras.Model(inputs, outputs)
        seen.append(model(x, training=True))
        np.testing.assert_array_equal(seen[-1], model(x))
    noisy, plain = seen
    np.testing.assert_array_equal(noisy, plain)


def check_nested(case: Case):
    """In a Sequential inside a functional model it is found, counted and noisy."""
    layer = built(case)
    x = inputs_of(case)
    inner = keras.Sequential([keras.Input(case.shape[1:]), layer])
    inputs = keras.Input(case.shape[1:])
    model = keras.Model(inputs, inner(inputs))
    assert_same(model.losses, layer.losses)
    assert_same([model(x)], [layer(x)])
    first, second = (model(x, training=True) for _ in range(2))
    assert not np.array_equal(first, second)
    with sampling():
        assert not np.array_equal(model(x, training=False), layer(x, training=False))


def check_time_distributed(case: Case):
    """In TimeDistributed it sees each step, counts its losses once, and is noisy."""
    layer = built(case)
    x = inputs_of(case)
    wrapped = keras.layers.TimeDistributed(layer)
    steps = np.stack([x, -x, x], axis=1)
    quiet = wrapped(steps)
    np.testing.assert_allclose(quiet[:, 1], layer(-x), rtol=1e-4, atol=1e-5)
    assert_same(wrapped.losses, layer.losses)
    call = tf.function(lambda steps: wrapped(steps, training=True))
    first, second = call(steps), call(steps)
    assert first.shape == quiet.shape
    assert np.all(np.isfinite(first))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, quiet)
