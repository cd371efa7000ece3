"""Turn a model with noisy layers into an ordinary Keras model."""

import inspect

import keras

from kerasreg.layers.copies import copy_layer, copy_states


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
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `model`. Expected a keras.Model or "
            f"keras.Layer. Received: model={model!r}"
        )
    if not model.built:
        raise ValueError(
            "Invalid value for argument `model`. Expected a built model (call it on "
            f"data or give it an Input first). Received: model={model!r}"
        )
    return _plain(model, model.name, {})


def _plain(layer, name, made):
    """The plain copy of an operation, made once.

    Args:
        layer: Layer, model, or other operation of a functional model.
        name: Name of the copy.
        made: Dict from the id of each operation to that and its copy.
    """
    if id(layer) not in made:
        made[id(layer)] = layer, _make(layer, name, made)
    return made[id(layer)][1]


def _make(layer, name, made):
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).from_config(layer.get_config())
    if hasattr(layer, "to_plain"):
        plain = _plain(layer.to_plain(), name, made)
        if not layer.trainable:
            plain.trainable = False
        return plain
    if isinstance(layer, keras.Sequential):
        return _sequential(layer, name, made)
    if isinstance(layer, keras.Function):
        return _functional(layer, name, made)
    if any(map(_is_ours, layer._flatten_layers())):
        return _around(layer, name, made)
    if isinstance(layer, keras.Model):
        raise ValueError(_no_way(layer))
    config = _without_penalties(layer.get_config())
    return copy_layer(layer, **{**config, "name": name})


def _sequential(model, name, made):
    if type(model).call is not keras.Sequential.call:
        raise ValueError(_no_way(model))
    layers = [_plain(layer, layer.name, made) for layer in model.layers]
    inputs = [
        keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=x.name)
        for x in model.inputs
    ]
    plain = keras.Sequential([*inputs, *layers], name=name)
    _set_trainable(plain, model.trainable)
    return plain


def _functional(model, name, made):
    # The same graph without the class, the optimizer and the loss.
    graph = keras.Model(model.input, model.output, name=name)
    if type(model).call is not type(graph).call:
        raise ValueError(_no_way(model))
    inputs = {
        id(layer.output): type(layer).from_config(layer.get_config()).output
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer)
    }
    plain = keras.models.clone_model(
        graph,
        input_tensors=keras.tree.map_structure(lambda x: inputs[id(x)], model.input),
        clone_function=lambda layer: _plain(layer, layer.name, made),
        call_function=_call,
    )
    _set_trainable(plain, model.trainable)
    return plain


def _call(layer, *args, **kwargs):
    """Call a plain layer as the graph has called the layer whose place it takes.

    That one may have had arguments that are of no use to the plain layer, such as
    the `mask` of a wrapper around `Dense`.
    """
    parameters = inspect.signature(layer.call).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        kwargs = {name: x for name, x in kwargs.items() if name in parameters}
    return layer(*args, **kwargs)


def _around(layer, name, made):
    """Copy a Keras layer that wraps layers of kerasreg."""
    config = {**_without_penalties(layer.get_config()), "name": name}
    if isinstance(layer, keras.layers.TimeDistributed):
        inner = _plain(layer.layer, layer.layer.name, made)
        plain = type(layer)(**{**config, "layer": inner})
        plain.build_from_config(layer.get_build_config())
    elif isinstance(layer, keras.layers.Bidirectional):
        plain = _bidirectional(layer, config, made)
    else:
        raise ValueError(_no_way(layer))
    _set_trainable(plain, layer.trainable)
    return plain


def _bidirectional(layer, config, made):
    """Copy a `Bidirectional`, which makes its layers from their configs."""
    parts = {
        key: _plain(part, part.name, made)
        for key, part in (
            ("layer", layer.forward_layer),
            ("backward_layer", layer.backward_layer),
        )
    }
    for key, part in parts.items():
        config[key] = keras.saving.serialize_keras_object(part)
    plain = type(layer).from_config(config)
    plain.build_from_config(layer.get_build_config())
    copy_states(parts["layer"], plain.forward_layer)
    copy_states(parts["backward_layer"], plain.backward_layer)
    return plain


def _set_trainable(layer, flag):
    """Set the flag of this layer, and not of the layers inside."""
    inner = [(p, p.trainable) for p in layer._flatten_layers(include_self=False)]
    layer.trainable = flag
    for part, own in inner:
        part.trainable = own


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


def _no_way(layer):
    kind = "model" if isinstance(layer, keras.Model) else "layer"
    ours = [part.name for part in layer._flatten_layers() if _is_ours(part)]
    return (
        "Invalid value for argument `model`. Expected Sequential and functional "
        f"models, and layers with a plain counterpart. Received: the {kind} "
        f"{layer.name!r} of class {type(layer).__name__}, whose `call` cannot be "
        "rewritten from outside. Make the same with plain Keras layers in the places "
        f"of {ours}, and give each the weights of that layer's `to_plain()`."
    )
