"""Policies: rules that turn what was measured of a model into new strengths."""

from kerasreg.callbacks.policies.base import Policy, State, Unit
from kerasreg.callbacks.policies.hypergradient import Hypergradient

__all__ = ["Hypergradient", "Policy", "State", "Unit"]
