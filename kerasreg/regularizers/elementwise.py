"""Penalties on each weight by itself: ElasticNet, L1, L2, MCP, SCAD."""

import keras
from keras import ops

from kerasreg import prox
from kerasreg.regularizers.base import Penalty, check_number
from kerasreg.regularizers.blend import Blend


@keras.saving.register_keras_serializable(package="kerasreg")
class ElasticNet(Blend):
    """The elastic net: `l1·Σ|w| + l2·Σw²`.

    Its proximal map is `soft(w, d·l1) / (1 + 2·d·l2)`: with
    `kerasreg.optimizers.Proximal` weights reach exact zeros.

    The strength is `l1 + l2`. Setting it scales both and keeps their ratio,
    also through zero.

    Args:
        l1: Non-negative finite number, the weight of `Σ|w|`.
        l2: Non-negative finite number, the weight of `Σw²` (no factor ½, as in
            `keras.regularizers.L1L2`).

    Raises:
        ValueError: If a coefficient is negative, NaN or infinite, or a strength
            is set on an elastic net of `l1 = l2 = 0`, which has no ratio.
        TypeError: If a coefficient is not a number.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import ElasticNet
    >>> penalty = ElasticNet(l1=0.1, l2=0.01)
    >>> round(float(penalty(keras.ops.array([1.0, -2.0]))), 4)
    0.35
    >>> layer = keras.layers.Dense(10, kernel_regularizer=penalty)

    Reference: Zou & Hastie 2005, "Regularization and variable selection via the
    elastic net", eq. 3.
    """

    _names = ("l1", "l2")

    def __init__(self, l1=0.0, l2=0.0):
        super().__init__(l1, l2)

    @classmethod
    def from_ratio(cls, alpha, l1_ratio=0.5):
        """Make it from scikit-learn's parameters.

        The penalty is `alpha·l1_ratio·Σ|w| + ½·alpha·(1−l1_ratio)·Σw²`, as in
        `sklearn.linear_model.ElasticNet`. Mind that scikit-learn halves the
        squared error and Keras does not: double `alpha` to minimize the same
        objective with Keras's `"mse"` (see the page on conventions).

        Args:
            alpha: Non-negative finite number.
            l1_ratio: Number in [0, 1].

        Returns:
            An `ElasticNet`.

        Example:

        >>> ElasticNet.from_ratio(0.2, l1_ratio=0.5)
        ElasticNet(l1=0.1, l2=0.05)
        """
        alpha = check_number("alpha", alpha)
        ratio = check_number("l1_ratio", l1_ratio)
        if ratio > 1:
            raise ValueError(
                "Invalid value for argument `l1_ratio`. Expected a number in [0, 1]. "
                f"Received: l1_ratio={l1_ratio!r}"
            )
        return cls(l1=alpha * ratio, l2=alpha * (1 - ratio) / 2)

    @property
    def l1(self):
        """The current weight of `Σ|w|`, a float."""
        return self._current(0)

    @property
    def l2(self):
        """The current weight of `Σw²`, a float."""
        return self._current(1)

    def value(self, w):
        """`l1·Σ|w| + l2·Σw²`."""
        l1, l2 = self._coefficients()
        total = ops.zeros((), dtype=w.dtype)
        if l1 is not None:
            total = ops.multiply(l1, ops.sum(ops.abs(w)))
        if l2 is not None:
            square = ops.multiply(l2, ops.sum(ops.square(w)))
            total = square if l1 is None else ops.add(total, square)
        return total

    def prox(self, w, step):
        """`soft(w, step·l1) / (1 + 2·step·l2)`."""
        l1, l2 = self._coefficients(step)
        if l1 is not None:
            w = prox.soft_threshold(w, ops.cast(l1, w.dtype))
        if l2 is not None:
            w = ops.divide(w, 1.0 + 2.0 * ops.cast(l2, w.dtype))
        return w


@keras.saving.register_keras_serializable(package="kerasreg")
class L1(ElasticNet):
    """The lasso penalty: `l1·Σ|w|`, with exact zeros under `Proximal`.

    Args:
        l1: Non-negative finite number, the strength.

    Raises:
        ValueError: If `l1` is negative, NaN or infinite.
        TypeError: If `l1` is not a number.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import L1
    >>> penalty = L1(0.5)
    >>> penalty.prox(keras.ops.array([2.0, -0.3]), step=1.0).numpy().tolist()
    [1.5, 0.0]

    Reference: Tibshirani 1996, "Regression shrinkage and selection via the
    lasso".
    """

    def __init__(self, l1=0.01):
        Blend.__init__(self, l1, 0.0, share=1.0)

    def get_config(self):
        """The current strength, as `l1`."""
        return {"l1": self.l1}


@keras.saving.register_keras_serializable(package="kerasreg")
class L2(ElasticNet):
    """The ridge penalty: `l2·Σw²` (no factor ½).

    Its proximal map is `w / (1 + 2·d·l2)`.

    Args:
        l2: Non-negative finite number, the strength.

    Raises:
        ValueError: If `l2` is negative, NaN or infinite.
        TypeError: If `l2` is not a number.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import L2
    >>> float(L2(0.5)(keras.ops.array([1.0, 3.0])))
    5.0

    Reference: Hoerl & Kennard 1970, "Ridge regression".
    """

    def __init__(self, l2=0.01):
        Blend.__init__(self, 0.0, l2, share=0.0)

    def get_config(self):
        """The current strength, as `l2`."""
        return {"l2": self.l2}


class _Concave(Penalty):
    """What MCP and SCAD share: a level `lam` and a shape `gamma`."""

    _least_gamma: float

    def __init__(self, lam, gamma):
        super().__init__(check_number("lam", lam))
        self.gamma = check_number("gamma", gamma, above=self._least_gamma)

    @property
    def longest_step(self):
        """Nine tenths of the step at which the map turns to hard thresholding."""
        return 0.9 * (self.gamma - self._least_gamma + 1.0)

    def get_config(self):
        """The current strength, as `lam`, and `gamma`."""
        return {"lam": self.strength, "gamma": self.gamma}


@keras.saving.register_keras_serializable(package="kerasreg")
class MCP(_Concave):
    """The minimax concave penalty: an L1 that leaves large weights alone.

    `Σ lam·|w| − w²/(2·gamma)` up to `|w| = gamma·lam`, the constant
    `gamma·lam²/2` beyond. Its proximal map is firm thresholding (hard
    thresholding where the step is longer than `gamma`).

    Args:
        lam: Non-negative finite number, the strength: the slope at zero.
        gamma: Finite number above 1. Large values approach the lasso.

    Raises:
        ValueError: If `lam` is negative or `gamma` is 1 or less, or one is NaN
            or infinite.
        TypeError: If one is not a number.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import MCP
    >>> MCP(1.0, gamma=3.0)(keras.ops.array([1.0, 100.0])).numpy().round(4)
    np.float32(2.3333)

    Reference: Zhang 2010, "Nearly unbiased variable selection under minimax
    concave penalty", eq. 2.1.
    """

    _least_gamma = 1.0

    def __init__(self, lam=0.01, gamma=3.0):
        super().__init__(lam, gamma)

    def value(self, w):
        """`Σ lam·|w| − w²/(2·gamma)`, constant from `|w| = gamma·lam` on."""
        lam = ops.cast(self.lam, w.dtype)
        return ops.sum(prox.mcp_value(ops.abs(w), lam, self.gamma))

    def prox(self, w, step):
        """Firm thresholding (`kerasreg.prox.firm_threshold`)."""
        return prox.firm_threshold(w, step, ops.cast(self.lam, w.dtype), self.gamma)


@keras.saving.register_keras_serializable(package="kerasreg")
class SCAD(_Concave):
    """Smoothly clipped absolute deviation: an L1 whose slope falls to zero.

    The slope is `lam` up to `|w| = lam`, falls linearly, and is zero from
    `gamma·lam` on.

    Args:
        lam: Non-negative finite number, the strength: the slope at zero.
        gamma: Finite number above 2; the authors recommend 3.7.

    Raises:
        ValueError: If `lam` is negative or `gamma` is 2 or less, or one is NaN
            or infinite.
        TypeError: If one is not a number.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import SCAD
    >>> float(SCAD(1.0, gamma=3.0)(keras.ops.array([0.5, 100.0])))
    2.5

    Reference: Fan & Li 2001, "Variable selection via nonconcave penalized
    likelihood and its oracle properties", eq. 2.7.
    """

    _least_gamma = 2.0

    def __init__(self, lam=0.01, gamma=3.7):
        super().__init__(lam, gamma)

    def value(self, w):
        """The sum over weights of the penalty above."""
        lam = ops.cast(self.lam, w.dtype)
        return ops.sum(prox.scad_value(ops.abs(w), lam, self.gamma))

    def prox(self, w, step):
        """The map of `kerasreg.prox.scad_threshold`."""
        return prox.scad_threshold(w, step, ops.cast(self.lam, w.dtype), self.gamma)
