"""Bernoulli masks on weights: one for a batch, or another one for each example.

A mask for each example of its own would cost batch times weights. Two shared random
tensors make all of them here, each exactly Bernoulli.

Signs. With S fair signs of the shape of the kernel W, and for each example b fair
signs r_b of the inputs and s_b of the outputs, the mask

    A_b = (1 + S·r_b·s_b) / 2,    x (W·A_b) = (x W + ((x·r_b) (W·S))·s_b) / 2

keeps a weight with probability ½. Given r_b and s_b, its entries are independent; two
entries of the masks of two examples are independent, too, since S·r_b·s_b and
S·r_c·s_c have the product r_b·r_c·s_b·s_c, whose mean is zero.

Shares. For any other probability, the sign masks meet masks E that a group of examples
shares: `A or E` with P(E = 1) = e = 2·keep − 1, or `A and E` with e = 2·keep:

    x (W·(A or E))  = (x W + x (W·E) + ((x·r) (W·S·(1 − E)))·s) / 2
    x (W·(A and E)) = (x (W·E) + ((x·r) (W·S·E))·s) / 2

so all examples have masks of their own, for three or two products and n masks. These
are n shifts of one tensor U of uniform numbers, E_v = [(U + v/n) mod 1 < e]. If e·n is
an integer, then for each weight Σ_v E_v is this integer, and thus two examples of
random, equally large groups have a correlation of E of −1/(B − 1), at all B examples.
With probability 1/B all shifts of a call are zero, a correlation of 1, and on balance
it is none. Where e·n is not an integer but has the fraction f, the sum has the variance
f·(1 − f), and `correlation` = f·(1 − f) / (n²·e·(1 − e)) is what takes the place of 0.
"""

import dataclasses
import functools
import statistics

import numpy as np
from keras import ops

from kerasreg import random
from kerasreg.fusion import fused
from kerasreg.layers.linear import along_channels
from kerasreg.regularizers.base import check_number

_MOST_GROUPS = 10


def check_rate(rate):
    """The argument `rate` of a layer, checked, as a float in [0, 1)."""
    message = (
        "Invalid value for argument `rate`. Expected a number in [0, 1). "
        f"Received: rate={rate!r}"
    )
    try:
        number = check_number("rate", rate)
    except (TypeError, ValueError) as error:
        raise type(error)(message) from None
    if number >= 1:
        raise ValueError(message)
    return number


def batch_mask(shape, keep, seed, variable):
    """Entries that are true with probability `keep`, exactly.

    They are independent but for what is left of rare rounding: eight entries far apart
    share their lower eight bits, and all of them one threshold. At rates from 1/16 to
    15/16 that correlates the eight by less than 1e-4. Beyond, `random.bernoulli` says.

    Args:
        shape: Tuple of integers.
        keep: Python float in [0, 1].
        seed: What `kerasreg.random.next_seed` returned.
        variable: The backend's variable whose size and device decide whether the
            work is compiled, which does not change the entries.

    Returns:
        A Boolean tensor of `shape`.
    """
    if keep == 0.5:
        return fair_bits(shape, seed)
    if not _LEAST_BY_BITS <= keep <= 1.0 - _LEAST_BY_BITS:
        return random.bernoulli(shape, keep, seed, dtype="bool")
    draw = fused(lambda seed: _by_bits(shape, keep, seed), seed, variable)
    return draw(seed)


_LEAST_BY_BITS = 1 / 16


def _by_bits(shape, keep, seed):
    """Eight entries at a time: bytes of fair bits, joined by `and` and `or`.

    If R is true with probability r and B is a fair bit, then `R and B` is with r/2 and
    `R or B` with (1 + r)/2. So the binary digits of `keep`, from the last to the first,
    say how to join bits for a probability of `keep`. It has 16 digits, and what is left
    decides at random what the joining begins with.
    """
    *rows, columns = shape
    bytes_ = int(np.prod(rows)) * ((columns + 7) // 8)
    digits = int(65536 * keep)
    own, few = 8 * bytes_, (bytes_ + 7) // 8
    up, drawn = random.coin_and_bytes(65536 * keep - digits, own + 8 * few, seed)
    begin = ops.cast(ops.where(up, 255, 0), "uint8")
    shared = _joined(begin, ops.reshape(drawn[own:], (8, few)), digits % 256)
    shared = ops.tile(shared, (8,))[:bytes_]
    joined = _joined(shared, ops.reshape(drawn[:own], (8, bytes_)), digits // 256)
    return _unpacked(ops.reshape(joined, (*rows, -1)), columns)


def _joined(begin, planes, digits):
    for i in range(8):
        join = ops.bitwise_or if digits >> i & 1 else ops.bitwise_and
        begin = join(begin, planes[i])
    return begin


def fair_bits(shape, seed):
    """Independent fair bits: eight from one random byte.

    Args:
        shape: Tuple; its entries may be scalar tensors, but for the last one.
        seed: What `kerasreg.random.next_seed` returned.

    Returns:
        A Boolean tensor of `shape`.
    """
    *rows, columns = shape
    packed = random.random_bytes((*rows, (columns + 7) // 8), seed)
    return _unpacked(packed, columns)


def _unpacked(packed, columns):
    bits = [ops.bitwise_and(packed, np.uint8(1 << i)) for i in range(8)]
    return ops.concatenate(bits, axis=-1)[..., :columns] > 0


def signs(bits, dtype):
    """1 for true and -1 for false."""
    return ops.cast(bits, dtype) * 2 - 1


@dataclasses.dataclass(frozen=True)
class Law:
    """How masks of examples are made: see the text above.

    Attributes:
        keep: Probability of keeping a weight.
        share: Probability e of the masks that groups share; 0 if signs will do.
        groups: How many groups of examples there are, n; 0 if signs will do.
        correlation: What is left of the correlation of shared masks, before the
            common shift and the size of the batch diminish it.
    """

    keep: float
    share: float
    groups: int
    correlation: float

    @classmethod
    def of(cls, keep):
        """The law with the least correlation, and among these the fewest groups.

        Args:
            keep: Float in (0, 1).
        """
        share = 2.0 * keep - 1.0 if keep >= 0.5 else 2.0 * keep
        if share == 0.0:
            return cls(keep, 0.0, 0, 0.0)
        left = {n: _left(share, n) for n in range(2, _MOST_GROUPS + 1)}
        least = min(left.values())
        groups = min(n for n in left if left[n] <= least + 1e-9)
        return cls(keep, share, groups, left[groups])

    @property
    def mask_correlation(self):
        """The same of whole masks: the most by which two examples are correlated."""
        e = self.share
        return self.correlation * (
            e / (1 + e) if self.keep >= 0.5 else (1 - e) / (2 - e)
        )

    def common(self, examples):
        """The probability of giving all groups the same shift, a scalar tensor.

        Args:
            examples: Number of examples in all groups, an integer or a tensor.
        """
        examples = ops.cast(examples, "float32")
        left = 1.0 - examples * self.correlation
        return ops.maximum(left, 0.0) / (examples * (1.0 - self.correlation))


def _left(share, groups):
    fraction = share * groups % 1.0
    return fraction * (1.0 - fraction) / (groups**2 * share * (1.0 - share))


def example_linear(layer, inputs, kernel, law):
    """The linear map of a layer, with another mask on the kernel for each example.

    Args:
        layer: Layer with a mixin of `kerasreg.layers.linear` and a
            `seed_generator`.
        inputs: Float tensor, an example a row of the first axis.
        kernel: Float tensor.
        law: `Law`.

    Returns:
        What `layer.linear` returns: no bias, no activation.
    """
    inputs = inputs * 0.5  # every term of the masks is halved
    if law.groups:
        return _by_groups(layer, inputs, kernel, law)
    bits = fair_bits(kernel.shape, random.next_seed(layer.seed_generator))
    turned, columns = turned_inputs(layer, inputs, kernel)
    second = layer.linear(turned, kernel * signs(bits, kernel.dtype))
    second = second * along_channels(layer, columns, second)
    return layer.linear(inputs, kernel) + second


def turned_inputs(layer, inputs, kernel):
    """The inputs times the signs of each example, and the signs of its outputs."""
    seed = random.next_seed(layer.seed_generator)
    channels, units = inputs.shape[layer.channel_axis], kernel.shape[-1]
    bits = fair_bits((ops.shape(inputs)[0], channels + units), seed)
    both = signs(bits, kernel.dtype)
    rows, columns = both[:, :channels], both[:, channels:]
    return inputs * along_channels(layer, rows, inputs), columns


def _by_groups(layer, inputs, kernel, law):
    n, batch = law.groups, ops.shape(inputs)[0]
    examples = (batch + n - 1) // n * n  # some are the last one again
    seed = random.next_seed(layer.seed_generator)
    numbers = random.uniform((examples + 2,), seed)
    order = ops.argsort(numbers[2:])
    inputs = ops.take(inputs, ops.minimum(order, batch - 1), axis=0)
    turned, columns = turned_inputs(layer, inputs, kernel)

    seed = random.next_seed(layer.seed_generator)
    words = random.random_words(kernel.shape, seed)
    bits = ops.bitwise_and(words, np.uint16(1)) > 0
    flipped = kernel * signs(bits, kernel.dtype)
    first, second = [], []
    shared = _shared_masks(words, law, numbers[0] < law.common(examples), numbers[1])
    parts = zip(ops.split(inputs, n), ops.split(turned, n), shared, strict=True)
    for x, r, mask in parts:
        first.append(layer.linear(x, ops.where(mask, kernel, 0)))
        if law.keep > 0.5:
            mask = ops.logical_not(mask)
        second.append(layer.linear(r, ops.where(mask, flipped, 0)))
    outputs = ops.concatenate(second, axis=0)
    outputs = outputs * along_channels(layer, columns, outputs)
    outputs = outputs + ops.concatenate(first, axis=0)
    if law.keep > 0.5:
        outputs = outputs + layer.linear(inputs, kernel)
    return ops.take(outputs, ops.argsort(order)[:batch], axis=0)


def _shared_masks(words, law, common, number):
    """The masks E of all groups.

    Args:
        words: Uniform 16-bit words. Their lowest bit is left alone, so that it can
            be a sign: shifts and threshold are even.
        law: `Law`.
        common: Boolean scalar: whether all shifts are zero.
        number: Uniform scalar, that rounds the threshold up or down so that the
            share is exact.

    Yields:
        Boolean tensors of the shape of `words`.
    """
    inside = law.share <= 0.5  # the rarer outcome, whose threshold fits into a word
    size = 2**15 * (law.share if inside else 1.0 - law.share)
    threshold = int(size) + ops.cast(number < size - int(size), "int32")
    threshold = ops.cast(2 * threshold, "uint16")
    for group in range(law.groups):
        shift = 2 * round(2**15 * group / law.groups)
        shift = ops.cast(ops.where(common, 0, shift), "uint16")
        shifted = words + shift if group else words  # wraps around
        yield shifted < threshold if inside else shifted >= threshold


@functools.lru_cache(maxsize=64)
def normal_scores(draws, units):
    """Where to evaluate a function of Normal variables, to average it.

    Each unit sees the same standard Normal numbers: the middles of `draws` equally
    likely intervals, scaled to unit variance. Each sees them in another order, for
    functions of several units (a Latin hypercube: McKay, Beckman & Conover 1979).

    Args:
        draws: How many numbers, at least 1.
        units: How many units.

    Returns:
        A float32 array of shape (draws, units), the same each time.
    """
    quantile = statistics.NormalDist().inv_cdf
    scores = np.array([quantile((k + 0.5) / draws) for k in range(draws)])
    scores /= max(np.sqrt(np.mean(scores**2)), 1e-12)
    order = np.argsort(np.random.default_rng(0).random((draws, units)), axis=0)
    return scores[order].astype("float32")
