"""A policy: stronger while the model overfits, weaker while it underfits."""

from kerasreg.callbacks.policies.adaptive_weight_decay import check_smoothing
from kerasreg.callbacks.policies.base import Policy
from kerasreg.regularizers.base import check_number

MODES = ("min", "max")

# What a strength of 0 becomes when it is to be raised.
_START = 1e-6


class GeneralizationGap(Policy):
    """Raise strengths when validation worsens and training does not; else lower them.

    A heuristic. After each epoch it compares the smoothed training and validation
    losses (the data losses, without penalties) with what they were at the last
    change of strengths, or since then at the last time that validation had improved:

    * validation has worsened by more than `band`, and training has not worsened: the
      gap between them grows where that costs, so all strengths times `factor`;
    * both have worsened: the model underfits, so all strengths divided by `factor`;
    * neither: the strengths stay, also while the gap grows because training
      improves faster than validation.

    So it acts only when validation gets worse, as it would stop a fit early. It keeps
    on moving as long as training does, and does not converge to the best strength:
    in small experiments it ended between no penalty and the best strength of a grid,
    mostly near the latter, sometimes beyond. A strength that was far too strong from
    the beginning it does not notice, for nothing worsens: begin with a small one. The
    data that it was tuned by are no test of the model any more.

    Args:
        factor: Number greater than 1, what the strengths are multiplied or divided
            by. A strength of 0 counts as 1e-6.
        band: Non-negative number, the change of validation, relative to what it was,
            that is taken for noise.
        smoothing: Number in [0, 1), the share of the old value in the running average
            of both losses.
        monitor: Name of the metric whose values in training and, as
            `"val_" + monitor`, in validation are compared.
        mode: `"min"` if less of it is better, or `"max"`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> from kerasreg.callbacks import GeneralizationGap, State, Unit
    >>> policy = GeneralizationGap(smoothing=0.0)
    >>> def after_epoch(training, validation):
    ...     logs = {"data_loss": training, "val_data_loss": validation}
    ...     return policy.update(State({"dense": Unit(strength=0.01)}, logs=logs))
    >>> after_epoch(0.30, 0.40)
    {'dense': 0.01}
    >>> after_epoch(0.20, 0.42)
    {'dense': 0.02}
    >>> after_epoch(0.25, 0.45)
    {'dense': 0.005}

    Reference: Prechelt 1998, "Early stopping - but when?", which judges training by
    the same two curves.
    """

    needs_logs: tuple[str, ...] = ("data_loss", "val_data_loss")

    def __init__(
        self, factor=2.0, band=0.01, smoothing=0.8, monitor="data_loss", mode="min"
    ):
        self.factor = check_number("factor", factor, above=1.0)
        self.band = check_number("band", band)
        self.smoothing = check_smoothing(smoothing)
        if not isinstance(monitor, str) or monitor.startswith("val_"):
            raise ValueError(
                "Invalid value for argument `monitor`. Expected the name of a metric "
                f'of training, without "val_". Received: monitor={monitor!r}'
            )
        if mode not in MODES:
            raise ValueError(
                f"Invalid value for argument `mode`. Expected one of {MODES}. "
                f"Received: mode={mode!r}"
            )
        self.monitor = monitor
        self.mode = mode
        self.needs_logs = (monitor, f"val_{monitor}")
        self._smoothed: list[float] = []
        self._before: list[float] = []

    def update(self, state):
        """All strengths times `factor`, divided by it, or as they are."""
        values = [float(state.logs[name]) for name in self.needs_logs]
        if not self._smoothed:
            self._smoothed = self._before = values
        self._smoothed = [
            self.smoothing * old + (1 - self.smoothing) * new
            for old, new in zip(self._smoothed, values, strict=True)
        ]
        training, validation = self._worsened()
        if abs(validation) > self.band:
            self._before = self._smoothed
        factor = 1.0
        if validation > self.band:
            factor = 1.0 / self.factor if training > 0 else self.factor
        return {
            name: unit.strength if factor == 1 else max(unit.strength, _START) * factor
            for name, unit in state.units.items()
        }

    def _worsened(self):
        """By how much training and validation have worsened, relative to the latter."""
        sign = 1 if self.mode == "min" else -1
        scale = abs(self._before[1]) or 1.0
        return [
            sign * (now - before) / scale
            for now, before in zip(self._smoothed, self._before, strict=True)
        ]

    def get_state(self):
        """The averages, and what they are compared with."""
        return {"smoothed": list(self._smoothed), "before": list(self._before)}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._smoothed = list(state.get("smoothed", []))
        self._before = list(state.get("before", []))

    def __repr__(self):
        return (
            f"GeneralizationGap(factor={self.factor!r}, band={self.band!r}, "
            f"smoothing={self.smoothing!r}, monitor={self.monitor!r}, "
            f"mode={self.mode!r})"
        )
