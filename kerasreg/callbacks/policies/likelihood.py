"""The likelihood that a compiled loss stands for, and penalties as Gaussian priors."""

import math

import keras
import numpy as np
from keras import ops

from kerasreg.optimizers import duals
from kerasreg.regularizers import Anchored, ElasticNet, Prior
from kerasreg.regularizers.elementwise import L2


class Likelihood:
    """The negative log likelihood of a loss, and the root of its curvature.

    With squared error it is `‖f − y‖²/(2v)` for a noise variance `v` that is not
    known, and everything here is that times `v`.

    Args:
        family: A loss of `kerasreg.optimizers.duals`.
        function: From targets and outputs to the loss of each sample.
        from_logits: Whether outputs are logits.
        weighted_mean: Whether the loss is divided by the sum of sample weights.
    """

    def __init__(self, family, function, from_logits, weighted_mean):
        self.gaussian = family is duals.SquaredError
        self._binary = family is duals.BinaryCrossentropy
        self._function, self._from_logits = function, from_logits
        self._weighted_mean = weighted_mean

    def roots(self, outputs):
        """Tensors `t` with `JᵀΛJ = Σ (∂t)ᵀ(∂t)`, of which only the gradients count.

        `J` are the gradients of the outputs and `Λ` is the Hessian of the negative
        log likelihood in them, in expectation over the model's own targets. That is
        the Fisher information, the same for logits and probabilities.
        """
        if self.gaussian:
            return outputs
        if self._binary:
            p = ops.sigmoid(outputs) if self._from_logits else outputs
            return p / _root(p * (1.0 - p))
        if self._from_logits:
            p = ops.softmax(outputs, -1)
        else:
            p = outputs / ops.sum(outputs, -1, keepdims=True)
        return p / _root(p)

    def errors(self, y, outputs):
        """The negative log likelihood of each sample, or its squared error."""
        loss = self._function(y, ops.cast(outputs, "float64"))
        count = self._observed(outputs.shape) // math.prod(loss.shape[1:])
        axes = tuple(range(1, len(loss.shape)))
        return count * ops.sum(ops.cast(loss, "float64"), axes)

    def _observed(self, shape):
        """Number of targets of a sample."""
        elementwise = self.gaussian or self._binary
        return math.prod(shape[1:] if elementwise else shape[1:-1])

    def scale(self, shape, rows, weight):
        """What a strength times it is a precision (times the noise variance).

        The energy is `scale/2` times the loss that Keras minimizes.

        Args:
            shape: Shape of the outputs of any number of samples.
            rows: Number of samples.
            weight: Sum of their sample weights.
        """
        observed = self._observed(shape) * (weight if self._weighted_mean else rows)
        return observed if self.gaussian else 2.0 * observed

    def observations(self, shape, weight):
        """Number of targets that the noise is estimated from, 0 if there is none."""
        return self._observed(shape) * weight if self.gaussian else 0.0


def _root(curvature):
    return ops.stop_gradient(ops.sqrt(ops.maximum(curvature, 1e-30)))


def likelihood_of(model):
    """The likelihood of a compiled model.

    Raises:
        ValueError: If its loss is no negative log likelihood that we know.
    """
    given = model.loss
    if isinstance(given, list | tuple | dict) and len(given) == 1:
        (given,) = given.values() if isinstance(given, dict) else given
    outputs = len(getattr(model, "outputs", None) or [None])
    losses = len(given) if isinstance(given, list | tuple | dict) else 1
    weighted = getattr(model._compile_loss, "_user_loss_weights", None)
    if outputs != 1 or losses != 1 or weighted:
        raise ValueError(
            "`Evidence` needs a model of one output and one loss, without loss "
            f"weights. Received: {outputs} output(s), {losses} loss(es)"
            f"{' with weights' if weighted else ''}"
        )
    loss = keras.losses.get(given) if isinstance(given, str) else given
    settings = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    kind = type(loss) if settings else loss
    family = next((f for f in duals.LOSSES if kind in f.keras_losses), None)
    reduction = settings.get("reduction", "sum_over_batch_size")
    if (
        family is None
        or reduction not in _MEANS
        or settings.get("axis", -1) != -1
        or settings.get("ignore_class") is not None
    ):
        raise ValueError(
            "`Evidence` needs a loss that is the mean of a negative log likelihood. "
            "Expected mean squared error, or binary, categorical or sparse categorical "
            "crossentropy over the last axis, without ignored classes. "
            f"Received: loss={given!r} with {settings}"
        )
    function = loss.call if settings else loss
    logits = settings.get("from_logits", False)
    return Likelihood(family, function, logits, reduction == _MEANS[2])


_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class Gaussian:
    """A quadratic penalty `strength·Σ share·(w − center)²`.

    Args:
        share: Array that broadcasts to the weight.
        center: Array that broadcasts to the weight, or `None`: the present weight.
        strength: The penalty's strength.
    """

    def __init__(self, share, center, strength):
        self.share, self.center = np.asarray(share, "float64"), center
        self.strength = strength

    def square(self, w):
        """`Σ share·(w − center)²`."""
        w = np.asarray(w, "float64")
        center = w if self.center is None else np.asarray(self.center, "float64")
        return float(np.sum(self.share * np.square(w - center)))


def shares_of(variables):
    """The prior of the weights of a unit.

    Returns:
        The unit's strength (that of its first weight which has one); a list of what it
        is multiplied with in the penalty of each weight, arrays; and the squared
        distance from the centre which that multiplies, a float.
    """
    gaussians = [gaussian_of(v) for v in variables]
    strength = next((g.strength for g in gaussians if g.strength > 0), 0.0)
    ratios = [g.strength / strength if strength > 0 else 1.0 for g in gaussians]
    shares = [r * g.share for r, g in zip(ratios, gaussians, strict=True)]
    squares = [
        ratio * gaussian.square(v.numpy())
        for ratio, gaussian, v in zip(ratios, gaussians, variables, strict=True)
    ]
    return strength, shares, sum(squares)


def gaussian_of(variable):
    """The Gaussian prior that the penalty of a weight stands for.

    Raises:
        ValueError: If the penalty is not quadratic.
    """
    penalty = variable.regularizer
    found = _gaussian(penalty)
    if found is None:
        raise ValueError(
            "`Evidence` needs quadratic penalties: its Laplace approximation of the "
            "posterior takes each for a Gaussian prior. Expected L2, ElasticNet with "
            "l1=0, Anchored with one of `mu` and an L2, or Prior('Normal'). "
            f"Received: {penalty!r} on {variable.path}"
        )
    return found


def _gaussian(penalty):
    if type(penalty) in (L2, ElasticNet):
        quadratic = penalty.has_ratio and penalty.l1 == 0
        return Gaussian(1.0, 0.0, penalty.strength) if quadratic else None
    if type(penalty) is Anchored and penalty.penalty is None:
        anchor = penalty._anchor
        center = None if anchor is None else anchor.numpy()
        return Gaussian(0.5, center, penalty.strength)
    if type(penalty) is Anchored and penalty.mu == 0:
        return _gaussian(penalty.penalty)
    if type(penalty) is Prior and penalty.has_prox:
        config = penalty._family
        if config.name == "Normal" and config.params is not None:
            scale = np.asarray(config.params["scale"], "float64")
            center = np.asarray(config.params["loc"], "float64")
            return Gaussian(0.5 / np.square(scale), center, penalty.strength)
    return None
