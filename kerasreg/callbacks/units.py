"""Which weights of a model share one strength, and what they are called."""

import collections
import fnmatch

import keras

from kerasreg.regularizers import Penalty
from kerasreg.regularizers.attach import check_built_model, separate
from kerasreg.regularizers.sites import find_owners

GRANULARITIES = ("layer", "weight", "model")


def units_of(model, granularity="layer", pattern=None, *, own=True):
    """Group the penalized weights of a model into units that share one strength.

    Frozen weights are left out: Keras leaves their penalties out of the loss.

    Args:
        model: A built `keras.Model`.
        granularity: `"weight"`: each by itself; `"layer"`: those of a layer together;
            `"model"`: all together.
        pattern: Glob pattern on the name of the weight (`"hidden/kernel"`) or of its
            layer, to leave others out; `None` for all.
        own: Whether a weight that shares its penalty object with others gets a copy
            of its own, so that strengths can be set apart.

    Returns:
        A dict from the name of each unit to the list of its weights. The name is the
        layer's (and the weight's), with the whole path only where that is not unique.

    Raises:
        ValueError: If no weight is left, or `granularity` is unknown.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            "Invalid value for argument `granularity`. Expected one of "
            f"{GRANULARITIES}. Received: granularity={granularity!r}"
        )
    check_built_model(model)
    if own:
        separate(model)
    owners = find_owners(model)
    weights = [
        (_layer(*owners[id(weight)]), weight)
        for weight in model.trainable_weights
        if isinstance(weight.regularizer, Penalty)
    ]
    layers = _names((layer, layer.name) for layer, _ in weights)
    names = _names((w, f"{layers[id(layer)]}/{w.name}") for layer, w in weights)
    units: dict[str, list] = {}
    for layer, weight in weights:
        called = layers[id(layer)], names[id(weight)], weight.path
        if pattern is None or any(fnmatch.fnmatchcase(n, pattern) for n in called):
            unit = {"layer": called[0], "weight": called[1], "model": "model"}
            unit = unit[granularity]
            units.setdefault(unit, []).append(weight)
    if not units:
        raise ValueError(_nothing(model, weights, pattern))
    return units


def _layer(owner, ancestors):
    """The layer that a user knows: a recurrent layer rather than its cell."""
    recurrent = [layer for layer in ancestors if isinstance(layer, keras.layers.RNN)]
    return recurrent[-1] if recurrent else owner


def _names(pairs):
    """A name for each thing: the short one where only one of them has it."""
    things = {id(thing): (thing, short) for thing, short in pairs}
    counts = collections.Counter(short for _, short in things.values())
    return {
        key: short if counts[short] == 1 else thing.path
        for key, (thing, short) in things.items()
    }


def _nothing(model, weights, pattern):
    """Why there is no unit."""
    if weights:
        paths = [weight.path for _, weight in weights]
        return (
            "Invalid value for argument `pattern`. Expected a pattern of the name of a "
            f"weight or layer with a penalty, which are {paths}. "
            f"Received: pattern={pattern!r}"
        )
    frozen = [w.path for w in model.weights if isinstance(w.regularizer, Penalty)]
    foreign = [
        w.path
        for w in model.trainable_weights
        if w.regularizer is not None and not isinstance(w.regularizer, Penalty)
    ]
    if frozen:
        reason = f"those of {frozen}, all of which are frozen"
    elif foreign:
        reason = (
            f"regularizers of Keras on {foreign}, which have no strength to set: use "
            "kerasreg.regularizers, or `as_penalty`"
        )
    else:
        reason = "none (see kerasreg.regularizers.regularize)"
    return (
        f"The model {model.name!r} has no penalty whose strength could be set. "
        "Expected a kerasreg.regularizers.Penalty on a trainable weight. "
        f"Received: {reason}."
    )
