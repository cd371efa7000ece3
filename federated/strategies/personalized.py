"""Strategies under which each client keeps weights of its own."""

import fnmatch

from federated import records
from federated.strategies.base import Wrapper
from federated.strategies.bayesian import is_normal, posteriors_of


class Personalized(Wrapper):
    """Let each client keep its own weights of some layers, and share the others.

    A client starts its own weights from the server's, trains them with the shared ones
    whenever it takes part, and keeps them until the next time. They never leave it: its
    reply has the server's values in their place. Clients evaluate with their own
    weights, too. With the last layer kept it is FedPer; with the normalizations,
    FedBN.

    The model that the server has, and the final one, has the initial values of these
    weights; they travel in both directions, so traffic is that of the whole model.
    `Result.personal_model(client)` is the model of a client in a simulation, where
    checkpoints hold the clients' own weights, too.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`, which aggregates the others.
        layers: List of glob patterns of names of layers (`"head"`, `"batch_norm*"`) or
            of paths of weights (`"*/gamma"`). What a named layer holds belongs to it.
            `["*"]` shares nothing: each client by itself, to compare with.

    Raises:
        TypeError: If `strategy` is none, or `layers` no list of strings.
        ValueError: If there is no pattern; when a run begins, if one names nothing.

    Example:

    >>> from flwr.serverapp.strategy import FedAvg
    >>> from federated.strategies import Personalized
    >>> Personalized(FedAvg(), layers=["head"]).layers
    ['head']

    Reference: Arivazhagan et al. 2019, "Federated learning with personalization
    layers", algorithm 1; Li et al. 2021, "FedBN: federated learning on non-IID features
    via local batch normalization".
    """

    def __init__(self, strategy, layers):
        super().__init__(strategy)
        good = isinstance(layers, list | tuple)
        if not good or not all(isinstance(pattern, str) for pattern in layers):
            raise TypeError(
                "Invalid value for argument `layers`. Expected a list of glob patterns "
                f"of names of layers. Received: layers={layers!r}"
            )
        if not layers:
            raise ValueError(
                "Invalid value for argument `layers`. Expected one pattern or more. "
                f"Received: layers={layers!r}"
            )
        self.layers = list(layers)
        self._places: set[int] | None = None
        self._sent: dict = {}

    def bind(self, model):
        """Find the weights that stay at the clients."""
        ids = set().union(*(_named(model, pattern) for pattern in self.layers))
        self._places = {i for i, w in enumerate(model.weights) if id(w) in ids}

    def configure_train(self, server_round, arrays, config, grid):
        """Tell the clients which weights are their own."""
        self._keep(arrays, config)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        """What the wrapped strategy makes of the shared weights."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays:  # the noise of privacy, for one, falls on all of them
            for key, array in self._sent.items():
                arrays[key] = array
        return arrays, metrics

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Tell the clients which weights are their own."""
        self._keep(arrays, config)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def _keep(self, arrays, config):
        if self._places is None:
            raise self._unbound()
        own = [key for key in arrays if records.place(key) in self._places]
        self._sent = {key: arrays[key] for key in own}
        config[records.PERSONAL] = own


class PFedBayes(Personalized):
    """A posterior for each client, and the distribution they are regularized by.

    Client `k` has a posterior `q_k` of its own, and its copy of the global distribution
    `w` of the weights; it minimizes, in both together,

        mean negative log likelihood + ζ·KL(q_k‖w)/n_k,

    and the strategy averages the copies of `w` (their means and log scales). So a
    client with few examples stays near what all have learned, and the final model is
    `w`. Clients evaluate with `q_k`, and `Result.personal_model(client)` has it.

    The model's Bayesian layers need a prior with a trainable location and scale for
    each weight, which is `w`; it starts where the model's posteriors start. `ζ` is the
    `kl_strength` of the layers (10 in the paper). All weights that are not Bayesian
    are averaged.

    The paper takes a step of `q_k`, then one of `w`. Here each step is one of both,
    by one optimizer, which starts anew each round. The paper's `β` is 1: the new `w`
    is the average.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.

    Raises:
        TypeError: If it is none.
        ValueError: When a run begins, if the model has no Bayesian layer, or one with
            another prior.

    Example:

    >>> import keras, numpy as np
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from federated.strategies import PFedBayes
    >>> from kerasreg.layers import BayesianDense
    >>> from kerasreg.regularizers import Prior
    >>> params = {"loc": np.zeros((2, 1)), "scale": np.ones((2, 1))}
    >>> prior = Prior("Normal", params=params, trainable=True)
    >>> layer = BayesianDense(1, prior=prior, kl_strength=10.0)
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> PFedBayes(FedAvg()).bind(model)

    Reference: Zhang et al. 2022, "Personalized federated learning via variational
    Bayesian inference", eq. 5 and algorithm 1.
    """

    def __init__(self, strategy):
        super().__init__(strategy, ["*"])
        self._global: dict[int, int] = {}

    def bind(self, model):
        """Find the posteriors and their priors, which start where these are."""
        at = {id(weight): i for i, weight in enumerate(model.weights)}
        self._global = {}
        for posterior in posteriors_of(model):
            pairs = _global_variables(posterior)
            self._global |= {at[id(own)]: at[id(w)] for own, w in pairs}
            for own, w in pairs:
                w.assign(own)
        if not self._global:
            raise ValueError(
                "PFedBayes needs posteriors. Expected a model with Bayesian layers "
                f"(see kerasreg.layers.BayesianDense). Received: {model.name!r}"
            )
        self._places = set(self._global)

    def configure_train(self, server_round, arrays, config, grid):
        """Send the global distribution, which is that of newcomers, too."""
        arrays = self.final_arrays(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Send the global distribution, which is that of newcomers, too."""
        arrays = self.final_arrays(arrays)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def final_arrays(self, arrays):
        """The global distribution in the place of the posteriors."""
        values = {records.place(key): array for key, array in arrays.items()}
        places = [records.place(key) for key in arrays]
        copied = [values[self._global.get(i, i)] for i in places]
        return type(arrays)(dict(zip(arrays, copied, strict=True)))


def _named(model, pattern):
    """The ids of the weights that a pattern names."""
    ids = {id(w) for w in model.weights if fnmatch.fnmatchcase(w.path, pattern)}
    layers = [x for x in model._flatten_layers(include_self=False) if x.weights]
    for layer in layers:
        if fnmatch.fnmatchcase(layer.name, pattern):
            ids |= {id(weight) for weight in layer.weights}
    if not ids:
        raise ValueError(
            "Invalid value for argument `layers`. Expected patterns of names of layers "
            f"that have weights, of {[layer.name for layer in layers]}. "
            f"Received: {pattern!r}"
        )
    return ids


def _global_variables(posterior):
    """Pairs of the variables of a posterior and of its prior."""
    learned = posterior.parameters
    pairs = [
        (posterior.mean, learned.get("loc")),
        (posterior.log_scale, learned.get("scale")),
    ]
    fits = all(w is not None and w.shape == own.shape for own, w in pairs)
    if not fits or not is_normal(posterior.prior):
        raise ValueError(
            "PFedBayes needs priors that can be the global distribution. Expected "
            'Prior("Normal", params={"loc": ..., "scale": ...}, trainable=True) with '
            f"arrays of the weight's shape {tuple(posterior.mean.shape)}, in the layer "
            f"{posterior.name!r}. Received: trainable parameters of the shapes "
            f"{ {name: tuple(w.shape) for name, w in learned.items()} }"
        )
    return pairs
