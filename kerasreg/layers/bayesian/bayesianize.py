"""Make the layers of a Keras model Bayesian."""

import fnmatch
import inspect

import keras

from kerasreg.layers.bayesian.base import OWN
from kerasreg.layers.bayesian.embedding import BayesianEmbedding
from kerasreg.layers.bayesian.linear import (
    BayesianConv1D,
    BayesianConv2D,
    BayesianConv3D,
    BayesianDense,
)
from kerasreg.layers.bayesian.recurrent import BayesianGRU, BayesianLSTM
from kerasreg.layers.rebuild import Rebuild
from kerasreg.regularizers.attach import check_built_model

CLASSES = {
    keras.layers.Dense: BayesianDense,
    keras.layers.Conv1D: BayesianConv1D,
    keras.layers.Conv2D: BayesianConv2D,
    keras.layers.Conv3D: BayesianConv3D,
    keras.layers.Embedding: BayesianEmbedding,
    keras.layers.LSTM: BayesianLSTM,
    keras.layers.GRU: BayesianGRU,
}


def bayesianize(
    model,
    num_examples=None,
    *,
    prior=None,
    estimator="flipout",
    layers=None,
    seed=None,
    **arguments,
):
    """Copy a model with a distribution over its weights in place of each weight.

    Dense, convolutional, Embedding, LSTM and GRU layers become `BayesianDense` and so
    on. Their posterior means start from the weights of the model, so that at inference
    the copy predicts the same as the model, trained or not, until it is trained itself.

    All other layers are copied, with their weights, states, names, dtype policies,
    `trainable` flags and regularizers. A layer that the model calls more than once
    stays one layer. The model is not compiled: give it a mean negative log likelihood
    as its loss.

    The prior takes the place of a regularizer: weights that get a posterior lose
    theirs. Constraints stay; they are those of the means.

    Layers of kerasreg are copied as they are, so that calls can be chained, one for
    each kind of argument: `bayesianize(bayesianize(model, n, layers="a"), n,
    layers="b", estimator="reparameterization")`. So are subclasses of Keras's layers,
    whose `call` may be another one.

    Args:
        model: Built `keras.Sequential` or functional `keras.Model`, or a single
            layer. Models inside models, layers called more than once, `TimeDistributed`
            and `Bidirectional` are followed.
        num_examples: Positive number of training examples, for all layers. `None`: to
            be set later, by `set_num_examples`.
        prior: Prior of the kernels, as `BayesianDense` takes it; or a dict from keys
            as in `layers` to priors, of which the last that matches counts.
        estimator: As for `BayesianDense`.
        layers: Which layers to change: a glob pattern of names (`"block?_conv*"`),
            a layer class, or a list of these. A layer is meant if it, or a model or
            layer that it lies in, matches. `None`: all.
        seed: Integer, or `None` for a random one. Each layer has its own, made from it.
        **arguments: Other arguments of `BayesianDense`: `initial_scale`,
            `bayesian_bias`, `bias_prior`, `kl_samples`, `kl_strength`. Those of the
            bias are for layers that have one.

    Returns:
        A `keras.Sequential`, functional `keras.Model` or layer. The original is not
        changed, and shares no weight with it.

    Raises:
        ValueError: If the model is not built, is subclassed, or has no such layers; if
            a key matches none of them; if one is quantized, or lies inside another
            layer, where it cannot be replaced.
        TypeError: If the model, a key or an argument is of the wrong kind.

    Example:

    >>> import keras
    >>> from kerasreg.layers import bayesianize
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, activation="relu", name="hidden"),
    ...         keras.layers.BatchNormalization(),
    ...         keras.layers.Dense(1, name="head"),
    ...     ]
    ... )
    >>> noisy = bayesianize(model, 1000, prior="Laplace", layers="h*")
    >>> [type(layer).__name__ for layer in noisy.layers]
    ['BayesianDense', 'BatchNormalization', 'BayesianDense']
    >>> x = keras.random.normal((5, 4))
    >>> bool(keras.ops.all(noisy(x) == model(x)))
    True

    Reference: Krishnan, Subedar & Tickoo 2020, "Specifying weight priors in Bayesian
    deep neural networks with empirical Bayes" (arXiv 1906.05323), which starts means
    from a trained net, too.
    """
    check_built_model(model)
    unknown = sorted(set(arguments) - set(OWN))
    if unknown:
        raise TypeError(
            f"`bayesianize` got unexpected arguments. Expected some of {list(OWN)}. "
            f"Received: {unknown}"
        )
    places = _places(model)
    if not places:
        names = [cls.__name__ for cls in CLASSES]
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with at least one "
            f"layer of {names}. Received: model={model!r}"
        )
    chosen = places if layers is None else _chosen("layers", layers, places)
    arguments = {**arguments, "num_examples": num_examples, "estimator": estimator}
    own = {}
    for index, (key, each) in enumerate(_priors(prior, places).items()):
        if key in chosen:
            own[key] = {**arguments, "prior": each}
            if seed is not None:  # recurrent layers draw by the next three as well
                own[key]["seed"] = seed + 4 * index
    return _Bayesian(own).copy(model, model.name)


class _Bayesian(Rebuild):
    """Puts Bayesian layers in the place of Keras's.

    Args:
        arguments: From the id of each such layer to the arguments of the new one.
    """

    def __init__(self, arguments):
        super().__init__()
        self._arguments = arguments

    def changes(self, layer):
        return id(layer) in self._arguments

    def replacement(self, layer, name):
        if not self.changes(layer):
            return None
        return _bayesian(layer, name, dict(self._arguments[id(layer)]))

    def refusal(self, layer):
        kind = "model" if isinstance(layer, keras.Model) else "layer"
        inside = [part.name for part in layer._flatten_layers() if self.changes(part)]
        return (
            "Invalid value for argument `model`. Expected Sequential and functional "
            f"models. Received: the {kind} {layer.name!r} of class "
            f"{type(layer).__name__}, whose `call` cannot be rewritten from outside. "
            f"Write it with Bayesian layers in the places of {inside}, or leave these "
            "out by the argument `layers`."
        )


def _bayesian(layer, name, arguments):
    """The Bayesian layer of a Keras layer, with its weights as the means."""
    if getattr(layer, "quantization_mode", None):
        raise ValueError(
            "Invalid value for argument `model`. Expected layers whose weights can be "
            f"trained. Received: the layer {layer.name!r}, which is quantized"
        )
    cls = CLASSES[type(layer)]
    if not getattr(layer, "use_bias", False):
        arguments.pop("bayesian_bias", None)
        arguments.pop("bias_prior", None)
    config = {**layer.get_config(), **arguments, "name": name}
    with_posterior = list(cls._bayesian_weights)
    with_posterior += ["bias"] if arguments.get("bayesian_bias") else []
    for weight in with_posterior:
        config[f"{weight.removesuffix('_kernel')}_regularizer"] = None
    for key in ("lora_rank", "lora_alpha"):
        config.pop(key, None)
    bayesian = cls(**config)  # `from_config` would hide errors in another
    if hasattr(layer, "use_cudnn"):  # not in its config
        bayesian.use_cudnn = layer.use_cudnn
    # An Embedding that was made with its weights has been built without a shape.
    bayesian.build_from_config(layer.get_build_config() or {"input_shape": None})
    cell = getattr(layer, "cell", layer)
    for weight in bayesian.weights:
        if weight.name in (*cls._bayesian_weights, "bias"):
            weight.assign(getattr(cell, weight.name))
    return bayesian


def _places(layer, around=()):
    """The layers that can become Bayesian.

    Returns:
        A dict from the id of each to a list: the layer, and all that it lies in.
    """
    around = (layer, *around)
    found = {id(layer): list(around)} if type(layer) in CLASSES else {}
    for part in layer._flatten_layers(include_self=False, recursive=False):
        for key, parts in _places(part, around).items():
            found.setdefault(key, []).extend(parts)
    return found


def _chosen(argument, keys, places):
    """The ids of the layers that one of the keys means."""
    keys = keys if isinstance(keys, list | tuple) else [keys]
    return {place for key in keys for place in _matching(argument, key, places)}


def _matching(argument, key, places):
    if isinstance(key, str):
        found = [
            place
            for place, parts in places.items()
            if any(fnmatch.fnmatchcase(part.name, key) for part in parts)
        ]
    elif inspect.isclass(key) and issubclass(key, keras.layers.Layer):
        found = [
            place
            for place, parts in places.items()
            if any(isinstance(part, key) for part in parts)
        ]
    else:
        raise TypeError(
            f"Invalid value for argument `{argument}`. Expected glob patterns of names "
            f"and layer classes. Received: {key!r}"
        )
    if not found:
        names = [parts[0].name for parts in places.values()]
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a name, glob or class "
            f"of layers that can become Bayesian: {names}. "
            f"Received: {key!r}, which matches none"
        )
    return found


def _priors(prior, places):
    """From the id of each layer to its prior."""
    if not isinstance(prior, dict) or "class_name" in prior:
        return dict.fromkeys(places, prior)
    priors = dict.fromkeys(places)
    for key, each in prior.items():
        priors.update(dict.fromkeys(_matching("prior", key, places), each))
    return priors
