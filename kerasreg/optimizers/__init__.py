"""Optimizers that solve penalized problems exactly."""

from kerasreg.optimizers.proximal import Proximal

__all__ = ["Proximal"]
