"""Accelerated proximal gradient, as a loop inside a graph.

FISTA (Beck & Teboulle 2009) for `F = f + h`, with

* a step found by backtracking, which may also grow again (Scheinberg, Goldfarb &
  Bai 2014, algorithm 2, from which the momentum of changing steps is taken);
* restarts of the momentum where it points uphill (O'Donoghue & Candès 2015,
  section 3.2, the gradient scheme) or where `F` would rise (the function scheme),
  so that `F` never rises, on models that are not convex as well;
* tests that know the rounding of `f`. Where the change of `f` is below it, the
  step is held, and shortened only by the change of the gradient between two
  points, which does not suffer from cancellation.
"""

from typing import Any, NamedTuple

import keras
from keras import ops


class State(NamedTuple):
    """What one step hands to the next; every field is a tensor or a list of them.

    `weights` are the result so far, with objective `value` and estimate `residual`
    of how much lower it may be; `point` is where the next gradient is taken; the
    `image` of either is what the objective computed first and is linear in the
    weights; `old_point` and `old_gradient` are those of the last step; `lowest` is
    the lowest objective so far; `mark` and `best` are the objective and residual to
    beat, and `idle` counts the steps since one of them was; residuals are relative
    to the objective or to `scale`, if that is more.
    """

    weights: Any
    image: Any
    value: Any
    residual: Any
    point: Any
    point_image: Any
    old_point: Any
    old_gradient: Any
    step: Any
    least_step: Any
    momentum: Any
    scale: Any
    lowest: Any
    mark: Any
    best: Any
    idle: Any
    steps: Any


def start(objective, weights):
    """The state before the first step, which a probe of the curvature sets.

    Args:
        objective: An `Objective` or what has its methods.
        weights: List of tensors.
    """
    dtype = objective.dtype
    image = objective.image(weights)
    smooth, gradient = objective.gradient(weights, image)
    value = ops.cast(smooth, dtype) + objective.penalty(weights)
    length = _PROBE * ops.maximum(_norm(weights), 1.0)
    length = length / ops.maximum(_norm(gradient), _TINY)
    probe = _descend(weights, gradient, length)
    infinite = ops.convert_to_tensor(float("inf"), dtype)
    zero = ops.zeros((), "int32")
    state = State(
        weights=weights,
        image=image,
        value=value,
        residual=infinite,
        point=weights,
        point_image=image,
        old_point=probe,
        old_gradient=objective.gradient(probe, objective.image(probe))[1],
        step=infinite,
        least_step=infinite,
        momentum=ops.ones((), dtype),
        scale=_FLOOR * ops.abs(value),
        lowest=value,
        mark=value,
        best=infinite,
        idle=zero,
        steps=zero,
    )
    step = _longest(state, gradient)
    step = ops.where(ops.isfinite(step), step, 1.0)
    state = state._replace(step=step, least_step=_SHORTEST * step)
    if not objective.cautious:  # these two are for its steps
        state = state._replace(old_point=[], old_gradient=[])
    return state


_PROBE = 1e-2  # length of the probe relative to the weights
_SHORTEST = 1e-2  # share of the first step
_FLOOR = 1e-4  # share of the first objective that residuals are relative to


def run(objective, state, target, max_steps, patient=True):
    """Step until the residual is at most `target`, or no step helps any more.

    Args:
        objective: An `Objective`.
        state: A `State`.
        target: Scalar.
        max_steps: Scalar integer, for `state.steps` to stay below.
        patient: Whether to go on for long when nothing falls.

    Returns:
        The last `State`.
    """
    target = ops.cast(target, objective.dtype)

    def proceed(state):
        go = ops.logical_and(state.residual > target, state.steps < max_steps)
        helpless = stuck(state) if patient else state.idle > _IMPATIENCE
        return ops.logical_and(go, ops.logical_not(helpless))

    def advance(state):
        return (_advance(objective, state),)

    (state,) = ops.while_loop(proceed, advance, (state,))
    return state


def move(objective, state):
    """A start in the dtype of another objective, from the same weights.

    Momentum is taken along. Residuals are not, nor is a step shorter than that of
    the probe: rounding in the old dtype can have made both smaller than they are.
    """

    def cast(weights):
        return [ops.cast(w, objective.dtype) for w in weights]

    fresh = start(objective, cast(state.weights))
    point = cast(state.point)
    return fresh._replace(
        point=point,
        point_image=objective.image(point),
        step=ops.maximum(fresh.step, ops.cast(state.step, objective.dtype)),
        momentum=ops.cast(state.momentum, objective.dtype),
        steps=state.steps,
    )


def stuck(state):
    """Whether neither the objective nor the residual has fallen for long."""
    return state.idle > _PATIENCE + state.steps // 5


_PATIENCE = 100
_IMPATIENCE = 10


class Trial(NamedTuple):
    """A step that was tried: where it leads, and whether it may be taken."""

    weights: Any
    image: Any
    value: Any
    move: Any
    square: Any
    step: Any
    next_step: Any
    short_enough: Any
    accepted: Any
    noise: Any


def _advance(objective, state):
    """One step: gradient, proximal map, tests, momentum."""
    value, gradient = objective.gradient(state.point, state.point_image)
    trial = _try(objective, state, value, gradient)
    accepted, short_enough = trial.accepted, trial.short_enough
    progress = _difference(trial.weights, state.weights)
    uphill = _dot(trial.move, progress) < 0.0
    keep = ops.logical_and(accepted, ops.logical_not(uphill))
    ratio = trial.step / trial.next_step
    momentum = (1.0 + ops.sqrt(1.0 + 4.0 * ratio * ops.square(state.momentum))) / 2.0
    push = ops.where(keep, (state.momentum - 1.0) / momentum, 0.0)
    point = _extrapolate(trial.weights, state.weights, push, accepted)
    point_image = _extrapolate(trial.image, state.image, push, accepted)
    momentum = ops.where(keep, momentum, 1.0)
    value = ops.where(accepted, trial.value, state.value)
    after = state._replace(
        weights=_choose(accepted, trial.weights, state.weights),
        image=_choose(accepted, trial.image, state.image),
        value=value,
        # A step that was too long is tried again from the same point.
        point=_choose(short_enough, point, state.point),
        point_image=_choose(short_enough, point_image, state.point_image),
        momentum=ops.where(short_enough, momentum, state.momentum),
        old_point=state.point if objective.cautious else [],
        old_gradient=gradient if objective.cautious else [],
        step=trial.next_step,
        lowest=ops.minimum(state.lowest, value),
        steps=state.steps + 1,
    )
    residual = _residual(objective, after, trial)
    residual = ops.where(accepted, residual, state.residual)
    return _account(after._replace(residual=residual), trial.noise)


def _try(objective, state, smooth_at_point, gradient):
    """A proximal gradient step from the point, and its tests."""
    dtype = objective.dtype
    noise = _NOISE * _epsilon(smooth_at_point.dtype)
    smooth_at_point = ops.cast(smooth_at_point, dtype)
    step = state.step
    if objective.cautious:
        longest = ops.maximum(_longest(state, gradient), _SHRINK * step)
        step = ops.minimum(step, longest)
    weights = objective.prox(_descend(state.point, gradient, step), step)
    image = objective.image(weights)
    move = _difference(weights, state.point)
    square = _dot(move, move)
    smooth = ops.cast(objective.smooth(weights, image), dtype)
    value = smooth + objective.penalty(weights)
    noise = noise * ops.maximum(ops.abs(smooth), ops.abs(smooth_at_point))

    # f(w) ≤ f(v) + <∇f(v), w − v> + ‖w − v‖²/(2·step), up to rounding.
    excess = smooth - smooth_at_point - _dot(gradient, move)
    bound = square / (2.0 * step)
    short_enough = excess <= bound + noise
    accepted = ops.logical_and(short_enough, value <= state.lowest + noise)
    ratio = excess / ops.maximum(bound, _TINY)  # step × curvature along the move
    wanted = _SAFETY / ops.maximum(ratio, _TINY)
    grown = ops.where(bound > 10.0 * noise, ops.clip(wanted, 1.0, _GROWTH), 1.0)
    shrunk = ops.where(ops.isfinite(wanted), ops.clip(wanted, 0.05, 0.8), 0.05)
    factor = ops.where(accepted, grown, ops.where(short_enough, 1.0, shrunk))
    return Trial(
        weights=weights,
        image=image,
        value=value,
        move=move,
        square=square,
        step=step,
        next_step=step * factor,
        short_enough=short_enough,
        accepted=accepted,
        noise=noise,
    )


_NOISE = 4.0  # rounding of the compiled loss, in units of its last place
_SAFETY = 0.95
_GROWTH = 1.1
_SHRINK = 0.5
_TINY = 1e-30


def _residual(objective, state, trial):
    """How much lower the objective may still be, relative to it."""
    size = _norm(state.weights)
    square, step = trial.square, trial.step
    if objective.cautious:
        # Moves shorter than the rounding of the weights, or by much shorter steps
        # than the first (at a kink of the loss), do not show that all is flat.
        blur = _epsilon(objective.dtype) / 8.0 * size
        square = ops.maximum(square, ops.square(blur))
        longer = ops.maximum(1.0, state.least_step / step)
        lower = _CONDITION * longer * square / (2.0 * step)
    else:  # its duality gap falls in proportion to the move
        length = ops.sqrt(square)
        lower = length / step * (size + length)
    scale = ops.maximum(ops.abs(state.value), state.scale)
    return lower / ops.maximum(scale, _TINY)


_CONDITION = 1000.0  # steps whose gain the estimate allows for


def _longest(state, gradient):
    """The longest step for the curvature between the last points."""
    move = _difference(state.point, state.old_point)
    square = _dot(move, move)
    bend = _dot(move, _difference(gradient, state.old_gradient))
    usable = ops.logical_and(square > 0.0, bend > 0.0)
    longest = _SAFETY * square / ops.maximum(bend, _TINY)
    return ops.where(usable, longest, float("inf"))


def _account(state, noise):
    """Count the steps since the objective or the residual fell."""
    lower = state.value < state.mark - noise
    fell = ops.logical_or(state.residual < 0.9 * state.best, lower)
    return state._replace(
        mark=ops.where(lower, state.value, state.mark),
        best=ops.where(fell, ops.minimum(state.best, state.residual), state.best),
        idle=ops.where(fell, 0, state.idle + 1),
    )


def _dot(a, b):
    total = 0.0
    for one, other in zip(a, b, strict=True):
        total = ops.sum(one * other) + total
    return total


def _descend(weights, gradient, step):
    return [
        w - ops.cast(step, w.dtype) * g for w, g in zip(weights, gradient, strict=True)
    ]


def _norm(a):
    return ops.sqrt(_dot(a, a))


def _difference(a, b):
    return [one - other for one, other in zip(a, b, strict=True)]


def _extrapolate(new, old, push, accepted):
    """`new + push · (new − old)`, or `old` where the step was not accepted."""
    return [
        ops.where(accepted, a + ops.cast(push, a.dtype) * (a - b), b)
        for a, b in zip(new, old, strict=True)
    ]


def _choose(condition, a, b):
    return [ops.where(condition, one, other) for one, other in zip(a, b, strict=True)]


def _epsilon(dtype):
    return _EPSILON[keras.backend.standardize_dtype(dtype)]


_EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}
