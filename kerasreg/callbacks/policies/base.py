"""What a policy is given, and what every policy is."""

import dataclasses
import math
from typing import Any

from kerasreg.regularizers.base import check_count, check_number


@dataclasses.dataclass
class Unit:
    """The weights that share one strength, and what was measured of them.

    Whoever makes it fills in the fields that the policy `needs`, and may leave the
    others `None`.

    Args:
        strength: Their present strength.
        size: Number of weights.
        sparsity: Share of the weights that are exactly zero.
        norm: `‖w‖₂`.
        gradient_norm: `‖∇L‖₂`, where `L` is the loss of a batch without the penalties
            on weights (penalties on activities are part of it).
        penalty_gradient_norm: `‖∇h‖₂` of the penalty as it is added to the loss.
        penalty: The penalty as it is added to the loss.
        extra: What the policy's own `measure` returned for them: numbers by name.

    Example:

    >>> from kerasreg.callbacks import Unit
    >>> Unit(strength=0.01, size=100, sparsity=0.25).sparsity
    0.25
    """

    strength: float
    size: int = 0
    sparsity: float | None = None
    norm: float | None = None
    gradient_norm: float | None = None
    penalty_gradient_norm: float | None = None
    penalty: float | None = None
    extra: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class State:
    """What a policy decides by.

    Args:
        units: Dict from the name of each unit to its `Unit`.
        step: Number of batches trained on so far.
        epoch: Number of epochs trained so far.
        logs: The metrics of the epoch by name, as in a Keras history. `"data_loss"`
            and `"val_data_loss"` are the losses without penalties.

    Example:

    >>> from kerasreg.callbacks import State, Unit
    >>> state = State({"dense": Unit(strength=0.01)}, logs={"loss": 0.3})
    >>> state.units["dense"].strength
    0.01
    """

    units: dict[str, Unit]
    step: int = 0
    epoch: int = 0
    logs: dict[str, float] = dataclasses.field(default_factory=dict)


class Policy:
    """A rule from what was measured to new strengths.

    A subclass implements `update(state)`, in plain numbers: it needs neither Keras
    nor a running `fit`, so a callback uses it during training, and a federated
    server between rounds. What has to be measured for it, it says in `needs`.

    Attributes:
        needs: Names of the fields of `Unit` that it reads, apart from `strength` and
            `size`.
        needs_logs: Names of the metrics in `State.logs` without which it cannot
            work. If one begins with `"val_"`, `fit` has to be given validation data.
        needs_exact_zeros: Whether weights have to reach exact zeros, so penalties
            have to have a proximal map and the optimizer to be `Proximal`.
        every: When a callback applies it unless told otherwise: `"epoch"`, or a
            number of batches.
        burn_in: Number of batches before which a callback does not ask it.
        at_start: Whether a callback applies it before the first batch, too. Then it
            must need nothing that is measured.

    Example:

    >>> from kerasreg.callbacks import Policy, State, Unit
    >>> class Halve(Policy):
    ...     def update(self, state):
    ...         return {name: unit.strength / 2 for name, unit in state.units.items()}
    >>> Halve().update(State({"dense": Unit(strength=0.01)}))
    {'dense': 0.005}
    """

    needs: tuple[str, ...] = ()
    needs_logs: tuple[str, ...] = ()
    needs_exact_zeros = False
    every: str | int = "epoch"
    burn_in: float = 0
    at_start = False

    def update(self, state):
        """New strengths.

        Args:
            state: A `State`.

        Returns:
            A dict from the name of a unit to its new strength. Units that are left
            out keep theirs.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `update(self, state)`."
        )

    def check(self, model, units):
        """Hook, called when `fit` begins: raise if the model does not suit.

        Args:
            model: The compiled `keras.Model`.
            units: Dict from the name of each unit to the list of its weights
                (`keras.Variable`), whose `regularizer` is their `Penalty`.
        """

    def sets(self, name):
        """Whether it ever sets the strength of this unit: all of them, by default.

        Args:
            name: Name of a unit.
        """
        return True

    def measure(self, model, units):
        """Hook, called before `update`: measure what no field of `Unit` holds.

        Args:
            model: The compiled `keras.Model`.
            units: Dict from the name of each unit to the list of its weights.
                A unit's strength multiplies all of their penalties.

        Returns:
            A dict from the name of a unit to a dict of numbers, its `Unit.extra`.
        """
        return {}

    def get_state(self):
        """What it remembers from one update to the next, to resume exactly.

        Returns:
            A dict of numbers, strings and dicts and lists of them (JSON).
        """
        return {}

    def set_state(self, state):
        """Take back what `get_state` returned."""

    def __repr__(self):
        return f"{type(self).__name__}()"


def next_strengths(policy, state, lowest=0.0, highest=math.inf):
    """Apply a policy, within bounds, unless something that it needs is not finite.

    Args:
        policy: A `Policy`.
        state: A `State`.
        lowest: No strength is set below this.
        highest: No strength is set above this.

    Returns:
        A dict from the name of each unit to its strength, or `None` if a number that
        the policy needs, or that it returned, is NaN or infinite: then all strengths
        are to stay, and the policy remembers nothing of this update.

    Raises:
        ValueError: If the policy returned a unit that is not in the state, or a
            negative number.
        TypeError: If it returned no dict of numbers.
    """
    if not all(map(_finite, _needed(policy, state))):
        return None
    before = policy.get_state()
    updated = policy.update(state)
    updated = _checked(policy, updated, state.units)
    if not all(map(_finite, updated.values())):
        policy.set_state(before)
        return None
    strengths = {name: unit.strength for name, unit in state.units.items()}
    strengths.update(
        {name: min(max(s, lowest), highest) for name, s in updated.items()}
    )
    return strengths


def _checked(policy, updated, units):
    """What `update` returned, as floats."""
    expected = f"a dict from some of the units {list(units)} to non-negative numbers"
    message = (
        f"Invalid result of `{type(policy).__name__}.update`. Expected {expected}. "
        f"Received: {updated!r}"
    )
    if not isinstance(updated, dict):
        raise TypeError(message)
    try:
        numbers = {name: float(strength) for name, strength in updated.items()}
    except (TypeError, ValueError):
        raise TypeError(message) from None
    strings = any(isinstance(strength, str) for strength in updated.values())
    if (
        strings
        or not numbers.keys() <= units.keys()
        or any(strength < 0 for strength in numbers.values())
    ):
        raise ValueError(message)
    return numbers


def _needed(policy, state):
    for unit in state.units.values():
        yield unit.strength
        yield from (getattr(unit, name) for name in policy.needs)
        yield from unit.extra.values()
    yield from (state.logs[name] for name in policy.needs_logs)


def _finite(number: Any):
    return number is not None and math.isfinite(number)


def check_share(name, value):
    """Check an argument that is a number between 0 and 1, the ends included."""
    number = check_number(name, value)
    if number > 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number in [0, 1]. "
            f"Received: {name}={value!r}"
        )
    return number


def renamed(state, names):
    """What a policy remembers, under the present names of the units.

    Args:
        state: What its `get_state` returned.
        names: Dict from each name then to that of now.
    """
    if isinstance(state, dict):
        return {names.get(k, k): renamed(v, names) for k, v in state.items()}
    return [renamed(v, names) for v in state] if isinstance(state, list) else state


def check_policy(policy):
    """Check an argument that is a policy, and what the policy says it needs."""
    if not isinstance(policy, Policy):
        raise TypeError(
            "Invalid value for argument `policy`. Expected a "
            f"kerasreg.callbacks.Policy. Received: policy={policy!r}"
        )
    check_needs(policy)
    return policy


def check_bounds(min_strength, max_strength):
    """Check two arguments between which strengths stay."""
    lowest = check_number("min_strength", min_strength)
    highest = check_number("max_strength", max_strength, above=0.0)
    if lowest > highest:
        raise ValueError(
            "Invalid value for argument `min_strength`. Expected a number up to "
            f"`max_strength`. Received: min_strength={min_strength!r}, "
            f"max_strength={max_strength!r}"
        )
    return lowest, highest


def check_every(every):
    """Check when a policy is to be asked: `"epoch"`, or a number of batches."""
    if isinstance(every, str) and every != "epoch":
        raise ValueError(
            'Invalid value for argument `every`. Expected "epoch" or a number of '
            f"batches. Received: every={every!r}"
        )
    return every if every == "epoch" else check_count("every", every)


def check_needs(policy):
    """Refuse a policy that says it needs what nobody measures."""
    fields = [f.name for f in dataclasses.fields(Unit) if f.name != "extra"]
    for attribute, expected in (
        ("needs", f"a tuple of some of {fields}"),
        ("needs_logs", "a tuple of names of metrics"),
    ):
        names = getattr(policy, attribute)
        good = isinstance(names, tuple | list)
        good = good and all(isinstance(name, str) for name in names)
        if not good or (attribute == "needs" and not set(names) <= set(fields)):
            raise ValueError(
                f"Invalid value for `{type(policy).__name__}.{attribute}`. Expected "
                f"{expected}. Received: {attribute}={names!r}"
            )
