"""Penalties: Keras regularizers with a proximal map and a strength."""

from kerasreg.regularizers.anchored import Anchored
from kerasreg.regularizers.attach import as_penalty, penalties_of, regularize
from kerasreg.regularizers.base import Penalty
from kerasreg.regularizers.elementwise import L1, L2, MCP, SCAD, ElasticNet
from kerasreg.regularizers.group import GroupLasso, SparseGroupLasso
from kerasreg.regularizers.prior import Prior

__all__ = [
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "Anchored",
    "ElasticNet",
    "GroupLasso",
    "Penalty",
    "Prior",
    "SparseGroupLasso",
    "as_penalty",
    "penalties_of",
    "regularize",
]
