"""Signs that a model hides its gradients, so that attacks by gradient fail."""

import dataclasses

import numpy as np

from kerasreg.adversarial.attacks import FGSM, PGD
from kerasreg.adversarial.judge import logit_ratio, margin
from kerasreg.adversarial.problem import attacked
from kerasreg.adversarial.search import RandomSearch

_POINT = 0.01
_LOSSES = 0.03  # what two losses may differ by
_FLAT = 0.1  # sure predictions have none, in float32, and are few
_LARGE = 0.05  # what may be left in a ball that holds everything
_UNBOUNDED = 100.0  # times the radius, where there are no bounds
_STEPS = 4  # times as many


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of `robust_evaluate`.

    Attributes:
        name: What was checked.
        figure: The figure: an accuracy, a difference of accuracies or a share.
        limit: The most that it may be.
        why: What the figure is, and what it says if it is too large.
    """

    name: str
    figure: float
    limit: float
    why: str

    @property
    def passed(self):
        """Whether the figure is within the limit."""
        return self.figure <= self.limit

    def __str__(self):
        word = "pass" if self.passed else "FAIL"
        return f"{word}  {self.name}: {self.figure:.3f} (limit {self.limit:.3f})"


def strongest(attacks):
    """The PGD attack with the most steps, or one made like the first attack.

    Args:
        attacks: Sequence of attacks.
    """
    found = [attack for attack in attacks if isinstance(attack, PGD)]
    if found:
        return max(found, key=lambda attack: attack.steps * attack.restarts)
    return PGD(**where(attacks[0]), steps=40)


# Name of the check, what PGD is compared with, the limit, what an excess says.
_COMPARED = (
    (
        "many steps beat one",
        "FGSM",
        _POINT,
        "steps that follow the gradient should not make an attack weaker.",
    ),
    (
        "more steps change little",
        f"{_STEPS} times as many steps",
        _POINT,
        "PGD has not converged.",
    ),
    (
        "another loss does no better",
        "the difference-of-logits ratio",
        _LOSSES,
        "the cross-entropy is saturated.",
    ),
    (
        "no gradients do no better",
        "random search",
        _POINT,
        "gradients do not lead where the loss rises.",
    ),
    (
        "transfer does no better",
        "PGD made on the surrogate",
        _POINT,
        "another model's gradients lead further.",
    ),
)


def masking_checks(judge, pgd, surrogate=None):
    """All checks, at the radius of a PGD attack.

    Args:
        judge: A `Judge`.
        pgd: A `PGD` attack.
        surrogate: Another compiled model for the same task, or `None`.

    Returns:
        A list of `Check`, and which examples are right under all attacks that were made
        for them within the radius, a bool array (examples,).
    """
    tried = _trials(judge, pgd, surrogate)
    checks = []
    for name, other, limit, why in _COMPARED:
        if other not in tried:
            continue
        by_pgd = tried["PGD"]
        if other == "random search":  # It climbs the margin, not the cross-entropy.
            by_pgd = by_pgd & tried["the difference-of-logits ratio"]
        figure = float(np.mean(by_pgd) - np.mean(tried[other]))
        why = f"Accuracy under PGD less that under {other}: {why}"
        checks.append(Check(name, figure, max(limit, 1.0 / judge.examples), why))
    figure = float(np.mean(judge.flat(pgd)))
    why = "Share of examples whose gradient is 0, or not finite: nothing to follow."
    checks.append(Check("gradients are not zero", figure, _FLAT, why))
    reach = _reach(pgd, judge.inputs)
    if reach is not None:
        # Smaller balls are part of the large one, and easier to search.
        radii = [pgd.eps * 4**k for k in range(1, 9) if pgd.eps * 4**k < reach]
        left = np.all(judge.right(pgd, [*radii, reach]), axis=0)
        figure = float(np.mean(left))
        why = f"Accuracy at eps={reach:g}, where any input can become any other."
        checks.append(Check("a large ball leaves nothing", figure, _LARGE, why))
    return checks, np.all(list(tried.values()), axis=0)


def _trials(judge, pgd, surrogate):
    """Which examples are right under PGD and what it is compared with, by name."""
    place = where(pgd)
    tried = {
        "PGD": judge.right(pgd),
        "FGSM": judge.right(FGSM(**place)),
        f"{_STEPS} times as many steps": judge.right(_longer(pgd)),
        "the difference-of-logits ratio": judge.right(pgd, objective=logit_ratio),
        "random search": judge.right(RandomSearch(**place), objective=margin),
    }
    if surrogate is not None and pgd.on is None:
        tried["PGD made on the surrogate"] = judge.right(pgd, source=surrogate)
    return {name: right[0] for name, right in tried.items()}


def _longer(pgd):
    config = {**pgd.get_config(), "steps": _STEPS * pgd.steps}
    return PGD.from_config({**config, "on": pgd.on, "loss": pgd.loss})


def where(attack):
    """The arguments that say where an attack may go, a dict.

    Args:
        attack: An `Attack`.
    """
    names = ("eps", "norm", "bounds", "scale", "mask", "on", "loss")
    return {name: getattr(attack, name) for name in names}


def _reach(attack, x):
    """A radius that holds all inputs within the bounds; `None` with a mask."""
    if attack.mask is not None or attack.on is not None:
        return None
    longest = 0.0
    for key, value in attacked(x):
        place = attack.place(key)
        low, high = place["bounds"] or (-np.inf, np.inf)
        if not np.all(np.isfinite([np.min(low), np.max(high)])):
            return _UNBOUNDED * attack.eps
        scale = 1.0 if place["scale"] is None else place["scale"]
        widths = np.broadcast_to((high - low) / scale, tuple(value.shape[1:]))
        order = {"inf": np.inf, "2": 2, "1": 1}[attack.norm]
        longest = max(longest, float(np.linalg.norm(widths.ravel(), order)))
    return longest
