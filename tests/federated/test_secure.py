import itertools

import keras
import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.clientapp.mod import LocalDpMod
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    Key,
    Stage,
)
from flwr.serverapp.strategy import FedAdam, FedAvg
from scipy import stats

import federated
from federated import records
from federated.client_app import make_client_app
from federated.clients import Clients
from federated.grids import LocalGrid
from federated.privacy import SecureAggregation, secure_mod
from federated.task import Task
from tests.federated.models import build_linear, linear_data
from tests.federated.replies import sent


def clients():
    x, y = linear_data(60)
    ends = [0, 5, 15, 30, 40, 60]
    return [(x[a:b], y[a:b]) for a, b in itertools.pairwise(ends)]


def run(strategy=None, rounds=2, data=None, mods=(secure_mod,), **settings):
    data = clients() if data is None else data
    return federated.simulate(
        build_linear(), data, strategy, rounds, mods=mods, verbose=0, **settings
    )


def failing(data, client):
    """A client whose data are not numbers: it fails when it trains."""
    x, y = data[client]
    return [*data[:client], (np.full_like(x, np.nan), y), *data[client + 1 :]]


@pytest.mark.parametrize("strategy", [FedAvg, FedAdam])
def test_the_average_is_that_of_the_strategy_without_it(strategy):
    secure = run(SecureAggregation(strategy(), max_examples=20))
    plain = run(strategy(), mods=())
    for a, b in zip(secure.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)
    assert secure.history["loss"][0] > 0
    assert sorted(secure.history.rounds[1].clients) == [0, 1, 2, 3, 4]


def test_without_max_examples_all_clients_weigh_the_same():
    class Mean(FedAvg):
        def aggregate_train(self, server_round, replies):
            for reply in replies:
                reply.content[records.METRICS][records.NUM_EXAMPLES] = 1
            return super().aggregate_train(server_round, replies)

    secure, plain = run(SecureAggregation(FedAvg())), run(Mean(), mods=())
    for a, b in zip(secure.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_what_a_client_sends_looks_like_random_numbers():
    keras.utils.set_random_seed(0)
    build = build_linear(inputs=2000)
    x, y = linear_data(6, 2000)
    task = Task(build, Clients((x, y), [[0, 1], [2, 3], [4, 5]]), mods=(secure_mod,))
    grid = LocalGrid(make_client_app(task), 3)
    strategy = SecureAggregation(FedAvg())
    messages = strategy.configure_train(1, sent(task.model()), ConfigRecord(), grid)
    for reply in grid.send_and_receive(messages):
        assert not reply.content.array_records
        masked = reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        values = np.concatenate([bytes_to_ndarray(m).ravel() for m in masked])
        assert len(values) == 2002  # weights, bias and the weight of the client
        assert stats.kstest(values / 2**32, "uniform").pvalue > 1e-6 / 3


def test_a_client_that_fails_is_taken_out_of_the_sum():
    data = clients()
    secure = run(SecureAggregation(FedAvg(), max_examples=20), 1, failing(data, 2))
    plain = run(FedAvg(), 1, failing(data, 2), mods=(refuse_what_is_not_finite,))
    assert secure.history.rounds[1].errors == {
        2: "ValueError: The update is not finite."
    }
    for a, b in zip(secure.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def refuse_what_is_not_finite(message, context, call_next):
    reply = call_next(message, context)
    arrays = records.read_arrays(reply.content[records.ARRAYS]).values()
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("not finite")
    return reply


@pytest.mark.parametrize("stage", [Stage.SETUP, Stage.SHARE_KEYS])
def test_a_client_that_fails_before_the_masks_are_agreed_takes_no_part(stage):
    def fail(message, context, call_next):
        asked = message.content[RECORD_KEY_CONFIGS][Key.STAGE]
        if context.node_config["partition-id"] == 2 and asked == stage:
            raise OSError("no power")
        return call_next(message, context)

    data = clients()
    strategy = SecureAggregation(FedAvg(), max_examples=20)
    secure = run(strategy, 1, data, mods=(fail, secure_mod))
    assert sorted(secure.history.rounds[1].clients) == [0, 1, 3, 4]
    assert secure.history.rounds[1].report == {"without_masks": [2]}
    plain = run(FedAvg(), 1, failing(data, 2), mods=(refuse_what_is_not_finite,))
    for a, b in zip(secure.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_too_few_clients_end_the_run_with_what_there_is():
    data = clients()
    for client in (0, 2, 3):
        data = failing(data, client)
    with pytest.raises(federated.RoundError) as caught:
        run(SecureAggregation(FedAvg()), 1, data)
    assert str(caught.value) == (
        "Round 1: 2 of 5 clients were left, too few for secure aggregation. "
    )
    assert len(caught.value.result.history) == 0


def test_more_examples_than_said_are_refused_by_the_client():
    result = run(SecureAggregation(FedAvg(), max_examples=19), 1)
    assert result.history.rounds[1].errors == {
        4: "ValueError: 20 examples are more than max_examples=19."
    }


def test_local_noise_goes_inside():
    mod = LocalDpMod(clipping_norm=0.1, sensitivity=0.2, epsilon=1.0, delta=1e-3)
    noisy = run(SecureAggregation(FedAvg()), 1, mods=(secure_mod, mod))
    assert not noisy.history.rounds[1].errors
    plain = run(SecureAggregation(FedAvg()), 1)
    assert not np.allclose(noisy.model.get_weights()[0], plain.model.get_weights()[0])
