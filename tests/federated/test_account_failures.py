"""What a round has cost stays spent when it fails, whoever it is done again by."""

import json

import numpy as np
import pytest
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp import (
    NeighboringRelation,
    PrivacyConfig,
    RdpAccountant,
    SamplingMethod,
)
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

import federated
from federated.privacy import LocallyPrivate, Private, epsilon_of
from tests.federated.models import build_linear, linear_data, split
from tests.federated.strategies.problems import averaging

MOD = LocalDpMod(clipping_norm=0.5, sensitivity=1.0, epsilon=1.0, delta=1e-3)


def local():
    return LocallyPrivate(averaging(), MOD, delta=1e-3)


def private(z=2.0):
    return Private(averaging(), z, 0.5, delta=1e-3)


def flowers():
    config = PrivacyConfig(
        target_delta=1e-3,
        population_size=3,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    return DifferentialPrivacyServerSideFixedClipping(
        averaging(), 2.0, 0.5, 3, accountant=RdpAccountant(config)
    )


class Failing:
    """A mod that counts what client 0 sends, and fails at client 2 in a round."""

    def __init__(self, server_round):
        self.server_round = server_round
        self.sent = 0

    def __call__(self, message, context, call_next):
        client = message.metadata.dst_node_id
        if client == 2 and message.content["config"]["server-round"] == (
            self.server_round
        ):
            raise OSError("no power")
        self.sent += client == 0
        return call_next(message, context)


def run(strategy, rounds=2, **settings):
    return federated.simulate(
        build_linear(),
        split(linear_data(), 3),
        strategy,
        rounds,
        verbose=0,
        **settings,
    )


@pytest.mark.parametrize("failing", [1, 2])
def test_local_privacy_counts_what_clients_have_sent(failing, tmp_path):
    mod = Failing(failing)
    settings = {"min_clients": 3, "checkpoint": tmp_path, "resume": True}
    z = local().noise_multiplier
    for _ in range(2):
        with pytest.raises(federated.RoundError) as caught:
            run(local(), mods=[mod, MOD], **settings)
        expected = epsilon_of(z, mod.sent, 1e-3)
        assert caught.value.result.privacy == {"epsilon": expected, "delta": 1e-3}
    mod.server_round = None
    result = run(local(), mods=[mod, MOD], **settings)
    assert mod.sent == 4
    assert result.privacy == {"epsilon": epsilon_of(z, 4, 1e-3), "delta": 1e-3}


class Seen:
    """An `evaluate` that notes the models it has seen, and fails once."""

    def __init__(self, at):
        self.at = at
        self.models = []

    def __call__(self, model):
        self.models.append(model.get_weights()[0])
        if len(self.models) == self.at:
            raise OSError("disk full")
        return {"seen": 1.0}


@pytest.mark.parametrize("strategy", [private, flowers])
@pytest.mark.parametrize("at", [2, 3])
def test_a_model_that_was_seen_counts_when_the_round_is_done_again(
    strategy, at, tmp_path
):
    settings = {"checkpoint": tmp_path, "evaluate": Seen(at)}
    with pytest.raises(OSError, match="disk full"):
        run(strategy(), **settings)
    result = run(strategy(), resume=True, **settings)
    released = [m for m in settings["evaluate"].models if m.any()]
    distinct = {m.tobytes() for m in released} - {released[0].tobytes()}
    assert len(distinct) == 3
    np.testing.assert_allclose(result.privacy["epsilon"], epsilon_of(2.0, 3, 1e-3))


def test_a_budget_counts_the_rounds_that_failed(tmp_path):
    budget = (epsilon_of(2.0, 2, 1e-3) + epsilon_of(2.0, 3, 1e-3)) / 2
    settings = {"checkpoint": tmp_path, "evaluate": Seen(3)}
    with pytest.raises(OSError, match="disk full"):
        run(private(), **settings)
    strategy = Private(averaging(), 2.0, 0.5, delta=1e-3, max_epsilon=budget)
    result = run(strategy, resume=True, **settings)
    assert result.stopped.startswith("Round 2 would bring epsilon from ")
    assert len(result.history) == 1


def test_a_run_that_has_spent_its_budget_goes_on_with_a_larger_one(tmp_path):
    def once(budget):
        strategy = Private(averaging(), 2.0, 0.5, delta=1e-3, max_epsilon=budget)
        return run(strategy, 4, checkpoint=tmp_path, resume=True)

    small = epsilon_of(2.0, 2, 1e-3)
    for _ in range(2):
        result = once(small)
        assert len(result.history) == 2
        assert result.stopped.startswith("Round 3 would bring epsilon from ")
        assert result.privacy["epsilon"] == small
    result = once(100.0)
    assert len(result.history) == 4
    assert result.stopped is None
    assert result.privacy["epsilon"] == epsilon_of(2.0, 4, 1e-3)


def test_a_run_that_begins_anew_has_an_account_of_its_own(tmp_path):
    run(private(), rounds=2, checkpoint=tmp_path)
    assert (tmp_path / "privacy.json").exists()
    (tmp_path / "round-000002.npz").unlink()
    (tmp_path / "round-000001.npz").unlink()
    result = run(private(), rounds=1, checkpoint=tmp_path)
    (tmp_path / "round-000001.npz").unlink()
    assert result.privacy["epsilon"] == epsilon_of(2.0, 1, 1e-3)
    run(averaging(), rounds=1, checkpoint=tmp_path)
    assert not (tmp_path / "privacy.json").exists()


def test_the_account_of_another_strategy_is_refused(tmp_path):
    path = tmp_path / "privacy.json"
    path.write_text(json.dumps([["LocallyPrivate", None], ["FedAvg", None]]))
    with pytest.raises(ValueError) as caught:
        run(private(), checkpoint=tmp_path, resume=True)
    assert str(caught.value) == (
        f"The account of privacy in {path} is of another strategy. Expected: "
        "['LocallyPrivate', 'FedAvg']. Received: ['Private', 'FedAvg']"
    )
