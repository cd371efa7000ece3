"""Tables of numbers: one row an example, one column a feature."""

from typing import NamedTuple

import numpy as np

from kerasreg.extras import require


class Tabular(NamedTuple):
    """A table ready for Keras; unpacks as `x, y, feature_names`.

    Attributes:
        x: Features in their own units, float32, shape `(examples, features)`.
        y: Class labels (int64) or targets (float32), shape `(examples,)`.
        feature_names: One name a column of `x`.
    """

    x: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]


def breast_cancer():
    """Loads the Wisconsin breast-cancer data that scikit-learn ships.

    569 tumours described by 30 measurements of their cell nuclei: ten
    quantities, each with its mean, its error and its worst value. The label is 0
    for a malignant and 1 for a benign tumour (63 %). The features are not
    scaled; standardize them before you penalize their weights.

    Needs the `select` extra (scikit-learn); nothing is downloaded.

    Returns:
        A `Tabular` with `x` of shape `(569, 30)`.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> x, y, feature_names = breast_cancer()
        >>> x.shape, x.dtype.name, feature_names[0]
        ((569, 30), 'float32', 'mean radius')

    Reference:
        Street, Wolberg, Mangasarian (1993), "Nuclear feature extraction for
        breast tumor diagnosis".
    """
    bunch = require("sklearn.datasets", "select").load_breast_cancer()
    return Tabular(
        x=bunch.data.astype("float32"),
        y=bunch.target.astype("int64"),
        feature_names=tuple(map(str, bunch.feature_names)),
    )
