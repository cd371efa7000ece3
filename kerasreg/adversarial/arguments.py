"""Checks of the arguments of attacks."""

import keras
import numpy as np
from keras import ops

from kerasreg.adversarial.geometry import NORMS
from kerasreg.regularizers.base import check_number


def check_length(name, value, above=None):
    """Check a number as `check_number` does; a tensor of a graph stays as it is.

    Args:
        name: The argument's name.
        value: The number.
        above: As for `check_number`.
    """
    if ops.is_tensor(value):
        try:
            float(value)
        except TypeError:
            return value
    return check_number(name, value, above)


def check_step(name, value):
    """Check a positive number, or `None`.

    Args:
        name: The argument's name.
        value: The number.
    """
    return None if value is None else check_length(name, value, above=0.0)


def check_bool(name, value):
    """Check that an argument is true or false.

    Args:
        name: Its name.
        value: What was given.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected True or False. "
            f"Received: {name}={value!r}"
        )
    return bool(value)


def check_integer(name, value, expected="an integer"):
    """Check an integer and return it as an int.

    Args:
        name: The argument's name.
        value: What was given.
        expected: What it should be, for the message.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def check_norm(name, norm):
    """Check a norm and return its name.

    Args:
        name: The argument's name.
        norm: The norm.
    """
    known = isinstance(norm, str | int | float)
    text = "inf" if known and norm in (np.inf, "inf") else str(norm)
    if text not in NORMS:
        raise ValueError(
            f'Invalid value for argument `{name}`. Expected "inf", 2 or 1. '
            f"Received: {name}={norm!r}"
        )
    return text


def check_on(name, on):
    """Check that an argument is a layer, a name or `None`.

    Args:
        name: The argument's name.
        on: The layer.

    Raises:
        TypeError: If it is not.
    """
    if on is not None and not isinstance(on, str | keras.layers.Layer):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a layer, its name or "
            f'"embedding". Received: {name}={on!r}'
        )
    return on


def check_loss(name, loss):
    """Check a loss and return the one that a name means.

    Args:
        name: The argument's name.
        loss: The loss, or `None`.

    Raises:
        ValueError: If Keras does not know it.
    """
    try:
        return keras.losses.get(loss)
    except (TypeError, ValueError):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a Keras loss, its name or "
            f"a function. Received: {name}={loss!r}"
        ) from None
