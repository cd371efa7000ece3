"""Which nodes of a deployed federation are which client."""

import types

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.error import Error

from federated import nodes
from federated.client_app import FAILED, REFUSED
from federated.grids import identify
from federated.nodes import NodeGrid
from tests.federated.nodes import FakeGrid

CONFIG = {"task": "tests.federated.tasks", "num-server-rounds": 2, "min-clients": 1}


def test_nodes_that_do_not_agree_how_many_there_are():
    fake = FakeGrid(CONFIG, 2)
    node = max(fake.connected)
    fake.connected[node]["num-partitions"] = 3
    with pytest.raises(ValueError, match=r"it says there are \d clients, others \d$"):
        NodeGrid(fake)


def test_two_nodes_that_say_they_are_the_same_client():
    fake = FakeGrid(CONFIG, 2)
    for config in fake.connected.values():
        config["partition-id"] = 1
    with pytest.raises(ValueError, match="say that they are client 1"):
        NodeGrid(fake, timeout=1.0)


def test_a_run_that_goes_on_needs_no_more_than_a_round_does(monkeypatch):
    """A site that died before the server started again is not waited for."""
    monkeypatch.setattr(NodeGrid, "PATIENCE", 0.3)
    fake = FakeGrid(CONFIG, 3)
    del fake.connected[next(iter(fake.connected))]
    with pytest.raises(TimeoutError):
        NodeGrid(fake, timeout=1.0)
    with pytest.raises(TimeoutError):
        NodeGrid(fake, timeout=1.0, least=3)
    grid = NodeGrid(fake, timeout=1.0, least=2)
    assert len(grid.get_node_ids()) == 2
    assert grid.num_clients == 3


def test_a_node_that_comes_back_as_another_client():
    fake = FakeGrid(CONFIG, 2)
    grid = NodeGrid(fake)
    (node,) = [n for n, c in fake.connected.items() if c["partition-id"] == 1]
    config = fake.connected.pop(node)
    assert grid.get_node_ids() == [0]
    fake.connected[node] = {**config, "num-partitions": 5}
    assert grid.get_node_ids() == [0]  # it no longer agrees with the others
    assert grid.num_clients == 2
    del fake.connected[node]
    assert grid.get_node_ids() == [0]
    fake.connected[node] = config
    assert grid.get_node_ids() == [0, 1]


def test_a_site_that_refuses_is_asked_again(monkeypatch, capsys):
    """It may be started again with the right task, under the same node id."""
    fake = FakeGrid(CONFIG, 2)
    node = max(fake.connected)
    push, asked = fake.push_messages, []

    def refuse(messages):
        messages = list(messages)
        for m in messages:
            if m.metadata.dst_node_id == node:
                asked.append(node)
        return push(messages)

    pull = fake.pull_messages

    def answer(ids):
        for reply in pull(ids):
            if reply.metadata.src_node_id == node and len(asked) < 2:
                question = Message(RecordDict(), node, "query")
                question.metadata.__dict__["_message_id"] = (
                    reply.metadata.reply_to_message_id
                )
                reply = Message(Error(REFUSED, "not this task"), reply_to=question)
            yield reply

    monkeypatch.setattr(fake, "push_messages", refuse)
    monkeypatch.setattr(fake, "pull_messages", answer)
    clock = iter(range(10**6))
    monkeypatch.setattr(
        nodes,
        "time",
        types.SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda s: None),
    )
    grid = NodeGrid(fake, timeout=1000.0)
    assert sorted(grid._connected()) == [0, 1]
    assert capsys.readouterr().out == f"waiting: node {node}: not this task\n"


@pytest.mark.parametrize(
    "sent",
    [
        Array("no-such-dtype", (3,), "kerasreg.nonzero", b"123"),
        Array("float32", (-1,), "kerasreg.nonzero", b""),
        Array("float32", (2**40,), "kerasreg.nonzero", b"1"),
    ],
)
def test_what_cannot_be_read_is_one_client_s_failure(sent):
    identify()
    reply = types.SimpleNamespace(
        has_error=lambda: False,
        content=RecordDict({"arrays": ArrayRecord({"w": sent})}),
    )
    assert nodes._unpacked(reply).code == FAILED
