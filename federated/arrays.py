"""Weights as one vector and back, and means of metrics, for private aggregates."""

import numpy as np
from flwr.app import Array


def flat(arrays):
    """The arrays of a dict one after the other, a float64 vector."""
    return np.concatenate([a.ravel().astype("float64") for a in arrays.values()])


def unflat(vector, like):
    """A flat vector as `Array`s by key. Variances stay variances."""
    arrays, start = {}, 0
    for key, array in like.items():
        part = vector[start : start + array.size].reshape(array.shape)
        if key.endswith("/moving_variance"):
            part = np.maximum(part, 0.0)
        arrays[key] = Array(part.astype(array.dtype))
        start += array.size
    return arrays


def means(metrics):
    """The mean of each metric over dicts of them."""
    names = {name for numbers in metrics for name in numbers}
    return {
        name: float(np.mean([m[name] for m in metrics if name in m]))
        for name in sorted(names)
    }
