"""MNIST or Fashion-MNIST: from the folder `KERASREG_DATA`, else by Keras."""

import os
import pathlib

import keras
import numpy as np


def load(name="mnist"):
    """Training and test images in [0, 1], flattened, float32, and labels.

    Args:
        name: `"mnist"` or `"fashion_mnist"`.

    Returns:
        `(x, y), (x_test, y_test)`: 60,000 and 10,000 rows of 784 pixels.
    """
    path = pathlib.Path(os.environ.get("KERASREG_DATA", ""), f"{name}.npz")
    if path.exists():
        with np.load(path) as file:
            arrays = [file[n] for n in ("x_train", "y_train", "x_test", "y_test")]
    else:
        (a, b), (c, d) = getattr(keras.datasets, name).load_data()
        arrays = [a, b, c, d]
    x, y, x_test, y_test = arrays
    return _ready(x, y), _ready(x_test, y_test)


def _ready(x, y):
    return x.reshape(len(x), -1).astype("float32") / 255, y.astype("int32")
