"""A task to try the Flower app by: which of 20 measurements explain an outcome?

Each client has 100 patients of its own, and the outcome depends on four measurements.
The lasso finds them: the strategy keeps its exact zeros, which a mean of the clients'
weights would lose.
"""

import keras
import numpy as np
from flwr.serverapp.strategy import FedAvg

from federated.strategies import FederatedDualAveraging
from kerasreg.regularizers import L1

TRUE = np.zeros(20, "float32")
TRUE[[2, 7, 11, 16]] = 1.0, -2.0, 1.5, -1.0

penalties = L1(0.2)
validation_split = 0.2
epochs = 2


def build_model():
    """A linear regression."""
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, name="head")])
    model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    return model


def load_data(client, num_clients):
    """The patients of a client, the same at each call."""
    rng = np.random.default_rng([client, num_clients])
    x = rng.normal(size=(100, 20)).astype("float32")
    y = x @ TRUE[:, None] + 0.5 * rng.normal(size=(100, 1))
    return x, y.astype("float32")


def strategy():
    """FedAvg of what the lasso's proximal map makes weights of."""
    return FederatedDualAveraging(FedAvg())
