"""Strategies that take any strategy of Flower and add what it lacks."""

from federated.strategies.adaptive import AdaptiveStrength
from federated.strategies.base import Wrapper
from federated.strategies.bayesian import BayesianAggregation
from federated.strategies.dual_averaging import FederatedDualAveraging
from federated.strategies.personalized import Personalized, PFedBayes
from federated.strategies.proximal import FederatedMirrorDescent, ServerProximal
from federated.strategies.robust import Robust

__all__ = [
    "AdaptiveStrength",
    "BayesianAggregation",
    "FederatedDualAveraging",
    "FederatedMirrorDescent",
    "PFedBayes",
    "Personalized",
    "Robust",
    "ServerProximal",
    "Wrapper",
]
