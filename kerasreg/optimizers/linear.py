"""The objective of a linear model and its dual, in units that suit the steps."""

import keras
from keras import ops


class LinearObjective:
    """`Objective` of a linear model, which keeps its predictions.

    Its weights are those of the features `(x − mean)/unit`; `enter` and `leave`
    translate from and to those of the model.

    Args:
        x: Tensor (n, p), the features, already in these units.
        y: Tensor (n, k), the targets.
        c: Tensor (n, 1), the weights of the samples in the sum.
        mean: Tensor (p, 1), the origin of each feature.
        unit: Tensor (p, 1), the unit of each feature.
        loss: A loss of `kerasreg.optimizers.duals`.
        penalties: The dual penalties of the kernel and, if there is one, the bias.
    """

    cautious = False

    def __init__(self, x, y, c, mean, unit, loss, penalties):
        self.dtype = keras.backend.standardize_dtype(x.dtype)
        self._x, self._y, self._c = x, y, c
        self._mean, self._unit = mean, unit
        # A step is a number where all units are equal, as most maps like it.
        self._square = unit**-2 if penalties[0].elementwise else 1.0
        self._loss, self._penalties = loss, penalties

    def enter(self, weights):
        """The weights of these features, from those of the model."""
        kernel, *bias = [ops.cast(w, self.dtype) for w in weights]
        bias = [b + ops.sum(self._mean * kernel, 0) for b in bias]
        return [kernel * self._unit, *bias]

    def leave(self, weights):
        """The weights of the model, from those of these features."""
        kernel, *bias = weights
        kernel = kernel / self._unit
        return [kernel, *[b - ops.sum(self._mean * kernel, 0) for b in bias]]

    def image(self, weights):
        """The predictions, (n, k)."""
        z = ops.matmul(self._x, weights[0])
        return [z + weights[1] if len(weights) == 2 else z]

    def smooth(self, weights, image):
        """The data loss."""
        return ops.sum(self._c[:, 0] * self._loss.value(image[0], self._y))

    def gradient(self, weights, image):
        """The data loss and its gradient."""
        slope = self._loss.slope(image[0], self._y)
        return self.smooth(weights, image), self._forces(slope)

    def _forces(self, slope):
        slope = self._c * slope
        # Not x'·slope: that would transpose, and copy, the large one.
        kernel = ops.transpose(ops.matmul(ops.transpose(slope), self._x))
        return [kernel, ops.sum(slope, 0)][: len(self._penalties)]

    def penalty(self, weights):
        """The penalties."""
        weights = [weights[0] / self._unit, *weights[1:]]
        pairs = zip(self._penalties, weights, strict=True)
        return ops.cast(sum(p.value(w) for p, w in pairs), self.dtype)

    def prox(self, weights, step):
        """The proximal map of `step` times the penalties."""
        kernel, *bias = weights
        kernel = self._penalties[0].prox(kernel / self._unit, step * self._square)
        bias = [self._penalties[1].prox(b, step) for b in bias]
        return [kernel * self._unit, *bias]

    def dual(self, image):
        """A lower bound of all values of the objective.

        Args:
            image: The predictions for any weights.
        """
        slope = self._loss.slope(image[0], self._y)
        if any(penalty.free for penalty in self._penalties):
            slope = self._loss.center(slope, self._y, self._c)
        kernel, *bias = self._forces(slope)
        forces = [kernel * self._unit, *bias]
        bounds = []
        for scale in self._scales(forces):
            conjugate = self._loss.conjugate(scale * slope, self._y)
            bound = -ops.sum(self._c[:, 0] * conjugate)
            for penalty, force in zip(self._penalties, forces, strict=True):
                bound = bound - penalty.conjugate(scale * force)
            bounds.append(bound)
        return ops.maximum(*bounds)

    def _scales(self, forces):
        """Two scales to try: inside all hard bounds, and inside soft ones too."""
        hard = soft = ops.ones((), self.dtype)
        for penalty, force in zip(self._penalties, forces, strict=True):
            scale = penalty.scale(force)
            soft = ops.minimum(soft, scale)
            if penalty.hard:
                hard = ops.minimum(hard, scale)
        return hard, soft
