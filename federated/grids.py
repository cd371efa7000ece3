"""Where the clients run: in this process, on workers of Flower's engine, or at nodes.

Each is a `flwr.serverapp.Grid` whose node ids are the numbers of the clients. Flower
draws node ids at random; with the clients' numbers in their place, a seed decides
which clients a strategy samples.
"""

import math
import time
from collections.abc import Iterable
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid

from federated import packing, records
from federated.client_app import (
    FAILED,
    REFUSED,
    answer,
    client_context,
    client_message,
)
from federated.rounds import RoundError


class ClientGrid(Grid):
    """A grid that addresses clients by their numbers.

    Args:
        num_clients: Number of clients.
    """

    def __init__(self, num_clients):
        self.num_clients = num_clients
        self.states: dict[int, RecordDict] = {}
        """What each client keeps for itself, where the simulation holds it."""

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of the clients."""
        return list(range(self.num_clients))

    def set_run(self, run):
        """Unused: the grid belongs to the run that made it."""

    @property
    def run(self):
        """Unused: the grid belongs to the run that made it."""
        raise AttributeError("This grid belongs to no run of Flower.")

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        """A new message, see Flower's."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages):
        """Send messages and wait for the replies: strategies use `send_and_receive`."""
        raise NotImplementedError("Use `send_and_receive`.")

    def pull_messages(self, message_ids):
        """Nothing is ever left to pull: strategies use `send_and_receive`."""
        raise NotImplementedError("Use `send_and_receive`.")

    def send_and_receive(self, messages, *, timeout=None):
        """Send messages to clients and return the replies, in the same order.

        Args:
            messages: `Message`s whose `dst_node_id` is the number of a client.
            timeout: Seconds after which clients that have not replied are given up.
        """
        raise NotImplementedError

    def size_of(self, content):
        """Bytes of the arrays in a message's content, as they are sent."""
        return records.size_of(content)


class LocalGrid(ClientGrid):
    """Runs the clients in this process, one after the other.

    Args:
        app: The clients' `ClientApp`.
        num_clients: Number of clients.
    """

    def __init__(self, app, num_clients):
        super().__init__(num_clients)
        self._app = app
        identify()

    def send_and_receive(self, messages, *, timeout=None):
        """Run the clients; those not begun within `timeout` seconds get no turn."""
        end = None if timeout is None else time.monotonic() + timeout
        replies = []
        for message in messages:
            if end is not None and time.monotonic() > end:
                break
            replies.append(self._answer(message))
        return replies

    def _answer(self, message):
        client = message.metadata.dst_node_id
        state = self.states.get(client, RecordDict())
        state = records.copied(state)
        context = client_context(_NOWHERE, client, self.num_clients, state)
        kind = message.metadata.message_type
        asked = client_message(message, message.content, kind, client)
        reply = answer(self._app, asked, context)
        if not reply.has_error():
            self.states[client] = context.state
        return reply


class HostedGrid(ClientGrid):
    """Lets a few nodes of Flower, its workers, play all clients.

    Clients with the same message share one message to a node, in portions. A portion
    that failed as a whole, because its worker died, is sent again client by client.

    Args:
        grid: Flower's `Grid`.
        task: Path of the pickled task, which the workers read.
        num_clients: Number of clients.
        workers: Number of nodes to wait for.
        ended: `threading.Event` that is set when the engine ends.
    """

    LARGEST = 32
    """Most clients in one message."""

    def __init__(self, grid, task, num_clients, workers, ended):
        super().__init__(num_clients)
        self._grid = grid
        self._task = task
        self._ended = ended
        self._nodes = wait_for_nodes(grid, workers, timeout=60)

    def wake(self):
        """Wait until the workers answer.

        While the engine starts, it draws from Python's generator in another thread,
        and what is seeded meanwhile would not repeat.
        """
        self._exchange([Message(RecordDict(), n, "query") for n in self._nodes], None)

    def send_and_receive(self, messages, *, timeout=None):
        """Run the clients on the workers."""
        end = None if timeout is None else time.monotonic() + timeout
        messages = list(messages)
        portions = self._portions(messages)
        replies = self._run(portions, timeout)
        lost = [
            m
            for portion in portions
            for m in portion
            if len(portion) > 1 and id(m) in replies and _died(replies[id(m)])
        ]
        if lost:
            left = None if end is None else max(1.0, end - time.monotonic())
            replies.update(self._run([[m] for m in lost], left))
        return [replies[id(m)] for m in messages if id(m) in replies]

    def _portions(self, messages):
        """Messages with the same content together, evenly over the nodes."""
        alike: dict[tuple, list] = {}
        for m in messages:
            key = tuple(id(r) for r in m.content.values()), m.metadata.message_type
            alike.setdefault(key, []).append(m)
        portions = []
        for group in alike.values():
            number = math.ceil(len(group) / (self.LARGEST * len(self._nodes)))
            number *= len(self._nodes)  # all nodes have as many, of about one size
            size = math.ceil(len(group) / number)
            portions += [group[i : i + size] for i in range(0, len(group), size)]
        return portions

    def _run(self, portions, timeout):
        """The replies to portions, by the identity of the message."""
        outgoing = [
            self._hosted(portion, self._nodes[i % len(self._nodes)])
            for i, portion in enumerate(portions)
        ]
        answers = self._exchange(outgoing, timeout)
        asked = {
            sent.metadata.message_id: portion
            for sent, portion in zip(outgoing, portions, strict=True)
        }
        return {
            id(message): self._unpacked(reply, message)
            for reply in answers
            for message in asked[reply.metadata.reply_to_message_id]
        }

    def _exchange(self, messages, timeout):
        """What Flower's `send_and_receive` does, until the engine ends."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        waiting, replies = set(self._grid.push_messages(messages)), []
        while waiting and time.monotonic() < end:
            if self._ended.is_set():
                raise RuntimeError("Flower's engine has ended before the run.")
            pulled = list(self._grid.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in pulled}
            replies += pulled
            if not pulled:
                time.sleep(0.01)
        return replies

    def _hosted(self, portion, node):
        clients = [m.metadata.dst_node_id for m in portion]
        content = RecordDict(dict(portion[0].content.items()))
        content[records.HOSTED] = ConfigRecord(
            {
                "task": self._task,
                "num-clients": self.num_clients,
                records.CLIENT: clients,
            }
        )
        for client in clients:
            for name, record in self.states.get(client, RecordDict()).items():
                content[f"{client}/{name}"] = record
        kind = f"{portion[0].metadata.message_type}.hosted"
        return Message(content, dst_node_id=node, message_type=kind)

    def _unpacked(self, reply, message):
        """A client's part of what a node replied, as a reply to its message."""
        client = message.metadata.dst_node_id
        if reply.has_error():
            reason = f"its worker failed: {reply.error.reason}"
            return Message(Error(_DIED, reason), reply_to=message)
        content, state, prefix = RecordDict(), RecordDict(), f"{client}/"
        for name, record in reply.content.items():
            if not name.startswith(prefix):
                continue
            kind, _, rest = name.removeprefix(prefix).partition("/")
            if kind == "error":
                return Message(Error(FAILED, record["reason"]), reply_to=message)
            (content if kind == "reply" else state)[rest] = record
        self.states[client] = state
        return Message(content, reply_to=message)


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


_DIED = 2  # code of the error of a portion of which nothing is known


def _died(reply):
    return reply.has_error() and reply.error.code == _DIED


_NOWHERE = Context(0, 0, {}, RecordDict(), {})


def wait_for_nodes(grid, number, timeout=3600.0):
    """The ids of connected nodes, once there are as many as needed.

    Args:
        grid: Flower's `Grid`.
        number: How many are needed.
        timeout: Seconds to wait for them.

    Raises:
        TimeoutError: If there are not.
    """
    end = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < number:
        if time.monotonic() > end:
            raise TimeoutError(
                f"Only {len(nodes)} of {number} nodes connected within {timeout:g} s."
            )
        time.sleep(0.05)
    return nodes


def identify():
    """Let messages be made outside of a run of Flower, as its own Python API does."""
    from flwr.supercore.task_identity import TaskIdentity  # no public way in 1.42

    for name, value in (("task_id", 1), ("run_id", 0), ("node_id", 1)):
        if getattr(TaskIdentity, f"_{name}") is None:
            setattr(TaskIdentity, name, value)
