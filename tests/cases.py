"""The table of every public object, with arguments that are valid.

A new public object is one new row here; `tests/contract/` holds what an object of
its kind must pass, and `tests/test_package.py` fails when a row is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kerasreg import (
    adversarial,
    callbacks,
    datasets,
    layers,
    optimizers,
    plots,
    regularizers,
    selection,
    uncertainty,
)

KINDS = {
    "regularizer",
    "optimizer",
    "layer",
    "callback",
    "policy",
    "metric",
    "attack",
    "function",
    "base",
    "result",
}


@dataclass(frozen=True)
class Case:
    """One public object.

    Attributes:
        name: Where users find it, e.g. `"kerasreg.regularizers.L1"`.
        kind: One of `KINDS`; it decides which contract the object must pass.
        public: The object itself.
        make: Builds an instance; `None` for functions and base classes.
        labels: What is special about it: `"rank 2"` needs a weight with two axes,
            `"anchored"` depends on where the weight was first seen, `"KL"` needs
            a model with a KL divergence, `"integers"` takes whole numbers.
        shape: Of a layer: shape of an input, with its batch axis.
    """

    name: str
    kind: str
    public: Any
    make: Callable[..., Any] | None = None
    labels: frozenset[str] = field(default_factory=frozenset)
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name.rpartition(".")[2]


def _data(rows: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, x[:, :1] - 0.5 * x[:, 1:2]


def _regularizer(name: str, make: Callable[[], Any], *labels: str) -> Case:
    public = getattr(regularizers, name)
    return Case(
        f"kerasreg.regularizers.{name}",
        "regularizer",
        public,
        make,
        frozenset(labels),
    )


REGULARIZERS = [
    _regularizer("ElasticNet", lambda: regularizers.ElasticNet(l1=0.02, l2=0.01)),
    _regularizer("L1", lambda: regularizers.L1(0.02)),
    _regularizer("L2", lambda: regularizers.L2(0.02)),
    _regularizer("MCP", lambda: regularizers.MCP(lam=0.02, gamma=3.0)),
    _regularizer("SCAD", lambda: regularizers.SCAD(lam=0.02, gamma=3.7)),
    _regularizer(
        "GroupLasso",
        lambda: regularizers.GroupLasso(0.02, axis="input"),
        "rank 2",
    ),
    _regularizer(
        "SparseGroupLasso",
        lambda: regularizers.SparseGroupLasso(l1=0.02, group=0.01, axis="output"),
    ),
    _regularizer(
        "Anchored",
        lambda: regularizers.Anchored(regularizers.L1(0.02), mu=0.03),
        "anchored",
    ),
    _regularizer(
        "Prior", lambda: regularizers.Prior("Laplace", 0.02, params={"scale": 0.9})
    ),
]

# What `Proximal` wraps: the factories of the inner optimizers.
INNER_OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "SGD": lambda **kw: keras.optimizers.SGD(0.05, **kw),
    "momentum": lambda **kw: keras.optimizers.SGD(0.01, momentum=0.9, **kw),
    "Nesterov": lambda **kw: keras.optimizers.SGD(
        0.01, momentum=0.9, nesterov=True, **kw
    ),
    "RMSprop": lambda **kw: keras.optimizers.RMSprop(0.01, **kw),
    "RMSprop-momentum-centered": lambda **kw: keras.optimizers.RMSprop(
        0.002, momentum=0.9, centered=True, **kw
    ),
    "Adam": lambda **kw: keras.optimizers.Adam(0.01, **kw),
    "AMSGrad": lambda **kw: keras.optimizers.Adam(0.01, amsgrad=True, **kw),
    "AdamW": lambda **kw: keras.optimizers.AdamW(0.01, weight_decay=1e-4, **kw),
    "Nadam": lambda **kw: keras.optimizers.Nadam(0.01, **kw),
    "Adamax": lambda **kw: keras.optimizers.Adamax(0.01, **kw),
    "Adagrad": lambda **kw: keras.optimizers.Adagrad(0.1, **kw),
}

OPTIMIZERS = [
    Case(
        "kerasreg.optimizers.Proximal",
        "optimizer",
        optimizers.Proximal,
        lambda inner="adam": optimizers.Proximal(inner),
    ),
]


class Double(callbacks.Policy):
    """The simplest policy."""

    def update(self, state):
        return {name: 2.0 * unit.strength for name, unit in state.units.items()}


CALLBACKS = [
    Case(
        "kerasreg.callbacks.Polish",
        "callback",
        callbacks.Polish,
        lambda: callbacks.Polish(*_data(), tol=1e-4, max_steps=50),
    ),
    Case(
        "kerasreg.callbacks.KLWarmup",
        "callback",
        callbacks.KLWarmup,
        lambda: callbacks.KLWarmup(0, 2),
        frozenset({"KL"}),
    ),
    Case(
        "kerasreg.callbacks.LayerwiseAdaptiveLambda",
        "callback",
        callbacks.LayerwiseAdaptiveLambda,
        lambda: callbacks.LayerwiseAdaptiveLambda(Double()),
    ),
    Case(
        "kerasreg.callbacks.RegularizationMonitor",
        "callback",
        callbacks.RegularizationMonitor,
        lambda: callbacks.RegularizationMonitor(granularity="weight"),
    ),
]


def _policy(name: str, make: Callable[[], Any]) -> Case:
    """A policy of strengths."""
    public = getattr(callbacks, name)
    return Case(f"kerasreg.callbacks.{name}", "policy", public, make)


POLICIES: list[Case] = [
    # The check's models have the six features and one output of `_data`.
    _policy(
        "Hypergradient",
        lambda: callbacks.Hypergradient(_data(), _data(), terms=3, burn_in=0),
    ),
    _policy("AdaptiveWeightDecay", lambda: callbacks.AdaptiveWeightDecay(0.02)),
    _policy("Evidence", lambda: callbacks.Evidence(*_data())),
    _policy("GeneralizationGap", lambda: callbacks.GeneralizationGap(smoothing=0.0)),
    _policy("GradientRatio", lambda: callbacks.GradientRatio(0.02)),
    _policy("Scheduled", lambda: callbacks.Scheduled(lambda e: 0.1 / (e + 1))),
    _policy("TargetSparsity", lambda: callbacks.TargetSparsity(0.5)),
]


def _layer(
    name: str, make: Callable[..., Any], shape: tuple[int, ...] = (8, 6), *labels: str
) -> Case:
    """A layer. `make(**arguments)` passes on Keras's common layer arguments."""
    public = getattr(layers, name)
    return Case(
        f"kerasreg.layers.{name}", "layer", public, make, frozenset(labels), shape
    )


def _wrapped(cls: Any, inner: Callable[..., Any], **own: Any) -> Callable[..., Any]:
    """A wrapper around a layer of the same dtype policy."""

    def make(dtype: Any = None, **arguments: Any) -> Any:
        return cls(inner(dtype=dtype), **own, **arguments)

    return make


LAYERS: list[Case] = [
    _layer(
        "BayesianDense",
        lambda **kw: layers.BayesianDense(4, num_examples=32, initial_scale=0.3, **kw),
    ),
    _layer(
        "BayesianConv1D",
        lambda **kw: layers.BayesianConv1D(
            4, 3, padding="causal", num_examples=32, **kw
        ),
        (8, 7, 3),
    ),
    _layer(
        "BayesianConv2D",
        lambda **kw: layers.BayesianConv2D(
            4, 2, num_examples=32, estimator="local_reparameterization", **kw
        ),
        (8, 5, 5, 3),
    ),
    _layer(
        "BayesianConv3D",
        lambda **kw: layers.BayesianConv3D(
            3, 2, num_examples=32, estimator="reparameterization", **kw
        ),
        (8, 3, 4, 3, 2),
    ),
    _layer(
        "BayesianEmbedding",
        lambda **kw: layers.BayesianEmbedding(
            10, 4, num_examples=32, initial_scale=0.3, **kw
        ),
        (8, 5),
        "integers",
    ),
    _layer(
        "BayesianLSTM",
        lambda **kw: layers.BayesianLSTM(
            4, use_bias=False, return_sequences=True, num_examples=32, **kw
        ),
        (8, 5, 3),
    ),
    _layer(
        "BayesianGRU",
        lambda **kw: layers.BayesianGRU(
            4, use_bias=False, num_examples=32, estimator="reparameterization", **kw
        ),
        (8, 5, 3),
    ),
    _layer(
        "ConcreteDropout",
        _wrapped(
            layers.ConcreteDropout,
            lambda **kw: keras.layers.Dense(4, **kw),
            num_examples=32,
        ),
    ),
    _layer(
        "SpatialConcreteDropout",
        _wrapped(
            layers.SpatialConcreteDropout,
            lambda **kw: keras.layers.Conv2D(4, 2, **kw),
            num_examples=32,
        ),
        (8, 5, 5, 3),
    ),
    _layer(
        "DropConnectDense",
        lambda **kw: layers.DropConnectDense(4, 0.3, activation="relu", **kw),
    ),
    _layer(
        "DropConnectConv1D",
        lambda **kw: layers.DropConnectConv1D(4, 3, padding="causal", **kw),
        (8, 7, 3),
    ),
    _layer(
        "DropConnectConv2D",
        lambda **kw: layers.DropConnectConv2D(4, 2, 0.6, activation="relu", **kw),
        (8, 5, 5, 3),
    ),
    _layer(
        "DropConnectConv3D",
        lambda **kw: layers.DropConnectConv3D(3, 2, mask="batch", **kw),
        (8, 3, 4, 3, 2),
    ),
    _layer(
        "DropConnect",
        _wrapped(layers.DropConnect, lambda **kw: keras.layers.Dense(4, **kw)),
    ),
    _layer(
        "VariationalDropout",
        lambda **kw: layers.VariationalDropout("unit", num_examples=32, **kw),
    ),
    _layer(
        "SparseVariationalDense",
        lambda **kw: layers.SparseVariationalDense(
            4, num_examples=32, initial_log_sigma2=-3.0, **kw
        ),
    ),
    _layer(
        "SparseVariationalConv1D",
        lambda **kw: layers.SparseVariationalConv1D(4, 3, num_examples=32, **kw),
        (8, 7, 3),
    ),
    _layer(
        "SparseVariationalConv2D",
        lambda **kw: layers.SparseVariationalConv2D(4, 2, num_examples=32, **kw),
        (8, 5, 5, 3),
    ),
    _layer(
        "SparseVariationalConv3D",
        lambda **kw: layers.SparseVariationalConv3D(3, 2, num_examples=32, **kw),
        (8, 3, 4, 3, 2),
    ),
]


def _metric(name: str) -> Case:
    """A metric of class probabilities."""
    public = getattr(uncertainty, name)
    return Case(f"kerasreg.uncertainty.{name}", "metric", public, public)


METRICS = [
    _metric("ExpectedCalibrationError"),
    _metric("BrierScore"),
    _metric("NegativeLogLikelihood"),
]


def _attack(name: str, make: Callable[..., Any]) -> Case:
    """An attack. `make(**where)` takes bounds, scale, mask, on and loss, and a norm."""
    public = getattr(adversarial, name)
    return Case(f"kerasreg.adversarial.{name}", "attack", public, make)


ATTACKS: list[Case] = [
    _attack("FGSM", lambda **kw: adversarial.FGSM(0.1, random_start=True, **kw)),
    _attack("PGD", lambda **kw: adversarial.PGD(0.1, steps=3, restarts=2, **kw)),
    _attack("VAT", lambda **kw: adversarial.VAT(0.1, iterations=2, **kw)),
    _attack("Noise", lambda **kw: adversarial.Noise(0.1, **kw)),
    _attack("RandomSearch", lambda **kw: adversarial.RandomSearch(0.1, steps=5, **kw)),
]


def _plain(module: Any, name: str, kind: str = "function") -> Case:
    return Case(f"{module.__name__}.{name}", kind, getattr(module, name))


PLAIN = [
    Case("kerasreg.callbacks.Policy", "base", callbacks.Policy),
    Case("kerasreg.callbacks.State", "result", callbacks.State),
    Case("kerasreg.callbacks.Unit", "result", callbacks.Unit),
    _plain(adversarial, "Attack", "base"),
    # A model and a callback that works on it alone: tests/adversarial/.
    _plain(adversarial, "AdversarialModel", "base"),
    _plain(adversarial, "OverfittingGuard", "base"),
    _plain(adversarial, "Check", "result"),
    _plain(adversarial, "RobustReport", "result"),
    _plain(adversarial, "as_art_classifier"),
    _plain(adversarial, "as_foolbox_model"),
    _plain(adversarial, "perturbed"),
    _plain(adversarial, "robust_evaluate"),
    _plain(regularizers, "Penalty", "base"),
    _plain(regularizers, "as_penalty"),
    _plain(regularizers, "regularize"),
    _plain(regularizers, "penalties_of"),
    _plain(layers, "bayesianize"),
    _plain(layers, "prune_by_snr"),
    _plain(layers, "noisy"),
    _plain(layers, "sampling"),
    _plain(layers, "set_num_examples"),
    _plain(callbacks, "advice"),
    _plain(optimizers, "solve"),
    _plain(optimizers, "Solution", "result"),
    _plain(layers, "to_deterministic"),
    _plain(datasets, "breast_cancer"),
    _plain(datasets, "Tabular", "result"),
    _plain(selection, "compare"),
    _plain(selection, "Comparison", "result"),
    _plain(selection, "Row", "result"),
    _plain(uncertainty, "predict"),
    _plain(uncertainty, "Prediction", "result"),
    _plain(plots, "weight_histogram"),
    _plain(plots, "coefficient_path"),
    _plain(plots, "learning_curves"),
    _plain(plots, "reliability_diagram"),
    _plain(plots, "training_report"),
    _plain(plots, "robustness_curve"),
]

CASES = [
    *REGULARIZERS,
    *OPTIMIZERS,
    *LAYERS,
    *CALLBACKS,
    *POLICIES,
    *METRICS,
    *ATTACKS,
    *PLAIN,
]

# The sub-packages whose `__all__` is the public list.
PUBLIC_MODULES = [
    adversarial,
    callbacks,
    datasets,
    layers,
    optimizers,
    plots,
    regularizers,
    selection,
    uncertainty,
]
