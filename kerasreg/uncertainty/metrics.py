"""Scores of predicted probabilities and densities, as Keras metrics."""

import math

import keras
import numpy as np
from keras import ops

from kerasreg.regularizers.base import check_count

# Predictions that are not probabilities give NaN; rounding may pass 0 or 1 by this.
_SLACK = 1e-3
_BINARY = 2


class _Score(keras.metrics.Metric):
    """A metric that is a ratio of sums over examples, all in float64.

    Sums in float32 stop growing: after 2²⁴ examples another one is lost.
    """

    _direction = "down"  # For `EarlyStopping` and `ModelCheckpoint`.

    def __init__(self, from_logits, name, dtype, sums=()):
        super().__init__(name=name, dtype=dtype)
        if not isinstance(from_logits, bool):
            raise ValueError(
                "Invalid value for argument `from_logits`. Expected a boolean. "
                f"Received: from_logits={from_logits!r}"
            )
        self.from_logits = from_logits
        self.total = self.add_variable(sums, "zeros", "float64", name="total")
        self.count = self.add_variable((), "zeros", "float64", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch.

        Args:
            y_true: Targets.
            y_pred: Predictions. Where they have a Keras mask, only its true places
                count.
            sample_weight: Weights that broadcast to all axes but the last, or `None`.
        """
        mask = getattr(y_pred, "_keras_mask", None)
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) == 1:
            y_pred = ops.expand_dims(y_pred, -1)
        y_pred = ops.cast(y_pred, "float64")
        weight = _weights(ops.shape(y_pred)[:-1], sample_weight, mask)
        values = ops.broadcast_to(self._sums(y_true, y_pred, weight), self.total.shape)
        self.total.assign_add(values)
        self.count.assign_add(ops.sum(weight))

    def _sums(self, y_true, y_pred, weight):
        """What a batch adds to `total`: by default weighted sums of `_values`."""
        return _weighted_sum(self._values(y_true, y_pred), weight)

    def result(self):
        """The value for all batches since the last reset, 0 if there were none."""
        total = ops.sum(ops.abs(self.total)) if self.total.shape else self.total
        return ops.cast(ops.divide_no_nan(total, self.count), self.dtype)

    def get_config(self):
        """Arguments of the metric."""
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="kerasreg")
class ExpectedCalibrationError(_Score):
    """How far confidence is from accuracy, on average over bins of confidence.

    `ECE = Σ_b n_b/n · |accuracy_b - confidence_b|` over bins of equal width. Bins
    contain their left end; the last one contains 1 as well.

    - Three classes or more: the confidence is the largest probability, and accuracy
      says how often that class is the true one.
    - Two classes, from one sigmoid column or two softmax columns: the confidence is
      p(y = 1), and the place of accuracy is taken by how often y = 1.

    These are the conventions of netcal. Others bin the larger probability of two
    classes as well; the values differ.

    Args:
        bins: Positive integer, the number of bins between 0 and 1.
        from_logits: Whether predictions are logits.
        name: Name in logs.
        dtype: Of the result. Sums are always in float64.

    Targets are 0 and 1 for one column; else class numbers or one-hot rows. The result
    is NaN after a target that is no class, or a prediction that is no probability
    (logits without `from_logits=True`).

    Raises:
        ValueError: `bins` is below 1, or shapes do not fit.
        TypeError: `bins` is no integer.

    Example:

    >>> import numpy as np
    >>> from kerasreg.uncertainty import ExpectedCalibrationError
    >>> metric = ExpectedCalibrationError(bins=10)
    >>> float(metric(np.array([1, 1, 1, 0]), np.array([0.95, 0.95, 0.95, 0.95])))
    0.2

    Reference: Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated
    probabilities using Bayesian binning"; Guo et al. 2017, "On calibration of modern
    neural networks" (arXiv 1706.04599).
    """

    def __init__(self, bins=15, from_logits=False, name="ece", dtype=None):
        self.bins = check_count("bins", bins)
        super().__init__(from_logits, name, dtype, sums=(self.bins,))

    def _sums(self, y_true, y_pred, weight):
        target, p = _classes(y_true, y_pred, self.from_logits)
        if p.shape[-1] == 1:
            confidence, hit = p[..., 0], target
        elif p.shape[-1] == _BINARY:
            ones = ops.stack([0.0 * p[..., 0], 1.0 + 0.0 * p[..., 1]], axis=-1)
            confidence, hit = p[..., 1], _at(target, ones)  # NaN stays NaN.
        else:
            confidence = ops.max(p, axis=-1)
            hit = _hits(target, p)
        inner = np.linspace(0.0, 1.0, self.bins + 1)[1:-1]
        index = ops.sum(ops.expand_dims(confidence, -1) >= inner, axis=-1)
        gaps = ops.expand_dims(hit - confidence, -1)
        inside = ops.one_hot(index, self.bins, dtype="float64")
        # Not a product: NaN is to reach the result from whichever bin.
        gaps = ops.where(inside > 0, gaps, 0.0)
        return _weighted_sum(gaps, weight)

    def get_config(self):
        """Arguments of the metric."""
        return {**super().get_config(), "bins": self.bins}


@keras.saving.register_keras_serializable(package="kerasreg")
class BrierScore(_Score):
    """The mean squared distance of probabilities and outcomes.

    - Three classes or more: `Σ_k (p_k - y_k)²` an example, from 0 to 2, the sum of
      Brier 1950.
    - Two classes, from one sigmoid column or two softmax columns: `(p - y)²`, from 0
      to 1; half of that sum. scikit-learn's `brier_score_loss` does the same.

    Args:
        from_logits: Whether predictions are logits.
        name: Name in logs.
        dtype: Of the result. Sums are always in float64.

    Targets are 0 and 1 for one column; else class numbers or one-hot rows. The result
    is NaN after a target that is no class, or a prediction that is no probability
    (logits without `from_logits=True`).

    Raises:
        ValueError: Shapes do not fit.

    Example:

    >>> import numpy as np
    >>> from kerasreg.uncertainty import BrierScore
    >>> metric = BrierScore()
    >>> float(metric(np.array([0]), np.array([[0.5, 0.3, 0.2]])))
    0.38

    Reference: Brier 1950, "Verification of forecasts expressed in terms of
    probability".
    """

    def __init__(self, from_logits=False, name="brier_score", dtype=None):
        super().__init__(from_logits, name, dtype)

    def _values(self, y_true, y_pred):
        target, p = _classes(y_true, y_pred, self.from_logits)
        classes = p.shape[-1]
        if classes == 1:
            return ops.square(p[..., 0] - target)
        # Σ (p - y)² = Σ p² - 2 Σ p·y + Σ y², without a one-hot copy of class numbers.
        ours = ops.sum(ops.square(p), axis=-1) - 2.0 * _at(target, p)
        one_hot = len(target.shape) == len(p.shape)
        theirs = ops.sum(ops.square(target), axis=-1) if one_hot else 1.0
        return (ours + theirs) / (2.0 if classes == _BINARY else 1.0)


@keras.saving.register_keras_serializable(package="kerasreg")
class NegativeLogLikelihood(_Score):
    """The mean of `-log p(y | x)` in nats.

    By default of classes: `-log p_y`; of one sigmoid column
    `-y log p - (1 - y) log(1 - p)`. With `spread` of real numbers under a Gaussian
    head: `½ Σ_j (log 2πσ_j² + (y_j - μ_j)²/σ_j²)`, the sum over the outputs of an
    example. No penalty and no KL divergence is in it.

    Probabilities are clipped to [ε, 1 - ε] as in Keras's losses, where ε is
    `keras.config.epsilon()`; logits are exact.

    Args:
        from_logits: Whether predictions of classes are logits.
        spread: What the second half of the outputs' last axis is, if the first half
            holds means: `"log_variance"`, `"variance"` or `"std"`, as in `predict`;
            `None` for classes.
        name: Name in logs.
        dtype: Of the result. Sums are always in float64.

    Targets are 0 and 1 for one column; else class numbers or one-hot rows; or as many
    numbers as there are means. The result is NaN after a target that is no class, a
    prediction that is no probability (logits without `from_logits=True`), or a
    variance that is negative.

    Raises:
        ValueError: An argument is not one of the above, `from_logits` goes with
            `spread`, or shapes do not fit.

    Example:

    >>> import numpy as np
    >>> from kerasreg.uncertainty import NegativeLogLikelihood
    >>> metric = NegativeLogLikelihood()
    >>> float(metric(np.array([0]), np.array([[0.5, 0.3, 0.2]])))
    0.693147
    >>> metric = NegativeLogLikelihood(spread="std")
    >>> float(metric(np.array([[1.0]]), np.array([[1.0, 1.0]])))
    0.918939
    """

    def __init__(self, from_logits=False, spread=None, name="nll", dtype=None):
        if spread not in (None, "log_variance", "variance", "std"):
            raise ValueError(
                "Invalid value for argument `spread`. Expected one of "
                '"log_variance", "variance", "std" or None. '
                f"Received: spread={spread!r}"
            )
        if spread is not None and from_logits:
            raise ValueError(
                "Invalid value for argument `from_logits`. Expected False with "
                f'`spread="{spread}"`: a Gaussian head has no logits. '
                f"Received: from_logits={from_logits}"
            )
        super().__init__(from_logits, name, dtype)
        self.spread = spread

    def _values(self, y_true, y_pred):
        if self.spread is not None:
            return _normal(y_true, y_pred, self.spread)
        if self.from_logits:
            target, z = _targets(y_true, y_pred), y_pred
            if z.shape[-1] == 1:
                return ops.softplus(z[..., 0]) - target * z[..., 0]
            return -_at(target, ops.log_softmax(z, axis=-1))
        target, p = _classes(y_true, y_pred, from_logits=False)
        least = keras.config.epsilon()
        p = ops.where(ops.isnan(p), p, ops.clip(p, least, 1.0 - least))
        if p.shape[-1] == 1:
            p = p[..., 0]
            return -target * ops.log(p) - (1.0 - target) * ops.log(1.0 - p)
        return -_at(target, ops.log(p))

    def get_config(self):
        """Arguments of the metric."""
        return {**super().get_config(), "spread": self.spread}


def _weights(shape, sample_weight, mask):
    """Float64 weights of a shape, from weights and a mask that broadcast to it."""
    weight = ops.ones(shape, "float64")
    for part in (sample_weight, mask):
        if part is None:
            continue
        part = ops.cast(ops.convert_to_tensor(part), "float64")
        if len(part.shape) == len(shape) + 1 and part.shape[-1] == 1:
            part = ops.squeeze(part, -1)
        if len(part.shape) > len(shape):
            raise ValueError(
                "Invalid value for argument `sample_weight`. Expected a shape that "
                "broadcasts to that of the predictions without their last axis, of "
                f"rank {len(shape)}. Received: shape={tuple(part.shape)}"
            )
        for _ in range(len(shape) - len(part.shape)):
            part = ops.expand_dims(part, -1)
        weight = weight * part
    return weight


def _weighted_sum(values, weight):
    """Sums over the axes of `weight`; what has weight 0 may be NaN."""
    axes = tuple(range(len(weight.shape)))
    for _ in range(len(values.shape) - len(axes)):
        weight = ops.expand_dims(weight, -1)
    return ops.sum(ops.where(ops.equal(weight, 0), 0.0, values * weight), axis=axes)


def _targets(y_true, y_pred):
    """Targets as floats: 0 and 1, one-hot rows, or as class numbers, integers."""
    leading, classes = y_pred.shape[:-1], y_pred.shape[-1]
    rank = len(y_pred.shape)
    if classes is None:
        raise ValueError(
            "Invalid value for argument `y_pred`. Expected a last axis of known size. "
            f"Received: shape={tuple(y_pred.shape)}"
        )
    size = y_true.shape[-1] if len(y_true.shape) == rank else 1
    fits = len(y_true.shape) in (rank - 1, rank) and size in (1, classes)
    if not fits or not _agree(y_true.shape[: rank - 1], leading):
        rows = f"{tuple(leading)}, with or without a last axis of size 1"
        one_hot = f", or one-hot, {tuple(y_pred.shape)}" if classes > 1 else ""
        raise ValueError(
            f"Invalid value for argument `y_true`. Expected the shape {rows}{one_hot}. "
            f"Received: shape={tuple(y_true.shape)}"
        )
    if classes > 1 and size == classes:
        target = ops.cast(y_true, "float64")
        return _checked(target)
    if len(y_true.shape) == rank:
        y_true = ops.squeeze(y_true, -1)
    return _checked(ops.cast(y_true, "float64")) if classes == 1 else y_true


def _agree(shape, other):
    return all(
        a == b or a is None or b is None for a, b in zip(shape, other, strict=True)
    )


def _checked(p):
    """Clipped to [0, 1]; NaN where far from it."""
    inside = ops.logical_and(p >= -_SLACK, p <= 1.0 + _SLACK)
    return ops.where(inside, ops.clip(p, 0.0, 1.0), np.nan)


def _classes(y_true, y_pred, from_logits):
    """Targets and probabilities."""
    target = _targets(y_true, y_pred)
    if not from_logits:
        return target, _checked(y_pred)
    one = y_pred.shape[-1] == 1
    return target, ops.sigmoid(y_pred) if one else ops.softmax(y_pred, axis=-1)


def _at(target, values):
    """The values at the targets: at class numbers, or `Σ_k y_k v_k` of rows."""
    if len(target.shape) == len(values.shape):
        # A certain outcome at probability 0 elsewhere: 0 · -inf counts nothing.
        return ops.sum(ops.where(ops.equal(target, 0), 0.0, target * values), axis=-1)
    number = ops.cast(target, "int32")
    classes = values.shape[-1]
    index = ops.expand_dims(ops.clip(number, 0, classes - 1), -1)
    found = ops.take_along_axis(values, index, axis=-1)[..., 0]
    known = ops.logical_and(number >= 0, number < classes)
    known = ops.logical_and(known, ops.equal(ops.cast(number, target.dtype), target))
    return ops.where(known, found, np.nan)


def _hits(target, p):
    """Whether the most probable class is the target."""
    top = ops.one_hot(ops.argmax(p, axis=-1), p.shape[-1], dtype="float64")
    return _at(target, top)


def _normal(y_true, y_pred, spread):
    """Negative log density of Normals, summed over the last axis."""
    size = y_pred.shape[-1]
    if size is None or size % 2:
        raise ValueError(
            "Invalid value for argument `y_pred`. Expected a last axis of even size: "
            f"means, then as many spreads. Received: shape={tuple(y_pred.shape)}"
        )
    mean, scale = ops.split(y_pred, 2, axis=-1)
    if len(y_true.shape) == len(mean.shape) - 1 and mean.shape[-1] == 1:
        y_true = ops.expand_dims(y_true, -1)
    if len(y_true.shape) != len(mean.shape) or not _agree(y_true.shape, mean.shape):
        raise ValueError(
            "Invalid value for argument `y_true`. Expected the shape of the means, "
            f"{tuple(mean.shape)}. Received: shape={tuple(y_true.shape)}"
        )
    if spread == "std":
        scale = ops.square(scale)
    log_variance = scale if spread == "log_variance" else ops.log(scale)
    error = ops.square(ops.cast(y_true, "float64") - mean)
    logs = math.log(2.0 * math.pi) + log_variance + error * ops.exp(-log_variance)
    return ops.sum(logs, axis=-1) / 2.0
