"""What samples in a model, and how to turn on that and nothing else."""

import contextlib
import functools
import itertools
import threading

import keras
from keras import ops

from kerasreg import random
from kerasreg.layers import noise, sampling

# Tracing changes methods of layers for a moment: one thread at a time.
LOCK = threading.RLock()

_DROPOUT = (
    keras.layers.Dropout,  # and SpatialDropout
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)
# These hand `training` to nothing but their own dropout.
_WITH_DROPOUT = (
    keras.layers.Attention,
    keras.layers.SimpleRNN,
    keras.layers.SimpleRNNCell,
    keras.layers.LSTM,
    keras.layers.LSTMCell,
    keras.layers.GRU,
    keras.layers.GRUCell,
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
_RATES = ("rate", "dropout", "recurrent_dropout", "stddev")


def keras_samplers(model, training_layers=()):
    """Keras's own layers that draw random numbers in training mode.

    Args:
        model: Model or layer.
        training_layers: Tuple of further classes to be put in training mode.

    Returns:
        List of layers.
    """
    chosen = []
    for layer in model._flatten_layers():
        dropout = isinstance(layer, _DROPOUT) and layer.rate > 0
        inside = isinstance(layer, _WITH_DROPOUT) and _drops(layer)
        if dropout or inside or isinstance(layer, training_layers):
            chosen.append(layer)
    return chosen


def _drops(layer):
    # Of ConvLSTM the cell has no public class: it is reached through the layer.
    return getattr(layer, "dropout", 0) or getattr(layer, "recurrent_dropout", 0)


def weight_samplers(model):
    """The layers that can draw their weights before they are called."""
    return [
        layer for layer in model._flatten_layers() if hasattr(layer, "draw_weights")
    ]


def may_sample(operation, chosen):
    """Whether an operation of a model might draw random numbers.

    Args:
        operation: Layer or other operation.
        chosen: List of layers in training mode.
    """
    if not isinstance(operation, keras.layers.Layer):
        # Operations of `keras.random` in a functional model hold their generator.
        return _has_generator(operation)
    ids = {id(layer) for layer in chosen}
    return any(
        id(layer) in ids
        or hasattr(layer, "draw_weights")
        or _has_generator(layer)
        or _may_do_anything(layer)
        for layer in operation._flatten_layers()
    )


def _may_do_anything(layer):
    """Whether a layer is of others, who may draw from wherever they like."""
    own = type(layer).__module__.startswith(("keras.", "kerasreg."))
    return not own or isinstance(layer, keras.layers.Lambda)


def _has_generator(thing):
    return any(isinstance(v, keras.random.SeedGenerator) for v in vars(thing).values())


def state(model):
    """What a traced graph has taken from the layers as constants."""
    return tuple(
        (
            id(layer),
            layer.trainable,
            layer.compute_dtype,
            *(_constant(getattr(layer, name, None)) for name in _RATES),
        )
        for layer in model._flatten_layers()
    )


def _constant(value):
    return value if isinstance(value, int | float) else None


@contextlib.contextmanager
def turned_on(chosen):
    """Turn on kerasreg's noise, and put these layers in training mode.

    Args:
        chosen: List of layers.
    """
    before = [vars(layer).get("call") for layer in chosen]
    for layer in chosen:
        vars(layer)["call"] = _call_of(layer)
    try:
        with sampling():
            yield
    finally:
        for layer, call in zip(chosen, before, strict=True):
            if call is None:
                del vars(layer)["call"]
            else:
                vars(layer)["call"] = call


def _call_of(layer):
    """The layer's call in training mode, with a fast generator for plain Dropout."""
    call = layer.call
    if type(layer).call is keras.layers.Dropout.call and layer.rate < 1:
        return functools.partial(_dropout, layer)

    def training_call(*args, **kwargs):
        return call(*args, **{**kwargs, "training": True})

    return training_call


def _dropout(layer, inputs, training=True):
    """What `keras.layers.Dropout` does in training."""
    keep, shape = 1.0 - layer.rate, ops.shape(inputs)
    if layer.noise_shape is not None:
        pairs = zip(layer.noise_shape, shape, strict=True)
        shape = tuple(theirs if own is None else own for own, theirs in pairs)
    seed = random.next_seed(layer.seed_generator)
    kept = random.bernoulli(shape, keep, seed, "bool")
    return ops.where(kept, inputs * (1.0 / keep), ops.zeros((), inputs.dtype))


def fold(seed, number):
    """A seed made from another and a number, the same with XLA and without.

    Args:
        seed: Integer tensor of shape (2,).
        number: Integer or scalar tensor.
    """
    # tensorflow: named generator.
    import tensorflow as tf

    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


@contextlib.contextmanager
def seeded(seed):
    """All generators yield seeds made from this one, and keep their own state.

    Args:
        seed: Integer tensor of shape (2,).
    """
    kind = keras.random.SeedGenerator
    original, thread, count = kind.next, threading.get_ident(), itertools.count()

    def next_seed(generator, ordered=True):
        if threading.get_ident() != thread:
            return original(generator, ordered)
        return ops.cast(fold(seed, next(count)), generator.state.dtype)

    kind.next = next_seed
    try:
        yield
    finally:
        kind.next = original


def draw_weights(model, chosen, seed):
    """One draw of each layer that can draw its weights.

    Args:
        model: Model.
        chosen: Layers in training mode.
        seed: Integer tensor of shape (2,).

    Returns:
        Dict from the id of the layer.
    """
    with turned_on(chosen), seeded(seed), keras.StatelessScope():
        return {id(layer): layer.draw_weights() for layer in weight_samplers(model)}


def call_sampled(function, inputs, chosen, draws, seed):
    """Call a model or a part of one with its noise on.

    No variable changes: not the averages of a normalization, not the states of the
    generators.

    Args:
        function: What to call.
        inputs: Its inputs.
        chosen: Layers in training mode.
        draws: What `draw_weights` returned.
        seed: Integer tensor of shape (2,).
    """
    drawn = noise.drawn_weights(draws)
    with turned_on(chosen), seeded(seed), drawn, keras.StatelessScope():
        return function(inputs)


def cut(model, chosen):
    """Cut a functional model in front of what samples first.

    Args:
        model: Model.
        chosen: Layers in training mode.

    Returns:
        Two functions, of which the second takes what the first returns, a list of
        tensors. The first is `None` where there is nothing before the noise.
    """
    graph = isinstance(model, keras.Function | keras.Sequential) and model.built
    if not graph or not type(model).call.__module__.startswith("keras."):
        return None, model
    try:
        whole = keras.Function(model.inputs, model.outputs)
    except (AttributeError, ValueError):  # a Sequential without a graph
        return None, model
    known, before = {id(x) for x in whole.inputs}, list(whole.inputs)
    nodes = [n for depth in sorted(whole._nodes_by_depth, reverse=True)
             for n in whole._nodes_by_depth[depth]]  # fmt: skip
    after = []
    for node in nodes:
        if node.is_input:
            continue
        fixed = all(id(x) in known for x in node.input_tensors)
        if fixed and not may_sample(node.operation, chosen):
            known.update(id(x) for x in node.outputs)
            before.extend(node.outputs)
        else:
            after.append(node)
    used = {id(x) for node in after for x in node.input_tensors}
    used |= {id(x) for x in whole.outputs}
    frontier = [x for x in before if id(x) in used]
    if all(any(x is y for y in whole.inputs) for x in frontier):
        return None, model
    first = keras.Function(list(whole.inputs), frontier)
    structure = None if isinstance(model, keras.Sequential) else model.output
    outputs = whole.outputs[0] if structure is None else structure
    return _standardized(first, model), keras.Function(frontier, outputs)


def _standardized(function, model):
    """Take inputs as the model does: by name or in order, of any number dtype."""

    def call(inputs):
        names = [x.name for x in model.inputs]
        if isinstance(inputs, dict) and set(names) == set(inputs):
            flat = [inputs[name] for name in names]
        else:
            flat = keras.tree.flatten(inputs)
        flat = [ops.cast(x, y.dtype) for x, y in zip(flat, model.inputs, strict=True)]
        return function(
            [
                x[..., None] if len(x.shape) == len(y.shape) - 1 else x
                for x, y in zip(flat, model.inputs, strict=True)
            ]
        )

    return call
