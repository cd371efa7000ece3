"""Every place where a Keras layer takes a regularizer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers


@dataclass(frozen=True)
class Position:
    """A layer with one regularizer argument, and an input shape for it.

    Attributes:
        layer: The layer's class.
        argument: Name of the regularizer argument.
        shape: Shape of an input, with its batch axis.
        settings: The layer's other arguments.
        shared: How many weights the argument applies to.
    """

    layer: Callable[..., Any]
    argument: str
    shape: tuple[int, ...]
    settings: dict[str, Any]
    shared: int = 1

    def __str__(self) -> str:
        return f"{self.layer.__name__}-{self.argument.removesuffix('_regularizer')}"

    def make(self, penalty: Any) -> Any:
        return self.layer(**self.settings, **{self.argument: penalty})

    def inputs(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        if self.layer is layers.Embedding:
            return rng.integers(0, 5, size=self.shape)
        return rng.normal(size=self.shape).astype("float32")


_FILTERS = {"filters": 3, "kernel_size": 2}
_UNITS = {"units": 3}

_LAYERS: list[tuple[Any, tuple[int, ...], dict[str, Any], tuple[str, ...]]] = [
    (layers.Dense, (4, 5), _UNITS, ("kernel", "bias", "activity")),
    (layers.Conv1D, (2, 6, 3), _FILTERS, ("kernel", "bias", "activity")),
    (layers.Conv2D, (2, 4, 4, 3), _FILTERS, ("kernel", "bias", "activity")),
    (layers.Conv3D, (2, 3, 3, 3, 2), _FILTERS, ("kernel", "bias", "activity")),
    (layers.Conv2DTranspose, (2, 3, 3, 2), _FILTERS, ("kernel", "bias", "activity")),
    (
        layers.DepthwiseConv2D,
        (2, 4, 4, 3),
        {"kernel_size": 2},
        ("depthwise", "bias", "activity"),
    ),
    (
        layers.SeparableConv2D,
        (2, 4, 4, 3),
        _FILTERS,
        ("depthwise", "pointwise", "bias", "activity"),
    ),
    (layers.LSTM, (2, 4, 3), _UNITS, ("kernel", "recurrent", "bias", "activity")),
    (layers.GRU, (2, 4, 3), _UNITS, ("kernel", "recurrent", "bias", "activity")),
    # Keras's SimpleRNN takes an activity_regularizer and drops it.
    (layers.SimpleRNN, (2, 4, 3), _UNITS, ("kernel", "recurrent", "bias")),
    (
        layers.Embedding,
        (2, 4),
        {"input_dim": 5, "output_dim": 3},
        ("embeddings",),
    ),
    (
        layers.EinsumDense,
        (2, 4, 3),
        {"equation": "abc,cd->abd", "output_shape": (None, 3), "bias_axes": "d"},
        ("kernel", "bias", "activity"),
    ),
    (layers.BatchNormalization, (4, 5), {}, ("beta", "gamma")),
]

POSITIONS = [
    Position(layer, f"{role}_regularizer", shape, settings)
    for layer, shape, settings, roles in _LAYERS
    for role in roles
]


class SelfAttention(layers.MultiHeadAttention):
    """Multi-head attention of one input with itself."""

    def call(self, x):
        return super().call(x, x)

    def compute_output_spec(self, x):
        return super().compute_output_spec(x, x)

    def build(self, shape):
        super().build(shape, shape)


_HEADS = {"num_heads": 2, "key_dim": 3}
POSITIONS += [
    Position(SelfAttention, "kernel_regularizer", (2, 4, 6), _HEADS, shared=4),
    Position(SelfAttention, "bias_regularizer", (2, 4, 6), _HEADS, shared=4),
]
