"""Accuracy under attack, and whether it can be believed."""

import dataclasses

import numpy as np

from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.judge import Judge
from kerasreg.adversarial.masking import Check, masking_checks, strongest
from kerasreg.extras import require

_RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # times that of the attack


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
    """

    clean: float
    robust: float
    accuracy: dict[str, float]
    curve: dict[float, float]
    checks: list[Check]
    examples: int

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
        rows = [("clean", 0.0, self.clean), ("all attacks", None, self.robust)]
        rows += [(name, None, value) for name, value in self.accuracy.items()]
        rows += [("curve", eps, value) for eps, value in self.curve.items()]
        return pd.DataFrame(rows, columns=["attack", "eps", "accuracy"])

    def __repr__(self):
        width = max(len(name) for name in [*self.accuracy, "all attacks"])
        rows = {"clean": self.clean, **self.accuracy, "all attacks": self.robust}
        lines = [f"Accuracy of {self.examples} examples"]
        lines += [f"  {name:<{width}}  {value:.3f}" for name, value in rows.items()]
        curve = (f"{eps:g}: {value:.3f}" for eps, value in self.curve.items())
        lines += ["Accuracy under PGD by eps", "  " + ", ".join(curve)]
        lines += ["Checks for masked gradients", *(f"  {c}" for c in self.checks)]
        if not self.passed:
            lines.append("The accuracy under attack is not to be believed:")
            lines += [f"  {check.why}" for check in self.checks if not check.passed]
        return "\n".join(lines)


def robust_evaluate(
    model, x, y, attacks, *, eps=None, surrogate=None, batch_size=128, seed=0
):
    """Measure a classifier's accuracy under attack, and whether it can be believed.

    A model can seem robust because its gradients lead nowhere. Beside the accuracies,
    which are upper bounds, the report holds checks that such models fail: many steps
    must beat one; four times as many must change little; the difference-of-logits
    ratio as a loss, a random search without gradients, and attacks made on another
    model must not do better than PGD; gradients must not be 0; and nothing must be left
    where any input can become any other.

    Args:
        model: A compiled `keras.Model` with one output of classes and a cross-entropy.
        x: Inputs.
        y: Classes, one-hot rows, or 0 and 1 for a single output.
        attacks: An attack, a list of them, or a dict by name. The curve and the checks
            are of the `PGD` among them with the most steps, or of one with 40 steps.
        eps: Radii for the curve; by default 0 to 2 times the attack's.
        surrogate: Another compiled model for the same task, trained without regard to
            attacks, say, for the check of transfer.
        batch_size: Positive integer.
        seed: Integer, for attacks that begin at random.

    Returns:
        A `RobustReport`.

    Raises:
        ValueError: If there is no attack, or the model is no classifier.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import FGSM, PGD, robust_evaluate
    >>> dense = keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> model.compile(loss="binary_crossentropy")
    >>> x = np.array([[-0.8, 0.1], [-0.1, 0.0], [0.1, 0.1], [0.5, 0.9]])
    >>> report = robust_evaluate(model, x, [0, 0, 1, 1], [FGSM(0.2), PGD(0.2)])
    >>> report.clean, report.robust, report.passed
    (1.0, 0.5, True)

    Reference: Carlini et al. 2019, "On evaluating adversarial robustness", section 4;
    Athalye, Carlini & Wagner 2018, "Obfuscated gradients give a false sense of
    security", section 3.1.
    """
    named = _named(attacks)
    judge = Judge(model, x, y, batch_size, seed)
    for attack in named.values():
        attack.check(judge.inputs, y)
    clean = judge.clean()
    right = {name: judge.right(attack)[0] for name, attack in named.items()}
    pgd = strongest(list(named.values()))
    radii = [r * pgd.eps for r in _RADII] if eps is None else [float(e) for e in eps]
    curve = np.mean(judge.right(pgd, radii), axis=1)
    checks, rest = masking_checks(judge, pgd, surrogate)
    return RobustReport(
        clean=float(np.mean(clean)),
        robust=float(np.mean(np.all([clean, rest, *right.values()], axis=0))),
        accuracy={name: float(np.mean(r)) for name, r in right.items()},
        curve=dict(zip(radii, map(float, curve), strict=True)),
        checks=checks,
        examples=judge.examples,
    )


def _named(attacks):
    """Attacks by name; of the same class numbered."""
    if isinstance(attacks, Attack):
        attacks = [attacks]
    if not isinstance(attacks, dict):
        names: dict[str, Attack] = {}
        for attack in attacks:
            name = base = type(attack).__name__
            while name in names:
                count = int(name.removeprefix(base).strip() or 1) + 1
                name = f"{base} {count}"
            names[name] = attack
        attacks = names
    if not attacks or not all(isinstance(a, Attack) for a in attacks.values()):
        raise ValueError(
            "Invalid value for argument `attacks`. Expected an attack, or several. "
            f"Received: attacks={attacks!r}"
        )
    return attacks
