"""Choosing a penalty: what it costs, what it gains, what it keeps."""

from kerasreg.selection.compare import compare
from kerasreg.selection.comparison import Comparison, Row

__all__ = ["Comparison", "Row", "compare"]
