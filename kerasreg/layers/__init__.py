"""Layers with noise on weights and units."""

from kerasreg.layers.bayesian import (
    BayesianConv1D,
    BayesianConv2D,
    BayesianConv3D,
    BayesianDense,
    BayesianEmbedding,
    BayesianGRU,
    BayesianLSTM,
    bayesianize,
    prune_by_snr,
)
from kerasreg.layers.concrete_dropout import ConcreteDropout, SpatialConcreteDropout
from kerasreg.layers.deterministic import to_deterministic
from kerasreg.layers.drop_connect import (
    DropConnectConv1D,
    DropConnectConv2D,
    DropConnectConv3D,
    DropConnectDense,
)
from kerasreg.layers.drop_connect_wrapper import DropConnect
from kerasreg.layers.evidence import set_num_examples
from kerasreg.layers.noise import noisy, sampling
from kerasreg.layers.sparse_variational import (
    SparseVariationalConv1D,
    SparseVariationalConv2D,
    SparseVariationalConv3D,
    SparseVariationalDense,
)
from kerasreg.layers.variational_dropout import VariationalDropout

__all__ = [
    "BayesianConv1D",
    "BayesianConv2D",
    "BayesianConv3D",
    "BayesianDense",
    "BayesianEmbedding",
    "BayesianGRU",
    "BayesianLSTM",
    "ConcreteDropout",
    "DropConnect",
    "DropConnectConv1D",
    "DropConnectConv2D",
    "DropConnectConv3D",
    "DropConnectDense",
    "SparseVariationalConv1D",
    "SparseVariationalConv2D",
    "SparseVariationalConv3D",
    "SparseVariationalDense",
    "SpatialConcreteDropout",
    "VariationalDropout",
    "bayesianize",
    "noisy",
    "prune_by_snr",
    "sampling",
    "set_num_examples",
    "to_deterministic",
]
