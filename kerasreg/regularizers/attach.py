"""Put penalties on a model that exists, and find the ones it has."""

import copy
import difflib
import fnmatch
import inspect
import warnings

import keras

from kerasreg.regularizers.base import Penalty, shortest
from kerasreg.regularizers.batch_norm import some, warn_batch_norm
from kerasreg.regularizers.elementwise import L1, L2, ElasticNet
from kerasreg.regularizers.sites import find_sites, names_weight, weight_paths


def as_penalty(regularizer):
    """Convert a Keras regularizer into the penalty with the same value.

    Args:
        regularizer: A `Penalty` (returned as it is), a `keras.regularizers.L1`,
            `L2` or `L1L2`, a name or config that `keras.regularizers.get` takes,
            the registered name of a penalty (`"kerasreg>GroupLasso"`, made with
            its default arguments), or `None`.

    Returns:
        A `Penalty`, or `None` for `None`.

    Raises:
        TypeError: If it has no penalty of the same value.
        ValueError: If a name is unknown.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import as_penalty
    >>> as_penalty(keras.regularizers.L1L2(l1=0.1, l2=0.01))
    ElasticNet(l1=0.1, l2=0.01)
    >>> as_penalty("l2")
    L2(l2=0.01)
    """
    original = regularizer
    registered = isinstance(original, str) and keras.saving.get_registered_object(
        original
    )
    regularizer = registered() if registered else keras.regularizers.get(original)
    if regularizer is None or isinstance(regularizer, Penalty):
        return regularizer
    known = {
        keras.regularizers.L1: lambda r: L1(_number(r.l1)),
        keras.regularizers.L2: lambda r: L2(_number(r.l2)),
        keras.regularizers.L1L2: lambda r: ElasticNet(_number(r.l1), _number(r.l2)),
    }
    if type(regularizer) not in known:
        raise TypeError(
            "Invalid value for argument `regularizer`. Expected a "
            "kerasreg.regularizers.Penalty or keras.regularizers.L1, L2 or L1L2. "
            f"Received: regularizer={original!r}"
        )
    return known[type(regularizer)](regularizer)


def penalties_of(model):
    """Find the penalties on the weights of a model.

    Args:
        model: A built `keras.Model` or `keras.Layer`.

    Returns:
        A dict from the path of each weight to its `Penalty`, in the order of
        `model.weights`, frozen weights included (Keras leaves those out of the
        loss). Where several weights have the same path, the second is
        `"path#2"`. Penalties on activities belong to no weight and are not
        listed; nor are regularizers that are not a `Penalty`.

    Raises:
        ValueError: If the model is not built.
        TypeError: If it is no model or layer.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import L1, penalties_of
    >>> layer = keras.layers.Dense(2, kernel_regularizer=L1(0.1), name="head")
    >>> layer.build((None, 3))
    >>> penalties_of(layer)
    {'head/kernel': L1(l1=0.1)}
    """
    check_built_model(model)
    return {
        path: variable.regularizer
        for path, variable in weight_paths(model)
        if isinstance(variable.regularizer, Penalty)
    }


def regularize(model, rules):
    """Attach penalties to the weights of a model that is already built.

    Works on pretrained, compiled and trained models. Each weight gets a copy of
    the penalty, with a strength of its own, in place of the regularizer it had.

    By default only kernels (and embeddings) are meant: biases, scales, the weights
    of normalization layers and vectors are left alone unless a rule names them.

    Give it the model that is compiled, not a part of it: it has that model trace
    its steps again.

    Args:
        model: A built `keras.Model` or `keras.Layer`.
        rules: A penalty for every kernel, or a dict from a key to a penalty. A
            penalty is anything `as_penalty` takes; `None` takes a regularizer
            off. Where rules overlap the later one wins. A key is

            * a glob pattern (`"block?_conv*"`), matched against the name of each
              layer and of the models and layers it lies in, and against the name
              and the path of each weight or its end (`"kernel"`, `"head/kernel"`).
              A weight that is not meant by default is meant only if the last part
              of the pattern is its full name: `"bias"`, `"head/bias"`, `"*/gamma"`;
            * a layer class (`keras.layers.Conv2D`), subclasses included;
            * a pair of both, `(layer, weight name)`.

    Returns:
        A dict from the path of each weight to the penalty attached to it.

    Raises:
        ValueError: If the model is not built, or a rule matches no weight.
        TypeError: If a key or a penalty is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import L1, L2, regularize
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, name="hidden"),
    ...         keras.layers.Dense(1, name="head"),
    ...     ],
    ...     name="mlp",
    ... )
    >>> regularize(model, {"*": L2(1e-4), "head": L1(1e-3)})
    {'mlp/hidden/kernel': L2(l2=0.0001), 'mlp/head/kernel': L1(l1=0.001)}
    """
    if not isinstance(rules, dict):
        rules = {"*": rules}
    check_built_model(model)
    sites = find_sites(model)
    chosen = {}
    for key, penalty in rules.items():
        penalty = as_penalty(penalty)
        matched = [site for site in sites if _matches(key, site)]
        if not matched:
            raise ValueError(_no_match(key, sites))
        chosen.update(dict.fromkeys(matched, penalty))
    chosen = {site: copy.copy(chosen[site]) for site in sites if site in chosen}
    attached = {s.path: penalty for s, penalty in chosen.items() if penalty is not None}
    for site, penalty in chosen.items():  # raises before anything is changed
        if penalty is not None:
            penalty.attach(site.variable)
    for site, penalty in chosen.items():
        site.attach(penalty)
    _warn_unsaved(model, attached, _attach_to_attention(model))
    warn_batch_norm(
        [site.variable for site in sites],
        [isinstance(site.layer, keras.layers.BatchNormalization) for site in sites],
    )
    _retrace(model)
    return attached


def separate(model):
    """Give each weight a penalty, and so a strength, of its own.

    Where one penalty object sits on several weights, all but the first get a copy.

    Args:
        model: A built `keras.Model` or `keras.Layer`.
    """
    seen: set[int] = set()
    copied = {}
    for site in find_sites(model):
        penalty = site.variable.regularizer
        if not isinstance(penalty, Penalty):
            continue
        if id(penalty) in seen:
            copied[site.path] = copy.copy(penalty)
            site.attach(copied[site.path])
        seen.add(id(penalty))
    if copied:
        _warn_unsaved(model, copied, _attach_to_attention(model))
        _retrace(model)


def check_built_model(model):
    """Raise unless this is a built model or layer.

    Args:
        model: What the user gave.

    Raises:
        ValueError: If the model is not built.
        TypeError: If it is no model or layer.
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


def _no_match(key, sites):
    """Why a rule matches nothing, and what may have been meant."""
    unnamed = [site.path for site in sites if _in_layer(_layer_part(key), site)]
    names = {name for s in sites for name in (s.layer.name, s.path, s.variable.name)}
    close = difflib.get_close_matches(str(key), sorted(names), n=3)
    if unnamed:
        hint = f"Its layers have only {some(unnamed)}, which a rule has to name"
    elif close:
        hint = f"Close to it are {close}"
    else:
        hint = f"The model has {some([site.path for site in sites])}"
    return (
        "Invalid value for argument `rules`. Expected keys that match a weight. "
        f"Received: the key {key!r}, which matches none. {hint}."
    )


def _layer_part(key):
    return key[0] if isinstance(key, tuple) else key


def _number(value):
    return shortest(keras.ops.convert_to_numpy(value))


def _matches(key, site):
    if isinstance(key, tuple) and len(key) == 2 and isinstance(key[1], str):
        layer, name = key
        return names_weight(name, site) and _in_layer(layer, site)
    if isinstance(key, str) and names_weight(key, site):
        return True
    return site.by_default and _in_layer(key, site)


def _in_layer(key, site):
    layers = (*site.ancestors, site.layer)
    if isinstance(key, str):
        return any(fnmatch.fnmatchcase(layer.name, key) for layer in layers)
    if inspect.isclass(key) and issubclass(key, keras.layers.Layer):
        return any(isinstance(layer, key) for layer in layers)
    raise TypeError(
        "Invalid key in argument `rules`. Expected a glob pattern, a layer class or "
        f"a pair of one of them and a weight name. Received: {key!r}"
    )


def _attach_to_attention(model):
    """Let attention layers save the penalty that all their projections have.

    They make their projections anew from their own arguments when they are loaded,
    so they can save one penalty for all of them and no other.

    Returns:
        A dict from the id of each such penalty to the id of the one saved for it.
    """
    saved_as: dict[int, int] = {}
    for layer in model._flatten_layers():
        children = list(layer._flatten_layers(include_self=False, recursive=False))
        for role in ("kernel", "bias"):
            name = f"{role}_regularizer"
            found = [
                getattr(child, name, None)
                for child in children
                if any(variable.name == role for variable in child.weights)
            ]
            own = vars(layer).keys() & {name, f"_{name}"}
            if own and len({repr(penalty) for penalty in found}) == 1:
                setattr(layer, own.pop(), found[0])
                saved_as.update((id(penalty), id(found[0])) for penalty in found)
    return saved_as


def _warn_unsaved(model, attached, saved_as):
    """Warn about penalties that the model's config does not contain.

    Asked of Keras itself: those whose `get_config` is not called while the model
    makes its config, would be lost on loading.
    """
    saved = set()

    def watch(penalty):
        def get_config():
            saved.add(id(penalty))
            return type(penalty).get_config(penalty)

        return get_config

    for penalty in attached.values():
        penalty.get_config = watch(penalty)
    try:
        model.get_config()
    except NotImplementedError:
        return  # such a model cannot be saved by its config at all
    finally:
        for penalty in attached.values():
            del penalty.get_config
    lost = [
        path
        for path, penalty in attached.items()
        if saved_as.get(id(penalty), id(penalty)) not in saved
    ]
    if lost:
        warnings.warn(
            f"The penalties on {lost} are at work but will not be saved with the "
            "model: their layers have no argument in their config for them. Call "
            "`regularize` again after loading.",
            stacklevel=3,
        )


def _retrace(model):
    """Have a model that was compiled trace its steps again."""
    for function in ("train_function", "test_function"):
        if getattr(model, function, None) is not None:
            setattr(model, function, None)
