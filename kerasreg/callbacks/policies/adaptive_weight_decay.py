"""A policy: weight decay as a constant share of the gradient."""

from kerasreg.callbacks.policies.base import Policy, check_share
from kerasreg.regularizers import L2, ElasticNet
from kerasreg.regularizers.base import check_number


class AdaptiveWeightDecay(Policy):
    """Let the decay of the weights be a constant share of the gradient of the loss.

    The gradient of `L2`, `strength·Σw²`, is `2·strength·w`: a weight decay of
    `2·strength`. It is to be `ratio` times as long as the gradient of the data loss,

        2·strength_t = ratio·‖∇L‖/‖w‖,

    and the strength is its running average,
    `smoothing·strength + (1 − smoothing)·strength_t`. So the penalty falls with the
    gradient as the model fits, and does not depend on the scale of loss and weights.
    The paper promises robustness (against noisy labels, attacks and the choice of the
    learning rate), and no better accuracy than a constant strength that was tuned.

    In the paper the norms are those of all weights together: that is
    `granularity="model"` of the callback. By layers, each layer has its own share.
    A unit whose weights are all zero keeps its strength.

    It needs `L2` penalties, for the rule speaks of their gradient; `GradientRatio` is
    the same for any penalty.

    Args:
        ratio: Non-negative number, the paper's `λ_awd`. From 1 on, the penalty
            outweighs the loss and the weights shrink to nothing.
        smoothing: Number in [0, 1), the share of the old strength in the new one;
            the paper's is 0.1.

    Attributes:
        every: 10 batches. The paper has 1; but measuring the norms is not free, and
            they change little within so few steps.

    Raises:
        ValueError: If an argument is out of range; when `fit` begins, if a penalty is
            no `L2`, or penalties of one unit have different strengths.
        TypeError: If an argument is not a number.

    Example:

    >>> from kerasreg.callbacks import AdaptiveWeightDecay, State, Unit
    >>> policy = AdaptiveWeightDecay(ratio=0.02)
    >>> unit = Unit(strength=0.0, norm=5.0, gradient_norm=1.0)
    >>> policy.update(State({"dense": unit}))
    {'dense': 0.0018}

    Reference: Ghiasi, Shafahi & Ardekani 2023, "Improving robustness with adaptive
    weight decay", algorithm 1.
    """

    needs = ("norm", "gradient_norm")
    every: str | int = 10

    def __init__(self, ratio, smoothing=0.1):
        self.ratio = check_number("ratio", ratio)
        self.smoothing = check_smoothing(smoothing)

    def update(self, state):
        """The running average of `ratio·‖∇L‖/(2·‖w‖)`."""
        return {
            name: self.smoothing * unit.strength
            + (1 - self.smoothing) * self.ratio * unit.gradient_norm / (2 * unit.norm)
            for name, unit in state.units.items()
            if unit.norm > 0
        }

    def check(self, model, units):
        """Refuse penalties that are no weight decay."""
        for name, weights in units.items():
            penalties = [weight.regularizer for weight in weights]
            if not all(map(_is_l2, penalties)):
                raise ValueError(
                    "`AdaptiveWeightDecay` needs penalties whose gradient is a weight "
                    "decay. Expected kerasreg.regularizers.L2 (`GradientRatio` takes "
                    f"any penalty). Received: {penalties} in the unit {name!r}"
                )
            strengths = [penalty.strength for penalty in penalties]
            if len(set(strengths)) > 1:
                raise ValueError(
                    "`AdaptiveWeightDecay` sets one weight decay for all weights of a "
                    'unit. Expected penalties of equal strength, or granularity="weight'
                    f'". Received: strengths {strengths} in the unit {name!r}'
                )

    def __repr__(self):
        return (
            f"AdaptiveWeightDecay(ratio={self.ratio!r}, smoothing={self.smoothing!r})"
        )


def _is_l2(penalty):
    if isinstance(penalty, L2):
        return True
    return (
        type(penalty) is ElasticNet
        and penalty.has_ratio
        and penalty.get_config()["l1"] == 0
    )


def check_smoothing(smoothing):
    """Check the share of the old strength in a new one, a number in [0, 1)."""
    number = check_share("smoothing", smoothing)
    if number == 1:
        raise ValueError(
            "Invalid value for argument `smoothing`. Expected a number in [0, 1). "
            f"Received: smoothing={smoothing!r}"
        )
    return number
