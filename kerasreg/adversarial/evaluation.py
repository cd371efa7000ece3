"""Accuracy under attack, and whether it can be believed."""

import numpy as np

from kerasreg.adversarial.arguments import check_integer
from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.judge import Judge
from kerasreg.adversarial.masking import masking_checks, one_class, strongest
from kerasreg.adversarial.report import RobustReport, settings
from kerasreg.regularizers.base import check_number

__all__ = ["RobustReport", "robust_evaluate"]

_RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # times that of the attack
_MANY = 100  # of fewer examples, one is more than the least limit


def robust_evaluate(
    model, x, y, attacks, *, eps=None, surrogate=None, batch_size=128, seed=0
):
    """Measure a classifier's accuracy under attack, and whether it can be believed.

    A model can seem robust because its gradients lead nowhere. Beside the accuracies,
    which are upper bounds, the report holds checks that such models fail: predictions
    must be the same when asked again; many steps must beat one; four times as many must
    change little; the difference-of-logits ratio as a loss, a random search without
    gradients, and attacks made on another model must not do better than PGD; gradients
    must not be 0; and nothing must be left in a ball in which each example can become
    any other.

    A difference of accuracies may be up to 0.01 (0.03 between two losses) and is at
    least one example: of fewer than 100 examples the checks are coarse, and the report
    notes it. A tenth of the examples may be without a gradient, and a twentieth left in
    the large ball. That ball reaches as far as the examples differ from each other;
    there is no check of it with a `mask`, `on` or an input that cannot be attacked, and
    none if all examples are predicted as one class, which the report notes.

    Args:
        model: A compiled `keras.Model` with one output of classes and a cross-entropy.
        x: Inputs, two examples or more: array(s), or a list of rows.
        y: Class numbers, one-hot rows, or 0 and 1 for a single output.
        attacks: An attack, a list of them, or a dict by name. The curve and the checks
            are of the `PGD` among them with the most steps (those of all restarts
            together), or of one with 40 steps, where the first attack goes.
        eps: Sequence of radii for the curve; by default 0 to 2 times the attack's.
        surrogate: Another compiled model for the same task, trained without regard to
            attacks, say, for the check of transfer.
        batch_size: Positive integer.
        seed: Integer, for attacks that begin at random.

    Returns:
        A `RobustReport`.

    Raises:
        ValueError: If there is no attack or a radius is negative, the model or the
            surrogate is no compiled classifier, or the data do not suit them.
        TypeError: If an argument is of the wrong type.

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
    pgd = strongest(list(named.values()))
    radii = [r * pgd.eps for r in _RADII] if eps is None else _radii(eps)
    judge = Judge(model, x, y, batch_size, check_integer("seed", seed))
    if judge.examples < 2:
        raise ValueError(
            "Invalid value for argument `x`. Expected two examples or more: with one, "
            "no check can fail. Received: 1 example"
        )
    if surrogate is not None:
        judge.admit(surrogate)
    for attack in named.values():
        attack.check(judge.inputs, judge.targets(attack))
    clean = judge.clean()
    right = {name: judge.right(attack)[0] for name, attack in named.items()}
    curve = np.mean(judge.right(pgd, radii), axis=1)
    checks, rest = masking_checks(judge, pgd, surrogate)
    return RobustReport(
        clean=float(np.mean(clean)),
        robust=float(np.mean(np.all([clean, rest, *right.values()], axis=0))),
        accuracy={name: float(np.mean(r)) for name, r in right.items()},
        curve=dict(zip(radii, map(float, curve), strict=True)),
        checks=checks,
        examples=judge.examples,
        attacks={name: settings(attack) for name, attack in named.items()},
        pgd=settings(pgd),
        model=model.name,
        notes=_notes(judge),
    )


def _notes(judge):
    """What the checks cannot say, a tuple of sentences."""
    notes = []
    if judge.examples < _MANY:
        notes.append(
            f"With {judge.examples} examples the checks let a difference of one of "
            f"them pass: judge by {_MANY} or more."
        )
    only = one_class(judge)
    if only is not None:
        notes.append(
            f"All examples are predicted as class {only}: whether a large ball leaves "
            "nothing was not checked."
        )
    return tuple(notes)


def _named(attacks):
    """Attacks by name; of the same class numbered."""
    given = attacks
    if isinstance(attacks, Attack):
        attacks = [attacks]
    kinds = isinstance(attacks, dict | list | tuple)
    each = attacks.values() if isinstance(attacks, dict) else attacks
    if not kinds or not all(isinstance(attack, Attack) for attack in each):
        raise TypeError(_NO_ATTACKS.format(given))
    if not attacks:
        raise ValueError(_NO_ATTACKS.format(given))
    if isinstance(attacks, dict):
        return {str(name): attack for name, attack in attacks.items()}
    names: dict[str, Attack] = {}
    for attack in attacks:
        name = base = type(attack).__name__
        while name in names:
            count = int(name.removeprefix(base).strip() or 1) + 1
            name = f"{base} {count}"
        names[name] = attack
    return names


_NO_ATTACKS = (
    "Invalid value for argument `attacks`. Expected an attack such as "
    "kerasreg.adversarial.PGD, a list of them, or a dict by name. "
    "Received: attacks={!r}"
)


def _radii(eps):
    message = (
        "Invalid value for argument `eps`. Expected a sequence of non-negative "
        f"numbers, or None. Received: eps={eps!r}"
    )
    if isinstance(eps, str | dict) or not np.iterable(eps):
        raise TypeError(message)
    radii = [check_number("eps", radius) for radius in eps]
    if not radii:
        raise ValueError(message)
    return radii
