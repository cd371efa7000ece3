"""Checks of what `compare` is given, before anything is trained."""

import keras
import numpy as np


def check_finite(name, array):
    """Refuses arrays with NaN or infinite values.

    Args:
        name: Name of the argument, for the message.
        array: An array of numbers.

    Raises:
        ValueError: It has one.
    """
    bad = ~np.isfinite(array)
    if bad.any():
        rows = int(bad.reshape(len(array), -1).any(axis=1).sum())
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite numbers. "
            f"Received: {int(bad.sum())} NaN or infinite values, in {rows} of "
            f"{len(array)} examples"
        )


def check_counts(**counts):
    """Refuses what is not a positive integer.

    Args:
        **counts: Arguments by name.

    Raises:
        ValueError: One is not.
    """
    for name, value in counts.items():
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < 1:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected a positive integer. "
                f"Received: {name}={value!r}"
            )


def check_callbacks(callbacks):
    """Refuses what is neither a function nor `None`.

    Args:
        callbacks: The argument of `compare`.

    Raises:
        TypeError: It is something else, such as a list of callbacks.
    """
    if callbacks is not None and not callable(callbacks):
        raise TypeError(
            "Invalid value for argument `callbacks`. Expected a function of the "
            "training inputs and targets that returns a list of new Keras callbacks, "
            "such as `lambda x, y: [keras.callbacks.TerminateOnNaN()]`: each fit "
            f"needs its own. Received: callbacks={callbacks!r}"
        )


def callbacks_of(function, x, y):
    """Has the user's function make the callbacks of one fit.

    Args:
        function: What `check_callbacks` let through.
        x: Training inputs.
        y: Training targets.

    Returns:
        A list of Keras callbacks.

    Raises:
        TypeError: The function returned something else.
    """
    made = [] if function is None else function(x, y)
    if not isinstance(made, (list, tuple)) or not all(
        isinstance(callback, keras.callbacks.Callback) for callback in made
    ):
        raise TypeError(
            "Invalid value for argument `callbacks`. Expected a function that returns "
            f"a list of Keras callbacks. Received: a function that returns {made!r}"
        )
    return list(made)


def check_class_weight(class_weight, y):
    """Checks weights of classes, and returns them as Keras takes them.

    Args:
        class_weight: Dict from class number to weight, or `None`.
        y: Targets: class numbers, or one-hot rows.

    Returns:
        A dict from int to float, or `None`.

    Raises:
        TypeError: It is no dict from integers to numbers.
        ValueError: A weight is negative or not finite, a key is no class in `y`,
            or `y` holds no classes.
    """
    if class_weight is None:
        return None
    start = "Invalid value for argument `class_weight`. Expected "
    if not isinstance(class_weight, dict) or not all(
        isinstance(key, (int, np.integer))
        and isinstance(value, (int, float, np.number))
        for key, value in class_weight.items()
    ):
        raise TypeError(
            f"{start}a dict from class numbers to weights, or None. "
            f"Received: class_weight={class_weight!r}"
        )
    if not all(np.isfinite(value) and value >= 0 for value in class_weight.values()):
        raise ValueError(
            f"{start}finite weights of at least 0. "
            f"Received: class_weight={class_weight!r}"
        )
    labels = _labels(y)
    if labels is None:
        raise ValueError(
            f"{start}None where the targets are not classes (whole numbers, or "
            f"one-hot rows). Received: class_weight={class_weight!r}, targets of "
            f"shape {y.shape}"
        )
    found = range(y.shape[1]) if y.ndim == 2 and y.shape[1] > 1 else np.unique(labels)
    unknown = [key for key in class_weight if key not in found]
    if unknown:
        raise ValueError(
            f"{start}keys among the classes of `y`, {[int(c) for c in found][:20]}. "
            f"Received: {unknown}"
        )
    return {int(key): float(value) for key, value in class_weight.items()}


def _labels(y):
    """Class numbers as Keras reads them from targets, `None` if they are none."""
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
        return y.argmax(axis=1) if one_hot else None
    if y.size != len(y) or (y != np.floor(y)).any() or (y < 0).any():
        return None
    return y.ravel()
