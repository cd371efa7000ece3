"""Which weights of a model share one strength, and what they are called."""

import collections
import copy
import fnmatch

import keras
from keras import ops

from kerasreg.callbacks.probe import is_proximal
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
        layer's (and the weight's). Where several have it, those of the models and
        layers that it lies in come first, and a number last if that does not do.

    Raises:
        ValueError: If no weight is left, or `granularity` is unknown.
    """
    check_granularity(granularity)
    check_built_model(model)
    if own:
        separate(model)
    owners = find_owners(model)
    weights = [
        (_layer(*owners[id(weight)]), weight)
        for weight in model.trainable_weights
        if isinstance(weight.regularizer, Penalty)
    ]
    layers = _names({id(layer): (layer.name, long) for (layer, long), _ in weights})
    names = _names(
        {
            id(w): (f"{layers[id(layer)]}/{w.name}", f"{layers[id(layer)]}/{w.path}")
            for (layer, _), w in weights
        }
    )
    units: dict[str, list] = {}
    for (layer, _), weight in weights:
        called = layers[id(layer)], names[id(weight)], weight.path
        if pattern is None or any(fnmatch.fnmatchcase(n, pattern) for n in called):
            unit = {"layer": called[0], "weight": called[1], "model": "model"}
            unit = unit[granularity]
            units.setdefault(unit, []).append(weight)
    if not units:
        raise ValueError(_nothing(model, weights, pattern))
    return units


def check_granularity(granularity):
    """Check an argument that says what has a strength of its own."""
    if granularity not in GRANULARITIES:
        raise ValueError(
            "Invalid value for argument `granularity`. Expected one of "
            f"{GRANULARITIES}. Received: granularity={granularity!r}"
        )
    return granularity


def makes_zeros(weight):
    """Whether the proximal map of a weight's penalty takes small numbers to zero.

    Args:
        weight: `keras.Variable` with a `Penalty`.
    """
    penalty = weight.regularizer
    if not penalty.has_prox:
        return False
    if not penalty.strength:
        penalty = copy.copy(penalty)
        penalty.strength = 1.0
    return not ops.convert_to_numpy(
        penalty.prox(ops.full(weight.shape, 1e-9), 1.0)
    ).any()


def check_exact_zeros(model, units, policy, *, mapped=False):
    """Raise unless the weights of all units can reach exact zeros.

    Args:
        model: The compiled `keras.Model`.
        units: Dict from the name of each unit to the list of its weights.
        policy: What needs them, a name.
        mapped: Whether somebody else than the model's optimizer takes proximal maps.
    """
    smooth = [
        weight.path
        for members in units.values()
        for weight in members
        if not makes_zeros(weight)
    ]
    if smooth or not (mapped or is_proximal(model.optimizer)):
        have = f"penalties that make no zeros on {smooth}"
        if not smooth:
            have = f"optimizer={type(model.optimizer).__name__}"
        raise ValueError(
            f"{policy} needs weights that reach exact zeros. Expected a model compiled "
            "with kerasreg.optimizers.Proximal, and penalties such as L1, whose "
            f"proximal map makes them. Received: {have}"
        )


def _layer(owner, ancestors):
    """The layer that a user knows, and its name with those of what it lies in.

    A recurrent layer rather than its cell. Keras's paths do not do: those of layers in
    functional models do not name the model, and are others after loading.
    """
    line = [*ancestors, owner]
    recurrent = [i for i, each in enumerate(line) if isinstance(each, keras.layers.RNN)]
    line = line[: recurrent[-1] + 1] if recurrent else line
    return line[-1], "/".join(layer.name for layer in line)


def _names(candidates):
    """A name for each of several things.

    Args:
        candidates: Dict from a key to a short and a long name.

    Returns:
        A dict from each key to the short name if no other has it, else the long one,
        with a number from the second that has it on.
    """
    shared = collections.Counter(short for short, _ in candidates.values())
    seen: collections.Counter[str] = collections.Counter()
    names = {}
    for key, (short, long) in candidates.items():
        name = short if shared[short] == 1 else long
        seen[name] += 1
        names[key] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


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
