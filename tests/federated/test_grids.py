"""Grids that address clients by their numbers, with apps and engines that are fakes."""

import threading

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from federated import records
from federated.client_app import client_message
from federated.grids import HostedGrid, LocalGrid, identify


def counting_app():
    """A client that says which one it is and how often it was asked."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        if client == 2:
            raise ValueError("no data today")
        state = context.state.setdefault("times", MetricRecord({"n": 0}))
        state["n"] += 1
        message.content["config"]["mine"] = client  # not to be seen by the others
        numbers = MetricRecord({"client": client, "times": state["n"]})
        return Message(RecordDict({"metrics": numbers}), reply_to=message)

    return app


def asked(clients):
    content = RecordDict(
        {
            records.ARRAYS: ArrayRecord([np.zeros(2)]),
            records.CONFIG: ConfigRecord({"server-round": 1}),
        }
    )
    return [Message(content, client, "train") for client in clients]


def read(replies):
    return {
        reply.metadata.src_node_id: reply.error.reason
        if reply.has_error()
        else reply.content["metrics"]["times"]
        for reply in replies
    }


def test_in_this_process_an_error_of_one_client_is_its_reply():
    grid = LocalGrid(counting_app(), 4)
    messages = asked(range(4))
    failed = "ValueError: no data today"
    assert read(grid.send_and_receive(messages)) == {0: 1, 1: 1, 2: failed, 3: 1}
    assert read(grid.send_and_receive(messages[1:3])) == {1: 2, 2: failed}
    assert "mine" not in messages[0].content["config"]
    assert sorted(grid.states) == [0, 1, 3]


def test_in_this_process_those_not_begun_in_time_get_no_turn():
    grid = LocalGrid(counting_app(), 4)
    assert read(grid.send_and_receive(asked([0, 1]), timeout=-1)) == {}


def test_sixteen_of_a_thousand_are_not_all():
    identify()
    grid = LocalGrid(counting_app(), 1000)
    config = ConfigRecord({"server-round": 1})
    messages = FedAvg().configure_train(1, ArrayRecord([np.zeros(2)]), config, grid)
    assert {m.metadata.dst_node_id for m in messages} == set(range(1000))


class Engine:
    """Flower's grid with nodes that play hosted clients; some messages kill them."""

    def __init__(self, nodes, deadly=()):
        self.nodes, self.deadly = nodes, set(deadly)
        self.portions, self.replies = [], {}

    def get_node_ids(self):
        return self.nodes

    def push_messages(self, messages):
        for i, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{len(self.portions)}-{i}"
            self.replies[message.metadata.message_id] = self._play(message)
        return list(self.replies)

    def pull_messages(self, message_ids):
        return [self.replies.pop(i) for i in list(message_ids) if i in self.replies]

    def _play(self, message):
        hosted = message.content[records.HOSTED]
        clients = hosted[records.CLIENT]
        self.portions.append((message.metadata.dst_node_id, list(clients)))
        if self.deadly & set(clients):
            return Message(Error(0, "the worker died"), reply_to=message)
        content = RecordDict()
        for client in clients:
            times = message.content.get(f"{client}/times", MetricRecord({"n": 0}))["n"]
            numbers = MetricRecord({"client": client, "times": times + 1})
            content[f"{client}/reply/metrics"] = numbers
            content[f"{client}/state/times"] = MetricRecord({"n": times + 1})
        return Message(content, reply_to=message)


def hosted(engine, clients):
    identify()
    return HostedGrid(engine, "task.pkl", clients, len(engine.nodes), threading.Event())


def test_few_nodes_play_many_clients_evenly_and_keep_their_states():
    engine = Engine([11, 12])
    grid = hosted(engine, 100)
    assert read(grid.send_and_receive(asked(range(100)))) == dict.fromkeys(
        range(100), 1
    )
    sizes = [len(clients) for _, clients in engine.portions]
    assert sizes == [25] * 4
    assert max(sizes) <= HostedGrid.LARGEST
    assert {node for node, _ in engine.portions} == {11, 12}
    assert read(grid.send_and_receive(asked([99, 3]))) == {99: 2, 3: 2}


def test_of_a_portion_that_died_each_client_gets_its_own_chance():
    engine = Engine([11, 12], deadly=[5])
    replies = hosted(engine, 20).send_and_receive(asked(range(20)))
    lost = "its worker failed: the worker died"
    assert read(replies) == {c: lost if c == 5 else 1 for c in range(20)}
    assert [m.metadata.src_node_id for m in replies] == list(range(20))


def test_messages_that_differ_go_by_themselves():
    engine = Engine([11])
    messages = [*asked([0, 1]), *asked([2])]
    hosted(engine, 3).send_and_receive(messages)
    assert [clients for _, clients in engine.portions] == [[0, 1], [2]]


def test_an_engine_that_has_ended_is_not_waited_for():
    engine = Engine([11])
    engine.pull_messages = lambda message_ids: []
    grid = hosted(engine, 2)
    assert grid.send_and_receive(asked([0, 1]), timeout=0.05) == []
    grid._ended.set()
    with pytest.raises(RuntimeError) as error:
        grid.send_and_receive(asked([0, 1]))
    assert str(error.value) == "Flower's engine has ended before the run."


def test_a_message_to_a_client_answers_as_that_client():
    identify()
    (message,) = asked([7])
    mine = client_message(message, message.content, "train", 3)
    assert Message(RecordDict(), reply_to=mine).metadata.src_node_id == 3
    assert message.metadata.dst_node_id == 7
