"""Ones and zeros of `kerasreg.random.bernoulli`: the right law, however called."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.random import bernoulli, next_seed, normal

SHAPE = (400, 256)
DRAWS = 10
WORST = 5.4  # standard errors, for a test at 1e-7: below 1e-6 a case


@pytest.fixture
def seeds():
    return keras.random.SeedGenerator(1)


@pytest.mark.parametrize(
    "keep", [0.0005, 0.004, 0.1, 1 / 3, 0.4999, 0.5, 0.75, 0.9, 0.999, 0.99999]
)
def test_the_share_of_ones(keep, seeds):
    draw = tf.function(lambda seed: bernoulli(SHAPE, keep, seed))
    drawn = np.stack([draw(next_seed(seeds)) for _ in range(DRAWS)])
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    # Within a row of 256 the covariance is below 1 / 512².
    variance = keep * (1 - keep) + 255 / 512**2
    assert abs(drawn.mean() - keep) < WORST * np.sqrt(variance / drawn.size)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.63, 0.9])
def test_entries_are_independent(keep, seeds):
    drawn = np.stack([bernoulli(SHAPE, keep, next_seed(seeds)) for _ in range(DRAWS)])
    noise = drawn - keep
    v = keep * (1 - keep)
    for products in (
        noise[1:] * noise[:-1],
        noise[:, 1:] * noise[:, :-1],
        noise[..., 1:] * noise[..., :-1],
        noise[..., 4:] * noise[..., :-4],
        noise * noise[:, ::-1],
    ):
        # Pairs within a row are allowed the correlation of 1e-4 that is documented.
        allowed = 1e-4 * v + WORST * v * np.sqrt(2.0 / products.size)
        assert abs(products.mean()) < allowed
    rows = drawn.sum(-1).ravel()
    assert np.var(rows) == pytest.approx(256 * v, rel=0.15)


@pytest.mark.parametrize("keep", [0, 0.0, 1, 1.0])
def test_certainty(keep, seeds):
    np.testing.assert_array_equal(bernoulli((7, 9), keep, next_seed(seeds)), keep)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "bfloat16", "float32"])
def test_dtypes(dtype, seeds):
    seed = next_seed(seeds)
    drawn = bernoulli((50,), 0.3, seed, dtype=dtype)
    assert drawn.dtype == dtype
    np.testing.assert_array_equal(
        tf.cast(drawn, "float32"), bernoulli((50,), 0.3, seed)
    )


@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_shapes_that_are_known_later(keep, seeds):
    seed = next_seed(seeds)

    def draw(x):
        return bernoulli((keras.ops.shape(x)[0], 3, 5), keep, seed)

    spec = [tf.TensorSpec((None,), "float32")]
    expected = draw(np.zeros(4, "float32"))
    for jit_compile in (False, True):
        call = tf.function(draw, input_signature=spec, jit_compile=jit_compile)
        np.testing.assert_array_equal(call(tf.zeros(4)), expected)
    assert bernoulli((), keep, seed).shape == ()
    assert bernoulli((0, 4), keep, seed).shape == (0, 4)


@pytest.mark.parametrize("way", ["eager", "graph", "xla"])
def test_normal_numbers(way):
    seed, shape = tf.constant([1, 2]), (1_000_001,)

    def draw(seed):
        return normal(shape, seed)

    eager = np.asarray(draw(seed), "float64")
    if way != "eager":
        same = tf.function(draw, jit_compile=way == "xla")(seed)
        np.testing.assert_allclose(same, eager, atol=1e-5)
        return
    size = eager.size
    moments = [np.mean(eager**k) for k in (1, 2, 3, 4)]
    errors = np.abs(np.subtract(moments, [0, 1, 0, 3]))
    assert np.all(errors < WORST * np.sqrt(np.array([1, 2, 15, 96]) / size))
    expected = np.vectorize(math.erfc)(-np.sort(eager)[::1000] / np.sqrt(2)) / 2
    # Kolmogorov's statistic exceeds 2.8 with probability 3e-7.
    assert np.max(np.abs(expected - np.arange(0, size, 1000) / size)) < 2.8 / 1000
    for lag in (1, 2, size // 2, size // 2 + 1):
        product = np.mean(eager[lag:] * eager[:-lag])
        squares = np.mean((eager[lag:] ** 2 - 1) * (eager[:-lag] ** 2 - 1))
        assert abs(product) < WORST / np.sqrt(size - lag)
        assert abs(squares) < WORST * 2 / np.sqrt(size - lag)


@pytest.mark.parametrize("keep", [0.95, 0.99, 0.999, 0.003])
def test_counts_are_binomial(keep):
    drawn = bernoulli((2000, 4096), keep, np.array([5, 6], "uint32"))
    counts = np.asarray(drawn).sum(-1)
    ratio = counts.var(ddof=1) / (4096 * keep * (1 - keep))
    # The ratio of a binomial variance, with an error rate of 1e-6.
    assert abs(ratio - 1) < 4.9 * np.sqrt(2 / 2000 + 1 / (2000 * 4096 * (1 - keep)))
