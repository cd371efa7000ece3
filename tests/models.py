"""Small models and data that the shared checks use."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

UNITS = 8
FEATURES = 6
ROWS = 32


def data(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """A linear problem of six features, two of which matter."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, FEATURES)).astype("float32")
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).astype("float32")


class TracedModel(keras.Model):
    """A functional model that counts how often Python runs its train step."""

    def train_step(self, *args, **kwargs):
        self.traces = getattr(self, "traces", 0) + 1
        return super().train_step(*args, **kwargs)


def model(
    penalty: Any = None,
    optimizer: Any = "sgd",
    cls: Callable[..., Any] = keras.Model,
    wrap: Callable[..., Any] = lambda layer: layer,
    **compile_arguments: Any,
) -> Any:
    """Two Dense layers; the first one's kernel carries the penalty."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((FEATURES,))
    hidden = wrap(
        keras.layers.Dense(
            UNITS, activation="tanh", kernel_regularizer=penalty, name="hidden"
        )
    )(inputs)
    outputs = keras.layers.Dense(1, dtype="float32", name="out")(hidden)
    built = cls(inputs, outputs)
    built.compile(
        optimizer=optimizer,
        loss="mse",
        **{"jit_compile": False, **compile_arguments},
    )
    return built


def fit(built: Any, epochs: int = 2, **arguments: Any) -> Any:
    """Fits without shuffling, four batches an epoch; returns the history."""
    x, y = data()
    return built.fit(
        x,
        y,
        **{
            "epochs": epochs,
            "batch_size": ROWS // 4,
            "shuffle": False,
            "verbose": 0,
            **arguments,
        },
    )
