"""Callbacks for regularized training."""

from kerasreg.callbacks.adaptive import LayerwiseAdaptiveLambda
from kerasreg.callbacks.advice import advice
from kerasreg.callbacks.monitor import RegularizationMonitor
from kerasreg.callbacks.policies import Hypergradient, Policy, State, Unit
from kerasreg.callbacks.polish import Polish
from kerasreg.callbacks.warmup import KLWarmup

__all__ = [
    "Hypergradient",
    "KLWarmup",
    "LayerwiseAdaptiveLambda",
    "Policy",
    "Polish",
    "RegularizationMonitor",
    "State",
    "Unit",
    "advice",
]
