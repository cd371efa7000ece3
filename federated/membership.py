"""Whether a model gives away which examples it was trained on."""

import dataclasses
import math
import statistics

import numpy as np

from federated.accounting import check_probability
from kerasreg.adversarial.losses import example_losses


@dataclasses.dataclass(frozen=True)
class MembershipReport:
    """What `membership_inference` found.

    Attributes:
        auc: Probability that a member's score is above a non-member's, ties by half;
            0.5 for a model that gives nothing away.
        auc_interval: Its confidence interval, a tuple of two floats.
        advantage: Share of the members that the attack finds minus share of the
            non-members that it takes for members; 0 for a model that gives nothing
            away.
        advantage_interval: Its confidence interval.
        members: Scores of the members, an array; higher looks more like a member.
        non_members: Scores of the non-members.
    """

    auc: float
    auc_interval: tuple[float, float]
    advantage: float
    advantage_interval: tuple[float, float]
    members: np.ndarray = dataclasses.field(repr=False)
    non_members: np.ndarray = dataclasses.field(repr=False)

    def true_positive_rate(self, false_positive_rate=0.01):
        """Share of the members above all but a share of the non-members.

        Args:
            false_positive_rate: That share; it takes some 10 / share non-members to
                mean something.
        """
        threshold = np.quantile(
            self.non_members, 1 - false_positive_rate, method="higher"
        )
        return float(np.mean(self.members > threshold))


def membership_inference(
    model, members, non_members, *, references=(), confidence=0.95, batch_size=256
):
    """Attack a model: tell by its loss whether it was trained on an example.

    An example's score is minus its loss, without penalties: a model that overfits has
    a lower loss where it was trained. The attack takes for members those with a loss
    up to the mean of the members, which is what training reports. It is a lower bound
    of what leaks: better attacks exist, and a low score proves no privacy.

    Some examples are easier than others whoever was trained on them. `references`,
    models trained without either kind, correct for that: the score is then their mean
    loss minus the model's.

    Args:
        model: A compiled `keras.Model`.
        members: `(x, y)` that it was trained on.
        non_members: `(x, y)` of the same distribution that it was not trained on.
        references: Compiled `keras.Model`s trained on other examples of the same
            distribution.
        confidence: Confidence of the intervals.
        batch_size: Batch size for the predictions.

    Returns:
        A `MembershipReport`.

    Raises:
        ValueError: If a loss is not finite, or there are fewer than two examples of a
            kind.

    Example:

    >>> import keras, numpy as np
    >>> from federated import membership_inference
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 1)).astype("float32")
    >>> report = membership_inference(model, (x[:50], y[:50]), (x[50:], y[50:]))
    >>> report.auc_interval[0] < 0.5 < report.auc_interval[1]
    True

    Reference: Yeom et al. 2018, "Privacy risk in machine learning: analyzing the
    connection to overfitting", adversary 2; Watson et al. 2022, "On the importance of
    difficulty calibration in membership inference attacks"; DeLong et al. 1988,
    "Comparing the areas under two or more correlated receiver operating characteristic
    curves", for the interval.
    """
    check_probability("confidence", confidence)
    inside, outside = (
        _scores(model, data, references, batch_size) for data in (members, non_members)
    )
    width = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    above = _share_below(inside, outside)
    auc = float(np.mean(above))
    # A member's share of non-members below it, and a non-member's of members above it.
    error = _variance(above) + _variance(1 - _share_below(outside, inside))
    found, mistaken = (s >= np.mean(inside) for s in (inside, outside))
    advantage = float(np.mean(found) - np.mean(mistaken))
    spread = _variance(found) + _variance(mistaken)
    return MembershipReport(
        auc,
        _interval(auc, width * math.sqrt(error), 0.0),
        advantage,
        _interval(advantage, width * math.sqrt(spread), -1.0),
        inside,
        outside,
    )


def _scores(model, data, references, batch_size):
    """The score of each example."""
    losses = _losses(model, data, batch_size)
    if len(losses) < 2 or not np.isfinite(losses).all():
        raise ValueError(
            "Expected two or more examples of each kind, with finite losses. Received: "
            f"{len(losses)} example(s), {np.sum(~np.isfinite(losses))} not finite"
        )
    if not references:
        return -losses
    return np.mean([_losses(r, data, batch_size) for r in references], 0) - losses


def _losses(model, data, batch_size):
    x, y = data
    predicted = model.predict(x, batch_size=batch_size, verbose=0)
    return np.asarray(example_losses(model, y, predicted), "float64")


def _share_below(scores, others):
    """The share of others below each score, ties by half."""
    others = np.sort(others)
    left = np.searchsorted(others, scores, "left")
    right = np.searchsorted(others, scores, "right")
    return (left + right) / (2 * len(others))


def _variance(values):
    """The variance of the mean of values."""
    return float(np.var(values, ddof=1)) / len(values)


def _interval(value, width, lowest):
    return max(lowest, value - width), min(1.0, value + width)
