"""Layers with a distribution over their weights."""

from kerasreg.layers.bayesian.linear import (
    BayesianConv1D,
    BayesianConv2D,
    BayesianConv3D,
    BayesianDense,
)

__all__ = ["BayesianConv1D", "BayesianConv2D", "BayesianConv3D", "BayesianDense"]
