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
    inputs, the product is the posterior of the pooled data; in general it is as good as
    they are. The evidence is that of the clients which trained in the round.

    The product is the final model, and the one that is evaluated. Clients go on from
    their logarithmic pool instead, whose `1/σ²` and `μ/σ²` are the means of theirs: as
    wide as one of them. From the product, a client that trains for a few steps would
    give back as its own what all knew before, and the next product would count it `K`
    times. As it is, clients that move by any share towards their posteriors in each
    round end at the same product.

    An entry whose `1/σ²` comes out below that of the prior, because posteriors are
    wider than the prior, has the pool's Normal, which always exists; how many entries
    have is reported as `pooled_entries`.

    All other weights, and metrics, are the wrapped strategy's: `FedAvg`, `FedAdam`, ...
    So are those of frozen layers, of which clients learn nothing. The layers are those
    of `kerasreg.layers` named `Bayesian...`. Put `Robust` around this strategy, not
    inside: it multiplies all posteriors that it is given. Central differential privacy
    and secure aggregation let nobody see single posteriors, so there is no product with
    them; `LocallyPrivate` goes together with it.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.

    Raises:
        TypeError: If it is none.
        ValueError: If it adds noise to the average, hides single replies or is
            `Robust`; when a run begins, if the model has no Bayesian layer, or a prior
            that is not a Normal with fixed parameters.

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
            if name == "Robust":
                raise ValueError(
                    "Invalid value for argument `strategy`. Expected one without "
                    "Robust, which goes around BayesianAggregation: inside, the "
                    "product would have what it rejects. Received: Robust"
                )
            if name.startswith(_HIDING):
                raise ValueError(
                    "Invalid value for argument `strategy`. Expected one that neither "
                    "adds noise to the average nor hides single replies: the product "
                    f"is made of each of them. Received: {name}"
                )
        self._posteriors: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        self._kept: set[int] = set()
        self._clients, self._pooled = 1, 0

    def bind(self, model):
        """Find the posteriors and their priors."""
        at = {id(weight): i for i, weight in enumerate(model.weights)}
        self._posteriors = [
            (at[id(posterior.mean)], at[id(posterior.log_scale)], *_prior(posterior))
            for posterior in posteriors_of(model)
            if posterior.mean.trainable  # all have the same of a frozen one
        ]
        self._kept, self._clients, self._pooled = set(), 1, 0
        if not self._posteriors:
            raise ValueError(
                "BayesianAggregation needs posteriors. Expected a model with Bayesian "
                "layers (see kerasreg.layers.BayesianDense) that are trained. "
                f"Received: {model.name!r}"
            )

    def configure_train(self, server_round, arrays, config, grid):
        """Messages for the clients, see Flower's."""
        if not self._posteriors:
            raise self._unbound()
        messages = super().configure_train(server_round, arrays, config, grid)
        self._kept = {records.place(k) for k in config.get(records.PERSONAL, [])}
        return messages

    def aggregate_train(self, server_round, replies):
        """The pool of the posteriors, and the rest from the wrapped strategy."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        clients = [_values(reply) for reply in replies if not reply.has_error()]
        if not arrays or not clients:
            return arrays, metrics
        self._clients = len(clients)
        keys = {records.place(key): key for key in arrays}
        for mean, log_scale, _, _ in self._shared():
            pooled = pool(
                *(np.stack([c[i] for c in clients]) for i in (mean, log_scale))
            )
            for place, value in zip((mean, log_scale), pooled, strict=True):
                arrays[keys[place]] = _like(arrays[keys[place]], value)
        self.final_arrays(arrays)  # to count the entries
        return arrays, metrics

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Have the clients evaluate the product."""
        arrays = self.final_arrays(arrays)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def final_arrays(self, arrays):
        """The product of as many posteriors as there were, from their pool."""
        final = type(arrays)(dict(arrays.items()))
        keys, self._pooled = {records.place(key): key for key in arrays}, 0
        for mean, log_scale, loc, scale in self._shared():
            at = keys[mean], keys[log_scale]
            own, wide = (arrays[key].numpy() for key in at)
            product, count = power(own, wide, loc, scale, self._clients)
            self._pooled += count
            for key, value in zip(at, product, strict=True):
                final[key] = _like(arrays[key], value)
        return final

    def _shared(self):
        """The posteriors that do not stay at the clients."""
        return [each for each in self._posteriors if each[0] not in self._kept]

    def report(self):
        """How many entries have the pool's Normal instead of the product."""
        return {"pooled_entries": self._pooled}

    def get_state(self):
        """How many posteriors were pooled, and which weights stay at the clients."""
        return {"clients": self._clients, "kept": sorted(self._kept)}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._clients, self._kept = state["clients"], set(state["kept"])


def pool(means, log_scales):
    """The logarithmic pool of Normals with equal weights, for each entry.

    Args:
        means: Array with a row for each of them.
        log_scales: Array of the same shape, the logarithms of standard deviations.

    Returns:
        A tuple of mean and log scale: `1/σ²` and `μ/σ²` are the means of theirs.

    Example:

    >>> import numpy as np
    >>> from federated.strategies.bayesian import pool
    >>> mean, log_scale = pool(np.array([0.0, 3.0]), np.log([1.0, 0.5**0.5]))
    >>> float(mean), round(float(np.exp(-2 * log_scale)), 6)  # precisions 1 and 2
    (2.0, 1.5)
    """
    precisions = np.exp(-2.0 * np.float64(log_scales))
    precision = precisions.mean(axis=0)
    mean = (precisions * np.float64(means)).mean(axis=0) / precision
    return mean, -0.5 * np.log(precision)


def power(mean, log_scale, loc, scale, clients):
    """The product of posteriors that share a prior, of their pool, for each entry.

    Args:
        mean: Array, the means of the pool.
        log_scale: Array, the logarithms of its standard deviations.
        loc: Array, the means of the prior.
        scale: Array, its standard deviations.
        clients: How many posteriors are in the pool.

    Returns:
        A tuple of means and log scales, and the number of entries which would have
        been wider than the prior and are the pool's instead.

    Example:

    >>> import numpy as np
    >>> from federated.strategies.bayesian import power
    >>> (mean, log_scale), pooled = power(  # precisions of 4, the prior's is 1
    ...     np.array(1.5), np.log(0.5), np.array(0.0), np.array(1.0), clients=2
    ... )
    >>> float(mean * 7), round(float(np.exp(-2 * log_scale)), 6), pooled
    (12.0, 7.0, 0)
    """
    mean, own = np.float64(mean), np.exp(-2.0 * np.float64(log_scale))
    prior = 1.0 / np.square(np.float64(scale))
    precision = clients * own - (clients - 1) * prior
    moment = clients * own * mean - (clients - 1) * prior * loc
    # An entry that no client knows anything of has the prior's, up to rounding.
    pooled = precision < prior * (1.0 - 1e-6)
    precision = np.where(pooled, own, precision)
    mean = np.where(pooled, mean, moment / precision)
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


def _values(reply):
    """A client's arrays by place."""
    (arrays,) = reply.content.array_records.values()
    values = records.read_arrays(arrays)
    return {records.place(key): value for key, value in values.items()}


def _like(array, value):
    """An array of the wire with another value in the same precision."""
    return records.Array(value.astype(array.numpy().dtype))
