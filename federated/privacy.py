"""Differential privacy of clients: clipped updates, noise, and their account."""

import math
import warnings

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from federated import records
from federated.accounting import (
    Accounted,
    LocallyPrivate,
    check_probability,
    epsilon_of,
)
from federated.arrays import flat, unflat
from federated.secure import SecureAggregation, secure_mod
from federated.seeds import generator
from kerasreg.regularizers.base import check_number

__all__ = [
    "LocallyPrivate",
    "Private",
    "SecureAggregation",
    "epsilon_of",
    "secure_mod",
]


class Private(Accounted):
    """Central differential privacy of the clients, with an account of it.

    In each round, of the n clients asked, the server clips each update (the client's
    weights minus the server's, all of them as one vector) to the norm C and averages
    them with equal weights, whatever their numbers of examples:

        update = (1/n) (Σ_k Δ_k min(1, C / ‖Δ_k‖) + Normal(0, z² C²))

    A client that failed or did not reply, or whose update is not finite, counts as
    Δ = 0; n stays, so the noise is what the account assumes. The wrapped strategy
    receives the private average as the one reply of the round, and none of the
    clients' metrics: whatever it makes of it (Adam, proximal steps, new strengths)
    costs no privacy. Nor are strategies around it told any metrics: only the history
    has their means. A strategy that compares clients finds nothing to compare.

    The guarantee is (ε, δ) for each client, all its examples together, "add or remove
    one": the history of models would be much as likely if its updates had all been
    zero. ε is that of the client that was asked most often, in rounds that failed, too,
    for a round may fail after its model was seen; sampling a fixed number of
    clients, as Flower's strategies do, amplifies nothing here. Replacing a client's
    data by others is covered with `noise_multiplier` halved. The server is trusted;
    metrics, numbers of examples and who failed are not protected.

    Noise comes from the operating system's entropy, so that nobody who knows the seed
    of the run can take it off.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`. Its `weighted_by_key` is moot.
        noise_multiplier: z.
        clipping_norm: C, sent to clients too, for Flower's `fixedclipping_mod`.
        delta: δ; it should be well below 1 / number of clients, or else it warns.
        max_epsilon: Largest ε. The run ends before the round that would exceed it,
            with `Result.stopped` set.
        sample_rate: `None`, or the probability q with which each client is asked in
            each round (Poisson sampling), whose amplification is accounted. The
            strategy must then ask all clients; n is q times their number, well above
            1: a round in which nobody is asked fails.
        accountant: `"rdp"` or `"pld"`, see `epsilon_of`.
        quantile: `None`, or the share of the updates that the clipping norm shall
            leave as they are; it then adapts, from `clipping_norm` on, at the cost of
            a little more noise, which the account includes.
        seed: Makes noise and Poisson sampling repeatable. Then there is no privacy
            from those who know it: for tests.

    Raises:
        TypeError, ValueError: If an argument is none of those.

    Example:

    >>> from flwr.serverapp.strategy import FedAvg
    >>> from federated.privacy import Private
    >>> strategy = Private(
    ...     FedAvg(fraction_train=0.1), 1.0, 0.5, delta=1e-4, max_epsilon=8.0
    ... )
    >>> strategy.epsilon(1), strategy.epsilon(2)
    (4.17..., 6.30...)

    Reference: McMahan et al. 2018, "Learning differentially private recurrent language
    models", algorithm 1 with the fixed-denominator estimator; Andrew et al. 2021,
    "Differentially private learning with adaptive clipping", algorithm 1.
    """

    def __init__(
        self,
        strategy,
        noise_multiplier,
        clipping_norm,
        *,
        delta,
        max_epsilon=None,
        sample_rate=None,
        accountant="rdp",
        quantile=None,
        seed=None,
    ):
        super().__init__(
            strategy, noise_multiplier, delta, max_epsilon, sample_rate, accountant
        )
        self.clipping_norm = check_number("clipping_norm", clipping_norm, 0)
        self.quantile = quantile
        if quantile is not None:
            self.quantile = check_probability("quantile", quantile)
        self.seed = seed
        self._first_norm = self.clipping_norm
        self._ignored: list[int] = []

    def bind(self, model):
        """Begin with the first clipping norm; the account goes on."""
        self.clipping_norm, self._ignored = self._first_norm, []

    def configure_train(self, server_round, arrays, config, grid):
        """Messages for the clients that train, each with the clipping norm.

        Raises:
            StopFederation: If their replies would cost more than is left.
            ValueError: If the strategy leaves out clients before Poisson sampling does.
        """
        config["clipping_norm"] = self.clipping_norm
        number = len(list(grid.get_node_ids()))
        if self.delta * number >= 1:
            warnings.warn(
                f"delta={self.delta:g} is no less than 1 / number of clients, "
                f"{1 / number:g}: to publish all that one client has would be private.",
                stacklevel=2,
            )
        messages = super().configure_train(server_round, arrays, config, grid)
        self._begin = arrays
        self._n = float(len(messages))
        if self.sample_rate is not None:
            total = len(list(grid.get_node_ids()))
            if len(messages) != total:
                raise ValueError(
                    "Invalid value for argument `strategy`. Expected one that asks all "
                    f"{total} clients, of which sample_rate={self.sample_rate} takes "
                    f"its share. Received: one that asked {len(messages)}"
                )
            kept = self._random(server_round, 0).random(total) < self.sample_rate
            messages = [m for m, keep in zip(messages, kept, strict=True) if keep]
            self._n = self.sample_rate * total
        self._messages = messages
        self._sent = _sent(messages, _floats(arrays))
        return messages

    def aggregate_train(self, server_round, replies):
        """What the strategy makes of the private average; the clients' metrics stay."""
        begin = _floats(self._begin)
        start = flat(begin)
        total, within = np.zeros_like(start), 0.0
        unseen = {m.metadata.dst_node_id for m in self._messages}
        self._ignored = []
        for reply in replies:
            client = reply.metadata.src_node_id
            if reply.has_error() or client not in unseen:
                continue
            unseen.remove(client)  # one reply a client
            update = _update(reply, begin, self._sent[client])
            if update is None:
                self._ignored.append(client)
                continue
            norm = float(np.linalg.norm(update))
            total += update * min(1.0, self.clipping_norm / max(norm, 1e-300))
            within += 0.5 if norm <= self.clipping_norm else -0.5
        rng = self._random(server_round, 1)
        deviation = self._deviation()
        noise = rng.normal(0.0, deviation * self.clipping_norm, len(start))
        self._adapt(within, rng)
        arrays = unflat(start + (total + noise) / self._n, begin)
        arrays = ArrayRecord({**self._begin, **arrays})
        averaged, _ = super().aggregate_train(server_round, [self._reply(arrays)])
        return averaged, MetricRecord()

    def aggregate_evaluate(self, server_round, replies):
        """Nothing: metrics are for the history alone."""
        super().aggregate_evaluate(server_round, [])
        return MetricRecord()

    def _reply(self, arrays):
        """The private average as if it came from one client."""
        content = {
            records.ARRAYS: arrays,
            records.METRICS: records.write_metrics(1, {}),
        }
        return Message(RecordDict(content), reply_to=self._messages[0])

    def _random(self, server_round, purpose):
        if self.seed is None:
            return np.random.default_rng()
        return generator(self.seed, server_round, purpose)

    def _deviation(self):
        """The noise multiplier of the updates, beside that of the count within C."""
        z = self.noise_multiplier
        if self.quantile is None:
            return z
        spare = z**-2 - (2 * self._count_deviation) ** -2
        if spare <= 0:
            raise ValueError(
                f"Invalid value for argument `noise_multiplier`. Expected less than "
                f"{2 * self._count_deviation:g}, a tenth of the clients in a round, "
                f"with `quantile`. Received: noise_multiplier={z:g}"
            )
        return spare**-0.5

    @property
    def _count_deviation(self):
        return self._n / 20

    def _adapt(self, within, rng):
        """Bring the clipping norm nearer to the quantile of the updates' norms."""
        if self.quantile is None:
            return
        share = 0.5 + (within + rng.normal(0.0, self._count_deviation)) / self._n
        self.clipping_norm *= math.exp(-0.2 * (share - self.quantile))

    def report(self):
        """ε and δ until this round, the norm, and who sent what is not finite."""
        norm = {} if self.quantile is None else {"clipping_norm": self.clipping_norm}
        ignored = {"ignored": self._ignored} if self._ignored else {}
        return super().report() | norm | ignored

    def get_state(self):
        """The account and the clipping norm."""
        return super().get_state() | {"clipping_norm": self.clipping_norm}

    def set_state(self, state):
        """Take account and clipping norm up again, see `Accounted`."""
        super().set_state(state)
        if self.quantile is not None:
            self.clipping_norm = state["clipping_norm"]


def _floats(record):
    """The arrays that are clipped and noised: integers stay."""
    arrays = records.read_arrays(record).items()
    return {k: a for k, a in arrays if np.issubdtype(a.dtype, np.floating)}


def _sent(messages, like):
    """What each client was sent: a strategy may send others than it was given."""
    sent, vectors = {}, {}
    for message in messages:  # most or all have the same content
        record = message.content[records.ARRAYS]
        if id(record) not in vectors:
            vectors[id(record)] = _vector(record, like)
        sent[message.metadata.dst_node_id] = vectors[id(record)]
    return sent


def _vector(record, like):
    """Weights as one vector; `None` if they are not of these shapes."""
    got = records.read_arrays(record)
    if any(k not in got or got[k].shape != a.shape for k, a in like.items()):
        return None
    return flat({key: got[key] for key in like})


def _update(reply, like, sent):
    """What a client changed, as one vector; `None` if that is no finite vector."""
    got = _vector(reply.content[records.ARRAYS], like)
    if got is None or sent is None:
        return None
    update = got - sent
    return update if np.isfinite(update).all() else None
