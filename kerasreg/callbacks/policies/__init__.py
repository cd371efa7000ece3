"""Policies: rules that turn what was measured of a model into new strengths."""

from kerasreg.callbacks.policies.adaptive_weight_decay import AdaptiveWeightDecay
from kerasreg.callbacks.policies.base import Policy, State, Unit
from kerasreg.callbacks.policies.evidence import Evidence
from kerasreg.callbacks.policies.generalization_gap import GeneralizationGap
from kerasreg.callbacks.policies.gradient_ratio import GradientRatio
from kerasreg.callbacks.policies.hypergradient import Hypergradient
from kerasreg.callbacks.policies.scheduled import Scheduled
from kerasreg.callbacks.policies.target_sparsity import TargetSparsity

__all__ = [
    "AdaptiveWeightDecay",
    "Evidence",
    "GeneralizationGap",
    "GradientRatio",
    "Hypergradient",
    "Policy",
    "Scheduled",
    "State",
    "TargetSparsity",
    "Unit",
]
