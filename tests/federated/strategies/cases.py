"""The table of strategies: a new one is one new row.

`test_contract.py` holds what each must pass, and fails when a row is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from federated import strategies
from kerasreg.callbacks import Scheduled
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import L1, Prior


@dataclass(frozen=True)
class Case:
    """One strategy.

    Attributes:
        name: Its name in `federated.strategies`.
        make: From the strategy inside to the strategy.
        layer: Makes the output layer of a model with three inputs that suits it.
        penalties: For that model.
    """

    name: str
    make: Callable[[Any], Any]
    layer: Callable[[], Any] = lambda: keras.layers.Dense(1, name="head")
    penalties: Callable[[], Any] = lambda: L1(0.05)

    def __str__(self) -> str:
        return self.name

    def build_model(self) -> keras.Model:
        """A compiled model."""
        model = keras.Sequential([keras.Input((3,)), self.layer()])
        model.compile(keras.optimizers.SGD(0.05), "mse")
        return model


def _bayesian() -> keras.Layer:
    return BayesianDense(1, num_examples=20)


def _personal() -> keras.Layer:
    params = {"loc": np.zeros((3, 1)), "scale": np.ones((3, 1))}
    prior = Prior("Normal", params=params, trainable=True)
    return BayesianDense(1, num_examples=20, prior=prior)


STRATEGIES = [
    Case("Wrapper", strategies.Wrapper),
    Case(
        "AdaptiveStrength",
        lambda inner: strategies.AdaptiveStrength(
            inner, Scheduled(lambda epoch: 0.1 * 0.5**epoch)
        ),
    ),
    Case(
        "BayesianAggregation",
        strategies.BayesianAggregation,
        _bayesian,
        lambda: None,
    ),
    Case("FederatedDualAveraging", strategies.FederatedDualAveraging),
    Case("FederatedMirrorDescent", strategies.FederatedMirrorDescent),
    Case("PFedBayes", strategies.PFedBayes, _personal, lambda: None),
    Case(
        "Personalized",
        lambda inner: strategies.Personalized(inner, ["*/bias"]),
    ),
    Case("Robust", strategies.Robust),
    Case("ServerProximal", strategies.ServerProximal),
]
