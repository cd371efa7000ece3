"""Build and copy a layer of any kind, from outside it."""

import tempfile

import keras


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
    parts = zip(layer._flatten_layers(), copy._flatten_layers(), strict=True)
    for part, part_of_copy in parts:
        _copy_state(part, part_of_copy)
    return copy


def _copy_state(layer, copy):
    """Give a layer all that another one would save: what is inside it apart."""
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
