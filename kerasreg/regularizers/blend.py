"""Two penalties added under one strength."""

from keras import ops

from kerasreg.regularizers.base import Penalty, check_number, shortest


class Blend(Penalty):
    """The sum of two penalties, whose strength is the sum of their coefficients.

    Setting the strength scales both and keeps their ratio, also through zero. A
    subclass names its two coefficients in `_names` and reads the current ones as
    tensors from `_coefficients`.

    Args:
        first: Non-negative finite number, the first coefficient.
        second: Non-negative finite number, the second.
        share: Share of the first in the strength; by default what they give. A
            constant when the class has only one of the two.
    """

    _names = ("first", "second")

    def __init__(self, first, second, share=None):
        first = check_number(self._names[0], first)
        second = check_number(self._names[1], second)
        super().__init__(first + second)
        if share is None and first + second > 0:
            share = first / (first + second)
        self._share = share
        self._given = (shortest(first + second), first, second)

    @property
    def has_ratio(self):
        """Whether a strength can be set: not if both coefficients began as 0."""
        return self._share is not None

    def _valid_strength(self, value):
        number = super()._valid_strength(value)
        if self._share is None and number > 0:
            raise ValueError(
                "Invalid value for `strength`. Expected a penalty with a positive "
                f"`{self._names[0]}` or `{self._names[1]}`, whose ratio the strength "
                f"keeps. Received: strength={value!r} for {self!r}"
            )
        return number

    def _current(self, index):
        """Coefficient 0 or 1 as a float."""
        strength = self.strength
        if strength == self._given[0]:
            return self._given[1 + index]
        # Digits enough for both to add up to the strength again.
        return float(f"{strength * self._shares()[index]:.12g}")

    def _shares(self):
        share = self._share or 0.0
        return share, (0.0 if self._share is None else 1.0 - share)

    def _coefficients(self, factor=1.0):
        """Both coefficients times `factor` as tensors; `None` for a constant zero."""
        lam = ops.multiply(self.lam, factor)
        return tuple(
            None if share == 0 else lam if share == 1 else ops.multiply(lam, share)
            for share in self._shares()
        )

    def load_own_variables(self, store):
        """Restore the strength, if there is a ratio for it to keep."""
        if self.has_ratio:
            super().load_own_variables(store)

    def get_config(self):
        """The current coefficients; the first ones and the strength if it is 0."""
        values = self._given[1:], (self._current(0), self._current(1))
        if self.strength == 0 and self._given[0] != 0:
            return {**dict(zip(self._names, values[0], strict=True)), "strength": 0.0}
        return dict(zip(self._names, values[1], strict=True))

    @classmethod
    def from_config(cls, config):
        """Make the penalty of `get_config`."""
        config = dict(config)
        strength = config.pop("strength", None)
        penalty = cls(**config)
        if strength is not None:
            penalty.strength = strength
        return penalty
