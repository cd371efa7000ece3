"""A policy: the gradient of each penalty as a constant share of that of the loss."""

from kerasreg.callbacks.policies.adaptive_weight_decay import check_smoothing
from kerasreg.callbacks.policies.base import Policy
from kerasreg.regularizers.base import check_number

# The strength to measure the first gradient of a penalty at.
_START = 1e-6


class GradientRatio(Policy):
    """Let the gradient of each penalty be a constant share of that of the data loss.

    With `h` the penalty as it is added to the loss, the strength that makes
    `‖∇h‖ = ratio·‖∇L‖` for a unit is

        strength_t = strength·ratio·‖∇L‖/‖∇h‖

    if the penalty is proportional to its strength, as `ElasticNet`, `GroupLasso`,
    `Prior` and their kin are. `MCP` and `SCAD` are not: there the ratio is met only
    about, after some updates, and where all weights are so large that their penalty
    is flat, not at all. The strength is the running geometric mean,
    `strength^smoothing · strength_t^(1 − smoothing)`.

    A strength of 0 becomes 1e-6, where the gradient of the penalty can be measured. A
    unit one of whose gradients vanishes (all its weights are zero, say) keeps its
    strength. Weights that are exactly zero add nothing to the gradient of an L1, so
    the sparser they are, the stronger it has to be: keep `ratio` small.

    For `L2` on every weight of a unit it is `AdaptiveWeightDecay`, but for the
    kind of mean.

    Args:
        ratio: Number greater than 0. From 1 on, the penalties outweigh the loss.
        smoothing: Number in [0, 1), the share of the old strength in the new one.

    Attributes:
        every: 10 batches, for measuring gradients is not free.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is not a number.

    Example:

    >>> from kerasreg.callbacks import GradientRatio, State, Unit
    >>> policy = GradientRatio(ratio=0.1, smoothing=0.0)
    >>> unit = Unit(strength=0.01, gradient_norm=1.0, penalty_gradient_norm=0.2)
    >>> policy.update(State({"dense": unit}))
    {'dense': 0.005}

    Reference: Ghiasi, Shafahi & Ardekani 2023, "Improving robustness with adaptive
    weight decay", algorithm 1, of which this is the form for other penalties; Ishii &
    Sato 2017, "Layer-wise weight decay for deep neural networks".
    """

    needs = ("gradient_norm", "penalty_gradient_norm")
    every: str | int = 10

    def __init__(self, ratio, smoothing=0.1):
        self.ratio = check_number("ratio", ratio, above=0.0)
        self.smoothing = check_smoothing(smoothing)

    def update(self, state):
        """The running geometric mean of `strength·ratio·‖∇L‖/‖∇h‖`."""
        strengths = {}
        for name, unit in state.units.items():
            if unit.strength == 0:
                strengths[name] = _START
            elif unit.gradient_norm > 0 and unit.penalty_gradient_norm > 0:
                factor = self.ratio * unit.gradient_norm / unit.penalty_gradient_norm
                strengths[name] = unit.strength * factor ** (1 - self.smoothing)
        return strengths

    def __repr__(self):
        return f"GradientRatio(ratio={self.ratio!r}, smoothing={self.smoothing!r})"
