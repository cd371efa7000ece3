"""Solve a penalized model on all of its data, to a certificate."""

import dataclasses
import functools
import warnings

import keras
import numpy as np
from keras import ops, tree

from kerasreg.optimizers import fista
from kerasreg.optimizers.certificate import linear_model
from kerasreg.optimizers.data import rows_of
from kerasreg.optimizers.objective import Objective
from kerasreg.optimizers.proximal import proximal_penalty
from kerasreg.regularizers.base import check_count, check_number
from kerasreg.regularizers.divergence import Divergence


@dataclasses.dataclass(frozen=True)
class Solution:
    """What `solve` reached.

    Args:
        objective: The loss with all penalties at the weights it left.
        gap: How far that may be from the minimum, relative to `objective`: a
            bound if `certificate` is "duality gap", else an estimate.
        certificate: "duality gap" or "fixed-point residual".
        steps: Number of gradient steps.
        converged: Whether `gap` is at most `tol`.
        reason: What ended it: "tol", "max_steps" or "precision" (no step helped
            any more in the dtype of the weights).
    """

    objective: float
    gap: float
    certificate: str
    steps: int
    converged: bool
    reason: str

    def __repr__(self):
        end = "converged" if self.converged else f"stopped by {self.reason}"
        return (
            f"Solution(objective={self.objective:.8g}, {self.certificate} "
            f"{self.gap:.2g} of it, {self.steps} steps, {end})"
        )


def solve(model, x, y, *, sample_weight=None, tol=1e-6, max_steps=10_000, verbose=0):
    """Minimize a compiled model's loss and penalties on all of the data at once.

    Accelerated proximal gradient with backtracking and restarts, as one graph:

        v_k = w_k + β_k (w_k − w_{k−1}),   w_{k+1} = prox_{t·h}(v_k − t·∇f(v_k))

    where `h` are the penalties with a proximal map and `f` all the rest: the
    compiled loss, in inference mode (dropout is off, batch normalization uses its
    moving statistics and leaves them alone), Keras's own regularizers, activity
    penalties. Zeros are exact. On a convex model it reaches the minimum; else the
    objective falls at each step, up to rounding, to a stationary point. It starts
    from the current weights, changes trainable ones only, and does not use the
    model's optimizer.

    Linear models (one Dense layer on fixed features, mean squared error, binary
    or categorical cross-entropy, penalized by ElasticNet, L1, L2, GroupLasso or
    SparseGroupLasso) end by their duality gap, in float64: the objective is
    proven to be within `tol` of the minimum. They are solved in centred features
    of equal scale, whatever the scale of yours. Others end by their fixed-point
    residual `‖G‖²·1000·t/2` with `G = (v − w)/t`: what 1000 more steps would gain
    if each gained as much as the last. That is a bound for strongly convex models
    of a condition number up to 1000, and else an estimate.

    The graph is traced at the first call for a model and for each new shape of
    the data, and used again when strengths have changed. For many solutions of one
    shape compile the model with `jit_compile=True`: the first call takes seconds
    longer, every other a fraction of the time. All the data has to fit in memory,
    that of linear models in float64 too. For more than float32's seven digits call
    `keras.config.set_floatx("float64")` before making the model.

    Args:
        model: A compiled `keras.Model`.
        x: Inputs as the model takes them: array(s) of n samples.
        y: Targets: array(s) of n samples.
        sample_weight: Weights of the samples as in `fit`: array(s) of n numbers.
        tol: Positive number: the gap to reach, relative to the objective. The
            residual is relative to the objective, or to 1e-4 of what it was at
            the start, if that is more.
        max_steps: Positive integer.
        verbose: 1 prints the solution.

    Returns:
        A `Solution`.

    Raises:
        ValueError: If the model is not compiled, has nothing to train or a weight
            with a constraint, if numbers of samples differ, data or loss are not
            finite, or an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.optimizers import solve
    >>> from kerasreg.regularizers import L1
    >>> x = keras.random.normal((64, 5), seed=0)
    >>> model = keras.Sequential([keras.layers.Dense(1, kernel_regularizer=L1(0.1))])
    >>> model.compile(loss="mse")
    >>> solution = solve(model, x, x[:, :1])
    >>> solution.certificate, solution.converged
    ('duality gap', True)
    >>> model.layers[0].kernel.numpy().round(2).ravel().tolist()
    [0.95, 0.0, 0.0, 0.0, 0.0]

    References: Beck & Teboulle 2009, "A fast iterative shrinkage-thresholding
    algorithm for linear inverse problems", eq. 4.1 to 4.3; O'Donoghue & Candès
    2015, "Adaptive restart for accelerated gradient schemes", section 3.2.
    """
    tol = check_number("tol", tol, above=0.0)
    max_steps = check_count("max_steps", max_steps)
    data = check_data(x, y, sample_weight)
    solver = _solver_of(model, data)
    solution = solver(data, tol, max_steps)
    if verbose:
        print(solution)
    if not solution.converged:
        warnings.warn(_shortfall(solution, tol, solver.objective), stacklevel=2)
    return solution


class Solver:
    """The traced graphs of one model. `traces` counts how often one was traced."""

    def __init__(self, model):
        self.objective = Objective(model)
        self.linear = linear_model(model)
        self.traces = 0
        self._jit_compile = bool(model.jit_compile)
        self._graphs = {}

    def __call__(self, data, tol, max_steps):
        """Run the graph and read its report."""
        data = self.objective.to_tensors(data)
        linear = self.linear and self.linear.at_present()
        limits = ops.convert_to_tensor(tol, "float64"), ops.convert_to_tensor(max_steps)
        report = self._graph_of(linear)(data, *limits).numpy()
        if linear and not report[-1]:
            # The loss is not what it seems: a mask, targets that are no
            # distribution. So it is not certified.
            linear = None
            report = self._graph_of(linear)(data, *limits).numpy()
        if not np.isfinite(report[0]):
            raise ValueError(_not_finite(data))
        value, gap, steps, _ = report
        converged = bool(gap <= tol)
        ended = "max_steps" if steps >= max_steps else "precision"
        return Solution(
            objective=float(value),
            gap=float(gap),
            certificate="duality gap" if linear else "fixed-point residual",
            steps=int(steps),
            converged=converged,
            reason="tol" if converged else ended,
        )

    def _graph_of(self, linear):
        """The graph for a `LinearModel`, or for any model (`None`)."""
        if linear not in self._graphs:
            run = functools.partial(self._run, linear)
            self._graphs[linear] = _graph(run, self._jit_compile)
        return self._graphs[linear]

    def _run(self, linear, data, tol, max_steps):
        """All of it inside the graph, the new weights assigned at its end."""
        self.traces += 1
        objective = self.objective.on(data)
        weights = objective.weights()
        run = functools.partial(self._to_gap, linear) if linear else self._to_residual
        new, value, gap, steps = run(data, weights, tol, max_steps)
        as_seen = ops.convert_to_tensor(True)
        if linear:
            seen = ops.cast(objective.smooth(new, []), objective.dtype)
            seen = ops.cast(seen + objective.penalty(new), "float64")
            as_seen = ops.isfinite(seen) & (gap > -1e-6)
            as_seen = as_seen & (ops.abs(value - seen) <= _SLACK * ops.abs(seen))
        for variable, w, old in zip(objective.variables, new, weights, strict=True):
            variable.assign(ops.where(as_seen, w, old))
        report = (value, gap, steps, as_seen)
        return ops.stack([ops.cast(number, "float64") for number in report])

    def _to_residual(self, data, weights, tol, max_steps):
        """Run until the fixed-point residual is small enough."""
        objective = self.objective.on(data)
        state = fista.start(objective, weights)
        state = fista.run(objective, state, tol, max_steps)
        return state.weights, state.value, state.residual, state.steps

    def _to_gap(self, linear, data, weights, tol, max_steps):
        """Run in float32, then in float64 until the duality gap is small enough."""
        prepared = linear.prepare(data)
        fine = linear.objective(prepared, "float64")
        if self.objective.dtype == "float32":
            coarse = linear.objective(prepared, "float32")
            state = fista.start(coarse, coarse.enter(weights))
            target = ops.maximum(tol, COARSE)
            state = fista.run(coarse, state, target, max_steps, patient=False)
            state = fista.move(fine, state)
        else:
            state = fista.start(fine, fine.enter(weights))

        def proceed(state, value, gap, target, rounds):
            go = (state.steps < max_steps) & ~fista.stuck(state) & (state.residual > 0)
            return (gap > tol) & (go | (rounds == 0))

        def refine(state, value, gap, target, rounds):
            state = fista.run(fine, state, target, max_steps)
            # The weights that are left are rounded; the bound need not be.
            left = fine.enter(self._rounded(fine.leave(state.weights)))
            value = fine.smooth(left, fine.image(left)) + fine.penalty(left)
            gap = (value - fine.dual(state.image)) / ops.maximum(ops.abs(value), 1e-300)
            factor = ops.clip(0.5 * tol / gap, 0.02, 0.5)
            return state, value, gap, state.residual * factor, rounds + 1

        infinite = ops.convert_to_tensor(float("inf"), "float64")
        start = (state, infinite, infinite, tol, ops.zeros((), "int32"))
        state, value, gap, *_ = ops.while_loop(proceed, refine, start)
        weights = self._rounded(fine.leave(state.weights))
        return weights, value, gap, state.steps

    def _rounded(self, weights):
        """Weights in the dtypes of the model's variables."""
        return [
            ops.cast(w, v.dtype)
            for w, v in zip(weights, self.objective.variables, strict=True)
        ]


_SLACK = 2e-5  # between the compiled loss, in its own precision, and ours
COARSE = 1e-4  # the residual up to which float32 steps are as good as float64 ones


def _graph(function, jit_compile):
    # tensorflow: Keras has no public call that makes a graph of a function.
    import tensorflow as tf

    return tf.function(
        function, jit_compile=jit_compile, autograph=False, reduce_retracing=True
    )


_CACHE = "_kerasreg_solver"


def _solver_of(model, data):
    """The solver of a model, kept with it as long as it fits."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Invalid value for argument `model`. Expected a compiled keras.Model. "
            f"Received: model={model!r} (of type {type(model).__name__})"
        )
    if not model.compiled:
        raise ValueError(
            "Invalid value for argument `model`. Expected a compiled model: call "
            f"`model.compile(loss=...)` first. Received: model={model!r}"
        )
    solver = model.__dict__.get(_CACHE)
    if solver is not None and solver.objective.is_of(model):
        return solver
    _build(model, data)
    _check_weights(model)
    solver = Solver(model)
    object.__setattr__(model, _CACHE, solver)  # past Keras's tracking
    return solver


def _build(model, data):
    """Have Keras make all variables of the model and its loss, outside a graph."""
    inputs = getattr(model, "inputs", None) or [None]
    rows = getattr(inputs[0], "shape", [None])[0] or 1  # a stateful RNN fixes them
    x, y, weight = tree.map_structure(lambda a: a[:rows], data, none_is_leaf=False)
    # Of stateful layers and of dropout in recurrent ones.
    state = [(v, v.numpy()) for v in model.non_trainable_variables]
    model._compute_loss(x, y, model(x, training=False), weight, training=False)
    for variable, value in state:
        variable.assign(value)


def _check_weights(model):
    if not model.trainable_variables:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with trainable "
            f"weights. Received: model={model!r}"
        )
    variables = model.trainable_variables
    noise = [v.path for v in variables if isinstance(v.regularizer, Divergence)]
    if noise:
        raise ValueError(
            "Invalid value for argument `model`. Expected layers without learned "
            f"noise, which is off in what `solve` minimizes. Received: {noise}"
        )
    bound = [v.path for v in model.trainable_variables if v.constraint is not None]
    if bound:
        raise ValueError(
            "Invalid value for argument `model`. Expected weights without "
            f"constraints, which `solve` does not know. Received: {bound} with one"
        )
    for v in model.trainable_variables:
        if float(getattr(v.regularizer, "l1", 0.0)) > 0 and not proximal_penalty(v):
            warnings.warn(
                f"{v.path} has Keras's own L1, which has no proximal map and no "
                "gradient at 0: `solve` cannot converge. Use "
                "kerasreg.regularizers.L1 or ElasticNet.",
                stacklevel=4,
            )


def check_data(x, y, sample_weight):
    """The data as arrays of one common length."""
    data, lengths, wrong = rows_of(x, y, sample_weight)
    if wrong is not None:
        raise TypeError(
            f"Invalid value for argument `{wrong[0]}`. Expected numeric arrays with "
            f"one row a sample. Received: {wrong[0]} of type {wrong[1]}"
        )
    if lengths is not None:
        raise ValueError(
            "Invalid value for arguments `x`, `y` and `sample_weight`. Expected the "
            f"same positive number of samples in all. Received: {lengths}"
        )
    return data


def _not_finite(data):
    names = ("x", "y", "sample_weight")
    bad = [
        name
        for name, part in zip(names, data, strict=True)
        if part is not None
        and not all(bool(ops.all(ops.isfinite(a))) for a in tree.flatten(part))
    ]
    found = f"NaN or infinite values in {bad}" if bad else "finite data"
    return (
        "Invalid value: the loss at the start is NaN or infinite. Expected finite "
        f"data and weights for which the loss is finite. Received: {found}"
    )


def _shortfall(solution, tol, objective):
    state = f"{solution.certificate} {solution.gap:.2g} of the objective"
    if solution.reason == "max_steps":
        return (
            f"`solve` used all {solution.steps} steps before it reached tol={tol:g}: "
            f"{state}. Give it more with `max_steps`, or scale the inputs."
        )
    advice = "Use a larger tol"
    if objective.dtype != "float64":
        advice += ', or keras.config.set_floatx("float64") before making the model'
    return (
        f"`solve` cannot reach tol={tol:g} in {objective.dtype}: {state}, after "
        f"{solution.steps} steps, the last of which changed nothing. {advice}."
    )
