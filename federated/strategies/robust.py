"""Keeps what cannot be right out of the average, and says whose it was."""

import collections
import math
import statistics
import sys
from typing import Any

import numpy as np

from federated import records
from federated.strategies.base import Wrapper, chain, private_average
from kerasreg.regularizers.base import check_count, check_number


class Robust(Wrapper):
    """Leaves out replies that cannot be right, and says which client and why.

    The strategy inside sees the replies of the others only, as if the rejected ones
    had not been asked, so nothing of a rejected reply is in the aggregate. Out are
    replies

    - without exactly one record of arrays and one of metrics, or whose metrics have
      other names than most clients';
    - with missing or unknown weights, or weights in another order, of another shape or
      another dtype than the model's, or that cannot be read;
    - with NaN or infinity in a weight or metric;
    - whose number of examples is not a positive number, or is more than
      `max_examples_ratio` times the median;
    - whose update (the weights' change) has an outlying norm `u`: both more than
      `max_norm_ratio` times the median, and more than `max_deviations` robust standard
      deviations of `log u` above its median, where one is 1.48 times the median
      absolute deviation. The first spares clients that differ little; the second
      spares federations whose clients differ much, as those do that have ten
      examples here and a thousand there, up to 20 times the median (or
      `max_norm_ratio`, if it is more), beyond which all are out. It takes three
      clients with an update. If `log u` of honest clients is normal with standard
      deviation 1, 0.3 % of them are refused among 10, and 1.3 % among 3; with 0.5 less
      than 0.1 % among 3.

    A client that lies within these bounds, or an update of the usual norm in the wrong
    direction, is not seen: put `Robust` around `Krum`, `FedMedian` or `FedTrimmedAvg`
    for these. Put it outside of all other wrappers, of Flower's for differential
    privacy, too, which fail on what it keeps out. Clients that failed are left out,
    too; the history has them as errors.

    `Private` needs no `Robust`, and is refused: it clips every update and ignores those
    that are not finite. An account of privacy does not cover that one client's reply
    may decide about another's, as a median does; Flower's does not, either. Under
    `SecureAggregation` there is nothing to check.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        max_norm_ratio: Number greater than 1.
        max_deviations: Positive number.
        max_examples_ratio: Number greater than 1.
        min_clients: Fewest replies that must be left; with fewer the round fails.

    Raises:
        TypeError: If `strategy` is no strategy, or a number none.
        ValueError: If a number is out of range, or `strategy` has `Private` in it.

    Example:

    >>> import keras, numpy as np
    >>> import federated
    >>> from federated.strategies import Robust
    >>> from flwr.serverapp.strategy import FedAvg
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(80, 2)).astype("float32")
    >>> clients = [(x[k::4], x[k::4, :1]) for k in range(4)]
    >>> clients[2] = (x[2::4], np.full((20, 1), np.inf, "float32"))
    >>> result = federated.simulate(
    ...     build_model, clients, Robust(FedAvg()), rounds=1, verbose=0
    ... )
    >>> list(result.history.rounds[1].report["rejected"])
    [2]

    Reference: Leys et al. 2013, "Detecting outliers: do not use standard deviation
    around the mean, use absolute deviation around the median".
    """

    def __init__(
        self,
        strategy,
        max_norm_ratio=5.0,
        max_deviations=6.0,
        max_examples_ratio=100.0,
        min_clients=1,
    ):
        super().__init__(strategy)
        if (private_average(strategy) or "").startswith("Private"):
            raise ValueError(
                "Invalid value for argument `strategy`. Expected one without Private, "
                "which clips every update and ignores what is not finite: its account "
                "does not cover that one client's reply decides about another's. "
                f"Received: strategy={strategy!r}"
            )
        self.max_norm_ratio = check_number("max_norm_ratio", max_norm_ratio, above=1.0)
        self.max_deviations = check_number("max_deviations", max_deviations, above=0.0)
        self.max_examples_ratio = check_number(
            "max_examples_ratio", max_examples_ratio, above=1.0
        )
        self.min_clients = check_count("min_clients", min_clients)
        self._kinds: Any = None
        self._sent: dict = {}
        self._rejected: dict = {}
        self._weight = next(
            (
                s.weighted_by_key
                for s in chain(strategy)
                if hasattr(s, "weighted_by_key")
            ),
            records.NUM_EXAMPLES,
        )

    def bind(self, model):
        """Take the shapes and dtypes of the weights from the server's model."""
        self._kinds = list(map(_kind, model.get_weights()))
        self._rejected = {}

    def configure_train(self, server_round, arrays, config, grid):
        """The strategy's messages. What they send is what updates are measured by."""
        self._rejected = {}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        sent, read = {}, {}
        for m in messages:  # most or all have the same content
            record = m.content[records.ARRAYS]
            if id(record) not in read:
                read[id(record)] = records.read_arrays(record)
            sent[m.metadata.dst_node_id] = read[id(record)]
        self._sent = sent
        if self._kinds is None:  # run by Flower, which does not know the model
            self._kinds = list(map(_kind, records.read_arrays(arrays).values()))
        return messages

    def aggregate_train(self, server_round, replies):
        """The strategy's aggregate of the replies that may be right."""
        left = self._checked(replies, "rejected", self._measured)
        self._check_norms(left)
        if len(left) < self.min_clients:
            return None, None
        return super().aggregate_train(
            server_round, [reply for reply, _ in left.values()]
        )

    def aggregate_evaluate(self, server_round, replies):
        """The strategy's aggregate of the replies that may be right."""
        left = self._checked(replies, "rejected_evaluation", lambda reply: None)
        if not left:
            return None
        return super().aggregate_evaluate(
            server_round, [reply for reply, _ in left.values()]
        )

    def report(self):
        """Why whom was rejected, by client, in training and in evaluation."""
        return {name: dict(each) for name, each in self._rejected.items() if each}

    def _checked(self, replies, name, check):
        """The good replies by client, with what `check` says; the others are noted."""
        self._rejected[name] = {}
        kept = {}
        for reply in replies:
            if reply.has_error():
                continue
            client = reply.metadata.src_node_id
            try:
                measured = check(reply)
                self._check_metrics(reply.content)
                kept[client] = reply, measured
            except _Refused as reason:
                self._note(name, client, str(reason))
        self._check_names(kept, name)
        self._check_examples(kept, name)
        return kept

    def _reject(self, kept, name, client, reason):
        del kept[client]
        self._note(name, client, reason)

    def _note(self, name, client, reason):
        # Names in it are the client's: they may be of any length.
        self._rejected[name][client] = reason[:300]

    def _check_metrics(self, content):
        if len(content.metric_records) != 1:
            raise _Refused(
                f"{len(content.metric_records)} records of metrics instead of one"
            )
        ((_, metrics),) = content.metric_records.items()
        examples = metrics.get(self._weight)
        if not isinstance(examples, int | float) or not (0 < examples < _LARGEST):
            raise _Refused(f"the number of examples is {examples!r:.50}")
        for name, value in metrics.items():
            values = value if isinstance(value, list) else [value]
            if not all(abs(v) < _LARGEST for v in values):
                raise _Refused(f"NaN or infinity in the metric {name!r}")

    def _check_names(self, kept, name):
        names = {
            client: tuple(
                (key, *sorted(metrics))
                for key, metrics in reply.content.metric_records.items()
            )
            for client, (reply, _) in kept.items()
        }
        usual = collections.Counter(names.values()).most_common(1)
        for client, own in names.items():
            if own != usual[0][0]:
                reason = f"other metrics than most clients: {list(own[0][1:])}"
                self._reject(kept, name, client, reason)

    def _measured(self, reply):
        """The norm of the update in a reply, whose arrays are checked."""
        content, sent = reply.content, self._sent.get(reply.metadata.src_node_id)
        if sent is None:
            raise _Refused("it was not asked")
        if len(content.array_records) != 1 or records.ARRAYS not in content:
            raise _Refused(
                f"the records of arrays {sorted(content.array_records)} instead of "
                f"one, {records.ARRAYS!r}"
            )
        keys, expected = list(content[records.ARRAYS]), list(sent)
        if missing := [k for k in expected if k not in keys]:
            raise _Refused(f"the weights {_paths(missing)} are missing")
        if unknown := [k for k in keys if k not in expected]:
            raise _Refused(f"unknown weights {_paths(unknown)}")
        if keys != expected:
            raise _Refused("the weights are in another order")
        try:
            arrays = records.read_arrays(content[records.ARRAYS])
        except Exception as error:  # bytes of a stranger
            raise _Refused(f"the weights cannot be read: {error}") from None
        self._check_kinds(arrays, sent)
        norm = _distance(arrays, sent)
        if not math.isfinite(norm):  # or the weights are finite, and very large
            for key, array in arrays.items():
                if not np.isfinite(array).all():
                    raise _Refused(f"NaN or infinity in {_path(key)!r}")
        return norm

    def _check_kinds(self, arrays, sent):
        for (key, array), (shape, dtype) in zip(
            arrays.items(), self._kinds, strict=True
        ):
            if array.shape != shape:
                raise _Refused(
                    f"shape {array.shape} instead of {shape} of {_path(key)!r}"
                )
            # FedAdam and the like send float64 of float32.
            if array.dtype not in (dtype, sent[key].dtype):
                raise _Refused(
                    f"dtype {array.dtype} instead of {dtype} of {_path(key)!r}"
                )

    def _check_examples(self, kept, name):
        examples = {
            client: next(iter(reply.content.metric_records.values()))[self._weight]
            for client, (reply, _) in kept.items()
        }
        median = statistics.median_low(examples.values()) if examples else 0.0
        for client, number in examples.items():
            if number > self.max_examples_ratio * median:
                self._reject(
                    kept,
                    name,
                    client,
                    f"the number of examples, {number:g}, is more than "
                    f"{self.max_examples_ratio:g} times the median, {median:g}",
                )

    def _check_norms(self, kept):
        norms = {client: norm for client, (_, norm) in kept.items()}
        bound, median = self._norm_bound(list(norms.values()))
        for client, norm in norms.items():
            if norm > bound:
                self._reject(
                    kept,
                    "rejected",
                    client,
                    f"the norm of its update, {norm:.3g}, is an outlier: the median "
                    f"is {median:.3g}, the bound {bound:.3g}",
                )

    def _norm_bound(self, norms):
        """The largest norm that is no outlier, and the median."""
        logs = np.log([norm for norm in norms if norm > 0])
        if len(logs) < 3:
            return math.inf, math.nan
        median = np.median(logs)
        deviation = _NORMAL * np.median(np.abs(logs - median))
        least = math.log(self.max_norm_ratio)
        above = max(least, min(self.max_deviations * deviation, math.log(_FAR)))
        bound = math.exp(min(median + above, _LARGEST_LOG))
        return bound, math.exp(median)


class _Refused(Exception):
    """Why a reply cannot be right."""


def _path(key):
    """The path of a weight, as `Result.strengths` has it, from its key."""
    return key.partition("/")[2] or key


def _paths(keys):
    return [_path(key) for key in keys[:3]]


_NORMAL = 1.4826  # what makes the median absolute deviation that of a normal
_FAR = 20.0  # times the median: an outlier, however wide the deviations are
_LARGEST = sys.float_info.max
_LARGEST_LOG = math.log(_LARGEST)


# Float32 is precise enough for its own changes, and three times as fast.
_PRECISE = collections.defaultdict(lambda: "float64", {np.dtype("float32"): "float32"})


def _kind(array):
    return array.shape, array.dtype


def _distance(arrays, sent):
    """Norm of the difference of weights; not finite if one of them is not."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for key, array in arrays.items():
            change = np.subtract(array, sent[key], dtype=_PRECISE[array.dtype]).ravel()
            total += float(change @ change)
    return math.sqrt(total)
