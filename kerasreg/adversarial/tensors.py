"""Data of a model as tensors, and those of them that can be attacked."""

import keras
import numpy as np
from keras import ops


def to_tensors(data, name="data"):
    """Arrays as tensors, floating-point ones of NumPy in Keras's default precision.

    A list or tuple of numbers, or of lists of them, is an array.

    Args:
        data: An array, or a structure of arrays.
        name: What it is, for messages.

    Raises:
        TypeError: If it holds something else, or `y` text.
        ValueError: If rows are of several lengths.
    """
    if isinstance(data, dict):
        pairs = ((key, to_tensors(value, name)) for key, value in data.items())
        return type(data)(pairs)
    if isinstance(data, list | tuple) and not (data and all(map(_plain, data))):
        parts = [to_tensors(part, name) for part in data]
        return parts if isinstance(data, list) else tuple(parts)
    if data is None:
        return None
    return data if ops.is_tensor(data) else _tensor(data, name)


def _plain(part):
    return isinstance(part, list | tuple | str | bytes) or (
        part is not None and np.ndim(part) == 0 and not ops.is_tensor(part)
    )


def _tensor(data, name):
    array = _array(data, name)
    if array.dtype == object and all(isinstance(v, str | bytes) for v in array.flat):
        array = array.astype(str)
    text = array.dtype.kind in "US"
    if array.dtype == object or (text and name == "y"):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected arrays of numbers (from a "
            f"dataset one batch at a time). Received: {type(data).__name__} of "
            f"{array.dtype}"
        )
    if text:
        # tensorflow: Keras makes no tensors of text.
        import tensorflow as tf

        return tf.constant(array)
    dtype = keras.config.floatx() if real(array) else None
    return ops.convert_to_tensor(array, dtype=dtype)


def _array(data, name):
    if hasattr(data, "element_spec"):  # a dataset, which is not to be gone through
        return np.empty((), object)
    try:
        return np.asarray(data)
    except ValueError:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected arrays, or rows of one "
            f"length. Received: a {type(data).__name__} of several"
        ) from None


def real(x):
    """Whether a tensor holds floating-point numbers, so that it can be attacked."""
    return x is not None and "float" in _dtype(x)


def _dtype(x):
    return getattr(x.dtype, "name", str(x.dtype))


def keys_of(x):
    """Names of the inputs in a dict, their indices in a list, or `[None]` for one."""
    if isinstance(x, dict):
        return sorted(x)
    return list(range(len(x))) if isinstance(x, list | tuple) else [None]


def attacked(x):
    """Pairs of key and tensor of the inputs that can be attacked.

    The key is the name of an input of a dict, its index in a list, or `None`.

    Raises:
        TypeError: If there is none.
    """
    pairs = [(key, x if key is None else x[key]) for key in keys_of(x)]
    chosen = [(key, value) for key, value in pairs if real(value)]
    if not chosen:
        dtypes = sorted({_dtype(value) for _, value in pairs})
        raise TypeError(
            "Invalid value for argument `x`. Expected an input of floating-point "
            "numbers, by which the loss can be differentiated: cast pixels or a table "
            'by x.astype("float32"); for text give the attack `on="embedding"`, or a '
            f"layer. Received: dtypes {dtypes}"
        )
    return chosen
