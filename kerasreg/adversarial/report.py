"""The report of a classifier's accuracy under attack."""

import dataclasses
from typing import Any

from kerasreg.adversarial.masking import Check
from kerasreg.extras import require


@dataclasses.dataclass(frozen=True)
class RobustReport:
    """What `robust_evaluate` found.

    Attributes:
        clean: Accuracy without an attack.
        robust: Share of the examples that are right under every attack, those that were
            made for the checks among them.
        accuracy: Dict from the name of an attack to the accuracy under it.
        curve: Dict from a radius to the accuracy under PGD with it.
        checks: List of `Check`.
        examples: How many examples there were.
        attacks: Dict from the name of an attack to a dict with its `norm` and `eps`,
            and `steps` and `restarts` if it has any.
        pgd: The same of the PGD that the curve and the checks are of.
        model: Name of the model.
        notes: Tuple of sentences: what was not checked, or only coarsely.
    """

    clean: float
    robust: float
    accuracy: dict[str, float]
    curve: dict[float, float]
    checks: list[Check]
    examples: int
    attacks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    pgd: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self):
        """Whether all checks passed: if not, `robust` is not to be believed."""
        return all(check.passed for check in self.checks)

    def to_frame(self):
        """Returns the accuracies, and the curve, as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        pd = require("pandas")
        rows: list[tuple] = [("clean", None, 0.0, self.clean)]
        rows += [("all attacks", None, None, self.robust)]
        for name, value in self.accuracy.items():
            place = self.attacks.get(name, {})
            rows += [(name, place.get("norm"), place.get("eps"), value)]
        norm = self.pgd.get("norm")
        rows += [("curve", norm, eps, value) for eps, value in self.curve.items()]
        return pd.DataFrame(rows, columns=["attack", "norm", "eps", "accuracy"])

    def __repr__(self):
        rows = {"clean": self.clean}
        for name, value in self.accuracy.items():
            rows[_title(name, self.attacks.get(name))] = value
        rows["all attacks"] = self.robust
        width = max(len(name) for name in rows)
        lines = [f"Accuracy of {self.examples} examples"]
        lines += [f"  {name:<{width}}  {value:.3f}" for name, value in rows.items()]
        curve = (f"{eps:g}: {value:.3f}" for eps, value in self.curve.items())
        lines += [f"Accuracy under {_steps(self.pgd)} by eps", "  " + ", ".join(curve)]
        of = f", with {_title('PGD', self.pgd)}" if self.pgd else ""
        lines += [f"Checks for masked gradients{of}", *(f"  {c}" for c in self.checks)]
        if not self.passed:
            lines.append("The accuracy under attack is not to be believed:")
            lines += [f"  {check.why}" for check in self.checks if not check.passed]
        return "\n".join([*lines, *self.notes])


def settings(attack):
    """What a report says of an attack: a dict.

    Args:
        attack: An `Attack`.
    """
    names = ("norm", "eps", "steps", "restarts")
    return {name: getattr(attack, name) for name in names if hasattr(attack, name)}


def _title(name, place):
    return f"{name} ({place['norm']}, {place['eps']:g})" if place else name


def _steps(pgd):
    if "steps" not in pgd:
        return "PGD"
    restarts = pgd.get("restarts", 1)
    times = f"{restarts} × " if restarts > 1 else ""
    return f"PGD ({pgd['norm']}, {times}{pgd['steps']} steps)"
