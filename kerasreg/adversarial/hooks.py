"""Add to what a layer returns, and look at it, without changing the layer."""

import contextlib

from keras import tree


@contextlib.contextmanager
def perturbed(layer, delta):
    """Context in which a layer returns `delta` more than it does.

    Args:
        layer: A `keras.Layer` that is called once.
        delta: Tensor of the shape of its output.
    """
    call = layer.call

    def shifted(*args, **kwargs):
        return call(*args, **kwargs) + delta

    layer.call = shifted
    try:
        yield
    finally:
        del layer.call


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

    layer.call = watched
    try:
        model(x, training=False)
    finally:
        del layer.call
    if len(seen) != 1 or len(tree.flatten(seen[0])) != 1:
        raise ValueError(
            "Invalid value for argument `on`. Expected a layer that is called once and "
            f"returns one tensor. Received: {layer.name!r}, which is called "
            f"{len(seen)} times"
        )
    return seen[0]
