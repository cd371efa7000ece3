"""Add to what a layer returns, and look at it, without changing the layer."""

import contextlib

import keras
from keras import ops, tree


@contextlib.contextmanager
def perturbed(layer, delta):
    """Context in which a layer returns `delta` more than it does.

    Call the model in it, `model(x)`: `fit`, `evaluate` and `predict` may have been
    traced before, or would keep `delta` for later.

    Args:
        layer: A `keras.Layer`, which the model calls once.
        delta: Tensor of the shape of its output, as an attack with `on` returns it.

    Raises:
        TypeError: If `layer` is not one; names are not accepted here.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import perturbed
    >>> words = keras.layers.Embedding(9, 2, embeddings_initializer="zeros")
    >>> model = keras.Sequential([words])
    >>> with perturbed(words, np.ones((1, 3, 2))):
    ...     shifted = model(np.array([[4, 0, 7]]))
    >>> float(shifted[0, 0, 0])
    1.0
    """
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a layer, such as "
            f"model.get_layer(name). Received: layer={layer!r}"
        )
    call = layer.call

    def shifted(*args, **kwargs):
        outputs = call(*args, **kwargs)
        return outputs + ops.cast(delta, outputs.dtype)

    with _called(layer, shifted):
        yield


@contextlib.contextmanager
def _called(layer, function):
    """Context with another `call` of a layer; within others', theirs comes back."""
    before = vars(layer).get("call")
    layer.call = function
    try:
        yield
    finally:
        del layer.call
        if before is not None:
            layer.call = before


def output_of(model, layer, x):
    """What a layer of a model returns for an input, in inference mode.

    Args:
        model: A `keras.Model`.
        layer: One of its layers, however deep.
        x: Inputs of the model.

    Raises:
        ValueError: If the layer is not called exactly once, or returns no one tensor.
    """
    seen, call = [], layer.call

    def watched(*args, **kwargs):
        seen.append(call(*args, **kwargs))
        return seen[-1]

    with _called(layer, watched):
        model(x, training=False)
    if len(seen) != 1 or len(tree.flatten(seen[0])) != 1:
        raise ValueError(
            "Invalid value for argument `on`. Expected a layer that is called once and "
            f"returns one tensor. Received: {layer.name!r}, which is called "
            f"{len(seen)} times"
        )
    return seen[0]
