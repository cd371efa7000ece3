"""`GeneralizationGap`: stronger while it overfits, weaker while it underfits."""

import json

import keras
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from kerasreg.callbacks import (
    GeneralizationGap,
    LayerwiseAdaptiveLambda,
    State,
    Unit,
)
from kerasreg.regularizers import L2


def run(policy, curves, strength=0.01):
    """The strength after each epoch of two curves."""
    strengths = []
    for values in curves:
        logs = dict(zip(policy.needs_logs, values, strict=True))
        state = State({"a": Unit(strength)}, logs=logs)
        strength = policy.update(state)["a"]
        strengths.append(strength)
    return strengths


@pytest.mark.parametrize(
    ("after", "factor"),
    [
        ((0.20, 0.50), 2.0),  # the gap grows where it costs
        ((0.30, 0.50), 2.0),
        ((0.35, 0.50), 0.5),  # both worsen
        ((0.20, 0.40), 1.0),  # the gap grows, for training improves
        ((0.20, 0.30), 1.0),  # both improve
        ((0.50, 0.40), 1.0),
        ((0.20, 0.403), 1.0),  # noise
    ],
)
def test_the_rule(after, factor):
    policy = GeneralizationGap(smoothing=0.0)
    assert run(policy, [(0.30, 0.40), after]) == pytest.approx([0.01, 0.01 * factor])


def test_it_is_relative():
    curves = np.array([(0.3, 0.4), (0.2, 0.42), (0.1, 0.43), (0.2, 0.5), (0.1, 0.4)])
    small, large = (run(GeneralizationGap(), s * curves) for s in (1e-3, 1e3))
    assert small == large
    assert len(set(small)) > 1


def test_another_metric_of_which_more_is_better():
    policy = GeneralizationGap(smoothing=0.0, monitor="accuracy", mode="max")
    assert policy.needs_logs == ("accuracy", "val_accuracy")
    curves = [(0.8, 0.7), (0.9, 0.6), (0.8, 0.5), (0.9, 0.8)]
    assert run(policy, curves) == pytest.approx([0.01, 0.02, 0.01, 0.01])


def test_an_improvement_is_what_the_next_epochs_are_compared_with():
    curves = [(0.3, 0.5), (0.25, 0.4), (0.2, 0.45)]
    assert run(GeneralizationGap(smoothing=0.0), curves)[-1] == 0.02


def test_noise_does_not_move_it():
    """Curves that go nowhere, with a deviation of 2 %, for 200 epochs."""
    rng = np.random.default_rng(0)
    curves = np.array([0.3, 0.4]) * (1 + 0.02 * rng.normal(size=(200, 2)))
    strengths = run(GeneralizationGap(band=0.05), curves)
    assert set(strengths) == {0.01}


def test_starts_from_nothing():
    policy = GeneralizationGap(smoothing=0.0)
    assert run(policy, [(0.3, 0.4), (0.2, 0.5)], 0.0) == [0.0, 2e-6]


def test_resumes_where_it_was():
    rng = np.random.default_rng(0)
    curves = 0.3 + np.cumsum(0.02 * rng.normal(size=(40, 2)), axis=0)
    straight = run(GeneralizationGap(), curves)
    policy, resumed = GeneralizationGap(), GeneralizationGap()
    run(policy, curves[:20])
    resumed.set_state(json.loads(json.dumps(policy.get_state())))
    run(policy, curves[20:30])  # does not change what was saved
    assert run(resumed, curves[20:], straight[19]) == straight[20:]
    assert len(set(straight)) > 3


def test_it_beats_no_penalty_where_a_network_overfits():
    """The validation loss of a fit with it against the same fit without."""
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = ((x - x.mean(axis=0)) / x.std(axis=0))[order].astype("float32")
    y = y[order].astype("float32")
    final = []
    for callbacks in ([], [LayerwiseAdaptiveLambda(GeneralizationGap())]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((30,))])
        for units in (32, 32):
            layer = keras.layers.Dense(units, "tanh", kernel_regularizer=L2(1e-6))
            model.add(layer)
        model.add(keras.layers.Dense(1, "sigmoid"))
        model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
        history = model.fit(
            x[:100],
            y[:100],
            batch_size=50,
            epochs=40,
            verbose=0,
            validation_data=(x[100:250], y[100:250]),
            validation_batch_size=150,
            callbacks=callbacks,
        ).history
        penalty = sum(float(w.regularizer(w)) for w in model.trainable_weights[::2][:2])
        final.append(history["val_loss"][-1] - penalty)
    assert final[1] < 0.8 * final[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"factor": 1},
            ValueError,
            "Invalid value for argument `factor`. Expected a finite number greater "
            "than 1. Received: factor=1",
        ),
        (
            {"band": -0.1},
            ValueError,
            "Invalid value for argument `band`. Expected a non-negative finite "
            "number. Received: band=-0.1",
        ),
        (
            {"smoothing": 1},
            ValueError,
            "Invalid value for argument `smoothing`. Expected a number in [0, 1). "
            "Received: smoothing=1",
        ),
        (
            {"monitor": "val_loss"},
            ValueError,
            "Invalid value for argument `monitor`. Expected the name of a metric of "
            "training, without \"val_\". Received: monitor='val_loss'",
        ),
        (
            {"mode": "auto"},
            ValueError,
            "Invalid value for argument `mode`. Expected one of ('min', 'max'). "
            "Received: mode='auto'",
        ),
        (
            {"band": "wide"},
            TypeError,
            "Invalid value for argument `band`. Expected a non-negative finite "
            "number. Received: band='wide'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error) as raised:
        GeneralizationGap(**arguments)
    assert str(raised.value) == message


def test_repr():
    assert repr(GeneralizationGap()) == (
        "GeneralizationGap(factor=2.0, band=0.01, smoothing=0.8, "
        "monitor='data_loss', mode='min')"
    )
