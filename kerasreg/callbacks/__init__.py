"""Callbacks for regularized training."""

from kerasreg.callbacks.adaptive import LayerwiseAdaptiveLambda
from kerasreg.callbacks.advice import advice
from kerasreg.callbacks.monitor import RegularizationMonitor
from kerasreg.callbacks.policies import (
    AdaptiveWeightDecay,
    Evidence,
    GeneralizationGap,
    GradientRatio,
    Hypergradient,
    Policy,
    Scheduled,
    State,
    TargetSparsity,
    Unit,
)
from kerasreg.callbacks.polish import Polish
from kerasreg.callbacks.warmup import KLWarmup

__all__ = [
    "AdaptiveWeightDecay",
    "Evidence",
    "GeneralizationGap",
    "GradientRatio",
    "Hypergradient",
    "KLWarmup",
    "LayerwiseAdaptiveLambda",
    "Policy",
    "Polish",
    "RegularizationMonitor",
    "Scheduled",
    "State",
    "TargetSparsity",
    "Unit",
    "advice",
]
