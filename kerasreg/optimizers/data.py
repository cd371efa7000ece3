"""Samples as arrays with one row each."""

import numpy as np
from keras import ops, tree


def rows_of(x, y, sample_weight):
    """Structures of data as arrays of one common length.

    Args:
        x: Inputs: array(s) of n samples, or lists of numbers.
        y: Targets: the same.
        sample_weight: Weights of the samples, or `None`.

    Returns:
        The three as structures of NumPy arrays and tensors; a dict of their numbers of
        samples if these differ or are 0, else `None`; and the name and type of the
        first that is not numeric, with one row a sample, or `None`.
    """
    data = {"x": x, "y": y, "sample_weight": sample_weight}
    lengths = {}
    for name, value in data.items():
        if value is None and name == "sample_weight":
            continue
        if isinstance(value, list) and all(map(np.isscalar, tree.flatten(value))):
            value = np.asarray(value)
        data[name] = tree.map_structure(_to_array, value)
        arrays = tree.flatten(data[name])
        if not arrays or any(not len(a.shape) or not _is_numeric(a) for a in arrays):
            return None, None, (name, type(value).__name__)
        lengths.update({f"{name}[{i}]": len(a) for i, a in enumerate(arrays)})
    equal = len(set(lengths.values())) == 1 and 0 not in lengths.values()
    return tuple(data.values()), None if equal else lengths, None


def _to_array(value):
    return value if ops.is_tensor(value) else np.asarray(value)


def _is_numeric(array):
    kind = str(getattr(array.dtype, "name", array.dtype))
    return kind.startswith(("float", "bfloat", "int", "uint", "bool"))
