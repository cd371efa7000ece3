"""Strategies that take any strategy of Flower and add what it lacks."""

from federated.strategies.base import Wrapper
from federated.strategies.dual_averaging import FederatedDualAveraging
from federated.strategies.proximal import FederatedMirrorDescent, ServerProximal

__all__ = [
    "FederatedDualAveraging",
    "FederatedMirrorDescent",
    "ServerProximal",
    "Wrapper",
]
