"""A policy: strengths that follow a schedule."""

import numbers

from kerasreg.callbacks.policies.base import Policy
from kerasreg.regularizers.base import check_number

UNITS = ("epoch", "step")


class Scheduled(Policy):
    """Let strengths follow a schedule, as a learning rate does.

    The strength of epoch `e` is `schedule(e)`; with `unit="step"` that of batch `t`,
    of all batches trained on so far, is `schedule(t)`. Both count from 0, and the
    strength is set before the epoch or batch begins.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, a function from
            the epoch (or step), an `int`, to the strength, or a number; or a dict
            from the name of a unit to one of these. Units that are not in the dict
            keep their strength.
        unit: `"epoch"` or `"step"`, what the schedule counts in.
        relative: Whether the schedule gives factors instead: of the strengths that
            the units had when training with this policy began.

    Attributes:
        every: `"epoch"`, or 1 batch, as `unit` says.
        at_start: True: a callback applies it also when `fit` begins.

    Raises:
        ValueError: If an argument is none of these; when `fit` begins, if the dict
            names a unit that the model has not.
        TypeError: If a schedule is not one.

    Example:

    >>> import keras
    >>> from kerasreg.callbacks import Scheduled, State, Unit
    >>> decay = keras.optimizers.schedules.ExponentialDecay(0.1, 1, decay_rate=0.5)
    >>> policy = Scheduled({"hidden": decay, "out": lambda epoch: 0.01 * epoch})
    >>> units = {"hidden": Unit(strength=0.1), "out": Unit(strength=0.0)}
    >>> policy.update(State(units, epoch=2))
    {'hidden': 0.025, 'out': 0.02}
    """

    at_start = True

    def __init__(self, schedule, unit="epoch", relative=False):
        if unit not in UNITS:
            raise ValueError(
                f"Invalid value for argument `unit`. Expected one of {UNITS}. "
                f"Received: unit={unit!r}"
            )
        if not isinstance(relative, bool):
            raise TypeError(
                "Invalid value for argument `relative`. Expected a bool. "
                f"Received: relative={relative!r}"
            )
        self.schedule = schedule
        self.unit = unit
        self.relative = relative
        self.every = "epoch" if unit == "epoch" else 1
        self._named = isinstance(schedule, dict)
        each = schedule.values() if self._named else [schedule]
        self._check_schedules(list(each))
        self._first: dict[str, float] = {}

    def _check_schedules(self, schedules):
        if not schedules:
            raise ValueError(
                "Invalid value for argument `schedule`. Expected at least one unit. "
                "Received: schedule={}"
            )
        for schedule in schedules:
            if isinstance(schedule, numbers.Real):
                check_number("schedule", schedule)
            elif not callable(schedule):
                raise TypeError(
                    "Invalid value for argument `schedule`. Expected a "
                    "keras.optimizers.schedules.LearningRateSchedule, a callable, a "
                    "number, or a dict of these by unit. "
                    f"Received: schedule={self.schedule!r}"
                )

    def value(self, count, name=None):
        """What the schedule gives.

        Args:
            count: The epoch or step, counted from 0.
            name: Name of the unit, if the schedule is a dict.

        Returns:
            A float.
        """
        schedule = self.schedule[name] if self._named else self.schedule
        return float(schedule(count) if callable(schedule) else schedule)

    def update(self, state):
        """The strengths that the schedule gives for the coming epoch or step."""
        count = state.epoch if self.unit == "epoch" else state.step
        strengths = {}
        for name, unit in state.units.items():
            if self._named and name not in self.schedule:
                continue
            factor = 1.0
            if self.relative:
                factor = self._first.setdefault(name, unit.strength)
            strengths[name] = factor * self.value(count, name)
        return strengths

    def check(self, model, units):
        """Refuse names of units that the model has not."""
        if self._named:
            check_names("schedule", self.schedule, units)

    def get_state(self):
        """The strengths at the beginning, if the schedule is relative to them."""
        return {"first": dict(self._first)} if self.relative else {}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._first = dict(state.get("first", {}))

    def __repr__(self):
        return (
            f"Scheduled({self.schedule!r}, unit={self.unit!r}, "
            f"relative={self.relative!r})"
        )


def check_names(argument, value, units):
    """Check that a dict names units that there are."""
    unknown = [name for name in value if name not in units]
    if unknown:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected names of the units "
            f"{list(units)}. Received: {unknown}"
        )
