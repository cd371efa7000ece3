"""Callbacks for regularized training."""

from kerasreg.callbacks.polish import Polish
from kerasreg.callbacks.warmup import KLWarmup

__all__ = ["KLWarmup", "Polish"]
