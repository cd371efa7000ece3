"""ECE against netcal and against a plain numpy sum."""

import keras
import numpy as np
import pytest

from kerasreg.uncertainty import ExpectedCalibrationError


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def draw(seed, rows, classes):
    """Probabilities, and labels from the same logits divided by 1.7."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, classes)) * 2
    labels = np.array([rng.choice(classes, p=p) for p in softmax(z / 1.7)])
    return softmax(z), labels


def plain_ece(confidence, hit, bins, weight=None):
    """The definition, one bin after the other."""
    weight = np.ones(len(hit)) if weight is None else weight
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for b in range(bins):
        here = (confidence >= edges[b]) & (confidence < edges[b + 1])
        if b == bins - 1:
            here |= confidence == 1
        if weight[here].sum():
            accuracy = np.average(hit[here], weights=weight[here])
            mean = np.average(confidence[here], weights=weight[here])
            total += weight[here].sum() * abs(accuracy - mean)
    return total / weight.sum()


# netcal 1.4.0, `ECE(bins=bins).measure(p, y)` on the data of `draw`, in float64.
NETCAL = [
    (0, 1000, 5, 15, 0.1397354865943437),
    (1, 500, 3, 10, 0.11904579210347489),
    (2, 2000, 10, 20, 0.1712449726393253),
    (3, 1000, 2, 15, 0.10591727566529871),
    (4, 300, 2, 10, 0.09764352262036056),
]


@pytest.mark.parametrize(("seed", "rows", "classes", "bins", "expected"), NETCAL)
def test_equals_netcal(seed, rows, classes, bins, expected):
    p, y = draw(seed, rows, classes)
    metric = ExpectedCalibrationError(bins, dtype="float64")
    assert abs(float(metric(y, p)) - expected) < 1e-13
    # In float32 netcal's own value moves as much.
    single = ExpectedCalibrationError(bins)
    assert abs(float(single(y, p.astype("float32"))) - expected) < 1e-7


@pytest.mark.parametrize(("seed", "rows", "classes", "bins", "expected"), NETCAL[3:])
def test_one_column_equals_netcal(seed, rows, classes, bins, expected):
    p, y = draw(seed, rows, classes)
    for shape in [(-1,), (-1, 1)]:
        metric = ExpectedCalibrationError(bins, dtype="float64")
        assert abs(float(metric(y, p[:, 1].reshape(shape))) - expected) < 1e-13


def test_confidences_on_the_edges_equal_netcal():
    p = np.tile(np.arange(16) / 15, 40)
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 640)
    metric = ExpectedCalibrationError(15, dtype="float64")
    assert abs(float(metric(y, p)) - 0.2760416666666665) < 1e-13
    # In float32 some of 0.1, 0.2, ... are above the edges of float64, some below.
    # (netcal mixes two rules for float32 itself; this is its value after a cast.)
    p = np.tile(np.arange(11) / 10, 40).astype("float32")
    y = rng.integers(0, 2, 440)
    metric = ExpectedCalibrationError(10, dtype="float64")
    assert abs(float(metric(y, p)) - 0.2886363616043871) < 1e-13


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("bins", [1, 2, 15, 100])
def test_weighted_batches_equal_the_plain_sum(classes, bins):
    rng = np.random.default_rng(classes)
    p, y = draw(classes, 200, max(classes, 2))
    weight = rng.uniform(0, 3, size=200)
    weight[::5] = 0
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == y
    if classes < 3:
        confidence, hit = p[:, 1], y
    given = p[:, 1:] if classes == 1 else p
    metric = ExpectedCalibrationError(bins, dtype="float64")
    for rows in np.split(np.arange(200), [30, 31, 150]):
        metric.update_state(y[rows], given[rows], weight[rows])
    expected = plain_ece(confidence, hit, bins, weight)
    assert abs(float(metric.result()) - expected) < 1e-13


def test_a_calibrated_model_has_none():
    # |gap| of a bin of n examples is about sqrt(p (1 - p) / n) if p is right.
    rng = np.random.default_rng(0)
    p = rng.uniform(size=100_000)
    y = rng.uniform(size=100_000) < p
    assert float(ExpectedCalibrationError()(y, p)) < 0.01
    assert float(ExpectedCalibrationError()(y, p**2)) > 0.1


def test_a_million_examples():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=1_000_000).astype("float32")
    y = (rng.uniform(size=1_000_000) < 0.9 * p + 0.05).astype("float32")
    metric = ExpectedCalibrationError(dtype="float64")
    for rows in range(0, 1_000_000, 10_000):
        metric.update_state(y[rows : rows + 10_000], p[rows : rows + 10_000])
    expected = plain_ece(p.astype("float64"), y, 15)
    assert abs(float(metric.result()) - expected) < 1e-12


def test_early_stopping_knows_that_less_is_better():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, activation="softmax")]
    )
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=[ExpectedCalibrationError()]
    )
    stop = keras.callbacks.EarlyStopping("ece", patience=100)
    model.fit(np.ones((8, 2)), np.zeros(8), epochs=2, verbose=0, callbacks=[stop])
    assert stop._is_improvement(0.1, 0.2)
    assert not stop._is_improvement(0.2, 0.1)


@pytest.mark.parametrize("bins", [0, -1, 2.0, True, "15"])
def test_bins_must_be_a_positive_integer(bins):
    kind = ValueError if type(bins) is int else TypeError
    with pytest.raises(kind) as caught:
        ExpectedCalibrationError(bins)
    assert str(caught.value) == (
        "Invalid value for argument `bins`. Expected a positive integer. "
        f"Received: bins={bins!r}"
    )
