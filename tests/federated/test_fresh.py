"""A strategy that is used for two runs."""

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi

import federated
from federated.strategies import Robust
from tests.federated.models import build_linear, linear_data, split


def run(strategy):
    return federated.simulate(
        build_linear(), split(linear_data(), 2), strategy, 3, verbose=0
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAdam(eta=0.1),
        lambda: FedYogi(eta=0.1),
        lambda: FedAvgM(server_momentum=0.9),
        lambda: Robust(FedAvgM(server_momentum=0.9)),
    ],
    ids=["FedAdam", "FedYogi", "FedAvgM", "wrapped"],
)
def test_the_second_run_is_the_first(make):
    strategy = make()
    first, second = run(strategy), run(strategy)
    weights = first.model.get_weights(), second.model.get_weights()
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


class Noting(FedAvg):
    rounds: list

    def aggregate_train(self, server_round, replies):
        self.rounds.append(server_round)
        return super().aggregate_train(server_round, replies)


def test_what_a_run_noted_stays_until_the_next_and_settings_stay():
    strategy = Noting()
    strategy.rounds = []
    run(strategy)
    assert strategy.rounds == [1, 2, 3]
    strategy.fraction_train = 0.9
    run(strategy)
    assert strategy.rounds == [1, 2, 3]  # anew
    strategy.rounds = [7]
    run(strategy)
    assert strategy.rounds == [7, 1, 2, 3]
    assert strategy.fraction_train == 0.9
