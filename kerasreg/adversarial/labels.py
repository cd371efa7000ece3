"""The data that a classifier is judged by, checked: examples and their classes."""

import numpy as np
from keras import ops, tree

from kerasreg.adversarial.losses import kind_of
from kerasreg.adversarial.tensors import to_tensors


def check_examples(x):
    """Inputs as tensors, and how many examples they are.

    Args:
        x: Array(s), or a list of rows.

    Raises:
        ValueError: If there is no example, or the inputs differ in how many they have.
    """
    given = x
    if isinstance(x, list | tuple) and not all(hasattr(part, "shape") for part in x):
        x = _as_array(x)
    inputs = None if x is None else to_tensors(x)
    shapes = [tuple(part.shape) for part in tree.flatten(inputs) if part is not None]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        received = f"shapes {shapes}" if shapes else f"x={given!r}"
        raise ValueError(
            "Invalid value for argument `x`. Expected one example or more, as many of "
            f"each input. Received: {received}"
        )
    return inputs, counts.pop()


def _as_array(rows):
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `x`. Expected rows of the same length. "
            f"Received: {error}"
        ) from None


def class_numbers(y, examples, outputs):
    """Classes as numbers, an int array (examples,).

    Args:
        y: Class numbers, one-hot rows, or 0 and 1 for a single output.
        examples: How many there should be.
        outputs: How many the model has.

    Raises:
        ValueError: If it is none of these.
    """
    many = outputs > 1
    expected = "class number" if many else "0 or 1"
    expected = f"{'a' if many else ''} {expected} for each of {examples} examples"
    if many:
        expected = f"{expected}, below {outputs}, or one-hot rows"
    problem = "Invalid value for argument `y`. Expected " + expected.strip()
    try:
        labels = np.asarray(y).astype("float64")
    except (TypeError, ValueError):
        raise ValueError(f"{problem}. Received: y of {type(y).__name__}") from None
    if y is None:
        raise ValueError(f"{problem}. Received: y=None")
    shapes = [(examples,), (examples, 1), *([(examples, outputs)] if many else [])]
    if labels.shape not in shapes:
        raise ValueError(f"{problem}. Received: y of shape {labels.shape}")
    if labels.shape == (examples, outputs) and many:
        hot = np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)
        wrong, labels = labels[~hot], labels.argmax(axis=1)
    else:
        labels = labels.reshape(-1)
        known = np.arange(max(outputs, 2))
        wrong = np.unique(labels[~np.isin(labels, known)])
    if len(wrong):
        raise ValueError(f"{problem}. Received: {wrong[0].tolist()} among them")
    return labels.astype("int32")


def as_targets(classes, y, loss, outputs):
    """Targets in the form that a loss takes; of one that is not Keras's, as they are.

    Args:
        classes: Int tensor (batch,).
        y: What was given as targets.
        loss: A Keras loss or a function.
        outputs: How many the model has.
    """
    kind = kind_of(loss)
    if kind is None:
        return y
    if kind == "sparse":
        return classes
    if outputs == 1:
        return ops.cast(ops.expand_dims(classes, -1), "float32")
    return ops.one_hot(classes, outputs, dtype="float32")
