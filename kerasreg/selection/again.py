"""A trained model set back to the start of another one of the same kind."""

import json
import re
import warnings

import keras


def settings(model):
    """Says how a model is made, apart from weights and numbered names.

    Args:
        model: A built and compiled Keras model.

    Returns:
        A string, equal for models that were made in the same way; `None` if a part
        of the model cannot tell its settings, or if the model trains in a way
        that may keep state which is no variable (eagerly, or by a `fit` or
        `train_step` of its own).

    Example:
        >>> def build(units):
        ...     made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(units)])
        ...     made.compile("adam", "mse")
        ...     return made
        >>> settings(build(3)) == settings(build(3))
        True
        >>> settings(build(3)) == settings(build(2))
        False
    """
    kind = type(model)
    if (
        model.run_eagerly
        or kind.fit is not keras.Model.fit
        or kind.train_step is not keras.Model.train_step
    ):
        return None
    layers = [model, *model._flatten_layers()]
    numbers = {layer.name: f"layer {i}" for i, layer in enumerate(layers)}
    with warnings.catch_warnings():  # Nobody asked to save a lambda here.
        warnings.simplefilter("ignore")
        try:
            parts = [model.get_config(), model.get_compile_config()]
        except (NotImplementedError, TypeError, ValueError):
            return None
    return json.dumps(_renamed(parts, numbers), default=repr)


def unnumbered(name):
    """Takes off what Keras appends to automatic names, as in `auc_1`."""
    return re.sub(r"_\d+$", "", name)


def _renamed(part, numbers):
    if isinstance(part, dict):
        plain = {key: _renamed(value, numbers) for key, value in part.items()}
        if isinstance(plain.get("name"), str):  # Keras counts: adam, adam_1, ...
            plain["name"] = unnumbered(plain["name"])
        return plain
    if isinstance(part, (list, tuple)):
        return [_renamed(value, numbers) for value in part]
    return numbers.get(part, part) if isinstance(part, str) else part


def set_back(model, start):
    """Gives a model the weights, random numbers and optimizer of another one.

    The functions that Keras has traced stay, which is the point: tracing takes longer
    than many a fit.

    Args:
        model: A built and compiled Keras model that was trained.
        start: One of the same `settings` that was not.

    Example:
        >>> import numpy as np
        >>> def build():
        ...     made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        ...     made.compile("adam", "mse")
        ...     return made
        >>> model = build()
        >>> _ = model.fit(np.ones((4, 1)), np.ones(4), verbose=0)
        >>> set_back(model, build())
        >>> int(model.optimizer.iterations)
        0
    """
    for variable, value in zip(_state(model), _state(start), strict=True):
        variable.assign(value)


def _state(model):
    model.optimizer.build(model.trainable_variables)
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    return own + list(model.optimizer.variables)
