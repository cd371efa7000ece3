"""Copy a model and put other layers in the place of some."""

import contextlib
import inspect

import keras

from kerasreg.layers.copies import copy_layer, copy_states


class Rebuild:
    """Copies a model; a subclass says which layers change, and what they become.

    Models inside models, layers called more than once, `TimeDistributed` and
    `Bidirectional` are followed. Each layer is made once, so that what is shared stays
    shared. An object of this class makes one copy.
    """

    def __init__(self):
        # From the id of each operation to that and its copy.
        self._made: dict[int, tuple] = {}

    def changes(self, layer):
        """Whether this layer must not be copied as it is."""
        raise NotImplementedError

    def replacement(self, layer, name):
        """The built layer that takes the place of another, or `None` for a copy.

        Args:
            layer: Built layer or model.
            name: The name it should have.
        """
        raise NotImplementedError

    def config(self, layer):
        """The config to make a copy from."""
        return layer.get_config()

    def refusal(self, layer):
        """The message about a layer that cannot be followed into."""
        raise NotImplementedError

    def copy(self, layer, name):
        """The copy of an operation, made once.

        Args:
            layer: Layer, model, or other operation of a functional model.
            name: Name of the copy.

        Returns:
            A built operation that shares no weight with the original.

        Raises:
            ValueError: If a layer that changes lies where it cannot be replaced.
        """
        if id(layer) not in self._made:
            self._made[id(layer)] = layer, self._make(layer, name)
        return self._made[id(layer)][1]

    def _make(self, layer, name):
        if not isinstance(layer, keras.layers.Layer):
            return type(layer).from_config(layer.get_config())
        with _scope(_parent(layer)):
            other = self.replacement(layer, name)
        if other is not None:
            if not layer.trainable:
                other.trainable = False
            return other
        if isinstance(layer, keras.Sequential):
            return self._sequential(layer, name)
        if isinstance(layer, keras.Function):
            return self._functional(layer, name)
        if any(map(self.changes, layer._flatten_layers())):
            return self._around(layer, name)
        if isinstance(layer, keras.Model):
            raise ValueError(self.refusal(layer))
        with _scope(_parent(layer)):
            return copy_layer(layer, **{**self.config(layer), "name": name})

    def _sequential(self, model, name):
        if type(model).call is not keras.Sequential.call:
            raise ValueError(self.refusal(model))
        layers = [self.copy(layer, layer.name) for layer in model.layers]
        inputs = [
            keras.Input(
                batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=x.name
            )
            for x in model.inputs
        ]
        copy = keras.Sequential([*inputs, *layers], name=name)
        _set_trainable(copy, model.trainable)
        return copy

    def _functional(self, model, name):
        # The same graph without the class, the optimizer and the loss.
        graph = keras.Model(model.input, model.output, name=name)
        if type(model).call is not type(graph).call:
            raise ValueError(self.refusal(model))
        inputs = {
            id(layer.output): type(layer).from_config(layer.get_config()).output
            for layer in model.layers
            if isinstance(layer, keras.layers.InputLayer)
        }
        copy = keras.models.clone_model(
            graph,
            input_tensors=keras.tree.map_structure(
                lambda x: inputs[id(x)], model.input
            ),
            clone_function=lambda layer: self.copy(layer, layer.name),
            call_function=_call,
        )
        _set_trainable(copy, model.trainable)
        return copy

    def _around(self, layer, name):
        """Copy a Keras layer that wraps layers which change."""
        if not isinstance(
            layer, keras.layers.TimeDistributed | keras.layers.Bidirectional
        ):
            raise ValueError(self.refusal(layer))
        config = {**self.config(layer), "name": name}
        if isinstance(layer, keras.layers.TimeDistributed):
            inner = self.copy(layer.layer, layer.layer.name)
            copy = type(layer)(**{**config, "layer": inner})
            with _scope(_parent(layer)):
                copy.build_from_config(layer.get_build_config())
        else:
            copy = self._bidirectional(layer, config)
        _set_trainable(copy, layer.trainable)
        return copy

    def _bidirectional(self, layer, config):
        """Copy a `Bidirectional`, which makes its layers from their configs."""
        parts = {
            key: self.copy(part, part.name)
            for key, part in (
                ("layer", layer.forward_layer),
                ("backward_layer", layer.backward_layer),
            )
        }
        for key, part in parts.items():
            config[key] = keras.saving.serialize_keras_object(part)
        with _scope(layer.path or ""):  # the parts are built as they are made
            copy = type(layer).from_config(config)
        with _scope(_parent(layer)):
            copy.build_from_config(layer.get_build_config())
        copy_states(parts["layer"], copy.forward_layer)
        copy_states(parts["backward_layer"], copy.backward_layer)
        return copy


def _parent(layer):
    """The path of what a layer lies in: that of its weights without its own name."""
    return (layer.path or "").rpartition("/")[0]


def _scope(path):
    """Give what is built inside paths that begin with this one."""
    above, _, name = path.rpartition("/")
    if not name:
        return contextlib.nullcontext()
    return keras.name_scope(name, override_parent=above)


def _call(layer, *args, **kwargs):
    """Call a layer as the graph has called the layer whose place it takes.

    That one may have had arguments that are of no use to this one, such as the `mask`
    of a wrapper around `Dense`.
    """
    parameters = inspect.signature(layer.call).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        kwargs = {name: x for name, x in kwargs.items() if name in parameters}
    return layer(*args, **kwargs)


def _set_trainable(layer, flag):
    """Set the flag of this layer, and not of the layers inside."""
    inner = [(p, p.trainable) for p in layer._flatten_layers(include_self=False)]
    layer.trainable = flag
    for part, own in inner:
        part.trainable = own
