"""Strategies that take any strategy of Flower and add what it lacks."""

from federated.strategies.base import Wrapper

__all__ = ["Wrapper"]
