"""The loss of each example by itself, as a model was compiled with it."""

import keras
from keras import ops

from kerasreg.adversarial.kinds import (
    axis_of,
    check_labels,
    check_targets,
    from_logits,
    kind_of,
    name_of,
    sparse,
)
from kerasreg.adversarial.outputs import each_output

__all__ = [
    "check_classes",
    "check_targets",
    "divergences",
    "example_losses",
    "from_logits",
    "kind_of",
    "model_loss",
    "name_of",
    "sparse",
]


def example_losses(model, y, y_pred, loss=None):
    """The loss of each example: that of the compiled model, without penalties.

    Places that Keras does not count, by a mask or `ignore_class`, are not counted.

    Args:
        model: A `keras.Model`.
        y: Targets, or a structure of them, as the model's loss takes them.
        y_pred: What the model returned.
        loss: A Keras loss, its name, a function, or a structure of these for several
            outputs, instead of the compiled one.

    Returns:
        A tensor (batch,), of several outputs the weighted sum.

    Raises:
        ValueError: If there is no loss, or the targets do not suit it.
    """
    loss, total = model_loss(model) if loss is None else loss, 0.0
    for each, weight, prediction, target in each_output(model, y_pred, loss, y=y):
        if target is None:
            raise ValueError(
                "Invalid value for argument `y`. Expected targets for each output with "
                "a loss. Received: none for one of them"
            )
        total = total + weight * _one(each, target, prediction)
    return total


def divergences(model, clean, other, loss=None, sample_weight=None):
    """How far the predictions of each example are from others.

    For outputs with one of Keras's cross-entropies it is the Kullback-Leibler
    divergence of `other` from `clean`, in nats, else the mean squared distance: also
    for a cross-entropy of the user's own, of which it is not known what it takes. Of
    several outputs that are yes or no it is the mean, as their loss is. Masked places
    are not counted.

    Args:
        model: A `keras.Model`.
        clean: What the model returned.
        other: What it returned for other inputs.
        loss: Instead of the loss that the model is compiled with.
        sample_weight: Weights of the examples, as Keras's losses take them, or `None`.

    Returns:
        A tensor (batch,), of several outputs the weighted sum.
    """
    loss, total = model_loss(model) if loss is None else loss, 0.0
    for each, weight, before, after, factors in each_output(
        model, clean, loss, other=other, sample_weight=sample_weight
    ):
        mask = _mask_of(before)
        mask = _mask_of(after) if mask is None else mask
        values = _divergence(_full(before), _full(after), each)
        if factors is not None:
            values = values * _like(ops.cast(factors, values.dtype), values)
        total = total + weight * _mean(values, mask)
    return total


def model_loss(model):
    """The loss that a model was compiled with.

    Args:
        model: A `keras.Model`.

    Raises:
        ValueError: If it has none.
    """
    loss = getattr(model, "loss", None)
    if loss is None:
        raise ValueError(
            "Invalid value for argument `loss`. Expected a loss, or a model compiled "
            f"with one. Received: loss=None and the model {model.name!r} without a loss"
        )
    return loss


def check_classes(model, y, loss=None):
    """Raise if targets are no classes, or out of [0, 1], where a loss needs them.

    Args:
        model: A `keras.Model`; one that does not know its outputs is not checked.
        y: Structure of tensors.
        loss: Instead of the loss that the model is compiled with.

    Raises:
        ValueError: If they are not.
    """
    loss = model_loss(model) if loss is None else loss
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return
    y_pred = outputs[0] if isinstance(model, keras.Sequential) else model.output
    for each, _, prediction, target in each_output(model, y_pred, loss, y=y):
        if target is not None:
            check_labels(each, target, prediction)


def _one(loss, y, y_pred):
    """The loss of each example, of one output."""
    mask, y_pred = _mask_of(y_pred), _full(y_pred)
    y = ops.convert_to_tensor(y)
    if len(y_pred.shape) == len(y.shape) == 1 or (
        len(y.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1
    ):
        y = ops.expand_dims(y, -1)
    if len(y_pred.shape) == 1:
        y_pred = ops.expand_dims(y_pred, -1)
    check_targets(loss, y, y_pred)
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    if not sparse(loss):
        y = ops.cast(y, y_pred.dtype)
    values = function(y, y_pred)
    return _mean(values, mask, _mask_of(values))


def _full(tensor):
    """In float32, as Keras's losses have it, or in float64."""
    tensor = ops.convert_to_tensor(tensor)
    double = keras.backend.standardize_dtype(tensor.dtype) == "float64"
    return tensor if double else ops.cast(tensor, "float32")


def _mask_of(tensor):
    return getattr(tensor, "_keras_mask", None)


def _mean(values, *masks):
    """The mean over all axes but that of the examples, of places that count."""
    axes = tuple(range(1, len(values.shape)))
    given = [ops.cast(mask, values.dtype) for mask in masks if mask is not None]
    if not given:
        return ops.mean(values, axis=axes) if axes else values
    counted = ops.ones_like(values)
    for factors in given:
        counted = counted * _like(factors, values)
    values = ops.where(counted > 0, values, 0.0)
    if not axes:
        return values
    count = ops.maximum(ops.sum(counted, axis=axes), 1.0)
    return ops.sum(values, axis=axes) / count


def _like(factors, values):
    """Factors with as many axes as the values, by axes of length 1 at the end."""
    if len(factors.shape) > len(values.shape):
        return ops.squeeze(factors, -1)
    rest = (1,) * (len(values.shape) - len(factors.shape))
    return ops.reshape(factors, (*ops.shape(factors), *rest))


def _divergence(clean, other, loss):
    """Of each example and place: a tensor without the axis of the outputs."""
    if len(clean.shape) == 1:
        clean, other = (ops.expand_dims(p, -1) for p in (clean, other))
    kind, axis = kind_of(loss), axis_of(loss, len(clean.shape))
    if kind is None:
        return ops.mean(ops.square(clean - other), axis=-1)
    logs = [_logs(p, from_logits(loss), kind, axis) for p in (clean, other)]
    reduce = ops.mean if kind == "binary" else ops.sum
    pairs = zip(*logs, strict=True)
    return sum(reduce(ops.exp(p) * (p - q), axis=axis) for p, q in pairs)


def _logs(predictions, logits, kind, axis):
    """Logs of the probabilities of all outcomes: a list of tensors.

    Args:
        predictions: Tensor.
        logits: Whether they are logits.
        kind: What `kind_of` returns: of classes, or of each output by itself.
        axis: That of the classes.
    """
    tiny = keras.config.epsilon()
    if kind != "binary":
        if logits:
            return [ops.log_softmax(predictions, axis=axis)]
        return [ops.log(ops.clip(predictions, tiny, 1.0))]
    if logits:
        return [ops.log_sigmoid(predictions), ops.log_sigmoid(-predictions)]
    inside = ops.clip(predictions, tiny, 1.0 - tiny)
    return [ops.log(inside), ops.log1p(-inside)]
