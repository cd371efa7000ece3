"""Prune Bayesian layers by the signal-to-noise ratio of their weights."""

import numpy as np
from keras import ops

from kerasreg.layers.bayesian.base import Bayesian
from kerasreg.layers.bayesian.posterior import NO_NOISE
from kerasreg.regularizers.attach import check_built_model
from kerasreg.regularizers.sites import weight_paths


def prune_by_snr(model, fraction):
    """Set the weights of least signal-to-noise ratio to exact zeros, in place.

    All weights with a posterior, biases apart, of all Bayesian layers of the model are
    put in one order by `|μ|/σ`. The lowest `fraction` of them become zero and lose
    their noise: mean and standard deviation are exactly 0, so that every sample of
    them is 0 as well. Weights that are zero already come first: pruning twice by the
    same fraction is pruning once. Of equal ratios, earlier weights come first.

    Training can bring them back: prune last, or prune again afterwards. The KL
    divergence stays finite, and of each pruned weight is large (about 120 nats), as
    that of a weight without noise must be: losses before and after do not compare.

    `to_deterministic` keeps the zeros.

    Args:
        model: Built `keras.Model` or `keras.Layer` with Bayesian layers.
        fraction: Number in [0, 1), of all these weights together.

    Returns:
        A dict from the path of each weight to the share of its entries that are zero.

    Raises:
        ValueError: If `fraction` is out of range, or the model is not built or has no
            Bayesian layer.
        TypeError: If `fraction` is no number, or `model` no model or layer.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianDense, prune_by_snr
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), BayesianDense(5, name="layer")], name="net"
    ... )
    >>> prune_by_snr(model, 0.75)
    {'net/layer/kernel': 0.75}
    >>> int(keras.ops.sum(model.layers[0].kernel == 0))
    15

    Reference: Blundell et al. 2015, "Weight uncertainty in neural networks" (arXiv
    1505.05424), section 5.1, table 2 and figure 4.
    """
    check_built_model(model)
    fraction = _check_fraction(fraction)
    posteriors = _posteriors(model)
    means = [ops.convert_to_numpy(p.mean).astype("float32") for p in posteriors]
    log_scales = [ops.convert_to_numpy(p.log_scale) for p in posteriors]
    ratios = [_log_ratio(*pair) for pair in zip(means, log_scales, strict=True)]
    order = np.argsort(np.concatenate([r.ravel() for r in ratios]), kind="stable")
    pruned = np.zeros(order.size, bool)
    pruned[order[: round(fraction * order.size)]] = True
    paths = {id(variable): path for path, variable in weight_paths(model)}
    shares = {}
    parts = np.split(pruned, np.cumsum([r.size for r in ratios])[:-1])
    for posterior, mean, log_scale, part in zip(
        posteriors, means, log_scales, parts, strict=True
    ):
        part = part.reshape(mean.shape)
        mean = np.where(part, 0.0, mean)
        posterior.mean.assign(mean)
        posterior.log_scale.assign(np.where(part, NO_NOISE, log_scale))
        shares[paths[id(posterior.mean)]] = float(np.mean(mean == 0.0))
    return shares


def _check_fraction(fraction):
    message = (
        "Invalid value for argument `fraction`. Expected a number in [0, 1). "
        f"Received: fraction={fraction!r}"
    )
    number = isinstance(fraction, int | float | np.integer | np.floating)
    if not number or isinstance(fraction, bool):
        raise TypeError(message)
    if not 0.0 <= fraction < 1.0:
        raise ValueError(message)
    return float(fraction)


def _posteriors(model):
    """All posteriors of the model but those of biases."""
    posteriors = [
        posterior
        for layer in model._flatten_layers()
        if isinstance(layer, Bayesian)
        for name, posterior in layer._posteriors.items()
        if name != "bias"
    ]
    if not posteriors:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with Bayesian layers "
            f"(`bayesianize` makes one). Received: model={model!r}"
        )
    return posteriors


def _log_ratio(mean, log_scale):
    """The logarithm of |μ|/σ, which has no overflow where there is no noise."""
    with np.errstate(divide="ignore"):
        return np.log(np.abs(mean)) - log_scale
