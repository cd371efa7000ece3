"""Look into, build and copy a layer of any kind, from outside it."""

import math
import tempfile

import keras

# What multiplies the inputs, by the weights' names in Keras. The recurrent kernels
# see no dropped inputs, and biases have no noise.
_INPUT_KERNELS = ("kernel", "depthwise_kernel")


def build_layer(layer, *shapes, **named_shapes):
    """Build a layer, and what is inside it, from the shapes of its inputs.

    Args:
        layer: `keras.layers.Layer`.
        *shapes: Shapes of its call arguments, in order.
        **named_shapes: Shapes by name: `query_shape` for the argument `query`.
    """
    parts = layer._flatten_layers(include_self=False)
    own = type(layer).build is not keras.layers.Layer.build
    if own or all(part.built for part in parts):
        layer.build(*shapes, **named_shapes)
        return
    # It has no `build` of its own: its layers are built where it calls them.
    if len(named_shapes) == 1:  # Keras's name for it, whatever the argument is
        shapes, named_shapes = tuple(named_shapes.values()), {}
    layer(
        *(_symbolic(shape) for shape in shapes),
        **{
            name.removesuffix("_shape"): _symbolic(shape)
            for name, shape in named_shapes.items()
        },
    )


def copy_layer(layer, /, **changes):
    """A copy of a built layer, with weights of its own that have the same values.

    Args:
        layer: Built `keras.layers.Layer`.
        **changes: Entries of its config that are different in the copy.

    Returns:
        A built layer of the same class.
    """
    # A function of the user's is safe to copy where it already runs.
    trust = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
    copy = type(layer).from_config({**layer.get_config(), **changes}, **trust)
    config = layer.get_build_config()
    if config and not copy.built:
        if "input_shape" in config:
            build_layer(copy, config["input_shape"])
        else:
            build_layer(copy, **config["shapes_dict"])
    copy_states(layer, copy)
    return copy


def copy_states(layer, copy):
    """Give a built layer all that another one would save, and its `trainable` flags.

    Args:
        layer: Built `keras.layers.Layer`.
        copy: Built layer with the same layers inside.
    """
    parts = zip(layer._flatten_layers(), copy._flatten_layers(), strict=True)
    for part, part_of_copy in parts:
        _copy_state(part, part_of_copy)


def _copy_state(layer, copy):
    """Copy what a layer saves by itself: the layers inside it apart."""
    store: dict = {}
    layer.save_own_variables(store)
    copy.load_own_variables(store)
    if hasattr(layer, "save_assets"):  # vocabularies
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)
    copy.trainable = layer.trainable


def _symbolic(shape):
    return keras.tree.map_shape_structure(keras.KerasTensor, shape)


def layers_inside(layer):
    """The layers inside, to which this one gives its inputs, if it is a wrapper."""
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    if isinstance(layer, keras.layers.RNN):
        return [layer.cell]
    if isinstance(layer, keras.layers.StackedRNNCells):
        return [layer.cells[0]]
    if isinstance(layer, keras.layers.Wrapper):
        return [layer.layer]
    return []


def input_kernels(layer):
    """What multiplies the inputs."""
    inside = layers_inside(layer)
    if inside:
        return [w for part in inside for w in input_kernels(part)]
    return [w for w in getattr(layer, "weights", []) if w.name in _INPUT_KERNELS]


def steps_axis(layer):
    """The axis of the inputs that a recurrent layer runs along, if there is one."""
    if isinstance(layer, keras.layers.Bidirectional | keras.layers.RNN):
        return 1
    inside = layers_inside(layer)
    axis = steps_axis(inside[0]) if inside else None
    if axis and isinstance(layer, keras.layers.TimeDistributed):
        return axis + 1
    return axis


def channel_axis(layer):
    """The axis of the features or channels of the layer's inputs."""
    inside = layers_inside(layer)
    if not inside:
        first = getattr(layer, "data_format", None) == "channels_first"
        return 1 if first else -1
    axis = channel_axis(inside[0])
    takes_steps = isinstance(layer, keras.layers.TimeDistributed | keras.layers.RNN)
    return axis + 1 if takes_steps and axis > 0 else axis


def input_features(layer, input_shape):
    """How many input features one output sums over: what a mask has entries for."""
    core = layer
    while layers_inside(core):
        core = layers_inside(core)[0]
    if isinstance(core, keras.layers.EinsumDense):
        inputs, kernel = core.equation.split("->")[0].split(",")
        axes = [axis for axis, name in enumerate(kernel.strip()) if name in inputs]
        return math.prod(core.kernel.shape[axis] for axis in axes)
    return input_shape[channel_axis(layer)]
