"""Convex conjugates of the losses and penalties that have a duality gap.

A loss has `value(z, y)`, its gradient `slope(z, y)` and `conjugate(u, y)`, each a
row a sample; a penalty has `value(w)`, `conjugate(force)` and `scale(force)`, the
largest factor up to 1 that brings a force into the domain of the conjugate.
Everything is float64.
"""

import math

import keras
from keras import ops

from kerasreg import prox
from kerasreg.regularizers import ElasticNet, SparseGroupLasso


class SquaredError:
    """`ℓ(z) = ‖z − y‖²/k`, with conjugate `<u, y> + k·‖u‖²/4`."""

    keras_losses = (
        keras.losses.MeanSquaredError,
        keras.losses.mean_squared_error,
    )
    activation = keras.activations.linear

    def __init__(self, units):
        self.units = units

    def targets(self, y, n):
        """The targets as (n, k) float64."""
        return ops.reshape(ops.cast(y, "float64"), (n, self.units))

    def value(self, z, y):
        """The loss of each sample."""
        return ops.mean(ops.square(z - y), -1)

    def slope(self, z, y):
        """The gradient in `z`."""
        return 2.0 / self.units * (z - y)

    def conjugate(self, u, y):
        """The conjugate of each sample."""
        return ops.sum(u * y + self.units / 4.0 * ops.square(u), -1)

    def center(self, u, y, c):
        """Shift `u` so that `Σ c_i u_i = 0`."""
        return u - ops.sum(c * u, 0) / ops.sum(c)


class BinaryCrossentropy(SquaredError):
    """`ℓ(z) = Σ_j log(1 + exp z_j) − y_j z_j` over k.

    With `q = k·u + y` its conjugate is `Σ_j q log q + (1 − q) log(1 − q)` over k.
    """

    keras_losses = (
        keras.losses.BinaryCrossentropy,
        keras.losses.binary_crossentropy,
    )
    activation = keras.activations.sigmoid

    def value(self, z, y):
        """The loss of each sample."""
        return ops.mean(ops.softplus(z) - y * z, -1)

    def slope(self, z, y):
        """The gradient in `z`."""
        return (ops.sigmoid(z) - y) / self.units

    def conjugate(self, u, y):
        """The conjugate of each sample."""
        q = ops.clip(self.units * u + y, 0.0, 1.0)
        return ops.mean(_x_log_x(q) + _x_log_x(1.0 - q), -1)

    def center(self, u, y, c):
        """Shift `u` so that `Σ c_i u_i = 0`, and `q` stays between 0 and 1."""
        mean, target = _means(self.units * u, y, c)
        room = ops.where(mean > 0.0, target, 1.0 - target)
        share = _share(ops.abs(mean), room)
        q = (1.0 - share) * (self.units * u + y - mean) + share * target
        return (q - y) / self.units


class CategoricalCrossentropy(SquaredError):
    """`ℓ(z) = log Σ_j exp z_j − <y, z>`, conjugate `Σ_j q log q` for `q = u + y`."""

    keras_losses = (
        keras.losses.CategoricalCrossentropy,
        keras.losses.categorical_crossentropy,
    )
    activation = keras.activations.softmax

    def value(self, z, y):
        """The loss of each sample."""
        return ops.logsumexp(z, -1) - ops.sum(y * z, -1)

    def slope(self, z, y):
        """The gradient in `z`."""
        return ops.softmax(z, -1) - y

    def conjugate(self, u, y):
        """The conjugate of each sample."""
        return ops.sum(_x_log_x(ops.clip(u + y, 0.0, 1.0)), -1)

    def center(self, u, y, c):
        """Shift `u` so that `Σ c_i u_i = 0`, and `q` stays a distribution."""
        mean, target = _means(u, y, c)
        share = ops.max(_share(ops.relu(mean), target))
        return (1.0 - share) * (u + y - mean) + share * target - y


class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """The same for integer targets."""

    keras_losses = (
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.sparse_categorical_crossentropy,
    )

    def targets(self, y, n):
        """The targets as (n, k) float64, one-hot."""
        labels = ops.cast(ops.reshape(y, (n,)), "int32")
        return ops.one_hot(labels, self.units, dtype="float64")


LOSSES = (
    SquaredError,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)


def _x_log_x(q):
    return q * ops.log(ops.where(q > 0.0, q, 1.0))


def _means(u, y, c):
    total = ops.sum(c)
    return ops.sum(c * u, 0) / total, ops.sum(c * y, 0) / total


def _share(shift, room):
    """How much of the mean to mix in to make up for a shift."""
    return shift / ops.maximum(shift + room, 1e-300)


class Free:
    """No penalty: the force on the weight has to be zero."""

    free, hard, elementwise = True, False, True

    def usable(self):
        """Whether the conjugate is finite somewhere but at 0."""
        return False

    def value(self, w):
        """Zero."""
        return 0.0

    def prox(self, w, step):
        """The weight itself."""
        return w

    def conjugate(self, force):
        """Zero: `center` has brought the force to 0."""
        return 0.0

    def scale(self, force):
        """One."""
        return ops.ones((), "float64")


class DualElasticNet(Free):
    """`l1·Σ|w| + l2·Σw²`: conjugate `Σ(|v| − l1)₊²/(4·l2)`, or `|v| ≤ l1`."""

    free = False

    def __init__(self, penalty):
        self._penalty = penalty
        self.hard = penalty._coefficients()[1] is None

    def usable(self):
        """Whether the conjugate is finite somewhere but at 0."""
        return self._penalty.strength > 0

    def value(self, w):
        """The penalty."""
        return self._penalty(w)

    def prox(self, w, step):
        """The proximal map of the penalty."""
        return self._penalty.prox(w, step)

    def conjugate(self, force):
        """The conjugate of the penalty at a force in its domain."""
        if self.hard:
            return 0.0
        l1, l2 = self._numbers()
        return ops.sum(ops.square(ops.relu(ops.abs(force) - l1))) / (4.0 * l2)

    def scale(self, force):
        """The factor that brings the largest entry to `l1`."""
        l1, _ = self._numbers()
        return _within(l1, ops.max(ops.abs(force)))

    def _numbers(self):
        return [
            0.0 if number is None else ops.cast(number, "float64")
            for number in self._penalty._coefficients()
        ]


class DualSparseGroup(DualElasticNet):
    """`l1·Σ|w| + group·Σ_g √p_g‖w_g‖`: the force, softened by `l1`, is bounded."""

    def __init__(self, penalty, weight):
        self._penalty, self.hard, self.elementwise = penalty, True, False
        self._axes = penalty.group_axes(weight)
        self._root = math.sqrt(math.prod(weight.shape[i] for i in self._axes))

    def scale(self, force):
        """The factor that brings the largest group to its bound."""
        l1, group = self._numbers()
        bound = group * self._root

        def norm(scale):
            part = prox.soft_threshold(scale * force, l1)
            return ops.max(prox.safe_norm(part, self._axes))

        if isinstance(l1, float):
            return _within(bound, norm(1.0))

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2.0
            fits = norm(middle) <= bound
            return ops.where(fits, middle, low), ops.where(fits, high, middle)

        ends = (ops.zeros((), "float64"), ops.ones((), "float64"))
        low, _ = ops.fori_loop(0, 50, halve, ends)
        return ops.where(norm(1.0) <= bound, 1.0, low)


def _within(bound, size):
    return ops.minimum(1.0, bound / ops.maximum(size, 1e-300))


def dual_penalty(variable):
    """The dual of the penalty on a weight, or `None` if there is none here.

    Args:
        variable: `keras.Variable`.
    """
    penalty = variable.regularizer
    if penalty is None:
        return Free()
    # Only the very classes: a subclass may have another value.
    name = type(penalty).__name__
    if isinstance(penalty, ElasticNet) and name in ("ElasticNet", "L1", "L2"):
        known = penalty._coefficients() != (None, None)
        return DualElasticNet(penalty) if known else None
    if isinstance(penalty, SparseGroupLasso) and name in (
        "GroupLasso",
        "SparseGroupLasso",
    ):
        known = penalty._coefficients()[1] is not None
        return DualSparseGroup(penalty, variable) if known else None
    return None
