"""A policy: strengths that maximize the evidence of the training data."""

import math
from typing import Any

import numpy as np
from keras import tree

from kerasreg.callbacks.policies.base import Policy, check_share
from kerasreg.callbacks.policies.curvature import Exact
from kerasreg.callbacks.policies.kronecker import Kronecker
from kerasreg.callbacks.policies.likelihood import gaussian_of, likelihood_of, shares_of
from kerasreg.optimizers.solve import check_data
from kerasreg.regularizers.base import check_count, check_number
from kerasreg.regularizers.sites import find_owners

CURVATURES = ("full", "block", "kronecker")


class Evidence(Policy):
    """Strengths that maximize the evidence: no validation data, no grid.

    An L2 penalty is a Gaussian prior of the weights, of precision α for unit l, and the
    loss is a negative log likelihood, for squared error of noise variance v. The data
    determine γ of the unit's n weights; MacKay's update makes the prior as wide as
    these are:

        γ = n − α·tr Σ,    α = γ / ‖w‖²,    v = ‖r‖² / (N·k − Σγ),

    where Σ is the posterior covariance (Laplace's approximation around the present
    weights, with the Gauss-Newton Hessian), and r the residuals of N samples and k
    outputs. For binary and categorical cross-entropy v = 1. As strengths, which belong
    to Keras's mean loss: α·v/(N·k) with mean squared error, α/(2N) with categorical
    and α/(2N·k) with binary cross-entropy. It converges to scikit-learn's
    `BayesianRidge` on linear models; if each feature is a unit, to `ARDRegression`.

    **It wants trained weights.** The posterior is the one around a minimum of the loss
    with its penalties. Where the weights are far from it, γ is too large and strengths
    rise too far, too early: give `burn_in` as many training steps as the loss takes to
    settle, leave some between updates (`every` of the callback), and let the learning
    rate fall.

    **Beyond linear models** the curvature changes with the strengths. The plain update
    does not see that and goes past the maximum of the evidence; with a strength for
    each layer it never ends, as one layer can shrink while the next grows. So the
    policy looks at the evidence itself: where it has fallen since the last update, it
    goes back, and on by half as much (`ascent`).

    Weights without a penalty in the units' layers (biases) have a flat prior and are
    integrated out, as an intercept is where data are centred; like scikit-learn, v does
    not count them. All others are held fixed, so the features of a last layer are, if
    only that is a unit: then `"block"` and `"full"` are exact for squared error.

    The model is measured on all of `x`, in inference mode, and stays as it is.

    Args:
        x: Training inputs as the model takes them: array(s) of N samples.
        y: Training targets.
        sample_weight: One non-negative number a sample, as in `fit`, or `None`.
        curvature: `"full"`: one matrix for the weights of all units. `"block"`: one
            for each unit. `"kronecker"`: for each kernel of a Dense or Conv2D layer a
            Kronecker product (K-FAC), for large models. There is no `"diagonal"`: it
            does not know correlations, counts too many weights as determined, and
            strengths run away.
        damping: Number in [0, 1]: the log strength goes `1 − damping` of the way.
        burn_in: Non-negative number of training steps without an update.
        ascent: Whether to go back where the evidence has fallen. False: the plain
            update, always.
        batch_size: Number of samples measured at a time. The gradient of each of their
            outputs by each weight has to fit in memory.
        max_weights: Largest number of weights in one matrix; p weights cost about p³
            operations each time.

    Attributes:
        noise_variance: v at the last update, 1 for cross-entropies; `None` before.
        log_evidence: The log evidence there, with the strengths before the update; of
            use to compare models, too.

    Raises:
        ValueError: If an argument is out of range. When `fit` begins: if the loss or a
            penalty is not of these, or there are too many weights for the curvature.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.callbacks import Evidence, State, Unit
    >>> from kerasreg.optimizers import solve
    >>> from kerasreg.regularizers import L2
    >>> x = keras.random.normal((100, 10), seed=0)
    >>> y = x[:, :1] + 0.5 * keras.random.normal((100, 1), seed=1)
    >>> layer = keras.layers.Dense(1, kernel_regularizer=L2(1e-3), name="head")
    >>> model = keras.Sequential([keras.Input((10,)), layer])
    >>> model.compile(loss="mse")
    >>> policy, units = Evidence(x, y, damping=0.0), {"head": [layer.kernel]}
    >>> for _ in range(10):
    ...     solution = solve(model, x, y)
    ...     extra = policy.measure(model, units)["head"]
    ...     unit = Unit(layer.kernel.regularizer.strength, extra=extra)
    ...     new = policy.update(State({"head": unit}))
    ...     layer.kernel.regularizer.strength = new["head"]
    >>> 0.4 < policy.noise_variance**0.5 < 0.6
    True

    References: MacKay 1992, "Bayesian interpolation", and "A practical Bayesian
    framework for backpropagation networks"; Immer et al. 2021, "Scalable marginal
    likelihood estimation for model selection in deep learning"; Martens & Grosse 2015,
    "Optimizing neural networks with Kronecker-factored approximate curvature"; Grosse
    & Martens 2016, "A Kronecker-factored approximate Fisher matrix for convolution
    layers".
    """

    def __init__(
        self,
        x,
        y,
        *,
        sample_weight=None,
        curvature="full",
        damping=0.5,
        burn_in=0,
        ascent=True,
        batch_size=32,
        max_weights=5000,
    ):
        self._data = check_data(x, y, sample_weight)
        _check_weights(self._data[2])
        self.curvature = _check_curvature(curvature)
        self.damping = check_share("damping", damping)
        self.burn_in = check_number("burn_in", burn_in)
        if not isinstance(ascent, bool):
            raise TypeError(
                "Invalid value for argument `ascent`. Expected a bool. "
                f"Received: ascent={ascent!r}"
            )
        self.ascent = ascent
        self.batch_size = check_count("batch_size", batch_size)
        self.max_weights = check_count("max_weights", max_weights)
        self.noise_variance: float | None = None
        self.log_evidence: float | None = None
        # The evidence and strengths to go back to, and how far to go from there.
        self._base: tuple[float, dict[str, float]] | None = None
        self._trust = 1.0
        self._key: tuple | None = None
        self._likelihood: Any = None
        self._curvature: Any = None

    def check(self, model, units):
        """Refuse losses, penalties and sizes that it cannot work with."""
        self._likelihood = likelihood_of(model)
        for variable in (v for variables in units.values() for v in variables):
            gaussian = gaussian_of(variable)
            if self.curvature == "kronecker" and gaussian.share.ndim:
                raise ValueError(
                    'curvature="kronecker" needs one prior scale for all of a weight. '
                    f"Received: {variable.regularizer!r} on {variable.path}"
                )
        if self.curvature == "kronecker":
            self._curvature = Kronecker(model, self._likelihood, units)
        else:
            blocks = _blocks(model, units, whole=self.curvature == "full")
            self._check_sizes(blocks)
            self._curvature = Exact(model, self._likelihood, blocks)
        self._key = _key(model, units)

    def _check_sizes(self, blocks):
        sizes = [
            sum(math.prod(v.shape) for each in block.values() for v in each)
            for block in blocks
        ]
        if max(sizes) > self.max_weights:
            raise ValueError(
                f'curvature="{self.curvature}" makes a square matrix of as many rows '
                f"as there are weights. Expected at most max_weights={self.max_weights}"
                '. For larger models use curvature="kronecker". '
                f"Received: {max(sizes)} weights"
            )

    def measure(self, model, units):
        """Measure the curvature on all of the data.

        Returns:
            A dict from the name of each unit to a dict of `"gamma"`, the number of
            weights that the data determine; `"square"`, the squared distance of the
            weights from the centre of their prior, in which the penalty is strength
            times it; `"log_ratio"`, ½ log det(1 + H/A), by which the evidence falls;
            and, the same for all units, `"error"`, the negative log likelihood, or
            the sum of squared residuals; `"observations"`, the number of targets with
            noise, 0 for cross-entropies; `"scale"`, 2/`scale` times the energy is the
            loss.
        """
        if self._key != _key(model, units):
            self.check(model, units)
        x, y, weight = self._data
        error, *sums = self._curvature.sums(x, y, weight, self.batch_size)
        rows = len(tree.flatten(x)[0])
        total = rows if weight is None else float(np.sum(weight))
        shape = self._curvature.sums.shape
        scale = float(self._likelihood.scale(shape, rows, total))
        common = {
            "error": float(error),
            "observations": float(self._likelihood.observations(shape, total)),
            "scale": scale,
        }
        priors = {name: shares_of(variables) for name, variables in units.items()}
        precisions = {
            name: [scale * strength * share for share in shares]
            for name, (strength, shares, _) in priors.items()
        }
        determined = self._curvature.determined(sums, precisions)
        return {
            name: {
                "gamma": gamma,
                "square": priors[name][2],
                "log_ratio": log,
                **common,
            }
            for name, (gamma, log) in determined.items()
        }

    def update(self, state):
        """MacKay's update, or back where the evidence has fallen: see the class."""
        units = state.units
        if state.step < self.burn_in or not any(u.extra for u in units.values()):
            return {}
        noise, evidence = _evidence(units)
        self.noise_variance, self.log_evidence = noise, evidence
        if self.ascent and self._base is not None:
            before, strengths = self._base
            if evidence < before - _SLACK:
                self._base, self._trust = None, self._trust / 2.0
                return dict(strengths)
            self._trust = min(1.25 * self._trust, 1.0)
        self._base = evidence, {name: unit.strength for name, unit in units.items()}
        power = (1.0 - self.damping) * self._trust
        return {name: _moved(unit, noise, power) for name, unit in units.items()}

    def get_state(self):
        """Where to go back to, and how far to go."""
        evidence, strengths = self._base or (0.0, {})
        return {"trust": self._trust, "evidence": evidence, "strengths": strengths}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._trust, strengths = state["trust"], dict(state["strengths"])
        self._base = (state["evidence"], strengths) if strengths else None

    def __repr__(self):
        return f"Evidence(curvature={self.curvature!r}, damping={self.damping!r})"


# In nats: rounding, and differences that say nothing.
_SLACK = 0.01
# No update changes a strength by more than this factor: weights near 0 ask for more.
_LARGEST = 100.0


def _evidence(units):
    """The noise variance and the log evidence of what was measured."""
    extras = [unit.extra for unit in units.values()]
    error, observations = extras[0]["error"], extras[0]["observations"]
    noise = 1.0
    log = -error
    if observations:
        # Blocks may count more determined weights than there are targets.
        degrees = max(observations - sum(e["gamma"] for e in extras), 1.0)
        noise = max(error / degrees, 1e-300)
        log = -0.5 * (error / noise + observations * math.log(2 * math.pi * noise))
    for unit, extra in zip(units.values(), extras, strict=True):
        energy = 0.5 * extra["scale"] * unit.strength * extra["square"] / noise
        log -= energy + extra["log_ratio"]
    return noise, log


def _moved(unit, noise, power):
    """The strength of a unit after the update."""
    gamma, square = unit.extra["gamma"], unit.extra["square"]
    if gamma <= 0 or (square <= 0 and unit.strength == 0):
        return unit.strength  # the data say nothing about it
    if unit.strength == 0:
        return noise * gamma / (unit.extra["scale"] * square)
    target = noise * gamma
    present = unit.extra["scale"] * square * unit.strength
    factor = target / present if present * _LARGEST > target else _LARGEST
    return unit.strength * max(factor, 1.0 / _LARGEST) ** power


def _blocks(model, units, whole):
    """The units of each matrix, and under `None` the flat priors in their layers."""
    owners = find_owners(model)
    blocks = []
    for names in [list(units)] if whole else [[name] for name in units]:
        layers = {id(owners[id(v)][0]) for name in names for v in units[name]}
        free = [
            v
            for v in model.trainable_variables
            if v.regularizer is None and id(owners.get(id(v), [None])[0]) in layers
        ]
        blocks.append({**{name: units[name] for name in names}, None: free})
    return blocks


def _key(model, units):
    """What the traced graph is made for."""
    ids = tuple((name, *map(id, variables)) for name, variables in units.items())
    return id(model), id(model.loss), ids


def _check_weights(weight):
    if weight is None:
        return
    numbers = np.asarray(weight, "float64")
    good = numbers.ndim == 1 and np.all(np.isfinite(numbers)) and np.all(numbers >= 0)
    if not good or numbers.sum() <= 0:
        raise ValueError(
            "Invalid value for argument `sample_weight`. Expected one non-negative "
            "finite number a sample, not all 0. "
            f"Received: an array of shape {numbers.shape}"
        )


def _check_curvature(curvature):
    if curvature == "diagonal":
        raise ValueError(
            "Invalid value for argument `curvature`. A diagonal does not know that "
            "weights are correlated, counts too many of them as determined by the "
            "data, and strengths run away: worse than no penalty. Expected one of "
            f"{CURVATURES}. Received: curvature={curvature!r}"
        )
    if curvature not in CURVATURES:
        raise ValueError(
            f"Invalid value for argument `curvature`. Expected one of {CURVATURES}. "
            f"Received: curvature={curvature!r}"
        )
    return curvature
