"""Flower's grid, played by nodes in this process: their ids are random."""

import itertools

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from federated.client_app import answer, app
from federated.grids import identify


class FakeGrid(Grid):
    """Nodes that are clients of `federated.client_app:app`.

    Args:
        run_config: Dict, which no one may change.
        num_clients: Number of nodes.
        calls: Number of calls of `get_node_ids` after which the next node is there.
    """

    def __init__(self, run_config, num_clients, calls=0, seed=0):
        identify()
        self.run_config = Frozen(run_config)
        self.connected = {}
        self._ids = iter(np.random.default_rng(seed).integers(1, 2**62, 1000).tolist())
        self._late = []
        self._waiting = {}
        self._calls, self._number = calls, itertools.count()
        for client in range(num_clients):
            config = {"partition-id": client, "num-partitions": num_clients}
            if calls and client:
                self._late.append(config)
            else:
                self.connect(config)

    def connect(self, config):
        """A new node, whose id is returned."""
        node = next(self._ids)
        self.connected[node] = config
        return node

    def get_node_ids(self):
        if self._late and next(self._number) % self._calls == self._calls - 1:
            self.connect(self._late.pop(0))
        return list(self.connected)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self._number)}"
            node = message.metadata.dst_node_id
            if node not in self.connected:
                continue
            config = self.connected[node]
            context = Context(1, node, config, RecordDict(), self.run_config)
            replies.append(answer(app, message, context))
        return replies[::-1]  # in whatever order

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type)

    def push_messages(self, messages):
        messages = list(messages)
        replies = self.send_and_receive(messages)
        self._waiting.update({r.metadata.reply_to_message_id: r for r in replies})
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        """One at a time: the others come later."""
        there = [i for i in message_ids if i in self._waiting][:1]
        return [self._waiting.pop(i) for i in there]


class Frozen(dict):
    """A dict that no one may change."""

    def __setitem__(self, key, value):
        raise AssertionError(f"{key} was changed")

    def _refuse(self, *_, **__):
        raise AssertionError("it was changed")

    __delitem__ = update = pop = setdefault = clear = popitem = _refuse
