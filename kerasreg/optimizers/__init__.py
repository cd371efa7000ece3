"""Optimizers that solve penalized problems exactly."""

from kerasreg.optimizers.proximal import Proximal
from kerasreg.optimizers.solve import Solution, solve

__all__ = ["Proximal", "Solution", "solve"]
