"""FGSM, PGD, VAT's direction, and random noise as a control."""

import keras
from keras import ops, tree

from kerasreg.adversarial.arguments import check_bool, check_length, check_step
from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.losses import divergences
from kerasreg.adversarial.problem import better_of, random_points
from kerasreg.regularizers.base import check_count

_RESTART = 1009  # between the seeds of two restarts: more than their own draws
# A full random point of the L1 ball is dense, and sparse steps are long in undoing it.
_L1_START = 0.1


@keras.saving.register_keras_serializable(package="kerasreg")
class FGSM(Attack):
    """One step up the gradient of the loss, to the edge of the ball.

    `x + eps·sign(∇ₓ loss)` in the maximum norm, `x + eps·∇/‖∇‖₂` in the Euclidean
    one. With `random_start` it begins at a random point of the ball and goes `step`
    (RS-FGSM): hardly stronger, but the attack for fast adversarial training. As in the
    paper only the result is held to the bounds, so that the model is also asked up to
    `eps` outside of them: from a start that is clipped, pixels at a bound could only
    end at their old value or at `eps` from it, which a model learns by heart.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `"inf"`, `2` or `1`.
        random_start: Whether to begin at a random point.
        step: Positive number, the length of the step; by default `eps`, and
            `1.25·eps` from a random start.
        **where: `bounds`, `scale`, `mask`, `on` and `loss` of `Attack`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import FGSM
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> model.compile(loss="mse")
    >>> attack = FGSM(0.1, bounds=(0.0, 1.0))
    >>> attack(model, np.array([[0.5, 0.95]]), np.array([[0.0]])).numpy().round(2)
    array([[0.6, 1. ]], dtype=float32)

    Reference: Goodfellow, Shlens & Szegedy 2015, "Explaining and harnessing
    adversarial examples", section 4; Wong, Rice & Kolter 2020, "Fast is better than
    free", algorithm 3 (random start).
    """

    _checks = {**Attack._checks, "random_start": check_bool, "step": check_step}

    def __init__(self, eps, norm="inf", *, random_start=False, step=None, **where):
        super().__init__(eps, norm, **where)
        self.random_start, self.step = random_start, step

    def perturb(self, problem, seed):
        """One step."""
        start = problem.zeros()
        if self.random_start:
            start = problem.random(seed, bounded=False)
        step = self.step
        if step is None:
            step = self.eps * (1.25 if self.random_start else 1.0)
        return problem.climb(start, problem.gradient(start), step)

    def get_config(self):
        """The constructor's arguments."""
        own = {"random_start": self.random_start, "step": self.step}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kerasreg")
class PGD(Attack):
    """Projected gradient ascent on the loss, the strongest in its class.

    Steps of steepest ascent in the norm, each followed by the projection onto the
    ball and the bounds. Of several restarts, each example keeps the perturbation with
    the highest loss.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `"inf"`, `2` or `1`.
        steps: Positive integer.
        step: Positive number, the length of a step; by default `2.5·eps/steps`, so that
            any point of the ball can be reached from any other.
        restarts: Positive integer.
        random_start: Whether to begin at a random point of the ball (in the L1 norm of
            one of a tenth of the radius); without it, there is one restart.
        **where: `bounds`, `scale`, `mask`, `on` and `loss` of `Attack`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import PGD
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> model.compile(loss="mse")
    >>> attack = PGD(0.1, norm=2, bounds=(0.0, 1.0))
    >>> x = attack(model, np.array([[0.5, 0.5]]), np.array([[0.0]])).numpy()
    >>> x.round(2)
    array([[0.57, 0.57]], dtype=float32)

    Reference: Madry et al. 2018, "Towards deep learning models resistant to
    adversarial attacks", section 2.1 and appendix B.
    """

    _checks = {
        **Attack._checks,
        "steps": check_count,
        "step": check_step,
        "restarts": check_count,
        "random_start": check_bool,
    }

    def __init__(
        self,
        eps,
        norm="inf",
        *,
        steps=10,
        step=None,
        restarts=1,
        random_start=True,
        **where,
    ):
        super().__init__(eps, norm, **where)
        self.steps, self.step = steps, step
        self.restarts, self.random_start = restarts, random_start
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                "Invalid value for argument `restarts`. Expected 1 for random_start="
                f"False: all would be the same. Received: restarts={restarts!r}"
            )

    def perturb(self, problem, seed):
        """The best of the restarts."""
        step = 2.5 * self.eps / self.steps if self.step is None else self.step
        best = self._run(problem, seed, step)
        if self.restarts == 1:
            return best

        def again(count, best, highest):
            offset = ops.cast(ops.stack([_RESTART * count, 0 * count]), seed.dtype)
            found = self._run(problem, seed + offset, step)
            losses = problem.losses(found)
            best = better_of(losses > highest, found, best)
            return count + 1, best, ops.maximum(losses, highest)

        start = ops.ones((), "int32"), best, problem.losses(best)
        return ops.while_loop(lambda count, *_: count < self.restarts, again, start)[1]

    def _run(self, problem, seed, step):
        start = problem.random(seed) if self.random_start else problem.zeros()
        if self.norm == "1":
            start = [_L1_START * delta for delta in start]

        def climb(count, deltas):
            return count + 1, problem.climb(deltas, problem.gradient(deltas), step)

        start = ops.zeros((), "int32"), start
        return ops.while_loop(lambda count, _: count < self.steps, climb, start)[1]

    def get_config(self):
        """The constructor's arguments."""
        own = {
            "steps": self.steps,
            "step": self.step,
            "restarts": self.restarts,
            "random_start": self.random_start,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kerasreg")
class VAT(Attack):
    """The direction in which the prediction changes most; needs no labels.

    The predictions at `x` and at `x + δ` differ by a divergence `D` that is 0, and
    has no slope, at `δ = 0`: it grows by half the Hessian there. The perturbation has
    length `eps` along the Hessian's first eigenvector, found by power iteration with
    differences over `probe`. `D` is the Kullback-Leibler divergence of the predictions
    for one of Keras's cross-entropies, else their mean squared distance. In the maximum
    norm the direction's signs are taken.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `2`, as in the paper, `"inf"` or `1`.
        iterations: Positive integer, of the power iteration.
        probe: Positive number, `ξ` in the paper, a length in the (scaled) inputs. It is
            to be well above the spacing of float32 numbers of the size of the inputs:
            0.06 at 1e6, where the default finds nothing.
        **where: `bounds`, `scale`, `mask`, `on` and `loss` of `Attack`; of the loss it
            only matters whether it is a cross-entropy, and of logits.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import VAT
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> model.compile(loss="mse")
    >>> moved = VAT(0.1)(model, np.array([[0.5, 0.5]])).numpy() - 0.5
    >>> np.abs(moved).round(4)
    array([[0.0707, 0.0707]], dtype=float32)

    Reference: Miyato, Maeda, Koyama & Ishii 2019, "Virtual adversarial training",
    section 3.3 and algorithm 1.
    """

    needs_labels = False
    _checks = {
        **Attack._checks,
        "iterations": check_count,
        "probe": lambda name, value: check_length(name, value, above=0.0),
    }

    def __init__(self, eps, norm=2, *, iterations=1, probe=1e-2, **where):
        super().__init__(eps, norm, **where)
        self.iterations, self.probe = iterations, probe

    def perturb(self, problem, seed):
        """Power iteration, then a step of length `eps`."""
        clean = tree.map_structure(ops.stop_gradient, problem.predict(problem.zeros()))

        def change(deltas):
            other = problem.predict(deltas)
            return divergences(problem.compiled, clean, other, problem.loss)

        probes = [space.probe(self.probe) for space in problem.spaces]
        direction = random_points(probes, seed)
        for _ in range(self.iterations):
            pairs = zip(probes, direction, strict=True)
            moved = [
                probe.climb(ops.zeros_like(d), d, self.probe) for probe, d in pairs
            ]
            direction = problem.gradient(moved, change)
        return problem.climb(problem.zeros(), direction, self.eps)

    def get_config(self):
        """The constructor's arguments."""
        own = {"iterations": self.iterations, "probe": self.probe}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="kerasreg")
class Noise(Attack):
    """A random point of the ball: the control that any attack has to beat.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `"inf"`, `2` or `1`.
        **where: `bounds`, `scale`, `mask` and `on` of `Attack`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import Noise
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> moved = Noise(0.1)(model, np.zeros((3, 2)))
    >>> bool(np.all(np.abs(moved) <= 0.1))
    True
    """

    needs_labels = False

    def perturb(self, problem, seed):
        """A uniform point."""
        return problem.random(seed)
