"""Checks of what an attack is called with."""

import keras
import numpy as np
from keras import ops, tree

from kerasreg.adversarial.arguments import check_integer

_WORD = 2**31


def check_call(model, seed):
    """Check the model and the seed of a direct call.

    Args:
        model: What should be a `keras.Model`.
        seed: What should be an integer.

    Raises:
        TypeError: If they are not.
        ValueError: If the seed does not fit into 32 bits.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Invalid value for argument `model`. Expected a keras.Model. "
            f"Received: model={model!r}"
        )
    expected = "an integer of at most 32 bits"
    if not -_WORD <= check_integer("seed", seed, expected) < _WORD:
        raise ValueError(
            f"Invalid value for argument `seed`. Expected {expected}. "
            f"Received: seed={seed!r}"
        )


def check_examples(x, y):
    """Check that there are examples, as many of each tensor, and finite.

    Args:
        x: Structure of tensors.
        y: Structure of tensors, or `None` not to look at them.

    Raises:
        ValueError: If not.
    """
    counts = {}
    for name, data in (("x", x), ("y", y)):
        for path, tensor in _leaves(name, data):
            if not tensor.shape:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected arrays of "
                    f"examples. Received: a single number, {path}"
                )
            counts[path] = int(ops.shape(tensor)[0])
            _check_finite(name, path, tensor)
    if len(set(counts.values())) > 1:
        raise ValueError(
            "Invalid value for arguments `x` and `y`. Expected as many examples of "
            f"each. Received: {counts}"
        )
    if not counts or 0 in counts.values():
        raise ValueError(
            "Invalid value for argument `x`. Expected examples. Received: none"
        )


def _leaves(name, data):
    """Pairs of a name and a tensor, without those that are missing."""
    if isinstance(data, dict):
        pairs = [(f"{name}[{key!r}]", value) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        pairs = [(f"{name}[{i}]", value) for i, value in enumerate(data)]
    else:
        return [] if data is None else [(name, data)]
    return [leaf for path, value in pairs for leaf in _leaves(path, value)]


def _check_finite(name, path, tensor):
    if "float" not in keras.backend.standardize_dtype(tensor.dtype):
        return
    axes = tuple(range(1, len(tensor.shape)))
    wrong = ~np.all(ops.convert_to_numpy(ops.isfinite(tensor)), axis=axes)
    if np.any(wrong):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite numbers. Received: "
            f"{np.count_nonzero(wrong)} of {wrong.size} examples of {path} with NaN or "
            f"infinite ones; the first is number {np.argmax(wrong)}"
        )


def check_inputs(model, x):
    """Check the number and the shapes of a model's inputs, where it knows them.

    Args:
        model: A `keras.Model`.
        x: Structure of tensors.

    Raises:
        ValueError: If they are others.
    """
    specs = getattr(model, "inputs", None)
    if not specs:
        return
    if isinstance(x, dict):
        pairs = [(spec, x[spec.name]) for spec in specs if spec.name in x]
    else:
        given = tree.flatten(x)
        if len(given) != len(specs):
            raise ValueError(
                f"Invalid value for argument `x`. Expected as many inputs as the "
                f"model {model.name!r} takes, {len(specs)}. Received: {len(given)} (of "
                "rows in a list make an array)"
            )
        pairs = list(zip(specs, given, strict=True))
    for spec, tensor in pairs:
        if len(spec.shape) != len(tensor.shape) or spec.shape[0] is not None:
            continue  # Keras may fit them, or has the shape from a first batch.
        sizes = zip(spec.shape, tensor.shape, strict=True)
        if any(size not in (None, got) for size, got in sizes):
            raise ValueError(
                f"Invalid value for argument `x`. Expected an input of shape "
                f"{tuple(spec.shape)}, as the model {model.name!r} takes. "
                f"Received: one of shape {tuple(tensor.shape)}"
            )
