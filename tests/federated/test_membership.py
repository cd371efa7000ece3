import math

import keras
import numpy as np
import pytest
from scipy import stats

from federated import membership
from federated.membership import membership_inference


def silent(loss="mse"):
    """A model that predicts 0."""
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(loss=loss)
    return model


def residuals(rng, deviation, rows):
    y = rng.normal(scale=deviation, size=(rows, 1)).astype("float32")
    return np.zeros_like(y), y


def test_normal_residuals_have_a_closed_form():
    # P(|N(0, 1)| < |N(0, 2²)|) is 2/π arctan 2, and the members' mean loss is 1.
    rng = np.random.default_rng(0)
    report = membership_inference(
        silent(),
        residuals(rng, 1.0, 20_000),
        residuals(rng, 2.0, 20_000),
        confidence=1 - 1e-6,
    )
    auc = 2 / math.pi * math.atan(2)
    assert report.auc_interval[0] < auc < report.auc_interval[1]
    assert report.auc_interval[1] - report.auc_interval[0] < 0.04
    advantage = math.erf(1 / math.sqrt(2)) - math.erf(1 / math.sqrt(8))
    assert report.advantage_interval[0] < advantage < report.advantage_interval[1]
    found = report.true_positive_rate(0.1)
    # Below the loss that a tenth of the non-members is below.
    exact = stats.chi2(1).cdf(4 * stats.chi2(1).ppf(0.1))
    assert abs(found - exact) < 5 * math.sqrt(2 * 0.25 / 20_000)


def test_intervals_cover_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(  # many times faster than `predict`
        membership, "_losses", lambda model, data, batch_size: data[1].ravel() ** 2
    )
    rng = np.random.default_rng(0)
    auc, hits, runs = 2 / math.pi * math.atan(1.5), 0, 1000
    for _ in range(runs):
        members, others = residuals(rng, 1.0, 100), residuals(rng, 1.5, 150)
        report = membership_inference(None, members, others, confidence=0.8)
        low, high = report.auc_interval
        hits += low < auc < high
    # Fails by chance once in a million times if the coverage is 0.8.
    hits_if_so = stats.binom(runs, 0.8)
    assert hits_if_so.ppf(5e-7) <= hits <= hits_if_so.isf(5e-7)


def classifier():
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def halves(rows=100, seed=0):
    """Two halves of data with labels that cannot be predicted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, rows, 20)).astype("float32")
    y = rng.integers(3, size=(2, rows))
    return (x[0], y[0]), (x[1], y[1])


def test_an_overfitted_model_gives_members_away_and_an_untrained_one_does_not():
    keras.utils.set_random_seed(0)
    model, (members, others) = classifier(), halves()
    before = membership_inference(model, members, others, confidence=0.999)
    assert before.auc_interval[0] < 0.5 < before.auc_interval[1]
    assert before.advantage_interval[0] < 0 < before.advantage_interval[1]
    model.fit(*members, epochs=30, verbose=0)
    after = membership_inference(model, members, others, confidence=0.999)
    assert after.auc_interval[0] > 0.8
    assert after.advantage_interval[0] > 0.3


def test_references_take_out_how_hard_an_example_is():
    # Targets of very different sizes, of which the model knows a tenth for members.
    rng = np.random.default_rng(0)
    y = np.exp(2 * rng.normal(size=(2, 400, 1))).astype("float32")
    members, others = (0.1 * y[0], y[0]), (0 * y[1], y[1])
    model, reference = silent(), silent()
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    assert membership_inference(model, members, others).auc < 0.6
    report = membership_inference(model, members, others, references=[reference])
    assert report.auc == 1


def test_losses_that_are_not_finite_are_refused():
    good = np.zeros((3, 1)), np.zeros((3, 1))
    bad = np.zeros((3, 1)), np.array([[0.0], [np.inf], [0.0]])
    with pytest.raises(ValueError) as caught:
        membership_inference(silent(), good, bad)
    assert str(caught.value) == (
        "Expected two or more examples of each kind, with finite losses. Received: "
        "3 example(s), 1 not finite"
    )
