"""What every policy must pass, by itself and in `LayerwiseAdaptiveLambda`."""

import json

import keras
import numpy as np

from kerasreg.callbacks import LayerwiseAdaptiveLambda, State, Unit
from kerasreg.callbacks.policies.base import next_strengths
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, penalties_of
from tests import models
from tests.cases import Case


def _model(case: Case, **arguments):
    """A model that suits the policy: L1 and `Proximal` for exact zeros, else L2."""
    zeros = case.public.needs_exact_zeros
    optimizer = keras.optimizers.Adam(0.01)
    arguments = {"cls": models.TracedModel, **arguments}
    model = models.model(
        L1(0.01) if zeros else L2(0.01),
        Proximal(optimizer) if zeros else optimizer,
        **arguments,
    )
    # TensorFlow traces once more if variables are made in the first step.
    model.optimizer.build(model.trainable_variables)
    return model


def _fit(model, callbacks, **arguments):
    return models.fit(
        model, validation_data=models.data(16), callbacks=callbacks, **arguments
    ).history


def _every(case: Case):
    return "epoch" if case.public.needs_logs else 2


def check_fit(case: Case, jit_compile):
    """It sets finite strengths, which are logged, in one trace."""
    model = _model(case, jit_compile=jit_compile)
    adaptive = LayerwiseAdaptiveLambda(case.make(), every=_every(case))
    history = _fit(model, [adaptive], epochs=3)
    (penalty,) = penalties_of(model).values()
    assert model.traces == 1
    assert np.all(np.isfinite(history["loss"]))
    assert history["strength/hidden"][-1] == penalty.strength
    assert 0 <= penalty.strength <= adaptive.max_strength
    _fit(model, [adaptive], epochs=4, initial_epoch=3)
    assert model.traces == 1  # nor in the next `fit`


def check_steps_per_execution(case: Case):
    """Several steps compiled into one are measured as steps."""
    model = _model(case, steps_per_execution=2)
    adaptive = LayerwiseAdaptiveLambda(case.make(), every=_every(case))
    history = _fit(model, [adaptive], epochs=2)
    assert np.all(np.isfinite(history["strength/hidden"]))


def check_mirrored(case: Case, strategy):
    """Two replicas: the strengths of one device, up to rounding."""
    runs = []
    for scope in (None, strategy):
        if scope is None:
            model = _model(case)
        else:
            with scope.scope():
                model = _model(case)
        policy = case.make()
        runs.append(_fit(model, [LayerwiseAdaptiveLambda(policy, every=_every(case))]))
    np.testing.assert_allclose(
        runs[0]["strength/hidden"], runs[1]["strength/hidden"], rtol=2e-3
    )


class Stop(keras.callbacks.Callback):
    """Ends training as a crash would, before epoch `epoch`."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def check_backup(case: Case, path):
    """An interrupted `fit` goes on as if it had not been."""
    straight = _fit(
        _model(case),
        [LayerwiseAdaptiveLambda(case.make(), every=_every(case))],
        epochs=4,
    )
    for interrupt in ([Stop(2)], []):
        model = _model(case)
        both = [
            LayerwiseAdaptiveLambda(case.make(), every=_every(case)),
            keras.callbacks.BackupAndRestore(path),
        ]
        try:
            history = _fit(model, both + interrupt, epochs=4)
        except KeyboardInterrupt:
            assert interrupt
    assert len(history["strength/hidden"]) == 2
    assert history["strength/hidden"] == straight["strength/hidden"][2:]
    assert history["loss"] == straight["loss"][2:]


def check_resume(case: Case, path):
    """It goes on from a saved model, which plain Keras loads."""
    model = _model(case, cls=keras.Model)
    every = _every(case)
    _fit(model, [LayerwiseAdaptiveLambda(case.make(), every=every)], epochs=2)
    model.save(path)
    straight = _fit(
        model,
        [LayerwiseAdaptiveLambda(case.make(), every=every, resume_from=path)],
        epochs=4,
        initial_epoch=2,
    )
    loaded = keras.models.load_model(path)
    resumed = _fit(
        loaded,
        [LayerwiseAdaptiveLambda(case.make(), every=every, resume_from=path)],
        epochs=4,
        initial_epoch=2,
    )
    assert resumed == straight


def check_numbers(case: Case):
    """`update` works on plain numbers, and its memory is JSON."""
    policy = case.make()
    rng = np.random.default_rng(0)
    for step in range(5):
        units = {name: _unit(policy, rng) for name in ("hidden", "out")}
        logs = {name: float(rng.uniform(0.5, 1.0)) for name in policy.needs_logs}
        before = json.loads(json.dumps(policy.get_state()))
        state = State(units, step=step, epoch=step, logs=logs)
        strengths = next_strengths(policy, state, 0.0, 10.0)
        assert strengths is not None
        assert strengths.keys() == units.keys()
        assert all(0 <= s <= 10 for s in strengths.values())
        other = case.make()
        other.set_state(before)
        assert next_strengths(other, state, 0.0, 10.0) == strengths
        assert other.get_state() == policy.get_state()


def _unit(policy, rng):
    unit = Unit(strength=0.01, size=100, extra=dict(policy_extra(policy, rng)))
    for name in policy.needs:
        setattr(unit, name, float(rng.uniform(0.1, 0.9)))
    return unit


def policy_extra(policy, rng):
    """What the `measure` of this kind of policy returns for a unit."""
    names = {
        "Evidence": (
            *("gamma", "square", "log_ratio"),
            *("error", "observations", "scale"),
        ),
        "Hypergradient": ("hypergradient",),
    }.get(type(policy).__name__, ())
    return {name: float(rng.uniform(0.1, 0.9)) for name in names}


def check_nan(case: Case):
    """A number that is NaN leaves strengths and memory as they are."""
    policy = case.make()
    rng = np.random.default_rng(0)
    unit = _unit(policy, rng)
    unit.strength = float("nan")
    logs = dict.fromkeys(policy.needs_logs, 1.0)
    before = policy.get_state()
    assert next_strengths(policy, State({"hidden": unit}, logs=logs)) is None
    assert policy.get_state() == before
