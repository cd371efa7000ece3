"""What an attack may do to one input: its ball, bounds, scale and mask."""

import keras
import numpy as np
from keras import ops

from kerasreg.adversarial import geometry


class Space:
    """The perturbations of one input that are allowed, in units of the scale.

    With a scale `s` and a mask `m`, the input becomes `x + s·δ`. Allowed is a `δ` with
    `‖δ‖ ≤ eps`, which is 0 where `m` is false and keeps `x + s·δ` within the bounds; an
    entry of `x` that is out of them may stay where it is.

    Args:
        x: Float tensor (batch, ...). Half precision is computed in float32.
        eps: Non-negative number.
        norm: `"inf"`, `"2"` or `"1"`.
        bounds: Pair of numbers or arrays, or `None`.
        scale: Positive number or array, of the shape of one example or one that
            broadcasts to it; or `None` for 1.
        mask: Bool array, likewise; or `None`.

    Raises:
        ValueError: If an array does not suit the shape of an example.
    """

    def __init__(self, x, eps, norm, bounds=None, scale=None, mask=None):
        self.eps, self.norm = eps, norm
        self.dtype = x.dtype
        half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
        self.x = ops.cast(x, "float32") if half else x
        low, high = (None, None) if bounds is None else bounds
        given = [("bounds", low), ("bounds", high), ("scale", scale), ("mask", mask)]
        for name, array in given:
            _check_shape(name, array, tuple(x.shape[1:]))
        self._scale, self._mask, self._bounds = scale, mask, bounds
        # How far it may go down and up.
        self._reach = None
        if bounds is not None:
            gaps = [self._tensor(bound) - self.x for bound in bounds]
            if scale is not None:
                gaps = [gap / self._tensor(scale) for gap in gaps]
            self._reach = ops.minimum(gaps[0], 0.0), ops.maximum(gaps[1], 0.0)
            if norm == "inf":  # the ball at once
                down, up = self._reach
                self._reach = ops.maximum(down, -eps), ops.minimum(up, eps)

    def moved(self, delta):
        """The perturbed input, within the bounds up to rounding."""
        return ops.cast(self.x + self.unscaled(delta), self.dtype)

    def inputs(self, delta):
        """The perturbed input, within the bounds."""
        moved = self.x + self.unscaled(delta)
        if self._bounds is not None:
            low, high = (self._tensor(bound) for bound in self._bounds)
            # An entry that is out of them may stay.
            low, high = ops.minimum(low, self.x), ops.maximum(high, self.x)
            moved = ops.clip(moved, low, high)
        return ops.cast(moved, self.dtype)

    def unscaled(self, delta):
        """A perturbation in the units of the input."""
        return delta if self._scale is None else delta * self._tensor(self._scale)

    def constrain(self, delta):
        """An allowed perturbation: `delta` clipped to the bounds, then projected.

        The projection moves every entry towards 0, so that it stays within the bounds.
        """
        delta = self.masked(delta)
        if self._reach is not None:
            delta = ops.clip(delta, *self._reach)
            if self.norm == "inf":
                return delta
        return geometry.project(delta, self.eps, self.norm)

    def climb(self, delta, gradient, step):
        """Go a step of the length `step` up the gradient, then constrain."""
        # An entry whose slope is not known is not moved by it.
        slope = ops.where(ops.isfinite(gradient), gradient, ops.zeros_like(gradient))
        slope, free = self.masked(slope), None
        if self._reach is not None and self.norm == "1":
            down, up = self._reach
            free = ops.where(slope > 0, delta < up, delta > down)
        move = geometry.ascent(slope, self.norm, free)
        return self.constrain(delta + ops.cast(step, delta.dtype) * move)

    def random(self, seed, bounded=True):
        """A uniform point of the ball, constrained; or not to the bounds."""
        free = self.masked(ops.ones_like(self.x))
        point = geometry.random_point(free, self.eps, self.norm, seed)
        return self.constrain(point) if bounded else point

    def probe(self, length):
        """A Euclidean ball of that radius, with this scale and mask, without bounds."""
        return Space(self.x, length, "2", None, self._scale, self._mask)

    def _tensor(self, array):
        return ops.convert_to_tensor(array, self.x.dtype)

    def masked(self, delta):
        """A perturbation with zeros where the mask is false."""
        if self._mask is None:
            return delta
        return ops.where(self._mask, delta, ops.zeros_like(delta))


def _check_shape(name, array, shape):
    if array is None or None in shape:
        return
    try:
        right = np.broadcast_shapes(np.shape(array), shape) == shape
    except ValueError:
        right = False
    if not right:
        one = "a bool" if name == "mask" else "a number"
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {one} or an array that "
            f"broadcasts to one example of `x`, of shape {shape}. Received: an array "
            f"of shape {np.shape(array)}"
        )
