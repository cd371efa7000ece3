"""What every optimizer must pass, with each inner optimizer."""

import json
from pathlib import Path

import keras
import numpy as np

from tests import models
from tests.cases import Case


def check_config(case: Case, inner):
    """Config and serialization make the same optimizer, hyperparameters included."""
    optimizer = case.make(inner())
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()


def check_save(case: Case, inner, penalty, folder: Path):
    """A saved model resumes: optimizer state, weights and iterations are the same."""
    model = models.model(penalty, case.make(inner()))
    models.fit(model)
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    for resumed in (model, loaded):
        models.fit(resumed)
    assert int(loaded.optimizer.iterations) == 16
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def check_trace(case: Case, inner, penalty, jit_compile: bool):
    """Two epochs are one trace, with XLA or without; the loss is finite and falls.

    TensorFlow traces a function anew after a first call that created variables, so
    an optimizer that is not built beforehand costs Keras two traces in epoch one.
    """
    optimizer = case.make(inner())
    model = models.model(
        penalty, optimizer, models.TracedModel, jit_compile=jit_compile
    )
    if jit_compile:
        optimizer.build(model.trainable_variables)
    loss = models.fit(model, epochs=1).history["loss"]
    traces = model.traces
    assert traces == 1 if jit_compile else traces <= 2
    loss += models.fit(model, epochs=4).history["loss"]
    assert model.traces == traces
    assert np.all(np.isfinite(loss))
    assert loss[-1] < loss[0]


def check_zeros(case: Case, inner, penalty):
    """Under a large strength every penalized weight is exactly zero."""
    penalty.strength = 50.0
    model = models.model(penalty, case.make(inner()))
    models.fit(model, epochs=4, batch_size=1)
    assert not np.any(model.get_weights()[0])


def check_accumulation(case: Case, inner, penalty):
    """Accumulated over all batches of an epoch, a step is the full batch's step."""
    strength = penalty.get_config()
    accumulated = models.model(penalty, case.make(inner(gradient_accumulation_steps=4)))
    full = models.model(type(penalty).from_config(strength), case.make(inner()))
    models.fit(accumulated, epochs=3)
    models.fit(full, epochs=3, batch_size=models.ROWS)
    for a, b in zip(accumulated.get_weights(), full.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def check_half_precision(case: Case, inner, penalty):
    """Under mixed_float16, with loss scaling, loss and weights stay finite."""
    keras.config.set_dtype_policy("mixed_float16")
    model = models.model(penalty, case.make(inner()))
    assert np.all(np.isfinite(models.fit(model).history["loss"]))
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())


def check_two_devices(case: Case, inner, penalty, strategy):
    """On two devices the result is the one of a single device."""
    config = penalty.get_config()
    with strategy.scope():
        mirrored = models.model(type(penalty)(**config), case.make(inner()))
    single = models.model(penalty, case.make(inner()))
    for model in (mirrored, single):
        models.fit(model, batch_size=models.ROWS)
    for a, b in zip(mirrored.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def check_reproducible(case: Case, inner, penalty):
    """The same seed gives the same weights, bit for bit."""
    config = penalty.get_config()
    runs = []
    for _ in range(2):
        model = models.model(type(penalty)(**config), case.make(inner()))
        models.fit(model)
        runs.append(model.get_weights())
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)
