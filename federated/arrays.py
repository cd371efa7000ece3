"""Weights as one vector and back, variances, and means of metrics."""

import numpy as np
from flwr.app import Array, ArrayRecord

from federated import records


def flat(arrays):
    """The arrays of a dict one after the other, a float64 vector."""
    return np.concatenate([a.ravel().astype("float64") for a in arrays.values()])


def unflat(vector, like):
    """A flat vector as `Array`s by key, integers rounded."""
    arrays, start = {}, 0
    for key, array in like.items():
        part = vector[start : start + array.size].reshape(array.shape)
        arrays[key] = Array(records.rounded(part, array.dtype))
        start += array.size
    return nonnegative(arrays)


def nonnegative(arrays):
    """The arrays, variances of normalization layers not below zero.

    Noise and the steps of a server (`FedAdam`, momentum) take them there, where their
    square root is NaN.

    Args:
        arrays: `ArrayRecord`, or dict of `Array`s by key.
    """
    changed = {}
    for key in filter(records.is_variance, arrays):
        variance = arrays[key].numpy()
        if (variance < 0).any():
            changed[key] = Array(np.maximum(variance, 0))
    return ArrayRecord({**arrays, **changed}) if changed else arrays


def means(metrics, weights=None):
    """The mean of each metric over dicts of them, weighted if there are weights."""
    weights = [1.0] * len(metrics) if weights is None else weights
    found = {}
    for name in sorted({name for numbers in metrics for name in numbers}):
        rows = [
            (m[name], w) for m, w in zip(metrics, weights, strict=True) if name in m
        ]
        values, counts = zip(*rows, strict=True)
        found[name] = float(np.average(values, weights=counts))
    return found
