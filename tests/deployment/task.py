"""A task for a federation of processes: a lasso, whose rounds take some seconds."""

import os
import time

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
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, name="head")])
    model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    return model


def load_data(client, num_clients):
    rng = np.random.default_rng([client, num_clients])
    x = rng.normal(size=(100 + 50 * client, 20)).astype("float32")
    y = x @ TRUE[:, None] + 0.5 * rng.normal(size=(len(x), 1))
    return x, y.astype("float32")


def strategy():
    """One client is enough for a round."""
    return FederatedDualAveraging(
        FedAvg(min_available_nodes=1, min_train_nodes=1, min_evaluate_nodes=1)
    )


def _slow(message, context, call_next):
    """Leave time to be killed in."""
    time.sleep(float(os.environ.get("KERASREG_TEST_SECONDS", "0")))
    return call_next(message, context)


mods = [_slow]
