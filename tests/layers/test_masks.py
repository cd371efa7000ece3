"""Masks of examples and batches: their law, by enumeration and by counting."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.layers import masks
from kerasreg.random import next_seed, random_words

WORST = 5.0  # standard errors: below 1e-6 a test


@pytest.fixture
def seeds():
    return keras.random.SeedGenerator(1)


@pytest.mark.parametrize("shape", [(40, 50, 16), (7000, 3), (999, 8), (5000, 1)])
def test_fair_bits(shape, seeds):
    bits = masks.fair_bits(shape, next_seed(seeds)).numpy()
    assert bits.shape == shape
    assert bits.dtype == bool
    noise = masks.signs(bits, "float32").numpy()
    assert set(np.unique(noise)) == {-1.0, 1.0}
    products = [noise, noise[1:] * noise[:-1]]
    products += [noise[..., i:] * noise[..., :-i] for i in range(1, shape[-1])]
    for product in products:
        assert abs(product.mean()) < WORST / np.sqrt(product.size)


def test_words(seeds):
    words = random_words((501, 399), next_seed(seeds)).numpy()
    assert words.dtype == np.uint16
    assert not np.array_equal(words, random_words((501, 399), next_seed(seeds)))
    for bit in range(16):
        ones = words >> bit & 1
        assert abs(ones.mean() - 0.5) < WORST * 0.5 / np.sqrt(words.size)
        # Its own, not a neighbour's: neither the next word nor the next bit.
        for other in (np.roll(ones, 1, axis=1), words >> (bit + 1) % 16 & 1):
            same = (ones == other).mean()
            assert abs(same - 0.5) < WORST * 0.5 / np.sqrt(words.size)


def drawn(shape, keep, seeds):
    variable = keras.Variable(np.zeros(1)).value
    return masks.batch_mask(shape, keep, next_seed(seeds), variable).numpy()


@pytest.mark.parametrize("keep", [0.5, 0.7, 0.1, 0.25, 1 / 16, 0.01])
def test_batch_mask(keep, seeds):
    mask = drawn((300, 203), keep, seeds)
    deviation = np.sqrt(keep * (1 - keep) / mask.size)
    assert abs(mask.mean() - keep) < 1.2 * WORST * deviation  # entries share thresholds
    for lag in (1, 2, 8, 203, 26 * 8, mask.size // 16 * 2):
        ones = mask.ravel() - keep
        product = np.mean(ones[lag:] * ones[:-lag])
        assert abs(product) < WORST * deviation**2 * np.sqrt(mask.size)


@pytest.mark.parametrize("digits", [0, 1, 77, 128, 255])
def test_joined_bits_have_their_probability(digits):
    planes = np.arange(256) >> np.arange(8)[:, None] & 1  # all that can be drawn
    planes = (planes * 255).astype("uint8")
    for begin in (0, 255):
        begin = np.full(256, begin, "uint8")
        joined = np.asarray(masks._joined(begin, planes, digits))
        assert set(joined) <= {0, 255}
        assert np.sum(joined > 0) == digits + (begin[0] > 0)


@pytest.mark.parametrize("keep", [0.3, 0.9, 1 / 16])
def test_counts_of_a_batch_mask_are_binomial(keep, seeds):
    mask = drawn((2000, 4096), keep, seeds)
    for counts in (mask.sum(1), mask.reshape(8, -1, 4096).sum((0, 2))):
        size, trials = mask.size // len(counts), len(counts)
        ratio = counts.var(ddof=1) / (size * keep * (1 - keep))
        assert abs(ratio - 1) < WORST * np.sqrt(2 / trials)  # 1e-3 is what is shared


def test_compiled_batch_mask_is_the_same(seeds):
    seed, variable = next_seed(seeds), keras.Variable(np.zeros((400, 401))).value
    draw = tf.function(lambda seed: masks.batch_mask((400, 401), 0.3, seed, variable))
    plain = masks.batch_mask((400, 401), 0.3, seed, variable)
    np.testing.assert_array_equal(draw(seed), plain)
    assert "XlaMustCompile" in str(
        draw.get_concrete_function(seed).graph.as_graph_def()
    )


# Masks shared by groups -------------------------------------------------------

ALL_WORDS = np.arange(2**16, dtype=np.uint16)


def shared(law, common, number):
    """E_v for every word there is: an array of shape (groups, 65536)."""
    made = masks._shared_masks(ALL_WORDS, law, common, number)
    return np.stack([keras.ops.convert_to_numpy(m) for m in made]).astype(float)


def pair_covariance(law, examples, common):
    """Of E_b and E_c of two examples, over all ways to put them into groups."""
    e = shared(law, common, 1.0)
    e -= e.mean()
    covariances = e @ e.T / len(ALL_WORDS)
    size = examples // law.groups
    group_of = np.arange(examples) // size
    pairs = itertools.permutations(range(examples), 2)
    return np.mean([covariances[group_of[b], group_of[c]] for b, c in pairs])


@pytest.mark.parametrize("rate", np.arange(1, 20) / 20)
def test_rates_of_a_twentieth_have_a_law_without_correlation(rate):
    law = masks.Law.of(1 - rate)
    assert law.mask_correlation < 1e-12
    if rate == 0.5:
        assert law.groups == 0
        return
    for examples in (law.groups, 2 * law.groups, 5 * law.groups):
        q = float(law.common(examples))
        assert q == pytest.approx(1 / examples, rel=1e-5)
        covariance = (1 - q) * pair_covariance(law, examples, False)
        covariance += q * pair_covariance(law, examples, True)
        # Of 65536 words, some lie on a border of two cells.
        variance = law.share * (1 - law.share)
        assert abs(covariance) < 1e-4 * variance


@pytest.mark.parametrize("rate", [0.37, 0.33, 0.02, 0.77])
def test_other_rates(rate):
    """Small batches have no correlation; large ones at most what the law says."""
    law = masks.Law.of(1 - rate)
    variance = law.share * (1 - law.share)
    for size in (1, 2, 30):
        examples = size * law.groups
        q = float(law.common(examples))
        covariance = (1 - q) * pair_covariance(law, examples, False)
        covariance += q * pair_covariance(law, examples, True)
        correlation = covariance / variance
        if examples * law.correlation < 1:
            assert q > 0
            assert abs(correlation) < 3e-3
        else:
            assert q == 0
            assert -3e-3 < correlation < law.correlation + 3e-3


def test_documented_bounds_of_the_correlation():
    inner = [
        masks.Law.of(keep).mask_correlation for keep in np.linspace(0.05, 0.95, 999)
    ]
    assert max(inner) < 0.01
    outer = [masks.Law.of(keep).mask_correlation for keep in np.logspace(-6, -0.1, 999)]
    outer += [masks.Law.of(1 - x).mask_correlation for x in np.logspace(-6, -0.1, 999)]
    assert max(outer) < 0.05 + 1e-6
    for sixteenth in range(1, 16):
        assert masks.Law.of(sixteenth / 16).mask_correlation < 1e-12


@pytest.mark.parametrize("keep", [0.37, 0.501, 0.9, 0.0003, 0.9999, 1e-6, 1 - 1e-6])
def test_the_share_is_exact(keep):
    """Averaged over the number that rounds the threshold, for every group."""
    law = masks.Law.of(keep)
    low, high = shared(law, False, 0.0), shared(law, False, np.float32(1.0))
    exact = law.share if law.share <= 0.5 else 1 - law.share
    fraction = exact * 2**15 % 1
    means = fraction * low.mean(axis=1) + (1 - fraction) * high.mean(axis=1)
    np.testing.assert_allclose(means, law.share, rtol=1e-9)


def test_the_lowest_bit_is_free():
    """It is the sign, and must not depend on the mask."""
    for mask in shared(masks.Law.of(0.63), False, 0.0):
        assert mask[ALL_WORDS % 2 == 0].sum() == mask[ALL_WORDS % 2 == 1].sum()


def test_common_shift():
    first, *others = shared(masks.Law.of(0.7), True, 1.0)
    assert others
    for other in others:
        np.testing.assert_array_equal(first, other)


# Normal scores ----------------------------------------------------------------


@pytest.mark.parametrize(("draws", "units"), [(2, 1), (7, 4), (32, 300)])
def test_normal_scores(draws, units):
    scores = masks.normal_scores(draws, units)
    assert scores.shape == (draws, units)
    ordered = np.sort(scores, axis=0)
    np.testing.assert_array_equal(ordered, np.tile(ordered[:, :1], (1, units)))
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose((scores**2).mean(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores, masks.normal_scores(draws, units))
    if units == 300:
        correlation = np.corrcoef(scores.T)[np.triu_indices(units, 1)]
        # As of independent orders, whose variance is 1/(draws - 1).
        assert np.mean(correlation**2) == pytest.approx(1 / (draws - 1), rel=0.1)
        assert abs(correlation.mean()) < 0.01


def test_one_score_is_the_mean():
    np.testing.assert_array_equal(masks.normal_scores(1, 3), np.zeros((1, 3)))
