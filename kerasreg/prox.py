"""Proximal maps as pure functions of tensors.

The proximal map of a penalty `h` with steps `d > 0` is

    prox(v) = argmin_u  Σ_i (u_i − v_i)² / (2 d_i) + h(u).

`step` is a scalar or a tensor of the shape of `v` (the diagonal metric of an
adaptive optimizer; Yun, Lozano & Yang 2021, "Adaptive proximal gradient
methods for structured neural networks", eq. 4). Every map below is the exact
minimizer for both kinds of step.
"""

import math

import keras
import numpy as np
from keras import ops


def soft_threshold(v, threshold):
    """Soft thresholding, the proximal map of `threshold · |u|`.

    `sign(v) · max(|v| − threshold, 0)`, computed as `v − clip(v, ±threshold)`
    so that a value inside the threshold becomes an exact zero.

    Args:
        v: Float tensor of any shape.
        threshold: Non-negative scalar or tensor of the shape of `v`.

    Returns:
        A tensor of the shape of `v`.

    Example:

    >>> soft_threshold(ops.array([-3.0, 0.5, 2.0]), 1.0).numpy().tolist()
    [-2.0, 0.0, 1.0]

    Reference: Donoho 1995, "De-noising by soft-thresholding".
    """
    threshold = ops.convert_to_tensor(threshold, dtype=v.dtype)
    inside = ops.minimum(ops.maximum(v, ops.negative(threshold)), threshold)
    return ops.subtract(v, inside)


def block_soft_threshold(v, step, lam, axes):
    """Block soft thresholding, the proximal map of `Σ_g lam_g · ‖u_g‖₂`.

    With one step for all weights, `u_g = max(1 − step·lam_g/‖v_g‖, 0) · v_g`.
    With a step for each weight there is no closed form: a group is zero if and
    only if `‖v_g/d_g‖ ≤ lam_g`, and otherwise `u_i = v_i · t/(t + lam_g d_i)`
    where the norm `t = ‖u_g‖` is the root of
    `Σ_i v_i²/(t + lam_g d_i)² = 1`, found by Newton's method on the concave
    function `(Σ_i v_i²/(t + lam_g d_i)²)^(−1/2) − 1`, which converges
    monotonically from the left and is exact in one step when all `d_i` agree.

    Args:
        v: Float tensor.
        step: Positive scalar, or a tensor of the shape of `v`.
        lam: Non-negative scalar, or a tensor that broadcasts against the norms
            (the shape of `v` with `axes` kept as 1).
        axes: Tuple of the axes summed over inside one group.

    Returns:
        A tensor of the shape of `v`, groups below the threshold exactly zero.

    Example:

    >>> v = ops.array([[3.0, 4.0], [0.3, 0.4]])
    >>> block_soft_threshold(v, 1.0, 1.0, axes=(1,)).numpy().round(2).tolist()
    [[2.4, 3.2], [0.0, 0.0]]

    Reference: Yuan & Lin 2006; for the diagonal metric, optimality of the
    definition above.
    """
    step = ops.convert_to_tensor(step, dtype=v.dtype)
    lam = ops.convert_to_tensor(lam, dtype=v.dtype)
    if len(step.shape) == 0:
        norm = safe_norm(v, axes)
        threshold = ops.multiply(step, lam)
        keep = _greater_or_nan(norm, threshold)
        ratio = ops.divide(threshold, ops.where(keep, norm, ops.ones_like(norm)))
        return ops.where(keep, ops.multiply(v, ops.subtract(1.0, ratio)), 0.0)
    # A step of 0 (a learning rate that has run out) leaves its weight alone.
    frozen = ops.where(ops.equal(v, 0.0), 0.0, math.inf)
    dual = ops.where(step > 0.0, ops.divide_no_nan(v, step), frozen)
    size = ops.sum(ops.square(dual), axes, keepdims=True)
    keep = _greater_or_nan(size, lam * lam)
    shift = ops.multiply(lam, step)
    # Two lower bounds of the root; with the second no term of the sum exceeds 1.
    t = safe_norm(v, axes) - ops.max(shift, axes, keepdims=True)
    t = ops.maximum(t, ops.max(ops.abs(v) - shift, axes, keepdims=True))
    t = ops.maximum(t, 0.0)
    t = _group_norm(v, shift, axes, t)
    scaled = ops.divide_no_nan(v * t, t + shift)
    return ops.where(keep, scaled, ops.zeros_like(v))


def _greater_or_nan(a, b):
    """A diverged group must not pass for a zero one.

    (In a graph TensorFlow rewrites `not a ≤ b` into `a > b`.)
    """
    return ops.logical_or(ops.greater(a, b), ops.isnan(a))


def _group_norm(v, shift, axes, t):
    """The root `t` of `Σ v²/(t + shift)² = 1`, from a lower bound, by Newton."""
    tiny = ops.cast(1e-30, v.dtype)
    close = 4 * np.finfo(keras.backend.standardize_dtype(v.dtype)).eps

    def improve(t, moving, step):
        inverse = ops.divide(1.0, ops.maximum(t + shift, tiny))
        part = ops.square(v * inverse)
        total = ops.maximum(ops.sum(part, axes, keepdims=True), tiny)
        slope = ops.maximum(ops.sum(part * inverse, axes, keepdims=True), tiny)
        better = ops.maximum(t + (ops.sqrt(total) - 1.0) * total / slope, t)
        return better, ops.any(better - t > close * better), step + 1

    start = t, ops.convert_to_tensor(True), 0
    return ops.while_loop(
        lambda t, moving, step: ops.logical_and(moving, step < _MOST_STEPS),
        improve,
        start,
    )[0]


_MOST_STEPS = 50  # two or three are usual


def firm_threshold(v, step, lam, gamma):
    """Firm thresholding, the proximal map of the minimax concave penalty.

    The penalty is `lam·|u| − u²/(2·gamma)` up to `|u| = gamma·lam` and constant
    beyond. For `step < gamma` the map is zero up to `step·lam`,
    `soft(v, step·lam)/(1 − step/gamma)` up to `gamma·lam`, and the identity
    beyond; for longer steps the problem is concave in between and its global
    minimum is hard thresholding at `lam·√(step·gamma)`.

    Args:
        v: Float tensor.
        step: Positive scalar or tensor of the shape of `v`.
        lam: Non-negative scalar.
        gamma: Scalar above 1.

    Returns:
        A tensor of the shape of `v`.

    Example:

    >>> firm_threshold(ops.array([0.5, 1.5, 5.0]), 1.0, 1.0, 3.0).numpy().tolist()
    [0.0, 0.75, 5.0]

    Reference: Zhang 2010, "Nearly unbiased variable selection under minimax
    concave penalty", section 2; Gao & Bruce 1997 for the name.
    """
    step = ops.convert_to_tensor(step, dtype=v.dtype)
    size = ops.abs(v)
    bend = step / gamma
    convex = ops.less(bend, 1.0)
    slope = ops.where(convex, 1.0 - bend, 1.0)
    firm = ops.divide(soft_threshold(v, step * lam), slope)
    firm = ops.where(ops.less_equal(size, gamma * lam), firm, v)
    hard = ops.where(
        ops.less_equal(size, lam * ops.sqrt(step * gamma)), ops.zeros_like(v), v
    )
    return ops.where(convex, firm, hard)


def scad_threshold(v, step, lam, gamma):
    """The proximal map of the smoothly clipped absolute deviation penalty.

    The penalty's slope is `lam` up to `|u| = lam`, falls linearly to zero at
    `gamma·lam`, and stays zero. For `step < gamma − 1` the map is
    `soft(v, step·lam)` up to `(1 + step)·lam`, the stationary point of the middle
    piece up to `gamma·lam`, and the identity beyond. For longer steps the middle
    piece is concave and the global minimum jumps from the first rule to the
    identity where both objectives agree: at `lam·(gamma + 1 + step)/2` up to
    `step = gamma + 1` and at `lam·√(step·(gamma + 1))` from there on.

    Args:
        v: Float tensor.
        step: Positive scalar or tensor of the shape of `v`.
        lam: Non-negative scalar.
        gamma: Scalar above 2.

    Returns:
        A tensor of the shape of `v`.

    Example:

    >>> scad_threshold(ops.array([1.5, 2.5, 5.0]), 1.0, 1.0, 3.7).numpy().round(4)
    array([0.5   , 1.7941, 5.    ], dtype=float32)

    Reference: Fan & Li 2001, "Variable selection via nonconcave penalized
    likelihood", eq. 2.8 (step 1); beyond `gamma − 1`, comparison of the pieces.
    """
    step = ops.convert_to_tensor(step, dtype=v.dtype)
    size = ops.abs(v)
    near = soft_threshold(v, step * lam)
    bend = step / (gamma - 1.0)
    convex = ops.less(bend, 1.0)
    middle = soft_threshold(v, bend * gamma * lam) / ops.where(convex, 1.0 - bend, 1.0)
    middle = ops.where(ops.less_equal(size, gamma * lam), middle, v)
    smooth = ops.where(ops.less_equal(size, (1.0 + step) * lam), near, middle)
    # Where the middle piece is concave the minimum jumps from the first to the last.
    jump = lam * ops.where(
        step < gamma + 1.0, (gamma + 1.0 + step) / 2.0, ops.sqrt(step * (gamma + 1.0))
    )
    return ops.where(convex, smooth, ops.where(ops.less_equal(size, jump), near, v))


def mcp_value(size, lam, gamma):
    """The minimax concave penalty of each `size = |w|` (Zhang 2010, eq. 2.1).

    Args:
        size: Non-negative tensor.
        lam: Non-negative scalar.
        gamma: Scalar above 1.

    Returns:
        A tensor of the shape of `size`.
    """
    size = ops.minimum(size, gamma * lam)
    return lam * size - ops.square(size) / (2.0 * gamma)


def scad_value(size, lam, gamma):
    """The SCAD penalty of each `size = |w|` (Fan & Li 2001, eq. 2.7 integrated).

    Args:
        size: Non-negative tensor.
        lam: Non-negative scalar.
        gamma: Scalar above 2.

    Returns:
        A tensor of the shape of `size`.
    """
    first = ops.minimum(size, lam)
    second = ops.minimum(ops.maximum(size, lam), gamma * lam) - lam
    return lam * first + lam * second - ops.square(second) / (2.0 * (gamma - 1.0))


def safe_norm(v, axes):
    """Euclidean norm over `axes`, kept as size 1, with gradient 0 at 0.

    Args:
        v: Float tensor.
        axes: Tuple of axes to sum over.

    Returns:
        A tensor of norms.
    """
    square = ops.sum(ops.square(v), axes, keepdims=True)
    positive = ops.not_equal(square, 0.0)
    root = ops.sqrt(ops.where(positive, square, ops.ones_like(square)))
    return ops.where(positive, root, ops.zeros_like(square))
