"""Turn a model with noisy layers into an ordinary Keras model."""

import keras

from kerasreg.layers.rebuild import Rebuild
from kerasreg.regularizers.attach import check_built_model


def to_deterministic(model):
    """Make an ordinary Keras model that predicts what this one does, or nearly so.

    A `DropConnectDense` (or `DropConnectConv1D`, ...) with `inference="gaussian"`,
    the default, becomes its mean network: an approximation of what it predicts. All
    others predict the same as before.

    Each layer of kerasreg gives way to the plain Keras layer that does the same at
    inference: weights that were learned with noise become their means, and exact
    zeros stay exact zeros. All other layers are copied, with their weights, states,
    names, dtype policies and `trainable` flags. The new model loads where kerasreg is
    not installed.

    Penalties of kerasreg are for training and are left out. So are the optimizer and
    the loss: the model is not compiled. A stateful recurrent layer starts from its
    initial state: the state in the middle of a sequence is not copied.

    A layer that the model calls more than once stays one layer. Where it is shared
    with a wrapper instead, as `d` is by `DropConnect(d)` and `d`, each has a copy of
    its own, of the same weights.

    A layer takes part by a method `to_plain()` that returns a built Keras layer; that
    layer may hold such layers itself.

    Args:
        model: Built `keras.Sequential` or functional `keras.Model`, or a single
            layer. Models inside models, layers called more than once, `TimeDistributed`
            and `Bidirectional` are followed.

    Returns:
        A `keras.Sequential`, functional `keras.Model` or layer. The original is not
        changed, and shares no weight with it.

    Raises:
        ValueError: If the model is not built, is subclassed or contains a layer that
            has no plain counterpart.
        TypeError: If it is no model or layer.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnect, to_deterministic
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         DropConnect(keras.layers.Dense(8, activation="relu"), name="hidden"),
    ...         keras.layers.Dense(1),
    ...     ]
    ... )
    >>> plain = to_deterministic(model)
    >>> type(plain.get_layer("hidden")).__name__
    'Dense'
    >>> x = keras.random.normal((5, 4))
    >>> bool(keras.ops.all(plain(x) == model(x)))
    True
    """
    check_built_model(model)
    return _Plain().copy(model, model.name)


class _Plain(Rebuild):
    """Puts plain Keras layers in the place of those of kerasreg."""

    def changes(self, layer):
        return _is_ours(layer)

    def replacement(self, layer, name):
        if not hasattr(layer, "to_plain"):
            return None
        return self.copy(layer.to_plain(), name)

    def config(self, layer):
        return _without_penalties(layer.get_config())

    def refusal(self, layer):
        kind = "model" if isinstance(layer, keras.Model) else "layer"
        ours = [part.name for part in layer._flatten_layers() if _is_ours(part)]
        return (
            "Invalid value for argument `model`. Expected Sequential and functional "
            f"models, and layers with a plain counterpart. Received: the {kind} "
            f"{layer.name!r} of class {type(layer).__name__}, whose `call` cannot be "
            "rewritten from outside. Make the same with plain Keras layers in the "
            f"places of {ours}, and give each the weights of that layer's `to_plain()`."
        )


def _is_ours(thing):
    """Whether an object, or the config of one, is of a class of kerasreg."""
    if isinstance(thing, dict):
        return str(thing.get("registered_name")).startswith("kerasreg>")
    return keras.saving.get_registered_name(type(thing)).startswith("kerasreg>")


def _without_penalties(config):
    """The config of a layer without regularizers and constraints of kerasreg."""
    if isinstance(config, dict):
        return {
            key: None if _is_ours(value) and key.endswith(_FOR_TRAINING) else value
            for key, value in (
                (key, _without_penalties(value)) for key, value in config.items()
            )
        }
    if isinstance(config, list | tuple):
        return type(config)(map(_without_penalties, config))
    return config


_FOR_TRAINING = ("_regularizer", "_constraint")
