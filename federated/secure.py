"""Secure aggregation: the server learns the average of the updates, and no update.

Flower has the SecAgg+ protocol only for its former API: a workflow at the server, a
mod at the client. This module runs both, unchanged, within a round of today's.
"""

import types

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    Key,
    Stage,
)
from flwr.compat.common import recorddict_compat as compat
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

from federated import records
from federated.arrays import flat, means, unflat
from federated.client_app import client_message, client_of
from federated.rounds import RoundError
from federated.strategies.base import Wrapper
from kerasreg.regularizers.base import check_count

_EXAMPLES = "secure-max-examples"


class SecureAggregation(Wrapper):
    """Aggregates updates that the server cannot read, by Flower's SecAgg+.

    In each round, clients agree on masks that cancel in the sum; each sends its update
    (its weights minus the server's) as integers under masks. The wrapped strategy
    receives the average as the one reply of the round, with that of the metrics, by the
    same weights. Clients that fail after the masks are agreed are taken out of the sum,
    as long as enough others are left; those that fail before take no part, and are
    reported as `without_masks`. Clients need `secure_mod`:
    `simulate(..., mods=[secure_mod])`.

    The server is trusted to follow the protocol. It still sees each client's metrics
    and, by them, who took part, and the average itself may tell something of a
    client: that takes noise (`LocalDpMod` after `secure_mod`). `Private` and `Robust`
    cannot work on what they cannot read.

    Updates are clipped to ±`clipping_range` weight by weight and rounded at random to
    2²² steps, of which the sum of up to 1024 clients fits into 32 bits.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        max_examples: Largest number of examples that a client has, to weigh clients by
            their examples; `None` to weigh all the same.
        clipping_range: Largest change of a weight, times the client's examples as a
            share of `max_examples`.
        num_shares: Number, or share of the clients, that holds parts of a client's
            keys, see Flower's `SecAggPlusWorkflow`.
        reconstruction_threshold: Number, or share of `num_shares`, that must be left
            to take a failed client's mask out of the sum.

    Raises:
        TypeError, ValueError: If an argument is none of those.

    Example:

    >>> from flwr.serverapp.strategy import FedAvg
    >>> from federated.privacy import SecureAggregation
    >>> strategy = SecureAggregation(FedAvg(), max_examples=500)

    Reference: Bell et al. 2020, "Secure single-server aggregation with
    (poly)logarithmic overhead".
    """

    def __init__(
        self,
        strategy,
        max_examples=None,
        *,
        clipping_range=8.0,
        num_shares=1.0,
        reconstruction_threshold=0.6,
    ):
        super().__init__(strategy)
        self.max_examples = max_examples
        self._without: list[int] = []
        if max_examples is not None:
            self.max_examples = check_count("max_examples", max_examples)
        self._workflow = SecAggPlusWorkflow(
            num_shares,
            reconstruction_threshold,
            max_weight=float(max_examples or 1),
            clipping_range=float(clipping_range),
        )

    def configure_train(self, server_round, arrays, config, grid):
        """Agree on masks with the clients; then the messages for their training.

        Raises:
            RoundError: If too few clients take part.
        """
        config[_EXAMPLES] = self.max_examples or 0
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._sent, self._grid, self._messages = arrays, grid, messages
        clients = [m.metadata.dst_node_id for m in messages]
        self._context = _Context(server_round, clients)
        self._state = WorkflowState()
        for stage in (self._workflow.setup_stage, self._workflow.share_keys_stage):
            self._do(stage, grid, server_round)
        self._forget_failed()
        return [
            self._with_shares(m)
            for m in messages
            if m.metadata.dst_node_id in self._state.active_node_ids
        ]

    def _do(self, stage, grid, server_round):
        if not stage(grid, self._context, self._state):
            reasons = sorted({str(e.args[0].reason) for e in self._state.failures})
            raise RoundError(
                f"Round {server_round}: {len(self._state.active_node_ids)} of "
                f"{len(self._messages)} clients were left, too few for secure "
                f"aggregation. {'; '.join(reasons)}"
            )

    def _forget_failed(self):
        """Go on with those who have shared their keys: nobody has masks with others."""
        state = self._state
        self._without = sorted(state.sampled_node_ids - state.active_node_ids)
        left = state.sampled_node_ids = set(state.active_node_ids)
        neighbours = state.nid_to_neighbours
        state.nid_to_neighbours = {client: neighbours[client] & left for client in left}

    def report(self):
        """The clients that failed before the masks were agreed."""
        return {"without_masks": self._without} if self._without else {}

    def _with_shares(self, message):
        client = message.metadata.dst_node_id
        shares = ConfigRecord(
            {
                Key.STAGE: Stage.COLLECT_MASKED_VECTORS,
                Key.CIPHERTEXT_LIST: self._state.forward_ciphertexts[client],
                Key.SOURCE_LIST: self._state.forward_srcs[client],
            }
        )
        content = RecordDict({**message.content, RECORD_KEY_CONFIGS: shares})
        return Message(content, client, message.metadata.message_type)

    def aggregate_train(self, server_round, replies):
        """What the strategy makes of the average, and the clients' mean metrics.

        Raises:
            RoundError: If too few clients are left to take the masks off.
        """
        replies = [r for r in replies if not r.has_error()]
        metrics = [records.read_metrics(r.content) for r in replies]
        masked = [_as_fit_result(r) for r in replies]
        weights = [r.content[records.METRICS][records.NUM_EXAMPLES] for r in replies]
        if self.max_examples is None:
            weights = [1] * len(replies)
        clients = self._state.active_node_ids
        self._state.nid_to_fitins = {client: RecordDict() for client in clients}
        answered = types.SimpleNamespace(send_and_receive=lambda *_, **__: masked)
        collect = self._workflow.collect_masked_vectors_stage
        self._do(collect, answered, server_round)
        self._do(self._workflow.unmask_stage, self._grid, server_round)
        (average,) = self._context.strategy.average
        sent = records.read_arrays(self._sent)
        made = ArrayRecord(unflat(flat(sent) + average, sent))
        content = {
            records.ARRAYS: made,
            records.METRICS: records.write_metrics(1, means(metrics, weights)),
        }
        reply = Message(RecordDict(content), reply_to=self._messages[0])
        return super().aggregate_train(server_round, [reply])


def secure_mod(message, context, call_next):
    """The clients' part of `SecureAggregation`, a mod: `mods=[secure_mod]`.

    Other mods that change the weights come after it.

    Args:
        message: The `flwr.app.Message` from the server.
        context: The client's `flwr.app.Context`.
        call_next: What trains the client.
    """

    def train(asked, context):
        content = {k: asked.content[k] for k in (records.ARRAYS, records.CONFIG)}
        client = asked.metadata.dst_node_id
        inner = client_message(asked, RecordDict(content), "train", client)
        reply = call_next(inner, context)
        if reply.has_error():
            raise RuntimeError(reply.error.reason)
        result = _fit_result(asked, reply)
        kept[records.METRICS] = reply.content[records.METRICS]
        return Message(compat.fitres_to_recorddict(result, False), reply_to=asked)

    kept = {}
    # Flower's mod takes the stage out of the record, which clients may share here.
    content = records.copied(message.content)
    asked = client_message(message, content, "train", client_of(context))
    reply = secaggplus_mod(asked, context, train)
    kept[RECORD_KEY_CONFIGS] = reply.content[RECORD_KEY_CONFIGS]
    return Message(RecordDict(kept), reply_to=message)


def _fit_result(asked, reply):
    """A client's update and its weight, as the former API has them."""
    sent = records.read_arrays(asked.content[records.ARRAYS])
    update = flat(records.read_arrays(reply.content[records.ARRAYS])) - flat(sent)
    if not np.isfinite(update).all():
        raise ValueError("The update is not finite.")
    limit = asked.content[records.CONFIG][_EXAMPLES]
    examples = int(reply.content[records.METRICS][records.NUM_EXAMPLES])
    if limit and examples > limit:
        raise ValueError(f"{examples} examples are more than max_examples={limit}.")
    weight = examples if limit else 1
    return FitRes(Status(Code.OK, ""), ndarrays_to_parameters([update]), weight, {})


def _as_fit_result(reply):
    """A reply with what Flower's workflow reads in it, next to the masked update."""
    nothing = FitRes(Status(Code.OK, ""), Parameters([], ""), 0, {})
    for name, record in compat.fitres_to_recorddict(nothing, False).items():
        reply.content[name] = record
    return reply


class _Context:
    """What Flower's workflow asks the former API for."""

    def __init__(self, server_round, clients):
        number = ConfigRecord({WorkflowKey.CURRENT_ROUND: server_round})
        self.state = RecordDict(
            {MAIN_CONFIGS_RECORD: number, MAIN_PARAMS_RECORD: ArrayRecord()}
        )
        self.strategy = _Former(clients)
        self.client_manager = types.SimpleNamespace(num_available=lambda: len(clients))
        self.history = types.SimpleNamespace(
            add_metrics_distributed_fit=lambda **_: None
        )


class _Former:
    """A strategy of the former API that keeps the average."""

    def __init__(self, clients):
        self._clients = clients

    def configure_fit(self, *_):
        nothing = FitIns(Parameters([], ""), {})
        return [(types.SimpleNamespace(node_id=c), nothing) for c in self._clients]

    def aggregate_fit(self, _, results, failures):
        self.average = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}
