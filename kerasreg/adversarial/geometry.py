"""Balls of perturbations: steps of steepest ascent, projections, random points.

All functions take perturbations of shape (batch, ...) and treat each example by itself.
"""

import math

from keras import ops

from kerasreg import random

NORMS = ("inf", "2", "1")

# A step in the L1 norm moves one of so many coordinates: see `ascent`.
_FEW = 100


def _size(delta):
    """How many numbers an example has: an int, or a tensor where it is not known."""
    return math.prod(ops.shape(delta)[1:])


def _flat(delta):
    return ops.reshape(delta, (-1, _size(delta)))


def _each(values, delta):
    """One number an example, shaped to multiply perturbations."""
    ones = (1,) * (len(delta.shape) - 1)
    return ops.reshape(values, (-1, *ones))


def length(delta, norm):
    """The norm of each perturbation.

    Args:
        delta: Float tensor (batch, ...).
        norm: `"inf"`, `"2"` or `"1"`.

    Returns:
        A tensor (batch,).
    """
    flat = _flat(delta)
    if norm == "inf":
        return ops.max(ops.abs(flat), axis=1)
    if norm == "2":
        return ops.sqrt(ops.sum(ops.square(flat), axis=1))
    return ops.sum(ops.abs(flat), axis=1)


def project(delta, eps, norm):
    """The nearest point of the ball `‖δ‖ ≤ eps`, exactly.

    Args:
        delta: Float tensor (batch, ...).
        eps: Non-negative number.
        norm: `"inf"`, `"2"` or `"1"`.

    Returns:
        A tensor of the shape of `delta`.

    Reference: Duchi et al. 2008, "Efficient projections onto the l1-ball for learning
    in high dimensions", figure 1 (L1).
    """
    if norm == "inf":
        return ops.clip(delta, -eps, eps)
    if norm == "2":
        return _shrunk(delta, eps, norm)
    magnitudes = ops.abs(_flat(delta))
    falling = ops.flip(ops.sort(magnitudes, axis=1), axis=1)
    excess = ops.cumsum(falling, axis=1) - eps
    ranks = ops.cumsum(ops.ones_like(falling), axis=1)
    kept = ops.sum(ops.cast(falling * ranks > excess, "int32"), axis=1, keepdims=True)
    last = ops.maximum(kept - 1, 0)
    threshold = ops.take_along_axis(excess, last, axis=1) / ops.cast(
        ops.maximum(kept, 1), delta.dtype
    )
    threshold = _each(ops.maximum(threshold[:, 0], 0.0), delta)
    delta = ops.sign(delta) * ops.maximum(ops.abs(delta) - threshold, 0.0)
    return _shrunk(delta, eps, norm)  # the threshold is rounded


def _shrunk(delta, eps, norm):
    """The perturbation, or the multiple of it that is on the sphere."""
    size = length(delta, norm)
    factor = ops.minimum(1.0, eps / ops.maximum(size, _tiny(delta)))
    return delta * _each(factor, delta)


def ascent(gradient, norm, free=None):
    """The direction of steepest ascent, of length 1 in the norm.

    For `"1"` it is spread evenly over the 1 % of the coordinates (at least one) with
    the largest slopes, as the sparse steps of Tramèr & Boneh: one coordinate at a time
    takes too many steps.

    Args:
        gradient: Float tensor (batch, ...).
        norm: `"inf"`, `"2"` or `"1"`.
        free: For `"1"`: bool tensor of that shape, the coordinates that can move the
            way that the gradient points; the others are at their bounds.

    Returns:
        A tensor of the shape of `gradient`; zeros for an example without a slope.

    Reference: Madry et al. 2018, section 2.1; Tramèr & Boneh 2019, "Adversarial
    training and robustness for multiple perturbations", section 4.1 (L1).
    """
    if norm == "inf":
        return ops.sign(gradient)
    if norm == "2":
        # Of the largest first, so that tiny gradients do not vanish when squared.
        top = ops.maximum(length(gradient, "inf"), _tiny(gradient))
        gradient = gradient / _each(top, gradient)
        size = ops.maximum(length(gradient, "2"), 1e-12)
        return gradient / _each(size, gradient)
    slopes = ops.abs(gradient)
    if free is not None:
        slopes = ops.where(free, slopes, 0.0)
    flat = _flat(slopes)
    count = _size(gradient) // _FEW
    count = max(count, 1) if isinstance(count, int) else ops.maximum(count, 1)
    least = ops.top_k(flat, count, sorted=True)[0][:, -1]
    chosen = ops.logical_and(slopes >= _each(least, slopes), slopes > 0)
    direction = ops.where(chosen, ops.sign(gradient), 0.0)
    return direction / ops.maximum(_each(length(direction, "1"), direction), 1.0)


def random_point(free, eps, norm, seed):
    """Uniform points of the ball, or of its part where some coordinates are 0.

    Args:
        free: Float tensor (batch, ...) of ones, and zeros at coordinates that stay 0.
        eps: Non-negative number.
        norm: `"inf"`, `"2"` or `"1"`.
        seed: Integer tensor (2,), as `kerasreg.random` takes it.

    Returns:
        A tensor like `free`.

    Reference: Calafiore, Dabbene & Tempo 1998, "Uniform sample generation in l_p balls
    for probabilistic robustness analysis", section 4.
    """
    shape = ops.shape(free)
    if norm == "2":
        raw = ops.cast(random.normal(shape, seed), free.dtype) * free
    else:
        raw = ops.cast(2.0 * random.uniform(shape, seed) - 1.0, free.dtype) * free
    if norm == "inf":
        return eps * raw
    if norm == "1":  # Laplace numbers
        raw = -ops.sign(raw) * ops.log1p(-ops.abs(raw) * (1.0 - 2.0**-23))
    other = seed + ops.cast([1, 0], seed.dtype)
    radius = ops.cast(random.uniform(shape[:1], other), free.dtype)
    radius = radius ** (1.0 / ops.maximum(ops.sum(_flat(free), axis=1), 1.0))
    return raw * _each(eps * radius / ops.maximum(length(raw, norm), 1e-30), raw)


def _tiny(tensor):
    return ops.cast(1e-30, tensor.dtype)
