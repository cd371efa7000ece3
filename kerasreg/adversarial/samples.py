"""What of the data of `fit` can be looked at beforehand."""

import keras
import numpy as np
from keras import tree

_ROWS = 8192  # at a time: large arrays are not to be there twice


def samples(x, y):
    """Inputs and targets of `fit`, some at a time.

    Args:
        x: What `fit` takes: arrays, a `tf.data.Dataset`, `PyDataset` or generator.
        y: Targets of arrays.

    Yields:
        Pairs: all of arrays, the first batch of a dataset, and nothing of a generator,
        from which nothing may be taken.

    Raises:
        ValueError: There are no targets.
    """
    if hasattr(x, "__next__"):
        return
    if isinstance(x, keras.utils.PyDataset):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(x[0])
    elif hasattr(x, "element_spec"):  # a tf.data.Dataset
        x, y, _ = keras.utils.unpack_x_y_sample_weight(next(iter(x)))
    if y is None:
        raise ValueError(
            "Invalid value for argument `y`. Expected targets (for examples without "
            'one and objective="vat" any, with the sample_weight 0). Received: y=None'
        )
    leaves = tree.flatten((x, y))
    rows = len(leaves[0]) if isinstance(leaves[0], np.ndarray) else 0
    if not all(isinstance(a, np.ndarray) and len(a) == rows > _ROWS for a in leaves):
        yield x, y
        return
    for begin in range(0, rows, _ROWS):
        yield tree.map_structure(lambda a, b=begin: a[b : b + _ROWS], (x, y))
