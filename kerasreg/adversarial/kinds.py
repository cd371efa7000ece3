"""What a loss takes: probabilities or logits, classes or rows."""

import keras
import numpy as np
from keras import ops

_LOSSES = keras.losses
_KINDS = {
    _LOSSES.binary_crossentropy: "binary",
    _LOSSES.BinaryFocalCrossentropy().fn: "binary",
    _LOSSES.categorical_crossentropy: "categorical",
    _LOSSES.CategoricalFocalCrossentropy().fn: "categorical",
    _LOSSES.sparse_categorical_crossentropy: "sparse",
    _LOSSES.CategoricalGeneralizedCrossEntropy().fn: "sparse",
}


def kind_of(loss):
    """Which of Keras's cross-entropies a loss is.

    Args:
        loss: A Keras loss or a function.

    Returns:
        `"binary"`, `"categorical"` or `"sparse"`, or `None` for any other loss, a
        cross-entropy of the user's own among them.
    """
    return _KINDS.get(getattr(loss, "fn", loss))


def name_of(loss):
    """The name of the function that a loss is.

    Args:
        loss: A Keras loss or a function.
    """
    function = getattr(loss, "fn", loss)
    return getattr(function, "__name__", None) or getattr(loss, "name", "")


def sparse(loss):
    """Whether a loss takes the index of a class for each example."""
    return kind_of(loss) == "sparse"


def from_logits(loss):
    """Whether a loss takes logits.

    Args:
        loss: A Keras loss or a function.
    """
    return bool(_setting(loss, "from_logits", False))


def axis_of(loss, rank):
    """The axis of the classes in predictions of so many axes, counted from 0.

    Args:
        loss: A Keras loss or a function.
        rank: Positive integer.
    """
    return _setting(loss, "axis", -1) % rank if kind_of(loss) else rank - 1


def _setting(loss, name, default):
    if not isinstance(loss, keras.losses.Loss):
        return default
    return loss.get_config().get(name, default)


def check_targets(loss, y, y_pred):
    """Raise if targets are not of the form that one of Keras's losses takes.

    Args:
        loss: A Keras loss or a function. What the user's own takes is not known.
        y: Tensor of targets.
        y_pred: Tensor of predictions (batch, ..., outputs).

    Raises:
        ValueError: If classes are needed and one-hot rows given, or the reverse.
    """
    if not getattr(getattr(loss, "fn", loss), "__module__", "").startswith("keras."):
        return
    shape, targets = tuple(y_pred.shape), tuple(y.shape)
    rank = len(shape)
    if sparse(loss):
        axis = axis_of(loss, rank)
        one = len(targets) == rank and targets[axis] == 1
        if len(targets) != rank - 1 and not one:
            raise ValueError(
                "Invalid value for argument `y`. Expected the index of a class for "
                f"each example, of shape {shape[:axis] + shape[axis + 1 :]}, as the "
                f"sparse loss takes it. Received: y of shape {targets}"
            )
        return
    scalar = shape[-1] == 1 and len(targets) == rank - 1
    if not scalar and (len(targets) != rank or targets[-1] != shape[-1]):
        raise ValueError(
            "Invalid value for argument `y`. Expected targets of the shape of the "
            f"predictions, {shape} (one-hot rows, for classes). "
            f"Received: y of shape {targets}"
        )


def check_labels(loss, y, y_pred):
    """Raise if the targets of a cross-entropy are no classes or probabilities.

    Args:
        loss: A Keras loss or a function.
        y: Tensor of targets.
        y_pred: Predictions, or what has their shape.

    Targets of another form are left to `check_targets`.

    Raises:
        ValueError: If a class is not one, or a target is not between 0 and 1.
    """
    kind, values = kind_of(loss), ops.convert_to_numpy(y).astype(float)
    if kind is None or not _suit(loss, y, y_pred):
        return
    if kind == "sparse":
        classes = y_pred.shape[axis_of(loss, len(y_pred.shape))]
        right = (values >= 0) & (values < classes) & (values % 1 == 0)
        right |= values == _setting(loss, "ignore_class", None)
        expected = f"classes, integers from 0 to {classes - 1}"
    else:
        right, expected = (values >= 0) & (values <= 1), "targets from 0 to 1"
    if not np.all(right):
        wrong = values[~right]
        raise ValueError(
            f"Invalid value for argument `y`. Expected {expected}, for the loss "
            f"{name_of(loss)!r}. Received: {wrong.size} others, such as {wrong[0]:g}"
        )


def _suit(loss, y, y_pred):
    try:
        check_targets(loss, y, y_pred)
    except ValueError:
        return False
    return True
