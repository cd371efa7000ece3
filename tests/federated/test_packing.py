import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from federated import packing, records
from federated.nodes import NodeGrid
from federated.server_app import serve
from tests.federated.nodes import FakeGrid

ARRAYS = {
    "sparse": np.where(np.arange(60).reshape(3, 4, 5) % 7, 0, 1.5).astype("float32"),
    "dense": np.random.default_rng(0).normal(size=1000),
    "zero": np.zeros((2, 3), "float16"),
    "special": np.array([-0.0, 0.0, np.nan, np.inf], "float32"),
    "integers": np.array([0, 0, -3, 1], "int64"),
    "scalar": np.array(2.5, "float32"),
    "empty": np.zeros((0, 3), "float32"),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_bit_for_bit(name):
    array = ARRAYS[name]
    config = ConfigRecord({"round": 1})
    content = RecordDict(
        {"arrays": records.write_arrays(["w"], [array]), "config": config}
    )
    sent = packing.pack(content)
    assert records.size_of(sent) <= records.size_of(content)
    back = packing.unpack(sent)
    got = back["arrays"]["w"].numpy()
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert got.tobytes() == array.tobytes()
    assert back["config"] == config
    np.testing.assert_array_equal(content["arrays"]["w"].numpy(), array)


def test_bytes_of_zeros_are_an_eighth_of_a_byte():
    content = RecordDict(
        {"arrays": records.write_arrays(["w"], [np.zeros(8000, "float32")])}
    )
    assert records.size_of(packing.pack(content)) == 1000


@pytest.mark.parametrize(
    ("shape", "data"),
    [((8,), b""), ((8,), b"\xff1234"), ((10**12,), b"\x00" * 9), ((-8,), b"\x00")],
)
def test_arrays_that_lie(shape, data):
    array = Array("float32", shape, "kerasreg.nonzero", data)
    with pytest.raises(ValueError) as caught:
        packing.unpack(RecordDict({"arrays": ArrayRecord({"w": array})}))
    assert str(caught.value) == "Received a packed array of float32 that is cut off."


def test_nodes_get_and_send_packed_arrays():
    config = {"task": "tests.federated.tasks", "num-server-rounds": 2}
    fake = FakeGrid(config, 3)
    send, sizes = fake.send_and_receive, {"down": 0, "up": 0}

    def measured(messages, **arguments):
        sizes["down"] += sum(records.size_of(m.content) for m in messages)
        replies = send(messages, **arguments)
        sizes["up"] += sum(records.size_of(r.content) for r in replies)
        return replies

    fake.send_and_receive = measured
    history = serve(NodeGrid(fake), config).history
    assert sum(r.bytes_down for r in history) == sizes["down"]
    assert sum(r.bytes_up for r in history) == sizes["up"]
    # 4 weights, of which the bias is zero at first, to 3 clients; then to evaluate.
    assert history.rounds[1].bytes_down == 3 * (1 + 12 + 1) + 3 * (1 + 12 + 1 + 4)
    assert history.rounds[1].bytes_up == 3 * (1 + 12 + 1 + 4)


def test_a_reply_that_cannot_be_read_is_a_failure():
    config = {"task": "tests.federated.tasks", "num-server-rounds": 1}
    fake = FakeGrid(config, 3)
    send = fake.send_and_receive
    bad = Array("float32", (3, 1), "kerasreg.nonzero", b"")
    (liar,) = [n for n, c in fake.connected.items() if c["partition-id"] == 1]

    def lie(messages, **arguments):
        replies = send(messages, **arguments)
        for reply in replies:
            if reply.metadata.src_node_id == liar and "arrays" in reply.content:
                reply.content["arrays"]["000/dense/kernel"] = bad
        return replies

    fake.send_and_receive = lie
    history = serve(NodeGrid(fake), config).history
    assert history.rounds[1].errors == {
        1: "ValueError: Received a packed array of float32 that is cut off."
    }
    assert sorted(c for c, m in history.rounds[1].clients.items() if "loss" in m) == [
        0,
        2,
    ]
