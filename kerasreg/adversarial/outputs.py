"""What belongs to each output of a model: its loss, weight and targets, as in Keras."""

import keras
from keras import tree


def each_output(model, y_pred, loss, **others):
    """The loss of each output that has one, with what belongs to it.

    A structure may be a list in the order of the outputs, a dict by their keys (for
    outputs in a list, or a single one, by the names of their layers), or one value for
    all.

    Args:
        model: A `keras.Model`.
        y_pred: What it returned.
        loss: A loss, its name, or a structure of these.
        **others: Further structures, such as `y`.

    Returns:
        A list of tuples: loss, weight, prediction and an entry of each of `others`.

    Raises:
        ValueError: If a structure does not suit the outputs.
    """
    keys, predictions = _keys(model, y_pred)
    given = split("loss", loss, keys)
    counted = [each is not None for each in given]
    weights = split("loss_weights", _loss_weights(model), keys, counted)
    parts = [split(name, other, keys, counted) for name, other in others.items()]
    rows = zip(given, weights, predictions, *parts, strict=True)
    return [
        (keras.losses.get(each), 1.0 if weight is None else weight, *rest)
        for each, weight, *rest in rows
        if each is not None
    ]


def _keys(model, y_pred):
    """Keys of the outputs, `None` for one without, and the outputs in their order."""
    if isinstance(y_pred, dict):
        keys = tree.flatten(type(y_pred)((key, key) for key in y_pred))
        return keys, [y_pred[key] for key in keys]
    predictions = list(y_pred) if isinstance(y_pred, list | tuple) else [y_pred]
    names = list(getattr(model, "output_names", None) or [])
    if len(names) != len(predictions):
        names = [None] * len(predictions)
    return names, predictions


def split(name, structure, keys, counted=()):
    """What a structure has for each output: a list.

    Args:
        name: What it is, for the message.
        structure: A dict, a list, or one value for all.
        keys: Keys of the outputs.
        counted: For each output, whether it has a loss: a list may leave out others.
    """
    if isinstance(structure, dict):
        if len(keys) == len(structure) == 1:
            return list(structure.values())
        if set(structure) <= set(keys):
            return [structure.get(key) for key in keys]
    elif not isinstance(structure, list | tuple):
        return [structure] * len(keys)
    elif len(structure) == len(keys):
        return list(structure)
    elif len(structure) == sum(counted):
        rest = iter(structure)
        return [next(rest) if has_loss else None for has_loss in counted]
    received = list(structure) if isinstance(structure, dict) else len(structure)
    raise ValueError(
        f"Invalid value for argument `{name}`. Expected an entry for each of the "
        f"model's {len(keys)} outputs{_named(keys)}. Received: entries {received}"
    )


def _named(keys):
    return f", {keys}" if keys != [None] * len(keys) else ""


def _loss_weights(model):
    if not getattr(model, "compiled", False):
        return None
    # tensorflow: Keras reads numbers for its config, which a graph being traced
    # does not have.
    import tensorflow as tf

    with tf.init_scope():
        return model.get_compile_config().get("loss_weights")
