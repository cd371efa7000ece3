"""A policy that follows the derivative of the validation loss by each strength."""

import math
import warnings

import numpy as np
from keras import ops, tree

from kerasreg.callbacks.policies.base import Policy
from kerasreg.callbacks.policies.implicit import Implicit
from kerasreg.optimizers.data import rows_of
from kerasreg.regularizers.base import check_count, check_number

MODES = ("implicit", "conjugate_gradient", "first_order")


class Hypergradient(Policy):
    """Turn each strength to where the validation loss falls.

    The weights `w` minimize `C_train`, the loss on training data and penalties. If
    they are at its minimum, a change of a strength `s` moves them, and the loss on
    validation data without penalties, `C_val`, changes by the *hypergradient*

        d C_val / d log s = −(∇C_val)ᵀ H⁻¹ ∂(∇C_train)/∂ log s

    where `H` is the Hessian of `C_train` in `w` (all trained weights, penalized or
    not). Adam takes steps against it on `log s`. Strengths stay positive, and one
    that begins at zero cannot be moved. Begin high (say 1e-2): from there the
    hypergradient is large, and the weights do not overfit before it acts.

    * `mode="implicit"`: `H⁻¹ v` is `step_size · Σ_{j=0..terms} (I − step_size·H)^j v`.
      Each term costs a product with the Hessian: about four passes over the training
      data. Directions of a curvature below `1/(step_size·terms)` count for less than
      they should. What it settles at is near the best strength, the nearer the more
      terms: try more if in doubt. The series ends early where its terms would grow:
      away from a minimum, or with too long a step.
    * `mode="conjugate_gradient"`: `H⁻¹ v` by at most `terms` conjugate gradient steps,
      of the same cost each. On ill-conditioned networks ten of them can be exact where
      twenty terms of the series have the wrong sign; it ends early, with what it has,
      where `H` is not positive, away from a minimum.
    * `mode="first_order"`: `H⁻¹ = step_size` (T1-T2). It costs three gradients and is
      **biased**, however long it runs: it settles where `∇C_val` is at right angles to
      the gradient of the penalty, which is not the minimum of `C_val` unless `H` is a
      multiple of the identity.

    All of it is measured in inference mode (no dropout, batch normalization by its
    moving statistics, no learned noise), in float32 at least, in one graph for each
    model, which sees changed strengths without a new trace. The model is not changed.

    The theorem asks for weights near a minimum: give training enough steps between
    updates (`every`) and before the first (`burn_in`). With penalties such as L1, exact
    zeros stay zeros when a strength changes a little, so the derivative is that of the
    other weights, and zeros that the penalty holds are left out of `H`, as are all
    weights of a zero group. That needs exact zeros (`kerasreg.optimizers.Proximal` or
    `solve`): small weights that should be zero count as weights. A unit that is all
    zeros has a hypergradient of 0 and stays. Only a kink at zero is recognized, not
    that of a Laplace prior around another `loc`. MCP and SCAD, which are not linear in
    their strength, are differentiated as they are.

    A net that began under a strong penalty can end in another minimum than one that is
    trained with the strengths found from the start: `benchmarks/hypergradient` has
    both. The validation loss that was minimized flatters: judge on other data.

    Args:
        train_data: `(x, y)` or `(x, y, sample_weight)`, the data of `fit`: numpy arrays
            of n samples, or dicts or lists of them if the model has several inputs or
            outputs. `None` where only `update` is called (a federated server).
        validation_data: The same, of other samples.
        mode: `"implicit"`, `"conjugate_gradient"` or `"first_order"`.
        terms: Positive integer, the Hessian-vector products of the first two.
        step_size: Positive number, less than one over the largest eigenvalue of `H`.
            By default one over a power iteration's estimate of it, which costs 12 more
            products; in first order 1, a factor that Adam cancels.
        learning_rate: Positive number, Adam's on the logarithm: about the relative
            change of a strength in an update.
        batch_size: Number of samples of either data, drawn anew for each update
            without replacement. By default all of them.
        burn_in: Non-negative number of training steps without an update.
        seed: Non-negative integer, for the batches.

    Raises:
        ValueError: If an argument is out of range, `mode` is unknown, or the parts of
            the data have different numbers of samples or none; when `fit` begins, if
            there are no data, the model is not compiled or a unit has strength 0.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.callbacks import Hypergradient, State, Unit
    >>> from kerasreg.optimizers import solve
    >>> from kerasreg.regularizers import L2
    >>> x = np.random.default_rng(0).normal(size=(60, 10)).astype("float32")
    >>> y = x @ np.ones((10, 1)) + np.random.default_rng(1).normal(size=(60, 1))
    >>> penalty = L2(1.0)
    >>> dense = keras.layers.Dense(1, kernel_regularizer=penalty)
    >>> model = keras.Sequential([keras.Input((10,)), dense])
    >>> model.compile(loss="mse")
    >>> policy = Hypergradient((x[:30], y[:30]), (x[30:], y[30:]), burn_in=0)
    >>> for _ in range(3):
    ...     solution = solve(model, x[:30], y[:30])
    ...     extra = policy.measure(model, {"dense": [dense.kernel]})["dense"]
    ...     unit = Unit(penalty.strength, extra=extra)
    ...     penalty.strength = policy.update(State({"dense": unit}))["dense"]
    >>> round(penalty.strength, 2)  # too strong a penalty
    0.86

    Reference: Lorraine, Vicol & Duvenaud 2020, "Optimizing millions of hyperparameters
    by implicit differentiation", theorem 1 and algorithm 3; Pedregosa 2016,
    "Hyperparameter optimization with approximate gradient" (conjugate gradients);
    Luketina, Berglund, Greff
    & Raiko 2016, "Scalable gradient-based tuning of continuous regularization
    hyperparameters", section 2 (T1-T2); Bertrand et al. 2022, "Implicit
    differentiation for fast hyperparameter selection in non-smooth convex learning"
    (zeros).
    """

    every: str | int = 10

    def __init__(
        self,
        train_data,
        validation_data,
        *,
        mode="implicit",
        terms=20,
        step_size=None,
        learning_rate=0.05,
        batch_size=None,
        burn_in=100,
        seed=0,
    ):
        if mode not in MODES:
            raise ValueError(
                f"Invalid value for argument `mode`. Expected one of {MODES}. "
                f"Received: mode={mode!r}"
            )
        self.train_data = _check_data("train_data", train_data)
        self.validation_data = _check_data("validation_data", validation_data)
        self.mode = mode
        self.terms = check_count("terms", terms)
        self.step_size = step_size
        if step_size is not None:
            self.step_size = check_number("step_size", step_size, above=0.0)
        self.learning_rate = check_number("learning_rate", learning_rate, above=0.0)
        self.batch_size = batch_size
        if batch_size is not None:
            self.batch_size = check_count("batch_size", batch_size)
        self.burn_in = check_number("burn_in", burn_in)
        self.seed = _check_seed(seed)
        self._draws = 0
        self._moments: dict[str, dict] = {}

    def update(self, state):
        """One step of Adam on the logarithm of each strength."""
        if state.step < self.burn_in:
            return {}
        strengths = {}
        for name, unit in state.units.items():
            if "hypergradient" not in unit.extra:
                raise ValueError(
                    "`Hypergradient.update` needs what `measure` returns. Expected "
                    f"a hypergradient in `extra` of the unit {name!r}. "
                    f"Received: extra={unit.extra!r}"
                )
            if unit.strength > 0:
                move = self._adam(name, float(unit.extra["hypergradient"]))
                strengths[name] = unit.strength * math.exp(-move)
        return strengths

    def _adam(self, name, slope):
        """The step of Adam for a unit (Kingma & Ba 2015, algorithm 1)."""
        last = self._moments.get(name, {"mean": 0.0, "square": 0.0, "count": 0})
        mean = _BETA_1 * last["mean"] + (1 - _BETA_1) * slope
        square = _BETA_2 * last["square"] + (1 - _BETA_2) * slope**2
        count = last["count"] + 1
        self._moments[name] = {"mean": mean, "square": square, "count": count}
        mean /= 1 - _BETA_1**count
        square /= 1 - _BETA_2**count
        return self.learning_rate * mean / (math.sqrt(square) + _EPSILON)

    def check(self, model, units):
        """Raise without data, a compiled model, or strengths that can be moved."""
        for name in ("train_data", "validation_data"):
            if getattr(self, name) is None:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected (x, y) or (x, y, "
                    f"sample_weight) to measure hypergradients. Received: {name}=None"
                )
        if not model.compiled:
            raise ValueError(
                "Invalid value for argument `model`. Expected a compiled model: call "
                f"`model.compile(loss=...)` first. Received: model={model!r}"
            )
        still = [
            name
            for name, members in units.items()
            if not any(weight.regularizer.strength > 0 for weight in members)
        ]
        if still:
            raise ValueError(
                "`Hypergradient` moves the logarithm of a strength. Expected positive "
                f"strengths. Received: strength 0 of the units {still}"
            )

    def measure(self, model, units):
        """Each unit's `{"hypergradient": d C_val / d log strength}`."""
        self.check(model, units)
        first_order = self.mode == "first_order"
        step = self.step_size or (1.0 if first_order else None)
        train, validation = self._draw()
        terms = 0 if first_order else self.terms
        conjugate = self.mode == "conjugate_gradient"
        found = Implicit.of(model, units)(train, validation, terms, step, conjugate)
        if self.step_size and found.terms < terms and not conjugate:
            warnings.warn(
                f"The Neumann series ended after {found.terms} of {terms} terms, which "
                f"would have grown: step_size={self.step_size:g} is too long, or the "
                "weights are not near a minimum.",
                stacklevel=2,
            )
        return {name: {"hypergradient": value} for name, value in found.values.items()}

    def _draw(self):
        """The batches of this update, and the data of training first."""
        rng = np.random.default_rng([self.seed, self._draws])
        self._draws += 1
        return [
            _batch(data, self.batch_size, rng)
            for data in (self.train_data, self.validation_data)
        ]

    def get_state(self):
        """Adam's moments, and how many batches have been drawn."""
        moments = {name: dict(values) for name, values in self._moments.items()}
        return {"draws": self._draws, "moments": moments}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._draws = int(state["draws"])
        self._moments = {name: dict(v) for name, v in state["moments"].items()}

    def __repr__(self):
        return (
            f"Hypergradient(mode={self.mode!r}, terms={self.terms}, "
            f"step_size={self.step_size!r}, learning_rate={self.learning_rate!r}, "
            f"batch_size={self.batch_size!r}, burn_in={self.burn_in!r}, "
            f"seed={self.seed!r})"
        )


_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-12  # hypergradients can be tiny


def _batch(data, size, rng):
    rows = len(tree.flatten(data)[0])
    if size is None or size >= rows:
        return data
    chosen = rng.choice(rows, size, replace=False)
    return tree.map_structure(lambda a: a[chosen], data, none_is_leaf=False)


def _check_seed(seed):
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(
            "Invalid value for argument `seed`. Expected a non-negative integer. "
            f"Received: seed={seed!r}"
        )
    return int(seed)


def _check_data(name, data):
    """Inputs, targets and sample weights (or `None`) as arrays of equal length."""
    if data is None:
        return None
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected (x, y) or (x, y, "
            f"sample_weight). Received: {name} of type {type(data).__name__}"
        )
    parts, lengths, wrong = rows_of(*data, *[None] * (3 - len(data)))
    if wrong is not None:
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected numeric arrays with "
            f"one row a sample. Received: {wrong[0]} of type {wrong[1]}"
        )
    if lengths is not None:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected the same positive number "
            f"of samples in all of its arrays. Received: {lengths}"
        )
    return tree.map_structure(ops.convert_to_numpy, parts, none_is_leaf=False)
