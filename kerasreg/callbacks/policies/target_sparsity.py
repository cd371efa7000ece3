"""A policy: the strength at which a given share of the weights is zero."""

import copy
import math
from typing import Any

from kerasreg.callbacks.policies.base import Policy
from kerasreg.callbacks.policies.scheduled import check_names
from kerasreg.regularizers.base import check_number

# What a strength of 0 becomes, and the least one that is set.
_START, _LEAST = 1e-6, 1e-12
# The strength stays if the zeros come by themselves within so many updates.
_PATIENCE = 3
# The gain is not cut below this share of the first one while zeros are noisy,
_NOISY = 0.1
# and a change of log λ that is less than this is none.
_FINEST = 1e-4


class TargetSparsity(Policy):
    """Find the strength at which a given share of the weights is exactly zero.

    A controller: with `s` the share of zeros that was measured, at each update

        log λ ← log λ + k·(target − s),

    so the strength goes up while there are too few zeros and down while there are too
    many. Zeros are counted, and come late, so a constant `k` would oscillate:

    * within half a weight of the target, λ stays;
    * λ stays, too, while the zeros approach the target so fast that three updates
      more will do;
    * `k` is halved whenever the target was crossed;
    * it is doubled when the target is not crossed for more than twice as many
      updates, and twice as far, as the last time, as when it drifts while the model
      trains on; and as long as nothing moves before the first crossing;
    * if there is no such strength (two weights become zero at once), it settles on
      the side that is nearer.

    For a model solved at each update that finds the exact number of zeros, as full
    batches of a convex model do. A network may have different numbers of zeros at one
    strength, by where it comes from: there a high target may go on swinging by a few
    percent. In mini-batches weights near zero come and go, and the number of zeros
    swings about the target by as many; a learning rate that falls calms them, but
    takes the strength its effect, too. Update as often as zeros need to answer to a
    strength. Far too strong an L1 kills a network with ReLUs for good: the smaller
    `largest_step`, the safer.

    Args:
        target: Number in [0, 1), the share of zeros of each unit (with the callback's
            `granularity="model"`: of all penalized weights); or a dict from the name
            of a unit to its share. Units that are not in the dict keep their
            strength.
        gain: Number greater than 0, the first `k`.
        largest_step: Number greater than 0, the most by which log λ changes in one
            update: 0.5 is a factor of 1.65. A strength of 0 becomes 1e-6, from where
            a strength of 0.01 is 19 such steps away.

    Raises:
        ValueError: If an argument is out of range; when `fit` begins, if the dict
            names a unit that the model has not.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> from kerasreg.callbacks import State, TargetSparsity, Unit
    >>> policy = TargetSparsity(0.8)
    >>> unit = Unit(strength=0.01, size=100, sparsity=0.7)
    >>> policy.update(State({"dense": unit}))  # 0.01·exp(2·0.1)
    {'dense': 0.012214}
    >>> unit = Unit(strength=0.012214, size=100, sparsity=0.8)
    >>> policy.update(State({"dense": unit}))
    {'dense': 0.012214}

    Reference: Kesten 1958, "Accelerated stochastic approximation", of which the gain
    is a variant that can grow again.
    """

    needs = ("sparsity",)
    needs_exact_zeros = True

    def __init__(self, target, gain=2.0, largest_step=0.5):
        self.target = _check_target(target)
        self.gain = check_number("gain", gain, above=0.0)
        self.largest_step = check_number("largest_step", largest_step, above=0.0)
        self._memory: dict[str, dict[str, Any]] = {}

    def update(self, state):
        """`log λ + k·(target − sparsity)`, for each unit that has a target."""
        targets = self.target
        if not isinstance(targets, dict):
            targets = dict.fromkeys(state.units, targets)
        return {
            name: self._next(name, targets[name], unit)
            for name, unit in state.units.items()
            if name in targets
        }

    def _next(self, name, target, unit):
        memory = self._memory.setdefault(name, _new(self.gain))
        error = target - unit.sparsity
        side = "few" if error > 0 else "many"
        last, before = memory["sparsity"], memory[side]
        memory["sparsity"], memory[side] = unit.sparsity, error
        if abs(error) * unit.size <= 0.5 + 1e-6:
            return unit.strength
        if unit.strength == 0:
            return _START if error > 0 else 0.0
        towards = (
            0.0 if last is None else math.copysign(1, error) * (unit.sparsity - last)
        )
        if towards * _PATIENCE >= abs(error):
            return unit.strength
        other = memory["many" if side == "few" else "few"]
        # Twice the same number of zeros on this side: no noise.
        exact = error == before
        nearer = other is not None and abs(error) <= abs(other)
        if exact and nearer and memory["gain"] * abs(error) <= _FINEST:
            return unit.strength
        self._tune(memory, side, exact, stalled=unit.sparsity == last)
        memory["gain"] = min(memory["gain"], self.largest_step / abs(error))
        memory["travel"] += memory["gain"] * abs(error)
        return max(unit.strength * math.exp(memory["gain"] * error), _LEAST)

    def _tune(self, memory, side, exact, stalled):
        """Set the gain by how long the number of zeros has been on one side."""
        now, previous = (memory["run"], memory["travel"]), memory["previous"]
        if memory["side"] not in (None, side):
            if exact or memory["gain"] > _NOISY * self.gain:
                memory["gain"] /= 2
            memory["previous"] = list(now)
            memory["run"], memory["travel"] = 0, 0.0
        elif previous is None:
            if stalled:
                memory["gain"] *= 2
        elif now[0] > 2 * previous[0] + 1 and now[1] > 2 * previous[1]:
            memory["gain"] *= 2
            if not stalled:
                memory["previous"] = list(now)
        memory["side"] = side
        memory["run"] += 1

    def check(self, model, units):
        """Refuse names of units that the model has not."""
        if isinstance(self.target, dict):
            check_names("target", self.target, units)

    def sets(self, name):
        """Whether the unit has a target."""
        return not isinstance(self.target, dict) or name in self.target

    def get_state(self):
        """Of each unit, its gain and what it has seen of each side of the target."""
        return {"units": copy.deepcopy(self._memory)}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._memory = copy.deepcopy(state.get("units", {}))

    def __repr__(self):
        return (
            f"TargetSparsity({self.target!r}, gain={self.gain!r}, "
            f"largest_step={self.largest_step!r})"
        )


def _new(gain):
    """What is remembered of a unit.

    `gain` is its `k`; `run` and `travel` are the number of updates, and the change of
    log λ, since the target was crossed, `previous` both of them between the last two
    crossings; `sparsity` is the last one, and `few` and `many` are the last errors on
    either side of the target, `side`.
    """
    numbers: dict[str, Any] = {"gain": gain, "run": 0, "travel": 0.0}
    names = ("previous", "side", "sparsity", "few", "many")
    return {**numbers, **dict.fromkeys(names)}


def _check_target(target):
    if not isinstance(target, dict):
        return _check_one(target, target)
    if not target:
        raise ValueError(
            "Invalid value for argument `target`. Expected at least one unit. "
            "Received: target={}"
        )
    return {name: _check_one(value, target) for name, value in target.items()}


def _check_one(value, given):
    number = check_number("target", value)
    if number >= 1:
        raise ValueError(
            "Invalid value for argument `target`. Expected numbers in [0, 1). "
            f"Received: target={given!r}"
        )
    return number
