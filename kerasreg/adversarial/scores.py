"""What a classifier returned, as scores of its classes."""

import keras
from keras import ops, tree

from kerasreg.adversarial import losses

_LARGEST = 1e30


def margin(y, y_pred, loss):
    """How far another class is ahead of the right one, in logits.

    Args:
        y: Classes or one-hot rows.
        y_pred: Predictions.
        loss: The model's loss.
    """
    scores = _sharp_scores(y_pred, loss)
    right = ops.one_hot(_classes(y, y_pred), scores.shape[-1], dtype="bool")
    other = ops.max(ops.where(right, -_LARGEST, scores), axis=-1)
    return other - ops.sum(ops.where(right, scores, 0.0), axis=-1)


def logit_ratio(y, y_pred, loss):
    """The margin over the distance from the first to the third score.

    It does not depend on the scale of the logits. With two classes it is the margin.

    Args:
        y: Classes or one-hot rows.
        y_pred: Predictions.
        loss: The model's loss.

    Reference: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks", eq. 6.
    """
    ahead = margin(y, y_pred, loss)
    scores = _sharp_scores(y_pred, loss)
    if scores.shape[-1] <= 2:
        return ahead
    top = ops.top_k(scores, 3)[0]
    return ahead / (top[..., 0] - top[..., 2] + 1e-12)


def class_loss(model, name="model"):
    """The cross-entropy that a classifier is compiled with.

    Args:
        model: A `keras.Model`.
        name: Name of the argument that it is, for messages.

    Raises:
        TypeError: If it is no model.
        ValueError: If it has no loss, or another one.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a keras.Model. "
            f"Received: {name}={model!r}"
        )
    given = getattr(model, "loss", None)
    if given is None:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a compiled model, also for "
            "attacks with a loss of their own: compile it with a loss "
            "(model.compile(loss=...)). Received: the model "
            f"{model.name!r} without a loss"
        )
    loss = keras.losses.get(given) if isinstance(given, str) else given
    if isinstance(loss, dict | list) or "crossentropy" not in losses.name_of(loss):
        raise _no_classifier(f"loss={given!r}", name)
    return loss


def _no_classifier(received, name):
    return ValueError(
        f"Invalid value for argument `{name}`. Expected one that is compiled with a "
        f"cross-entropy and has one output, of classes. Received: {received}"
    )


def class_scores(y_pred, loss, name="model"):
    """Logits of all classes, (batch, classes); half precision as float32.

    Args:
        y_pred: What a model returned: logits or probabilities, one or several.
        loss: Its loss.
        name: Name of the argument that the model is, for messages.

    Raises:
        ValueError: If these are not scores of classes that exclude each other.
    """
    shapes = [tuple(part.shape) for part in tree.flatten(y_pred)]
    single = len(shapes) == 1 and len(shapes[0]) == 2
    if not single or ("binary" in losses.name_of(loss) and shapes[0][1] != 1):
        raise _no_classifier(f"outputs of shapes {shapes}", name)
    return _scores(y_pred, losses.from_logits(loss))


def class_guesses(y_pred, loss):
    """The predicted classes, (batch,); -1 where a prediction is NaN.

    Args:
        y_pred: What a model returned.
        loss: Its loss.
    """
    guesses = ops.cast(ops.argmax(class_scores(y_pred, loss), axis=-1), "int32")
    unknown = ops.any(ops.isnan(y_pred), axis=-1)
    return ops.where(unknown, -1, guesses)


def _sharp_scores(y_pred, loss):
    """The scores; those before a sigmoid or softmax, where Keras keeps them.

    Probabilities that are rounded to 1 have no slope.
    """
    logits = getattr(y_pred, "_keras_logits", None)
    if logits is None or losses.from_logits(loss):
        return class_scores(y_pred, loss)
    return _scores(logits, True)


def _scores(y_pred, logits):
    if keras.backend.standardize_dtype(y_pred.dtype) != "float64":
        y_pred = ops.cast(y_pred, "float32")
    if y_pred.shape[-1] == 1:
        if not logits:
            y_pred = ops.clip(y_pred, 1e-30, 1.0)
            y_pred = ops.log(y_pred) - ops.log(ops.maximum(1.0 - y_pred, 1e-30))
        return ops.concatenate([ops.zeros_like(y_pred), y_pred], axis=-1)
    return y_pred if logits else ops.log(ops.maximum(y_pred, 1e-30))


def _classes(y, y_pred):
    if len(y.shape) == len(y_pred.shape) and y.shape[-1] == y_pred.shape[-1] > 1:
        return ops.argmax(y, axis=-1)
    return ops.cast(ops.reshape(y, (-1,)), "int32")
