"""Splitting examples into folds."""

import numpy as np

_MOST_CLASSES = 50


def split(y, folds, seed):
    """Splits examples into training and validation parts.

    Class labels are stratified: every fold gets each class's share, to within
    one example.

    Args:
        y: Targets, first axis the examples.
        folds: Number of folds, or a list of `(training, validation)` pairs of
            index arrays, which is checked and returned.
        seed: Seed of the shuffle.

    Returns:
        A list of `(training, validation)` pairs of sorted index arrays.

    Raises:
        ValueError: `folds` is below 2, above the number of examples, or holds a
            pair that is empty, overlaps or points outside the data.

    Example:
        >>> [len(validation) for _, validation in split(np.arange(5), 2, seed=0)]
        [3, 2]
    """
    if not isinstance(folds, (int, np.integer)):
        return _given(folds, len(y))
    if isinstance(folds, bool) or not 2 <= folds <= len(y):
        raise ValueError(
            "Invalid value for argument `folds`. Expected an integer from 2 to the "
            f"number of examples, {len(y)}. Received: folds={folds}"
        )
    order = np.random.default_rng(seed).permutation(len(y))
    labels = class_labels(y)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(y), "int64")
    fold[order] = np.arange(len(y)) % folds  # Deals each class out in turn.
    return [
        (np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)
    ]


def class_labels(y):
    """Reads class labels from targets, or `None` if they are not classes.

    Integers and booleans of at most 50 different values are classes, so are
    floats that are all 0 or 1, and one-hot rows.

    Args:
        y: Targets, first axis the examples.

    Returns:
        An integer array with one label an example, or `None`.
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
        return y.argmax(axis=1) if one_hot else None
    if y.size != len(y):
        return None
    values, labels = np.unique(y.ravel(), return_inverse=True)
    discrete = y.dtype.kind in "biu" and len(values) <= _MOST_CLASSES
    return labels if discrete or np.isin(values, (0, 1)).all() else None


def _given(folds, count):
    try:
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in folds]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or not all(_sound(a, b, count) for a, b in pairs):
        raise ValueError(
            "Invalid value for argument `folds`. Expected an integer, or pairs of "
            f"disjoint training and validation indices below {count}. "
            f"Received: folds={folds}"
        )
    return pairs


def _sound(training, validation, count):
    for part in (training, validation):
        if part.ndim != 1 or not part.size or part.dtype.kind not in "iu":
            return False
        if part.min() < 0 or part.max() >= count:
            return False
    return not np.intersect1d(training, validation).size
