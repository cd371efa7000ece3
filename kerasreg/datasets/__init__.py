"""Small loaders for the data that the examples and benchmarks use."""

from kerasreg.datasets.tabular import Tabular, breast_cancer

__all__ = ["Tabular", "breast_cancer"]
