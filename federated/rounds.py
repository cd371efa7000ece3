"""The rounds of a federated run: any strategy of Flower, with resuming and stopping.

`Strategy.start` of Flower always begins at round 1, and loses what it has when a round
fails; this loop asks the strategy for the same four things in the same order.
"""

import collections
import contextlib
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.app.exception import AppExitException
from flwr.serverapp.exception import PrivacyBudgetExhausted

from federated import records
from federated.arrays import means, nonnegative
from federated.checkpoint import begin
from federated.history import History, Round
from federated.seeds import seeded, unpredictable
from federated.strategies.base import Wrapper, chain, users_arrays


class RoundError(RuntimeError):
    """A round had too few clients or made NaN. What there is until then is in `result`.

    Args:
        message: Text.
        result: The `Result` of the rounds before.
    """

    def __init__(self, message, result=None):
        super().__init__(message)
        self.result = result


class StopFederation(Exception):
    """Raised by a strategy to end the run, with the model of the last whole round.

    Args:
        reason: Text.
    """


class Rounds:
    """The state of a run, and what brings it one round further.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        grid: A `federated.grids.ClientGrid`.
        arrays: Initial `ArrayRecord`.
        seed: Non-negative integer.
        min_clients: Fewest clients whose training a round must have.
        timeout: Seconds after which a round goes on without those that are missing.
        evaluate_clients: Whether clients evaluate the new model in each round.
        evaluate: Function from the number of a round and the `ArrayRecord` to a dict
            of metrics, or `None`.
        train_config: Dict sent to clients with each training message.
        names: List with the name of each client, their numbers by default.
        facts: Dict of what else makes the run what it is, JSON by name.
        keep_account: Function that is called before clients are asked, and before the
            model made of their replies is seen, to write down what privacy that costs.
    """

    def __init__(
        self,
        strategy,
        grid,
        arrays,
        *,
        seed=0,
        min_clients=1,
        timeout=3600.0,
        evaluate_clients=True,
        evaluate=None,
        train_config=None,
        names=None,
        facts=None,
        keep_account=lambda: None,
    ):
        self.strategy = strategy
        self.grid = grid
        self.arrays = arrays
        self.history = History(names=names)
        self.facts = dict(facts or {})
        self.stopped = None
        self._final: ArrayRecord | None = None
        self.begun = [begin(each) for each in chain(strategy)]
        """What the strategies were before the first round."""
        self._seed = seed
        self._min_clients = min_clients
        self._timeout = timeout
        self._evaluate_clients = evaluate_clients
        self._evaluate = evaluate
        self._train_config = dict(train_config or {})
        self._keep_account = keep_account

    @property
    def done(self):
        """Number of rounds done."""
        return len(self.history)

    def start(self):
        """Evaluate the initial model, as round 0."""
        self.history.rounds.append(Round(0, server=self._server(0)))

    def run(self):
        """Do the next round.

        Raises:
            RoundError: If fewer than `min_clients` trained, or the new model has NaN
                or infinity. Then, and whatever else is raised, arrays, final arrays
                and history are those of the last round.
        """
        last = self.arrays, self.final()
        self._final = None
        try:
            self._round(self.done + 1)
        except BaseException as error:
            # The strategies may be further, so their final arrays are those of then.
            self.arrays, self._final = last
            if not isinstance(error, StopFederation | PrivacyBudgetExhausted):
                raise
            self.stopped = str(error)

    def _round(self, number):
        current = Round(number)
        start = time.perf_counter()
        try:
            with seeded(self._seed, number):
                arrays = self._train(number, current)
            self.arrays = arrays
            if self._evaluate_clients:
                with seeded(self._seed, number, 1):
                    self._evaluate_at_clients(number, current)
        except PrivacyBudgetExhausted:
            raise
        except AppExitException as error:  # Flower refuses the replies
            raise RoundError(f"Round {number}: {error}") from error
        current.server = self._server(number)
        for each in chain(self.strategy):
            if isinstance(each, Wrapper):
                current.report.update(each.report())
        if privacy := privacy_spent(self.strategy):
            current.report["privacy"] = privacy
        current.seconds = time.perf_counter() - start
        self.history.rounds.append(current)

    def _train(self, number, current):
        config = ConfigRecord(dict(self._train_config))
        config[records.ROUND] = number
        messages = list(
            self.strategy.configure_train(number, self.arrays, config, self.grid)
        )
        self._keep_account()
        replies = self._exchange(messages, current)
        trained = [r for r in replies if not r.has_error()]
        for reply in trained:
            client = reply.metadata.src_node_id
            current.clients[client] = records.read_metrics(reply.content)
        if len(trained) < self._min_clients:
            raise RoundError(self._too_few(number, len(messages), current))
        private = _adds_noise(self.strategy)
        with unpredictable() if private else contextlib.nullcontext():
            arrays, metrics = self.strategy.aggregate_train(number, replies)
        self._keep_account()
        if not arrays:
            raise RoundError(
                f"Round {number}: {type(self.strategy).__name__} made no model of "
                f"{len(trained)} replies and {len(current.errors)} failures. "
                f"{self._reasons(current.errors, len(messages))}{self._rejected()}"
            )
        if not _finite(arrays):
            raise RoundError(self._not_finite(number, trained))
        current.train = _history_metrics(metrics, trained)
        return nonnegative(records.typed_as(arrays, self.arrays))

    def _evaluate_at_clients(self, number, current):
        config = ConfigRecord({records.ROUND: number})
        messages = list(
            self.strategy.configure_evaluate(number, self.arrays, config, self.grid)
        )
        replies = self._exchange(messages, current)
        for reply in replies:
            if not reply.has_error():
                metrics = records.read_metrics(reply.content)
                own = current.clients.setdefault(reply.metadata.src_node_id, {})
                own.update({f"val_{k}": v for k, v in metrics.items()})
        if any(not r.has_error() for r in replies):
            metrics = self.strategy.aggregate_evaluate(number, replies)
            current.evaluate = _history_metrics(metrics, replies)

    def _exchange(self, messages, current):
        """The replies to messages, with bytes and errors noted."""
        current.bytes_down += sum(self.grid.size_of(m.content) for m in messages)
        replies = list(self.grid.send_and_receive(messages, timeout=self._timeout))
        missing = collections.Counter(m.metadata.dst_node_id for m in messages)
        for reply in replies:
            client = reply.metadata.src_node_id
            missing[client] -= 1
            if reply.has_error():
                current.errors[client] = reply.error.reason
            else:
                current.bytes_up += self.grid.size_of(reply.content)
        for client in +missing:
            current.errors[client] = f"no reply within {self._timeout:g} s"
        return replies

    def _server(self, number):
        if self._evaluate is None:
            return {}
        return {k: float(v) for k, v in self._evaluate(number, self.final()).items()}

    def final(self):
        """The arrays of the model that users get, after the present round."""
        if self._final is not None:
            return self._final
        return users_arrays(self.strategy, self.arrays)

    def _too_few(self, number, asked, current):
        trained = len(current.clients)
        return (
            f"Round {number}: {trained} of {asked} clients trained, fewer than "
            f"min_clients={self._min_clients}. "
            f"{self._reasons(current.errors, asked)}"
        )

    def _not_finite(self, number, trained):
        sent = [
            reply.metadata.src_node_id
            for reply in trained
            if not all(map(_finite, reply.content.array_records.values()))
        ]
        who = f"sent by clients {self._some(sent)}" if sent else "sent by no client"
        return (
            f"Round {number}: the new model has NaN or infinity, {who}. Put "
            "federated.strategies.Robust around the strategy to keep such clients out, "
            "or, if it is most of them, lower the learning rate."
        )

    def _rejected(self):
        """Whom strategies left out and why, and how many they want at least."""
        text = ""
        for each in chain(self.strategy):
            rejected = each.report().get("rejected") if isinstance(each, Wrapper) else 0
            if rejected:
                least = getattr(each, "min_clients", 1)
                text += f"{type(each).__name__}(min_clients={least}) rejected: "
                text += self._reasons(rejected, 1)
        return text

    def _reasons(self, errors, asked):
        if not asked:
            return "Nobody was asked. "
        by_reason = collections.defaultdict(list)
        for client, reason in errors.items():
            by_reason[reason].append(client)
        return "".join(
            f"Clients {self._some(clients)}: {reason}. "
            for reason, clients in list(by_reason.items())[:5]
        )

    def _some(self, clients):
        first = ", ".join(str(self.history.name(c)) for c in sorted(clients)[:10])
        more = f" and {len(clients) - 10} more" if len(clients) > 10 else ""
        return f"{first}{more}"


def privacy_spent(strategy):
    """`epsilon` and `delta` until now; empty without an account."""
    found = {}
    for each in chain(strategy):
        if hasattr(each, "get_account"):
            found = each.spent()
        elif getattr(each, "accountant", None) is not None:
            spent = each.privacy_spent()  # Flower's account
            found = {"epsilon": spent.epsilon, "delta": spent.delta}
    return found


def _adds_noise(strategy):
    """Whether Flower's differential privacy, whose noise must not repeat, is in it."""
    return any(hasattr(each, "noise_multiplier") for each in chain(strategy))


def _history_metrics(metrics, replies):
    """The strategy's averages; of one that keeps metrics to itself, plain means."""
    if metrics is None or metrics:
        return dict(metrics or {})
    good = [r for r in replies if not r.has_error()]
    plain = means([records.read_metrics(r.content) for r in good])
    return {name: value for name, value in plain.items() if name != records.TAKEN}


def _finite(record):
    arrays = records.read_arrays(record).values()
    floats = (a for a in arrays if np.issubdtype(a.dtype, np.inexact))
    return all(np.isfinite(array).all() for array in floats)
