"""Layers with a distribution over their weights."""

from kerasreg.layers.bayesian.bayesianize import bayesianize
from kerasreg.layers.bayesian.embedding import BayesianEmbedding
from kerasreg.layers.bayesian.linear import (
    BayesianConv1D,
    BayesianConv2D,
    BayesianConv3D,
    BayesianDense,
)
from kerasreg.layers.bayesian.recurrent import BayesianGRU, BayesianLSTM
from kerasreg.layers.bayesian.snr import prune_by_snr

__all__ = [
    "BayesianConv1D",
    "BayesianConv2D",
    "BayesianConv3D",
    "BayesianDense",
    "BayesianEmbedding",
    "BayesianGRU",
    "BayesianLSTM",
    "bayesianize",
    "prune_by_snr",
]
