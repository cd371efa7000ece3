"""What an attack may do to one input: its ball, bounds, scale and mask."""

import numpy as np
from keras import ops

from kerasreg.adversarial import geometry


class Space:
    """The perturbations of one input that are allowed.

    With a scale `s` and a mask `m`, a perturbation `δ` is allowed if `‖δ/s‖ ≤ eps`, it
    is 0 where `m` is false, and `x + δ` is within the bounds.

    Args:
        eps: Non-negative number.
        norm: `"inf"`, `"2"` or `"1"`.
        bounds: Pair of numbers or arrays, or `None`.
        scale: Positive number or array, of the shape of one example or one that
            broadcasts to it; or `None` for 1.
        mask: Bool array, likewise; or `None`.
    """

    def __init__(self, eps, norm, bounds=None, scale=None, mask=None):
        self.eps, self.norm = eps, norm
        self._bounds, self._mask = bounds, mask
        self._scale = 1.0 if scale is None else np.asarray(scale, dtype="float64")

    def constrain(self, x, delta):
        """The allowed perturbation nearest to `delta` in the ball, then in the bounds.

        Clipping to bounds, within which `x` is, makes no entry longer: the result is
        still in the ball.
        """
        delta = self._masked(delta)
        if self._bounds is not None:
            delta = self.within_bounds(x + delta) - x
        scale = ops.cast(self._scale, x.dtype)
        delta = geometry.project(delta / scale, self.eps, self.norm) * scale
        return delta if self._bounds is None else self.within_bounds(x + delta) - x

    def within_bounds(self, x):
        """`x`, clipped to the bounds."""
        if self._bounds is None:
            return x
        low, high = (ops.cast(bound, x.dtype) for bound in self._bounds)
        return ops.minimum(ops.maximum(x, low), high)

    def climb(self, x, delta, gradient, step):
        """Go `step` (a length in the scaled norm) up the gradient, then constrain."""
        scale = ops.cast(self._scale, x.dtype)
        slope = self._masked(gradient * scale)
        free = None
        if self._bounds is not None and self.norm == "1":
            low, high = (ops.cast(bound, x.dtype) for bound in self._bounds)
            place = x + delta
            free = ops.where(slope > 0, place < high, place > low)
        move = geometry.ascent(slope, self.norm, free) * scale
        return self.constrain(x, delta + ops.cast(step, x.dtype) * move)

    def random(self, x, seed):
        """A uniform point of the ball, constrained."""
        scale = ops.cast(self._scale, x.dtype)
        point = geometry.random_point(x, self.eps, self.norm, seed)
        return self.constrain(x, point * scale)

    def probe(self, length):
        """A Euclidean ball of that radius, with this scale and mask, without bounds."""
        return Space(length, "2", None, self._scale, self._mask)

    def length(self, delta):
        """The scaled norm of each perturbation, a tensor (batch,)."""
        return geometry.length(delta / ops.cast(self._scale, delta.dtype), self.norm)

    def _masked(self, delta):
        if self._mask is None:
            return delta
        return ops.where(self._mask, delta, ops.zeros_like(delta))
