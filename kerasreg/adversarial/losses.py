"""The loss of each example by itself, as a model was compiled with it."""

import keras
from keras import ops


def example_losses(model, y, y_pred, loss=None):
    """The loss of each example: that of the compiled model, without penalties.

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
    total = 0.0
    for key, weight, each in _outputs(model, y_pred, loss):
        total = total + weight * _one(each, _part(y, key), _part(y_pred, key))
    return total


def divergences(model, clean, other, loss=None, sample_weight=None):
    """How far the predictions of each example are from others.

    For outputs with a cross-entropy it is the Kullback-Leibler divergence of `other`
    from `clean`, in nats, else the mean squared distance. Of several outputs that are
    yes or no it is the mean, as their loss is.

    Args:
        model: A `keras.Model`.
        clean: What the model returned.
        other: What it returned for other inputs.
        loss: Instead of the loss that the model is compiled with.
        sample_weight: Weights of the examples, as Keras's losses take them, or `None`.

    Returns:
        A tensor (batch,), of several outputs the weighted sum.
    """
    total = 0.0
    for key, weight, each in _outputs(model, clean, loss):
        values = _divergence(_part(clean, key), _part(other, key), each)
        factors = _part(sample_weight, key)
        if factors is not None:
            factors = ops.cast(factors, values.dtype)
            if len(factors.shape) > len(values.shape):
                factors = ops.squeeze(factors, -1)
            rest = (1,) * (len(values.shape) - len(factors.shape))
            values = values * ops.reshape(factors, (*ops.shape(factors), *rest))
        total = total + weight * _mean(values)
    return total


def _outputs(model, y_pred, loss):
    """Key, weight and loss of each output that has a loss."""
    loss = model_loss(model) if loss is None else loss
    weights, keys = None, (None,)
    if isinstance(y_pred, dict | list | tuple):
        weights = _loss_weights(model)
        keys = tuple(y_pred if isinstance(y_pred, dict) else range(len(y_pred)))
    for key in keys:
        each = _part(loss, key)
        if each is not None:
            named = keras.losses.get(each) if isinstance(each, str | dict) else each
            yield key, _part(weights, key, 1.0), named


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


def _loss_weights(model):
    if not getattr(model, "compiled", False):
        return None
    # tensorflow: Keras reads numbers for its config, which a graph being traced
    # does not have.
    import tensorflow as tf

    with tf.init_scope():
        return model.get_compile_config().get("loss_weights")


def _part(structure, key, default=None):
    """What a structure has for one output; one loss may serve all of them."""
    if key is None:
        return default if structure is None else structure
    if isinstance(structure, dict):
        return structure.get(key, default)
    if isinstance(structure, list | tuple):
        return structure[key]
    return default if structure is None else structure


def _one(loss, y, y_pred):
    """The loss of each example, of one output."""
    y_pred = ops.convert_to_tensor(y_pred)
    y = ops.convert_to_tensor(y)
    check_targets(loss, y, y_pred)
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    if len(y.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1:
        y = ops.expand_dims(y, -1)
    if not sparse(loss):
        y = ops.cast(y, y_pred.dtype)
    return _mean(function(y, y_pred))


def _mean(values):
    """The mean over all axes but that of the examples."""
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def _divergence(clean, other, loss):
    """Of each example and place: a tensor without the axis of the outputs."""
    name = name_of(loss)
    if "crossentropy" not in name:
        return ops.mean(ops.square(clean - other), axis=-1)
    logs = [_log_probabilities(p, from_logits(loss), name) for p in (clean, other)]
    reduce = ops.sum if "categorical" in name else ops.mean
    pairs = zip(*logs, strict=True)
    return sum(reduce(ops.exp(p) * (p - q), axis=-1) for p, q in pairs)


def _log_probabilities(predictions, logits, name):
    """Logs of the probabilities of all outcomes: a list of tensors.

    Args:
        predictions: Tensor (batch, ..., outputs).
        logits: Whether they are logits.
        name: Name of the loss: of classes, or of each output by itself.
    """
    tiny = keras.config.epsilon()
    if "categorical" in name:
        if logits:
            return [ops.log_softmax(predictions, axis=-1)]
        return [ops.log(ops.clip(predictions, tiny, 1.0))]
    if logits:
        return [ops.log_sigmoid(predictions), ops.log_sigmoid(-predictions)]
    inside = ops.clip(predictions, tiny, 1.0 - tiny)
    return [ops.log(inside), ops.log1p(-inside)]


def from_logits(loss):
    """Whether a loss takes logits.

    Args:
        loss: A Keras loss or a function.
    """
    config = loss.get_config() if hasattr(loss, "get_config") else {}
    return bool(config.get("from_logits"))


def name_of(loss):
    """The name of the function that a loss is, in small letters.

    Args:
        loss: A Keras loss or a function.
    """
    function = getattr(loss, "fn", loss)
    return getattr(function, "__name__", None) or getattr(loss, "name", "")


def sparse(loss):
    """Whether a loss takes the index of a class for each example."""
    return "sparse_categorical" in name_of(loss)


def check_targets(loss, y, y_pred):
    """Raise if targets are not of the form that a loss takes.

    Args:
        loss: A Keras loss or a function.
        y: Tensor of targets.
        y_pred: Tensor of predictions (batch, ..., outputs).

    Raises:
        ValueError: If classes are needed and one-hot rows given, or the reverse.
    """
    classes, targets = y_pred.shape[-1], tuple(y.shape)
    if sparse(loss):
        rank = len(y_pred.shape)
        one = len(targets) == rank and targets[-1] == 1
        if len(targets) != rank - 1 and not one:
            raise ValueError(
                "Invalid value for argument `y`. Expected the index of a class for "
                f"each example, of shape {tuple(y_pred.shape[:-1])}, as the sparse "
                f"loss takes it. Received: y of shape {targets}"
            )
        return
    scalar = classes == 1 and len(targets) == len(y_pred.shape) - 1
    if not scalar and (len(targets) != len(y_pred.shape) or targets[-1] != classes):
        raise ValueError(
            "Invalid value for argument `y`. Expected targets of the shape of the "
            f"predictions, {tuple(y_pred.shape)} (one-hot rows, for classes). "
            f"Received: y of shape {targets}"
        )
