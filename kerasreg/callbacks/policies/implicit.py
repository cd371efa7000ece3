"""The derivative of a validation loss by the strengths of the training loss."""

import contextlib
import dataclasses

import keras
from keras import ops

from kerasreg.optimizers.objective import Objective, without_penalties
from kerasreg.random import uniform
from kerasreg.regularizers import Penalty
from kerasreg.regularizers.base import strength_variable


@dataclasses.dataclass(frozen=True)
class Derivative:
    """What was differentiated.

    Args:
        values: Dict from the name of each unit to `d C_val / d log strength`.
        step: The step of the Neumann series.
        terms: How many of its terms were added before they would have grown.
    """

    values: dict[str, float]
    step: float
    terms: int


class Implicit:
    """Differentiates through the optimality of a model's weights, in one graph.

    At a minimum of `C_train(w, s)`, the loss with its penalties, the weights follow
    the strengths by `dw/d log s = −H⁻¹ · ∂(∇_w C_train)/∂ log s` (the implicit
    function theorem), where `H` is the Hessian in `w`. A validation loss of the
    weights alone therefore changes by

        d C_val / d log s = −(∇_w C_val)ᵀ H⁻¹ ∂(∇_w C_train)/∂ log s.

    `H⁻¹ v ≈ step · Σ_{j=0..terms} (I − step·H)^j v`. A zero at which a penalty has a
    kink stays at zero when the strength changes a little: such weights are left out of
    `H` and of all vectors. Weights are those that are trained, biases included.

    Everything is in inference mode and nothing of the model changes.

    Args:
        model: A compiled and built `keras.Model`.
        units: Dict from the name of each unit to the list of its weights.

    Attributes:
        traces: How often the graph was traced.
    """

    def __init__(self, model, units):
        self.objective = Objective(model)
        self.traces = 0
        trained = {id(v) for v in self.objective.variables}
        # Keras leaves the penalty of a frozen weight out of the loss.
        self._units = {
            name: [v for v in members if id(v) in trained]
            for name, members in units.items()
        }
        self._signature = _signature(units)
        # tensorflow: Keras has no public call that makes a graph of a function.
        import tensorflow as tf

        self._graph = tf.function(
            self._run,
            jit_compile=bool(model.jit_compile),
            autograph=False,
            reduce_retracing=True,
        )

    @classmethod
    def of(cls, model, units):
        """The one of a model; a new one if it has none that fits."""
        found = model.__dict__.get(_CACHE)
        if found is None or not found._is_of(model, units):
            found = cls(model, units)
            object.__setattr__(model, _CACHE, found)  # past Keras's tracking
        return found

    def _is_of(self, model, units):
        return self._signature == _signature(units) and self.objective.is_of(model)

    def __call__(self, train, validation, terms, step=None, conjugate=False):
        """Differentiate at the present weights and strengths.

        Args:
            train: Tuple of inputs, targets and sample weights, of numpy arrays.
            validation: The same.
            terms: Number of Hessian-vector products in the series; 0 for `H⁻¹ = step`.
            step: Step of the series; `None` for one over the largest eigenvalue.
            conjugate: Whether to solve by conjugate gradients instead.

        Returns:
            A `Derivative`.
        """
        train, validation = map(self.objective.to_tensors, (train, validation))
        terms = ops.convert_to_tensor(terms, "int32")
        step = ops.convert_to_tensor(step or 0.0, "float64")
        *values, step, used = self._graph(
            train, validation, terms, step, conjugate
        ).numpy()
        return Derivative(
            dict(zip(self._units, map(float, values), strict=True)),
            float(step),
            int(used),
        )

    def _run(self, train, validation, terms, step, conjugate):
        self.traces += 1
        objective = self.objective.on(train)
        with _full_precision(objective.model):
            weights = objective.weights()
            free = self._free(weights)
            slope = _times(free, self._validation_slope(validation, weights))

            def curvature(vector):
                return _times(free, _hessian_product(objective, weights, vector))

            step = ops.cast(step, objective.dtype)
            if conjugate:
                solved, used = _conjugate_gradients(curvature, slope, terms)
            else:
                largest = _largest(curvature, free, step <= 0)
                step = ops.where(step > 0, step, 1 / largest)
                solved, used = _neumann(curvature, slope, step, terms)
            values = self._mixed(weights, solved)
        report = [ops.negative(v) for v in values] + [step, used]
        return ops.stack([ops.cast(number, "float64") for number in report])

    def _validation_slope(self, data, weights):
        """Gradient of the data loss: compiled loss without any penalty."""
        objective, model = self.objective, self.objective.model
        x, y, sample_weight = data

        def loss(weights):
            mapping = list(zip(objective.variables, weights, strict=True))
            with (
                without_penalties(objective.variables),
                keras.StatelessScope(mapping, collect_losses=True),
            ):
                y_pred = model(x, training=False)
                total = model._compute_loss(x, y, y_pred, sample_weight, training=False)
                return total - sum(ops.sum(added) for added in model.losses)

        return _gradient(loss, weights)

    def _free(self, weights):
        """1 for the weights that move when a strength does, else 0: zeros at a kink.

        At a kink the slope of the penalty jumps from one side to the other. At the zero
        of a group that is not zero it does not.
        """
        penalties = [v.regularizer for v in self.objective.variables]
        zeros = [ops.equal(w, 0) for w in weights]

        def slopes(side):
            beside = [
                ops.where(zero, ops.cast(side, w.dtype), w)
                for zero, w in zip(zeros, weights, strict=True)
            ]
            return _gradient(lambda ws: self._penalties(weights, ws), beside)

        free = []
        rows = zip(penalties, zeros, slopes(_NEAR), slopes(-_NEAR), strict=True)
        for penalty, zero, above, below in rows:
            pinned = ops.zeros_like(zero)
            if isinstance(penalty, Penalty):
                strength = ops.cast(
                    ops.reshape(strength_variable(penalty), ()), above.dtype
                )
                pinned = zero & (above - below > _JUMP * strength)
            free.append(ops.cast(ops.logical_not(pinned), above.dtype))
        return free

    def _penalties(self, weights, penalized, strengths=()):
        """All penalties that have a strength.

        Args:
            weights: What other weights are, for a divergence that depends on them.
            penalized: The weights whose penalties are added up.
            strengths: Pairs of a penalty's strength variable and what it is.
        """
        variables = self.objective.variables
        mapping = list(zip(variables, weights, strict=True))
        total = ops.zeros((), self.objective.dtype)
        with keras.StatelessScope([*mapping, *strengths]):
            for variable, w in zip(variables, penalized, strict=True):
                if isinstance(variable.regularizer, Penalty):
                    total = total + ops.cast(variable.regularizer(w), total.dtype)
        return total

    def _multiplied(self, factors):
        """Pairs of strength variables and what they are, each unit's by its factor."""
        found: dict[int, tuple] = {}
        for factor, members in zip(factors, self._units.values(), strict=True):
            # One penalty object may be that of several weights.
            own = {
                id(s): s for s in (strength_variable(v.regularizer) for v in members)
            }
            for key, strength in own.items():
                _, value = found.get(key, (None, strength.value))
                found[key] = strength, value * factor
        return list(found.values())

    def _mixed(self, weights, vector):
        """`vectorᵀ ∂(∇_w C_train)/∂ log s` of each unit's strength `s`."""
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        factors = [ops.ones((), "float32") for _ in self._units]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(factors)
            strengths = self._multiplied(factors)
            slopes = _gradient(lambda ws: self._penalties(ws, ws, strengths), weights)
            product = _dot(slopes, vector)
        return tape.gradient(
            product, factors, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )


_CACHE = "_kerasreg_implicit"
_POWER = 12  # products in the power iteration, a lower bound: half of it would do
_NEAR = 1e-18  # beside zero, with a square above the least float32
_JUMP = 1e-8  # a smooth penalty's slope changes by less than this, times its strength
_EXACT = 1e-6  # of a residual, relative to the right-hand side
_FLAT = 1e-10  # a curvature below this is none
_GROWTH = 1 + 1e-4  # of a vector whose length only rounding changes


def _signature(units):
    return [(name, [id(v) for v in members]) for name, members in units.items()]


def _hessian_product(objective, weights, vector):
    """The Hessian of the training loss, penalties included, times a vector."""

    def loss(weights):
        smooth = ops.cast(objective.smooth(weights, []), objective.dtype)
        return smooth + objective.penalty(weights)

    return _gradient(lambda ws: _dot(_gradient(loss, ws), vector), weights)


def _largest(curvature, free, wanted):
    """A lower bound of the largest modulus of an eigenvalue, by power iteration.

    Args:
        curvature: Callable from a vector, a list of tensors, to `H` times it.
        free: The weights that count, a list of tensors of 0 and 1.
        wanted: Whether it is needed, a tensor.
    """
    seeds = [ops.convert_to_tensor([7, index], "int32") for index in range(len(free))]
    start = [
        mask * ops.cast(uniform(tuple(mask.shape), seed) - 0.5, mask.dtype)
        for mask, seed in zip(free, seeds, strict=True)
    ]

    def unit(vector):
        length = ops.maximum(_norm(vector), _tiny(vector))
        return [v / ops.cast(length, v.dtype) for v in vector]

    def improve(count, vector, _):
        product = curvature(vector)
        return count + 1, unit(product), _norm(product)

    rounds = ops.cast(wanted, "int32") * _POWER
    begin = ops.zeros((), "int32"), unit(start), _norm(start)
    *_, size = ops.while_loop(lambda count, *_: count < rounds, improve, begin)
    return ops.maximum(size, _tiny(free))


def _neumann(curvature, vector, step, terms):
    """`step · Σ_j (I − step·H)^j vector`, and how many terms beyond the first.

    No term of a positive definite `H` is longer than the one before, unless the step is
    too long. Where one would be, `H` is not positive definite (the weights are not at a
    minimum yet) or the step is wrong, and the series ends before it.
    """

    def proceed(used, falls, *_):
        return (used < terms) & falls

    def add(used, falls, term, size, total):
        product = curvature(term)
        term = [
            t - ops.cast(step, t.dtype) * p for t, p in zip(term, product, strict=True)
        ]
        length = _norm(term)
        falls = length <= size * _GROWTH
        total = [
            ops.where(falls, each + t, each)
            for each, t in zip(total, term, strict=True)
        ]
        return used + ops.cast(falls, "int32"), falls, term, length, total

    start = ops.zeros((), "int32"), ops.convert_to_tensor(True)
    used, *_, total = ops.while_loop(
        proceed, add, (*start, vector, _norm(vector), vector)
    )
    return [ops.cast(step, t.dtype) * t for t in total], used


def _conjugate_gradients(curvature, vector, terms):
    """`H⁻¹ vector` after at most so many products, and how many there were.

    It ends before a direction in which `H` is not positive: the weights are not at a
    minimum there.
    """

    def proceed(used, sound, residual, *_):
        return (used < terms) & sound & (_norm(residual) > _EXACT * size)

    def improve(used, _, residual, direction, total):
        product = curvature(direction)
        bend, square = _dot(direction, product), _dot(residual, residual)
        sound = bend > _FLAT * _dot(direction, direction)
        share = ops.where(sound, square / ops.where(sound, bend, 1.0), 0.0)
        total = _plus(total, share, direction)
        residual = _plus(residual, -share, product)
        direction = _plus(residual, _dot(residual, residual) / square, direction)
        return used + ops.cast(sound, "int32"), sound, residual, direction, total

    size = _norm(vector)
    start = ops.zeros((), "int32"), ops.convert_to_tensor(True), vector, vector
    zero = [ops.zeros_like(v) for v in vector]
    used, *_, total = ops.while_loop(proceed, improve, (*start, zero))
    return total, used


def _plus(first, share, second):
    """`first + share · second`."""
    return [
        a + ops.cast(share, a.dtype) * b for a, b in zip(first, second, strict=True)
    ]


def _gradient(function, weights):
    """The gradient of a scalar function of a list of tensors, another list."""
    # tensorflow: Keras has no public call that differentiates.
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        value = function(weights)
    gradients = tape.gradient(
        value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def _dot(first, second):
    return sum(
        ops.sum(ops.cast(a, b.dtype) * b) for a, b in zip(first, second, strict=True)
    )


def _norm(vector):
    return ops.sqrt(_dot(vector, vector))


def _times(masks, vector):
    return [m * v for m, v in zip(masks, vector, strict=True)]


def _tiny(vector):
    return ops.cast(1e-30, vector[0].dtype)


@contextlib.contextmanager
def _full_precision(model):
    """Context in which layers of mixed precision compute in that of their weights.

    Second derivatives in half precision would be mostly rounding. A graph that is
    traced in here stays as it is.
    """
    held = [
        (layer, layer.dtype_policy)
        for layer in model._flatten_layers()
        if layer.dtype_policy.name.startswith("mixed_")
    ]
    try:
        for layer, policy in held:
            layer.dtype_policy = policy.variable_dtype
        yield
    finally:
        for layer, policy in held:
            layer.dtype_policy = policy
