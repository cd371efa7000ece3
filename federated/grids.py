"""Where the clients run: in this process, on workers of Flower's engine, or at nodes.

Each is a `flwr.serverapp.Grid` whose node ids are the numbers of the clients. Flower
draws node ids at random; with the clients' numbers in their place, a seed decides
which clients a strategy samples.
"""

import math
import time
from collections.abc import Iterable

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid

from federated import records
from federated.client_app import (
    FAILED,
    answer,
    client_context,
    client_message,
)


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
