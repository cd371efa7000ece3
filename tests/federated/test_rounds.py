"""Rounds: what is asked for, kept, counted and given up."""

import random

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

import federated
from federated import records
from federated.grids import ClientGrid, identify
from federated.rounds import RoundError, Rounds, StopFederation
from federated.strategies import Wrapper
from tests.federated.models import build_linear, linear_data, split

ALL = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
BEGUN = {"000/w": np.zeros(2, "float32"), "001/n": np.zeros(1, "int64")}


class Fake(ClientGrid):
    """Clients that add their number to every weight; some never reply."""

    def __init__(self, clients, silent=()):
        identify()
        super().__init__(clients)
        self.silent, self.asked = silent, []

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            client = message.metadata.dst_node_id
            self.asked.append((message.metadata.message_type, client))
            if client in self.silent:
                continue
            arrays = records.read_arrays(message.content["arrays"])
            arrays = {k: a + np.asarray(client, a.dtype) for k, a in arrays.items()}
            numbers = {"num-examples": client + 1, "loss": float(client)}
            content = {"metrics": MetricRecord(numbers)}
            if message.metadata.message_type == "train":
                content["arrays"] = records.write_arrays(arrays, arrays.values())
            replies.append(Message(RecordDict(content), reply_to=message))
        return replies


def rounds_of(grid, strategy=None, **settings):
    arrays = records.write_arrays(BEGUN, BEGUN.values())
    return Rounds(strategy or FedAvg(**ALL), grid, arrays, **settings)


def test_a_round_averages_and_keeps_the_metrics_of_each_client():
    state = rounds_of(Fake(3), evaluate=lambda n, arrays: {"round": n})
    state.start()
    state.run()
    first, second = state.history.rounds
    assert (first.number, first.server) == (0, {"round": 0})
    mean = (0 * 1 + 1 * 2 + 2 * 3) / 6
    arrays = records.read_arrays(state.arrays)
    np.testing.assert_allclose(arrays["000/w"], mean, rtol=1e-6)
    assert second.train == {"loss": pytest.approx(mean)}
    assert second.evaluate == {"loss": pytest.approx(mean)}
    assert second.server == {"round": 1}
    assert second.clients == {k: {"loss": k, "val_loss": k} for k in (0, 1, 2)}


def test_arrays_keep_their_dtypes():
    state = rounds_of(Fake(3))
    state.run()
    arrays = records.read_arrays(state.arrays)
    assert [a.dtype for a in arrays.values()] == ["float32", "int64"]
    assert arrays["001/n"].tolist() == [1]  # 4/3, rounded


def test_bytes_are_those_of_the_arrays_of_all_messages():
    state = rounds_of(Fake(3, silent=[2]))
    state.run()
    (last,) = state.history.rounds
    size = records.size_of(RecordDict({"arrays": state.arrays}))
    assert last.bytes_down == 2 * 3 * size  # to train and to evaluate
    assert last.bytes_up == 2 * size


def test_clients_that_do_not_reply_are_noted():
    state = rounds_of(Fake(3, silent=[1]), timeout=5.0, evaluate_clients=False)
    state.run()
    assert state.history.rounds[0].errors == {1: "no reply within 5 s"}
    assert sorted(state.history.rounds[0].clients) == [0, 2]


def test_too_few_clients_leave_the_state_of_the_round_before():
    grid = Fake(3)
    state = rounds_of(grid, min_clients=2)
    state.run()
    before = records.read_arrays(state.arrays)
    grid.silent = [0, 2]
    with pytest.raises(RoundError) as error:
        state.run()
    assert str(error.value) == (
        "Round 2: 1 of 3 clients trained, fewer than min_clients=2. "
        "Clients 0, 2: no reply within 3600 s. "
    )
    assert state.done == 1
    after = records.read_arrays(state.arrays)
    assert all(np.array_equal(before[k], after[k]) for k in before)


class Empty(FedAvg):
    def aggregate_train(self, server_round, replies):
        return ArrayRecord(), MetricRecord()


def test_an_empty_aggregate_is_no_model():
    state = rounds_of(Fake(2), Empty(**ALL))
    with pytest.raises(RoundError, match="Round 1: Empty made no model of 2 replies"):
        state.run()


class Stopping(Wrapper):
    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 3:
            raise StopFederation("enough")
        return super().configure_train(server_round, arrays, config, grid)


def test_a_strategy_can_end_the_run():
    result = federated.simulate(
        build_linear(), split(linear_data(), 2), Stopping(FedAvg()), 9, verbose=0
    )
    assert result.stopped == "enough"
    assert len(result.history) == 2


def test_the_seed_decides_who_is_sampled_and_leaves_other_generators_alone():
    def sampled(seed):
        grid = Fake(100)
        state = rounds_of(
            grid, FedAvg(fraction_train=0.05, **ALL), seed=seed, evaluate_clients=False
        )
        for _ in range(2):
            state.run()
        return [client for _, client in grid.asked]

    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = sampled(0)
    assert len(first) == 10
    assert first[:5] != first[5:]
    assert first == sampled(0) != sampled(1)
    assert random.random() == expected


def test_nobody_asked_is_said_only_then():
    class Nobody(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            return []

    with pytest.raises(RoundError, match=r"0 of 0 clients.*Nobody was asked. $"):
        rounds_of(Fake(2), Nobody(**ALL)).run()
    with pytest.raises(RoundError) as error:
        rounds_of(Fake(2), Empty(**ALL)).run()
    assert "Nobody was asked" not in str(error.value)


class _Diverged(Fake):
    """One client sends NaN."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages)
        for reply in replies:
            if reply.metadata.src_node_id == 1:
                arrays = {**BEGUN, "000/w": BEGUN["000/w"] + np.nan}
                record = records.write_arrays(arrays, arrays.values())
                reply.content["arrays"] = record
        return replies


def test_a_model_with_nan_ends_the_run_and_the_client_is_named():
    state = rounds_of(_Diverged(3), names=["Bern", "Ulm", "Graz"])
    with pytest.raises(RoundError) as error:
        state.run()
    assert str(error.value) == (
        "Round 1: the new model has NaN or infinity, sent by clients Ulm. Put "
        "federated.strategies.Robust around the strategy to keep such clients out, "
        "or, if it is most of them, lower the learning rate."
    )
    assert np.isfinite(state.arrays["000/w"].numpy()).all()
    assert state.done == 0
