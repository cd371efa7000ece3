"""Callbacks for regularized training."""

from kerasreg.callbacks.polish import Polish

__all__ = ["Polish"]
