"""Signs that a model hides its gradients, so that attacks by gradient fail."""

import dataclasses

import numpy as np
from keras import ops, tree

from kerasreg.adversarial.attacks import FGSM, PGD
from kerasreg.adversarial.scores import logit_ratio, margin
from kerasreg.adversarial.search import RandomSearch
from kerasreg.adversarial.tensors import attacked

_POINT = 0.01
_LOSSES = 0.03  # what two losses may differ by
_FLAT = 0.1  # relu nets have some, and are honest
_LARGE = 0.05  # what may be left in a ball that holds all examples
_STEPS = 4  # times as many
_SEARCH = 20  # steps, at least, in that ball


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of `robust_evaluate`.

    Attributes:
        name: What was checked.
        figure: The figure: an accuracy, a difference of accuracies or a share.
        limit: The most that it may be. Of a difference of accuracies, it is one example
            at least: a single one says nothing.
        why: What the figure is, what it says if it is too large, and what to do.
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
    """The PGD with the most steps, all restarts together, or one like the first attack.

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
        "steps that follow the gradient should not make an attack weaker. Give PGD "
        "smaller steps, and more of them.",
    ),
    (
        "more steps change little",
        f"{_STEPS} times as many steps",
        _POINT,
        "PGD has not converged. Give it more steps.",
    ),
    (
        "another loss does no better",
        "the difference-of-logits ratio",
        _LOSSES,
        "the loss that PGD climbs is a poor guide. Believe the lower figure, which "
        "`robust` counts, and look for more with other attacks.",
    ),
    (
        "no gradients do no better",
        "random search",
        _POINT,
        "gradients do not lead where the loss rises. Look for layers that round or "
        "saturate, and attack without gradients.",
    ),
    (
        "transfer does no better",
        "PGD made on the surrogate",
        _POINT,
        "another model's gradients lead further. Attack from more surrogates.",
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
    checks = [_deterministic(judge), *_compared(tried, judge.examples)]
    figure = float(np.mean(judge.flat(pgd)))
    why = (
        "Share of examples at which neither the loss nor the margin between classes "
        "has a gradient: nothing to follow. Look for layers that round or saturate, "
        "return logits, and for tokens give the attack `on`."
    )
    checks.append(Check("gradients are not zero", figure, _FLAT, why))
    return checks + _large_ball(judge, pgd), np.all(list(tried.values()), axis=0)


def _deterministic(judge):
    """Whether the model predicts the same twice."""
    first, again = judge.predictions(), judge.predictions()
    same = np.isclose(first, again, rtol=1e-3, atol=1e-5, equal_nan=True)
    differ = judge.guesses(first) != judge.guesses(again)
    figure = float(np.mean(differ | ~np.all(same, axis=1)))
    why = (
        "Share of examples that are predicted differently when asked again: accuracies "
        "are a draw, and `robust` is no upper bound. Switch off what is random, or "
        "judge the mean of many predictions."
    )
    return Check("predictions are deterministic", figure, 0.0, why)


def _compared(tried, examples):
    checks = []
    for name, other, limit, why in _COMPARED:
        if other not in tried:
            continue
        by_pgd = tried["PGD"]
        if other == "random search":  # It climbs the margin, not the cross-entropy.
            by_pgd = by_pgd & tried["the difference-of-logits ratio"]
        figure = float(np.mean(by_pgd) - np.mean(tried[other]))
        why = f"Accuracy under PGD less that under {other}: {why}"
        checks.append(Check(name, figure, max(limit, 1.0 / examples), why))
    return checks


def _large_ball(judge, pgd):
    """What is left where each example can become any other: one check, or none."""
    reach = _reach(pgd, judge.inputs)
    if not reach or one_class(judge) is not None:
        return []
    steps = max(pgd.steps, _SEARCH)
    attack = PGD(**{**where(pgd), "eps": reach}, steps=steps, restarts=pgd.restarts)
    # Smaller balls are part of the large one, and easier to search.
    radii = [pgd.eps * 4**k for k in range(1, 9) if 0 < pgd.eps * 4**k < reach]
    left = judge.right(attack, [*radii, reach], objective=margin)
    figure = float(np.mean(np.all(left, axis=0)))
    why = (
        f"Accuracy at eps={reach:g}, where each example can become any other of them: "
        "PGD does not find what is there. Give it more steps and restarts, and attack "
        "without gradients."
    )
    return [Check("a large ball leaves nothing", figure, _LARGE, why)]


def one_class(judge):
    """The class that all examples are predicted as; `None` if there are several.

    Args:
        judge: A `Judge`.
    """
    guesses = np.unique(judge.guesses(judge.predictions()))
    return int(guesses[0]) if len(guesses) == 1 and guesses[0] >= 0 else None


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
    """A radius in which each example can become any other; `None` with a mask."""
    if attack.mask is not None or attack.on is not None:
        return None
    if len(attacked(x)) < len(tree.flatten(x)):  # Other inputs stay as they are.
        return None
    longest = 0.0
    for key, value in attacked(x):
        widths = np.ptp(ops.convert_to_numpy(value).astype("float64"), axis=0)
        scale = attack.place(key)["scale"]
        widths = widths / (1.0 if scale is None else scale)
        order = {"inf": np.inf, "2": 2, "1": 1}[attack.norm]
        longest = max(longest, float(np.linalg.norm(widths.ravel(), order)))
    return longest
