"""A task to try the Flower app by: which of 20 measurements explain an outcome?

Each client has 100 patients of its own. The outcome depends on four measurements; the
lasso at the clients and the server's proximal map find them.
"""

import keras
import numpy as np

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1

TRUE = np.zeros(20, "float32")
TRUE[[2, 7, 11, 16]] = 1.0, -2.0, 1.5, -1.0

penalties = L1(0.1)
validation_split = 0.2
epochs = 2


def build_model():
    """A linear regression."""
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, name="head")])
    model.compile(Proximal(keras.optimizers.SGD(0.05)), "mse", metrics=["mae"])
    return model


def load_data(client, num_clients):
    """The patients of a client, the same at each call."""
    rng = np.random.default_rng([client, num_clients])
    x = rng.normal(size=(100, 20)).astype("float32")
    y = x @ TRUE[:, None] + 0.5 * rng.normal(size=(100, 1))
    return x, y.astype("float32")
