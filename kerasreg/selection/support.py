"""Which weights are exactly zero, and which input features that leaves."""

import numpy as np
from keras.ops import convert_to_numpy

_MATRIX = 2


def penalized(model):
    """Finds the weights that carry a regularizer.

    Args:
        model: A built Keras model.

    Returns:
        Positions in `model.weights`.
    """
    return [i for i, w in enumerate(model.weights) if w.regularizer is not None]


def kernels(model):
    """Finds the trainable weights of rank 2 and more.

    Args:
        model: A built Keras model.

    Returns:
        Positions in `model.weights`.
    """
    return [
        i
        for i, w in enumerate(model.weights)
        if w.trainable and len(w.shape) >= _MATRIX
    ]


def count_zeros(model, positions):
    """Counts exact zeros.

    Args:
        model: A built Keras model.
        positions: Positions in `model.weights`.

    Returns:
        The number of zeros and the number of weights looked at.
    """
    arrays = [convert_to_numpy(model.weights[i]) for i in positions]
    return sum(int((a == 0).sum()) for a in arrays), sum(a.size for a in arrays)


def kept_features(model, count):
    """Finds the input features that the first kernel does not cut off.

    Args:
        model: A built Keras model.
        count: Number of input features.

    Returns:
        Numbers of the columns whose row in the first kernel has an entry other
        than zero; `None` if that is not a matrix with `count` rows.
    """
    first = next((w for w in model.weights if len(w.shape) >= _MATRIX), None)
    if first is None or len(first.shape) != _MATRIX or first.shape[0] != count:
        return None
    return np.flatnonzero(convert_to_numpy(first).any(axis=1)).tolist()
