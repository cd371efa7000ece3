"""Policies: rules that turn what was measured of a model into new strengths."""

from kerasreg.callbacks.policies.base import Policy, State, Unit

__all__ = ["Policy", "State", "Unit"]
