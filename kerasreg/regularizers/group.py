"""Penalties on groups of weights: GroupLasso, SparseGroupLasso."""

import math
import numbers

import keras
from keras import ops

from kerasreg import prox
from kerasreg.regularizers.base import check_number
from kerasreg.regularizers.blend import Blend


@keras.saving.register_keras_serializable(package="kerasreg")
class SparseGroupLasso(Blend):
    """Zeros for whole groups, and inside the groups that stay.

    `l1·Σ|w| + group·Σ_g √p_g·‖w_g‖₂`, where `p_g` is the number of weights in
    group `g`. The proximal map is soft thresholding followed by block soft
    thresholding; both steps are exact, also in the metric of an adaptive
    optimizer, where every weight has its own step.

    The strength is `l1 + group`. Setting it scales both and keeps their ratio.

    Args:
        l1: Non-negative finite number.
        group: Non-negative finite number.
        axis: The axis of the weight along which groups are counted; a group is
            everything else. `"input"` is the second to last axis, one group an
            input feature or channel of Dense and Conv kernels, or an embedded
            token; `"output"` is the last, one group a unit or filter. An int
            names any axis: use it for kernels laid out in another way
            (transposed convolutions, MultiHeadAttention, EinsumDense).

    Raises:
        ValueError: If a coefficient is negative, NaN or infinite, if `axis` is
            an unknown name, or, when called, if the weight has no such axis.
        TypeError: If a coefficient is not a number, or `axis` neither a name
            nor an int.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import SparseGroupLasso
    >>> penalty = SparseGroupLasso(l1=0.5, group=1.0, axis="input")
    >>> w = keras.ops.array([[2.0, 0.1], [0.3, -0.9]])
    >>> penalty.prox(w, step=1.0).numpy().round(3).tolist()
    [[0.086, 0.0], [0.0, 0.0]]

    Reference: Simon, Friedman, Hastie & Tibshirani 2013, "A sparse-group
    lasso", eq. 3.
    """

    _names = ("l1", "group")

    def __init__(self, l1=0.01, group=0.01, axis="input"):
        super().__init__(l1, group)
        self.axis = _check_axis(axis)

    @property
    def l1(self):
        """The current weight of `Σ|w|`, a float."""
        return self._current(0)

    @property
    def group(self):
        """The current weight of the group norms, a float."""
        return self._current(1)

    def group_axes(self, w):
        """The axes of `w` that lie inside one group, a tuple.

        Args:
            w: Tensor or variable.

        Raises:
            ValueError: If `w` has no axis `axis`.
        """
        rank = len(w.shape)
        axis = _NAMED_AXES.get(self.axis, self.axis)
        if not -rank <= axis < rank:
            raise ValueError(
                f"Invalid value for argument `axis` of {type(self).__name__}. "
                f"Expected an axis of a weight of shape {tuple(w.shape)}. "
                f"Received: axis={self.axis!r}"
            )
        return tuple(i for i in range(rank) if i != axis % rank)

    def attach(self, variable):
        """Check that the weight has the axis."""
        self.group_axes(variable)

    def value(self, w):
        """`l1·Σ|w| + group·Σ_g √p_g·‖w_g‖₂`."""
        l1, group = self._coefficients()
        total = ops.zeros((), dtype=w.dtype)
        if l1 is not None:
            total = ops.multiply(l1, ops.sum(ops.abs(w)))
        if group is not None:
            axes = self.group_axes(w)
            norms = ops.sum(prox.safe_norm(w, axes)) * _root_size(w, axes)
            total = ops.add(total, ops.multiply(group, norms))
        return total

    def prox(self, w, step):
        """Soft thresholding by `step·l1`, then block soft thresholding."""
        l1, group = self._coefficients()
        if l1 is not None:
            w = prox.soft_threshold(w, ops.cast(ops.multiply(l1, step), w.dtype))
        if group is not None:
            axes = self.group_axes(w)
            lam = ops.cast(group, w.dtype) * _root_size(w, axes)
            w = prox.block_soft_threshold(w, step, lam, axes)
        return w

    def get_config(self):
        """The current coefficients, and `axis`."""
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="kerasreg")
class GroupLasso(SparseGroupLasso):
    """Zeros for whole groups: `l·Σ_g √p_g·‖w_g‖₂`.

    With `axis="input"` on the first kernel it selects input features; with
    `axis="output"` it removes whole units or filters.

    Args:
        l: Non-negative finite number, the strength.
        axis: What a group is, as in `SparseGroupLasso`.

    Raises:
        ValueError: If `l` is negative, NaN or infinite, if `axis` is an unknown
            name, or, when called, if the weight has no such axis.
        TypeError: If `l` is not a number, or `axis` neither a name nor an int.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import GroupLasso
    >>> penalty = GroupLasso(1.0, axis="input")
    >>> w = keras.ops.array([[3.0, 4.0], [0.3, -0.9]])
    >>> penalty.prox(w, step=1.0).numpy().round(3).tolist()
    [[2.151, 2.869], [0.0, 0.0]]

    Reference: Yuan & Lin 2006, "Model selection and estimation in regression
    with grouped variables", eq. 2.1.
    """

    def __init__(self, l=0.01, axis="input"):  # noqa: E741
        Blend.__init__(self, 0.0, check_number("l", l), share=0.0)
        self.axis = _check_axis(axis)

    def get_config(self):
        """The current strength, as `l`, and `axis`."""
        return {"l": self.group, "axis": self.axis}


_NAMED_AXES = {"input": -2, "output": -1}


def _check_axis(axis):
    message = (
        "Invalid value for argument `axis`. Expected 'input', 'output' or an int. "
        f"Received: axis={axis!r}"
    )
    if isinstance(axis, bool) or not isinstance(axis, (str, numbers.Integral)):
        raise TypeError(message)
    if not isinstance(axis, str):
        return int(axis)
    if axis not in _NAMED_AXES:
        raise ValueError(message)
    return axis


def _root_size(w, axes):
    sizes = [ops.shape(w)[axis] for axis in axes]  # an activity's batch is a tensor
    if all(isinstance(size, int) for size in sizes):
        return math.sqrt(math.prod(sizes))
    product = ops.cast(1, w.dtype)
    for size in sizes:
        product = product * ops.cast(size, w.dtype)
    return ops.sqrt(product)
