"""A strategy that multiplies the clients' posteriors instead of averaging them."""

import numpy as np

from federated import records
from federated.strategies.base import Wrapper, chain
from kerasreg.layers.bayesian.base import Bayesian

_HIDING = ("DifferentialPrivacy", "Private", "SecureAggregation")


class BayesianAggregation(Wrapper):
    """Multiply the clients' Normal posteriors, and count the prior once.

    Client `k` with the data `D_k` learns `q_k(w) ≈ p(w|D_k) ∝ p(D_k|w)·p(w)`, so the
    posterior of all their data together is, up to a constant,

        p(w)·∏ p(D_k|w) ∝ ∏ q_k(w) / p(w)^(K−1),

    for `K` clients: each entry of a weight has the precision and mean

        1/σ² = Σ 1/σ_k² − (K−1)/s²,    μ/σ² = Σ μ_k/σ_k² − (K−1)·m/s²

    with the prior N(m, s²). A client with more examples has smaller `σ_k` and counts
    for more by that; the numbers of examples are not counted again. Where posteriors
    are exact and independent, as in conjugate linear regression with orthogonal
    inputs, the product is the posterior of the pooled data. In general it is as good as
    they are: it wants clients that train until their posteriors have settled, for one
    that has not moved yet reports what all knew before as its own. The evidence of a
    round is that of the clients which trained in it.

    An entry whose `1/σ²` comes out below that of the prior, because posteriors are
    wider than the prior, gets the logarithmic pool of the posteriors instead, with the
    clients' shares of the examples as weights, which always exists; how many entries
    did is reported as `pooled_entries`.

    All other weights, and metrics, are the wrapped strategy's: `FedAvg`, `FedAdam`, ...
    The layers are those of `kerasreg.layers` named `Bayesian...`. Put `Robust` around
    this strategy, not inside: it multiplies all posteriors that it is given. Central
    differential privacy and secure aggregation let nobody see single posteriors, so
    there is no product with them; `LocallyPrivate` goes together with it.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.

    Raises:
        TypeError: If it is none.
        ValueError: If it adds noise to the average or hides single replies; when a run
            begins, if the model has no Bayesian layer, or a prior that is not a Normal
            with fixed parameters.

    Example:

    >>> import keras
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from federated.strategies import BayesianAggregation
    >>> from kerasreg.layers import BayesianDense
    >>> model = keras.Sequential([keras.Input((2,)), BayesianDense(1)])
    >>> strategy = BayesianAggregation(FedAvg())
    >>> strategy.bind(model)

    Reference: Tresp 2000, "A Bayesian committee machine"; Genest & Zidek 1986,
    "Combining probability distributions: a critique and an annotated bibliography",
    of logarithmic pools.
    """

    def __init__(self, strategy):
        super().__init__(strategy)
        for name in (type(each).__name__ for each in chain(strategy)):
            if name.startswith(_HIDING):
                raise ValueError(
                    "Invalid value for argument `strategy`. Expected one that neither "
                    "adds noise to the average nor hides single replies: the product "
                    f"is made of each of them. Received: {name}"
                )
        self._posteriors: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        self._kept: list[str] = []
        self._pooled = 0

    def bind(self, model):
        """Find the posteriors and their priors."""
        at = {id(weight): i for i, weight in enumerate(model.weights)}
        self._posteriors = [
            (at[id(posterior.mean)], at[id(posterior.log_scale)], *_prior(posterior))
            for posterior in posteriors_of(model)
        ]
        if not self._posteriors:
            raise ValueError(
                "BayesianAggregation needs posteriors. Expected a model with Bayesian "
                "layers (see kerasreg.layers.BayesianDense). "
                f"Received: {model.name!r}"
            )

    def configure_train(self, server_round, arrays, config, grid):
        """Messages for the clients, see Flower's."""
        if not self._posteriors:
            raise self._unbound()
        messages = super().configure_train(server_round, arrays, config, grid)
        self._kept = config.get(records.PERSONAL, [])
        return messages

    def aggregate_train(self, server_round, replies):
        """The product of the posteriors, and the rest from the wrapped strategy."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        clients = [_content(reply) for reply in replies if not reply.has_error()]
        if not arrays or not clients:
            return arrays, metrics
        keys = {records.place(key): key for key in arrays}
        self._pooled = 0
        for mean, log_scale, loc, scale in self._posteriors:
            if keys[mean] in self._kept:
                continue
            means = np.stack([values[mean] for values, _ in clients])
            scales = np.stack([values[log_scale] for values, _ in clients])
            examples = [number for _, number in clients]
            product, pooled = multiply(means, scales, loc, scale, examples)
            self._pooled += pooled
            for place, value in zip((mean, log_scale), product, strict=True):
                value = value.astype(arrays[keys[place]].dtype)
                arrays[keys[place]] = records.Array(value)
        return arrays, metrics

    def report(self):
        """How many entries got the pool of the posteriors, if any did."""
        return {"pooled_entries": self._pooled}


def multiply(means, log_scales, loc, scale, examples):
    """The product of Normal posteriors that share a prior, for each entry.

    Args:
        means: Array with a row a posterior.
        log_scales: Array of the same shape, the logarithms of standard deviations.
        loc: Array, the means of the prior.
        scale: Array, its standard deviations.
        examples: List of the numbers of examples behind the posteriors.

    Returns:
        A tuple of means and log scales, and the number of entries which would have
        been wider than the prior and are the logarithmic pool instead.

    Example:

    >>> import numpy as np
    >>> from federated.strategies.bayesian import multiply
    >>> halves = np.full((2, 1), np.log(0.5))  # precisions of 4, the prior's is 1
    >>> (mean, log_scale), pooled = multiply(
    ...     np.array([[1.0], [2.0]]), halves, np.zeros(1), np.ones(1), [10, 10]
    ... )
    >>> float(mean[0] * 7), round(float(np.exp(-2 * log_scale[0])), 6), pooled
    (12.0, 7.0, 0)
    """
    means, log_scales = np.float64(means), np.float64(log_scales)
    precisions = np.exp(-2.0 * log_scales)
    others = len(means) - 1
    prior = 1.0 / np.square(np.float64(scale))
    precision = precisions.sum(axis=0) - others * prior
    moment = (precisions * means).sum(axis=0) - others * prior * loc
    # An entry that no client knows anything of has the prior's, up to rounding.
    pooled = precision < prior * (1.0 - 1e-6)
    shares = np.asarray(examples, float) / np.sum(examples)
    weighted = np.tensordot(shares, precisions, axes=1)
    average = np.tensordot(shares, precisions * means, axes=1) / weighted
    precision = np.where(pooled, weighted, precision)
    mean = np.where(pooled, average, moment / precision)
    return (mean, -0.5 * np.log(precision)), int(pooled.sum())


def posteriors_of(model):
    """The posteriors of a model's Bayesian layers, a list of `Posterior`.

    Args:
        model: A built `keras.Model`.
    """
    return [
        posterior
        for layer in model._flatten_layers()
        if isinstance(layer, Bayesian)
        for posterior in layer._posteriors.values()
    ]


def is_normal(prior):
    """Whether a prior is a Normal whose parameters are plain numbers.

    Args:
        prior: `kerasreg.regularizers.Prior`.
    """
    try:
        config = prior.get_config()
    except ValueError:  # an object of another kind
        return False
    return config["distribution"] == "Normal" and not config["hyperprior"]


def _prior(posterior):
    """Mean and standard deviation of the prior, arrays of the weight's shape."""
    prior, shape = posterior.prior, tuple(posterior.mean.shape)
    if not is_normal(prior) or posterior.parameters:
        raise ValueError(
            "BayesianAggregation divides by the prior, and needs one that is Normal. "
            'Expected Prior("Normal") with fixed parameters. '
            f"Received: prior={prior!r} in the layer {posterior.name!r}"
        )
    params = prior.get_config()["params"]
    return [np.broadcast_to(params[name], shape) for name in ("loc", "scale")]


def _content(reply):
    """A client's arrays by place, and its number of examples."""
    (arrays,) = reply.content.array_records.values()
    (metrics,) = reply.content.metric_records.values()
    values = records.read_arrays(arrays)
    by_place = {records.place(key): value for key, value in values.items()}
    return by_place, metrics[records.NUM_EXAMPLES]
