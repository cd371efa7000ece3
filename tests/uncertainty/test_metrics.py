"""Brier score and log likelihood against scikit-learn and scipy; bad input."""

import keras
import numpy as np
import pytest
from scipy import stats

from kerasreg.uncertainty import (
    BrierScore,
    ExpectedCalibrationError,
    NegativeLogLikelihood,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics")
every = pytest.mark.parametrize(
    "cls", [ExpectedCalibrationError, BrierScore, NegativeLogLikelihood]
)


def draw(classes, rows=300):
    """Logits, probabilities, labels and weights; one column for one class."""
    rng = np.random.default_rng(classes)
    z = rng.normal(size=(rows, classes)) * 2
    if classes == 1:
        p = 1 / (1 + np.exp(-z))
        y = (rng.uniform(size=rows) < p[:, 0]).astype("int32")
    else:
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        y = rng.integers(0, classes, rows)
    return z, p, y, rng.uniform(0, 2, rows)


def forms(y, classes):
    """The same labels in the shapes that are allowed."""
    yield y
    yield y[:, None]
    yield y.astype("float32")
    if classes > 1:
        yield np.eye(classes, dtype="int32")[y]


def value(metric, *arguments):
    return float(metric(*arguments))


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_brier_score_is_that_of_scikit_learn(classes):
    z, p, y, weight = draw(classes)
    theirs = sklearn_metrics.brier_score_loss(
        y,
        p[:, 0] if classes == 1 else p,
        sample_weight=weight,
        labels=list(range(max(classes, 2))),
    )
    for form in forms(y, classes):
        ours = value(BrierScore(dtype="float64"), form, p, weight)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        ours = value(BrierScore(True, dtype="float64"), form, z, weight)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_log_likelihood_of_classes_is_that_of_scikit_learn(classes):
    z, p, y, weight = draw(classes)
    theirs = sklearn_metrics.log_loss(
        y,
        p[:, 0] if classes == 1 else p,
        sample_weight=weight,
        labels=list(range(max(classes, 2))),
    )
    for form in forms(y, classes):
        for metric, given in [
            (NegativeLogLikelihood(dtype="float64"), p),
            (NegativeLogLikelihood(from_logits=True, dtype="float64"), z),
        ]:
            ours = value(metric, form, given, weight)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("spread", ["log_variance", "variance", "std"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_gaussian_log_likelihood_is_that_of_scipy(spread, outputs):
    rng = np.random.default_rng(outputs)
    mean, y = rng.normal(size=(2, 50, outputs))
    std = rng.uniform(0.1, 3, size=(50, outputs))
    scale = {"log_variance": 2 * np.log(std), "variance": std**2, "std": std}[spread]
    theirs = -stats.norm.logpdf(y, mean, std).sum(axis=1).mean()
    given = np.concatenate([mean, scale], axis=1)
    for form in [y, y[:, 0]] if outputs == 1 else [y]:
        metric = NegativeLogLikelihood(spread=spread, dtype="float64")
        np.testing.assert_allclose(value(metric, form, given), theirs, rtol=1e-12)


def test_log_likelihood_is_kerass_loss():
    _, p, y, _ = draw(4)
    loss = keras.losses.SparseCategoricalCrossentropy()
    np.testing.assert_allclose(value(NegativeLogLikelihood(), y, p), loss(y, p), 1e-6)
    sure = np.array([[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(
        value(NegativeLogLikelihood(), [0], sure), loss(np.array([0]), sure), 1e-6
    )
    # Of logits there is nothing to clip.
    metric = NegativeLogLikelihood(from_logits=True)
    assert value(metric, [0], [[-500.0, 500.0, 0.0]]) == 1000.0
    metric.reset_state()
    assert value(metric, [1], [[-500.0]]) == 500.0


@every
def test_soft_labels(cls):
    _, p, _, _ = draw(3)
    soft = np.full((300, 3), 1 / 3)
    expected = {
        "brier_score": np.mean(np.sum((p - soft) ** 2, axis=1)),
        "nll": -np.mean(np.log(p)),
    }
    metric = cls()
    result = value(metric, soft, p)
    if metric.name in expected:
        np.testing.assert_allclose(result, expected[metric.name], rtol=1e-6)
    else:  # Right with probability 1/3, whatever is predicted.
        assert 0 < result < 1


@every
def test_sums_over_a_million_examples(cls):
    # A sum in float32 of 1e6 such numbers, one by one, is off by 1e-3 or so.
    rng = np.random.default_rng(0)
    p = rng.uniform(0.55, 0.6, size=1_000_000).astype("float32")
    metric = cls(dtype="float64")
    for rows in range(0, 1_000_000, 10_000):
        metric.update_state(np.ones(10_000), p[rows : rows + 10_000])
    p = p.astype("float64")
    expected = {
        "ece": 1 - p.mean(),
        "brier_score": np.mean((1 - p) ** 2),
        "nll": -np.mean(np.log(p)),
    }
    np.testing.assert_allclose(
        float(metric.result()), expected[metric.name], rtol=1e-12
    )


@every
def test_counts_past_the_integers_of_float32(cls):
    metric = cls(dtype="float64")
    metric.update_state([1.0], [0.5], [2.0**25])
    before = float(metric.result())
    for _ in range(8):
        metric.update_state([1.0], [1.0], [1.0])
    np.testing.assert_allclose(
        float(metric.result()), before * 2**25 / (2**25 + 8), rtol=1e-12
    )
    assert float(metric.result()) < before


@every
def test_sequences_with_masks_and_weights(cls):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=(6, 5))
    y = rng.integers(0, 4, size=(6, 5))
    keep = rng.uniform(size=(6, 5)) < 0.6
    expected = value(cls(), y[keep], p[keep])
    for weight in [keep, keep[:, :, None].astype("float32")]:
        np.testing.assert_allclose(value(cls(), y, p, weight), expected, rtol=1e-6)
    masked = keras.ops.convert_to_tensor(p)
    masked._keras_mask = keras.ops.convert_to_tensor(keep)
    np.testing.assert_allclose(value(cls(), y, masked), expected, rtol=1e-6)
    by_row = np.repeat(np.arange(6.0), 5)
    expected = value(cls(), y.ravel(), p.reshape(30, 4), by_row)
    np.testing.assert_allclose(value(cls(), y, p, np.arange(6.0)), expected, rtol=1e-6)


@every
def test_what_is_no_probability_and_no_class_gives_nan(cls):
    p = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    assert np.isnan(value(cls(), [0, 1], np.log(p)))
    assert np.isnan(value(cls(), [0, 3], p))
    assert np.isnan(value(cls(), [0, -1], p))
    assert np.isnan(value(cls(), [0, 0.5], p))
    assert np.isnan(value(cls(), [0, 2], p[:, 0]))
    assert np.isnan(value(cls(), [0, 1], [np.nan, 0.5]))
    # But not where it does not count.
    assert np.isfinite(value(cls(), [0, -1], p, [1.0, 0.0]))


def test_a_negative_variance_gives_nan():
    metric = NegativeLogLikelihood(spread="variance")
    assert np.isnan(value(metric, [0.0], [[0.0, -1.0]]))


@every
def test_nothing_is_zero(cls):
    metric = cls()
    assert float(metric.result()) == 0.0
    metric.update_state([1], [[0.2, 0.3, 0.5]], [0.0])
    assert float(metric.result()) == 0.0


@every
@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ((4,), (3, 5), "(3,), with or without a last axis of size 1, or one-hot, (3"),
        ((3, 2), (3, 5), "(3,), with or without a last axis of size 1, or one-hot, (3"),
        ((3, 2), (3, 1), "(3,), with or without a last axis of size 1. Received"),
        ((3, 5, 1), (3, 5), "(3,), with or without"),
    ],
)
def test_shapes_of_labels(cls, labels, predictions, expected):
    with pytest.raises(ValueError) as caught:
        cls().update_state(np.zeros(labels), np.zeros(predictions))
    message = str(caught.value)
    start = "Invalid value for argument `y_true`. Expected the shape "
    assert message.startswith(start + expected)
    assert message.endswith(f"Received: shape={labels}")


@every
def test_shape_of_weights(cls):
    with pytest.raises(ValueError) as caught:
        cls().update_state(np.zeros(3), np.zeros((3, 2)), np.ones((3, 2)))
    assert str(caught.value) == (
        "Invalid value for argument `sample_weight`. Expected a shape that broadcasts "
        "to that of the predictions without their last axis, of rank 1. "
        "Received: shape=(3, 2)"
    )


def test_shapes_of_a_gaussian_head():
    metric = NegativeLogLikelihood(spread="std")
    with pytest.raises(ValueError) as caught:
        metric.update_state(np.zeros((3, 1)), np.ones((3, 3)))
    assert str(caught.value) == (
        "Invalid value for argument `y_pred`. Expected a last axis of even size: "
        "means, then as many spreads. Received: shape=(3, 3)"
    )
    with pytest.raises(ValueError) as caught:
        metric.update_state(np.zeros((3, 1)), np.ones((3, 4)))
    assert str(caught.value) == (
        "Invalid value for argument `y_true`. Expected the shape of the means, (3, 2). "
        "Received: shape=(3, 1)"
    )


def test_spread():
    with pytest.raises(ValueError) as caught:
        NegativeLogLikelihood(spread="precision")
    assert str(caught.value) == (
        "Invalid value for argument `spread`. Expected one of "
        '"log_variance", "variance", "std" or None. Received: spread=\'precision\''
    )
    with pytest.raises(ValueError) as caught:
        NegativeLogLikelihood(from_logits=True, spread="std")
    assert str(caught.value) == (
        'Invalid value for argument `from_logits`. Expected False with `spread="std"`: '
        "a Gaussian head has no logits. Received: from_logits=True"
    )


@every
def test_from_logits(cls):
    with pytest.raises(ValueError) as caught:
        cls(from_logits="brier")
    assert str(caught.value) == (
        "Invalid value for argument `from_logits`. Expected a boolean. "
        "Received: from_logits='brier'"
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gaussian_head_in_fit(jit_compile):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    metric = NegativeLogLikelihood(spread="log_variance")
    model.compile("sgd", "mse", metrics=[metric], jit_compile=jit_compile)
    logs = model.evaluate(x, x[:, :1], batch_size=16, verbose=0, return_dict=True)
    mean, log_variance = model.predict(x, verbose=0).T
    theirs = stats.norm.logpdf(x[:, 0], mean, np.exp(log_variance / 2))
    np.testing.assert_allclose(logs["nll"], -theirs.mean(), rtol=1e-5)
