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

import keras
from keras import ops

from kerasreg.optimizers import duals


class Certificate:
    """The duality gap of a linear model.

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

    def usable(self):
        """Whether the penalties are strong enough for a finite dual just now."""
        return self._penalties[0].usable()

    def prepare(self, data):
        """What `gap` needs of the data, in float64.

        Args:
            data: Tuple of inputs, targets and sample weights (or `None`).

        Returns:
            A tuple of tensors: features (n, p), targets (n, k), weights (n, 1).
        """
        x, y, sample_weight = data
        x = ops.cast(self._features(x, training=False), "float64")
        n = ops.shape(x)[0]
        if sample_weight is None:
            weight = ops.ones((n, 1), "float64")
        else:
            weight = ops.reshape(ops.cast(sample_weight, "float64"), (n, 1))
        if self._reduction == "mean_with_sample_weight":
            weight = weight / ops.sum(weight)
        elif self._reduction != "sum":
            weight = weight / ops.cast(n, "float64")
        return x, self._loss.targets(y, n), weight

    def gap(self, prepared, weights):
        """The objective and the duality gap, float64 scalars.

        Args:
            prepared: What `prepare` returned.
            weights: List of tensors: the values of the model's weights.
        """
        x, y, c = prepared
        # In the order of the model: the kernel, then the bias.
        weights = [ops.cast(w, "float64") for w in weights]
        z = ops.matmul(x, weights[0])
        if self._layer.use_bias:
            z = z + weights[1]
        primal = ops.sum(c[:, 0] * self._loss.value(z, y))
        for penalty, w in zip(self._penalties, weights, strict=True):
            primal = primal + penalty.value(w)
        u = self._loss.slope(z, y)
        if self._layer.use_bias and self._penalties[1].free:
            u = self._loss.center(u, y, c)
        forces = [ops.matmul(ops.transpose(x), c * u), ops.sum(c * u, 0)]
        forces = forces[: len(weights)]
        dual = None
        for scale in self._scales(forces):
            bound = -ops.sum(c[:, 0] * self._loss.conjugate(scale * u, y))
            for penalty, force in zip(self._penalties, forces, strict=True):
                bound = bound - penalty.conjugate(scale * force)
            dual = bound if dual is None else ops.maximum(dual, bound)
        return primal, primal - dual

    def _scales(self, forces):
        """Two scales to try: inside all hard bounds, and inside soft ones too."""
        hard = soft = ops.ones((), "float64")
        for penalty, force in zip(self._penalties, forces, strict=True):
            scale = penalty.scale(force)
            soft = ops.minimum(soft, scale)
            if penalty.hard:
                hard = ops.minimum(hard, scale)
        return hard, soft


def certificate_of(model):
    """Find the duality gap of a model.

    Args:
        model: A built and compiled `keras.Model`.

    Returns:
        A `Certificate`, or `None` if this is not a linear model, or one whose
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
    return Certificate(features, layer, loss(layer.units), reduction, penalties)


def _loss_of(model):
    """The dual loss of a compiled model, its reduction and the activation of it."""
    given = model.loss
    if isinstance(given, str):
        given = vars(keras.losses).get(given) or keras.losses.get(given)
    settings = given.get_config() if isinstance(given, keras.losses.Loss) else {}
    kind = type(given) if settings else given
    family = next((f for f in duals.LOSSES if kind in f.keras_losses), None)
    if family is None or settings.get("label_smoothing") or (
        settings.get("axis", -1) != -1 or settings.get("ignore_class") is not None
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
