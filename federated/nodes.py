"""A grid of deployed nodes, each of which is one client."""

import math
import time
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.error import Error

from federated import packing, records
from federated.client_app import FAILED, REFUSED
from federated.grids import ClientGrid
from federated.rounds import RoundError


class NodeGrid(ClientGrid):
    """One client a node, as in a deployed federation.

    Nodes say by themselves which client they are, and how many there are; the grid
    waits for all of them. One that comes back, under a new node id or its old one,
    takes its place again.

    Args:
        grid: Flower's `Grid`.
        timeout: Seconds to wait for the clients, at first and in each round.
        least: Number of clients that suffice after `PATIENCE` seconds, for a run that
            goes on; `None` to wait for all.

    Raises:
        TimeoutError: If clients are missing.
        ValueError: If a node does not say which client it is, two say the same, or they
            do not agree how many there are.
    """

    PATIENCE = 120.0
    """Seconds that a run that goes on waits for clients that it does not need."""

    def __init__(self, grid, timeout=3600.0, least=None):
        super().__init__(0)
        self._grid = grid
        self._timeout = timeout
        self._client_of: dict[int, int] = {}  # of each node that has answered
        self._ask_at: dict[int, float] = {}  # when to ask a node who it is
        self._asked: set[str] = set()  # messages that wait for an answer
        self._refused: dict[int, str] = {}  # nodes that do not take part, and why
        self._waiting_since: float | None = None
        if hasattr(grid, "pull_interval"):
            grid.pull_interval = 0.01
        self._await_all(least)

    def get_node_ids(self):
        """The numbers of the clients whose nodes are connected now.

        Raises:
            RoundError: If a strategy has asked for `timeout` seconds, in wait of more.
        """
        clients = sorted(self._connected())
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since > self._timeout:
            raise RoundError(
                f"The strategy has waited {self._timeout:g} s for more clients than "
                f"{clients}, which are all that are connected."
            )
        return clients

    def send_and_receive(self, messages, *, timeout=None):
        """Send messages to the clients' nodes."""
        self._waiting_since = None
        node_of, messages = self._connected(), list(messages)
        asked, replies = [], {}
        for message in messages:
            client = message.metadata.dst_node_id
            if client in node_of:
                kind = message.metadata.message_type
                content = packing.pack(message.content)
                asked.append((Message(content, node_of[client], kind), message))
            else:
                error = Error(FAILED, "its node is not connected")
                replies[id(message)] = Message(error, reply_to=message)
        outgoing = [sent for sent, _ in asked]
        answers = list(self._grid.send_and_receive(outgoing, timeout=timeout))
        by_id = {sent.metadata.message_id: message for sent, message in asked}
        for reply in answers:
            message = by_id[reply.metadata.reply_to_message_id]
            replies[id(message)] = Message(_unpacked(reply), reply_to=message)
        return [replies[id(m)] for m in messages if id(m) in replies]

    def size_of(self, content):
        """Bytes of the arrays in a message's content, as they are sent: packed."""
        return records.size_of(packing.pack(content))

    def _await_all(self, least):
        start = time.monotonic()
        while len(found := self._connected(strict=True)) < (self.num_clients or 1):
            waited = time.monotonic() - start
            if least is not None and waited > self.PATIENCE and len(found) >= least:
                return
            if waited > self._timeout:
                refused = "".join(f" Node {n}: {w}." for n, w in self._refused.items())
                raise TimeoutError(
                    f"Only the clients {sorted(found)} of {self.num_clients or 'any'} "
                    f"connected within {self._timeout:g} s.{refused}"
                )
            time.sleep(0.1)

    def _connected(self, strict=False):
        """The node of each client that is connected and has said who it is."""
        nodes, now = set(self._grid.get_node_ids()), time.monotonic()
        for gone in self._ask_at.keys() - nodes:
            del self._ask_at[gone]  # who it is when it comes back, it will say again
            self._client_of.pop(gone, None)
        if new := sorted(n for n in nodes if self._ask_at.get(n, now) <= now):
            self._ask_at |= dict.fromkeys(new, math.inf)
            questions = [Message(RecordDict(), node, "query") for node in new]
            self._asked.update(self._grid.push_messages(questions))
        # No waiting here: a node may need minutes to start, and rounds go on.
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
            self._asked.discard(reply.metadata.reply_to_message_id)
            node = reply.metadata.src_node_id
            if node in nodes:
                self._note(node, reply, strict)
        return self._node_of(nodes, strict)

    def _note(self, node, reply, strict):
        """What a node says of itself."""
        numbers: Any = (
            {} if reply.has_error() else reply.content.get(records.CONFIG, {})
        )
        client, clients = numbers.get(records.CLIENT), numbers.get(records.CLIENTS)
        why = "it does not say who it is"
        if reply.has_error():
            why = reply.error.reason
            if reply.error.code == REFUSED:  # it may take part after a change
                if self._refused.get(node) != why:
                    print(f"waiting: node {node}: {why}", flush=True)
                self._refused[node] = why
                self._ask_at[node] = time.monotonic() + 5.0
                return
        elif isinstance(client, int) and isinstance(clients, int):
            why = f"it says there are {clients} clients, others {self.num_clients}"
            if self.num_clients in (0, clients):
                self.num_clients = clients
                self._client_of[node] = client
                self._refused.pop(node, None)
                return
        if strict:
            raise ValueError(f"Node {node} cannot take part: {why}")

    def _node_of(self, nodes, strict):
        """The node of each client; of two that say they are the same, the newer one."""
        found: dict[int, int] = {}
        for node, client in self._client_of.items():
            if node in nodes:
                if strict and client in found:
                    raise ValueError(
                        f"Two nodes, {found[client]} and {node}, say that they are "
                        f"client {client}. Expected another number for each."
                    )
                found[client] = node
        return found


def _unpacked(reply):
    """What a node replied; what cannot be read is an error."""
    if reply.has_error():
        return reply.error
    try:
        return packing.unpack(reply.content)
    except Exception as error:  # whatever a client may have sent
        return Error(FAILED, f"{type(error).__name__}: {error}")
