"""A duality gap for linear models: how far an objective can be from its minimum.

For predictions `z_i = W'x_i + b` of one Dense layer and the objective

    P(W, b) = Σ_i c_i ℓ_i(z_i) + h(W) + h_b(b),

where `c_i` is the sample weight over the number of samples, every matrix `U` of
one row a sample gives a lower bound of all values of `P` (Fenchel):

    D(U) = −Σ_i c_i ℓ_i*(u_i) − h*(−Σ_i c_i x_i u_i') − h_b*(−Σ_i c_i u_i).

The rows `u_i = ∇ℓ_i(z_i)` of the solution are the best ones. Elsewhere they are
first shifted so that `Σ c_i u_i = 0` (outside, a bias without penalty makes `D`
infinite), then scaled into the domain of `h*`. `P − D` bounds the distance of
`P` to its minimum. It is computed in float64, from the data as the layer gets it.

Reference: Rockafellar 1970, "Convex analysis", theorem 31.2; for the scaling
Ndiaye, Fercoq, Gramfort & Salmon 2017, "Gap safe screening rules for sparsity
enforcing penalties", eq. 13.
"""

import copy

import keras
from keras import ops

from kerasreg.optimizers import duals
from kerasreg.optimizers.linear import LinearObjective


class LinearModel:
    """A linear model with a dual: makes its `LinearObjective` on data.

    Args:
        features: `keras.Model` from the model's input to the Dense layer's.
        layer: The `keras.layers.Dense`.
        loss: A loss of `kerasreg.optimizers.duals`.
        reduction: How the loss sums over samples, in Keras's words.
        penalties: The dual penalties of the kernel and, if there is one, of the
            bias.
    """

    def __init__(self, features, layer, loss, reduction, penalties):
        self._features, self._layer = features, layer
        self._loss, self._reduction = loss, reduction
        self._penalties = penalties
        self._free = None

    def at_present(self):
        """The model with the strengths of the moment.

        Returns:
            This one, or one whose bias is free where its penalty is 0 just now, or
            `None` where the kernel's is 0: then there is no finite dual.
        """
        kernel, *bias = self._penalties
        if not kernel.usable():
            return None
        if all(penalty.free or penalty.usable() for penalty in bias):
            return self
        if self._free is None:
            self._free = copy.copy(self)
            self._free._penalties = [kernel, duals.Free()]
        return self._free

    def prepare(self, data):
        """What both objectives need: features, targets, weights and units.

        Args:
            data: Tuple of inputs, targets and sample weights (or `None`).
        """
        x, y, sample_weight = data
        x = self._features(x, training=False)
        n = ops.shape(x)[0]
        if sample_weight is None:
            c = ops.ones((n, 1), "float64")
        else:
            c = ops.reshape(ops.cast(sample_weight, "float64"), (n, 1))
        if self._reduction == "mean_with_sample_weight":
            c = c / ops.sum(c)
        elif self._reduction != "sum":
            c = c / ops.cast(n, "float64")
        return x, self._loss.targets(y, n), c, *self._units(x)

    def objective(self, prepared, dtype):
        """The `LinearObjective` of what `prepare` returned, in a dtype."""
        x, y, c, rough, mean, deviation = prepared
        x, y, c, mean, deviation = (
            ops.cast(part, dtype) for part in (x, y, c, mean, deviation)
        )
        x = ops.cond(rough, lambda: (x - mean) / deviation, lambda: x)
        return LinearObjective(
            x,
            y,
            c,
            mean[0, :, None],
            deviation[0, :, None],
            self._loss,
            self._penalties,
        )

    def _units(self, x):
        """The origin and unit that each feature is best measured in.

        Looks at the first samples only, to see whether it is worth a pass over
        the data: any choice gives the same problem, and a good one fewer steps.
        The origin may only move if a free bias can take it up, and units differ
        only if the penalty treats each weight by itself.
        """
        mean, variance = ops.moments(x[:_LOOK], axes=0, keepdims=True)
        deviation = ops.sqrt(variance)
        ones = ops.ones_like(mean)
        rough = ops.convert_to_tensor(False)
        if self._layer.use_bias and self._penalties[1].free:
            rough = ops.any(ops.abs(mean) > deviation)
        else:
            mean = 0.0 * ones
        if self._penalties[0].elementwise:
            few = ops.min(ops.where(deviation > 0, deviation, float("inf")))
            rough = ops.logical_or(rough, ops.max(deviation) > _SPREAD * few)
        else:
            deviation = ones
        deviation = ops.where(deviation > 0, deviation, 1.0)
        mean = ops.where(rough, mean, 0.0)
        return rough, mean, ops.where(rough, deviation, 1.0)


_LOOK = 64  # samples that the units are taken from
_SPREAD = 3.0  # ratio of units from which on they are equalized


def linear_model(model):
    """Find the dual of a model.

    Args:
        model: A built and compiled `keras.Model`.

    Returns:
        A `LinearModel`, or `None` if this is not a linear model, or one whose
        loss or penalty has no dual here.
    """
    loss, reduction, activation = _loss_of(model)
    parts = _linear_parts(model)
    if loss is None or parts is None or parts[2] is not activation:
        return None
    features, layer, _ = parts
    penalized = [v for v in model.trainable_variables if v.regularizer is not None]
    if len(model.losses) > len(penalized) or model._compile_loss._user_loss_weights:
        return None  # something else is in the loss
    variables = [layer.kernel] + ([layer.bias] if layer.use_bias else [])
    trained = model.trainable_variables
    if [id(v) for v in variables] != [id(v) for v in trained]:
        return None
    penalties = [duals.dual_penalty(v) for v in variables]
    if None in penalties or penalties[0].free:
        return None
    return LinearModel(features, layer, loss(layer.units), reduction, penalties)


def _loss_of(model):
    """The dual loss of a compiled model, its reduction and the activation of it."""
    given = model.loss
    if isinstance(given, str):
        given = vars(keras.losses).get(given) or keras.losses.get(given)
    settings = given.get_config() if isinstance(given, keras.losses.Loss) else {}
    kind = type(given) if settings else given
    family = next((f for f in duals.LOSSES if kind in f.keras_losses), None)
    if (
        family is None
        or settings.get("label_smoothing")
        or (settings.get("axis", -1) != -1 or settings.get("ignore_class") is not None)
    ):
        return None, None, None
    logits = settings.get("from_logits", False)
    activation = keras.activations.linear if logits else family.activation
    return family, settings.get("reduction", "sum_over_batch_size"), activation


def _linear_parts(model):
    """Features, Dense layer and activation of a linear model, or `None`."""
    trained = [layer for layer in _leaves(model) if layer.trainable_variables]
    if len(trained) != 1 or type(trained[0]) is not keras.layers.Dense:
        return None
    layer = trained[0]
    try:
        inputs, outputs = model.inputs, model.outputs
        head = []
        if layer.output is not outputs[0]:
            head = keras.Model(layer.output, outputs).layers
        features = keras.Model(inputs, layer.input)
    except (AttributeError, ValueError):  # not a graph of layers, or not this one
        return None
    if len(outputs) != 1 or len(layer.input.shape) != 2 or layer.lora_enabled:
        return None
    activations = [layer.activation]
    for last in head:
        if isinstance(last, keras.layers.Softmax):
            activations.append(keras.activations.softmax)
        elif isinstance(last, keras.layers.Activation):
            activations.append(last.activation)
        elif not isinstance(last, keras.layers.InputLayer):
            return None
    activations = [a for a in activations if a is not keras.activations.linear]
    if len(activations) > 1:
        return None
    return features, layer, (activations or [keras.activations.linear])[0]


def _leaves(model):
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if not list(layer._flatten_layers(include_self=False))
    ]
