"""Callbacks for regularized training."""

from kerasreg.callbacks.policies import Policy, State, Unit
from kerasreg.callbacks.polish import Polish
from kerasreg.callbacks.warmup import KLWarmup

__all__ = ["KLWarmup", "Policy", "Polish", "State", "Unit"]
