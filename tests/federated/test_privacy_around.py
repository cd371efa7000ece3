"""What strategies around a private average get to know: the average."""

import numpy as np
import pytest
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)

import federated
from federated.privacy import Private
from federated.strategies import (
    AdaptiveStrength,
    FederatedDualAveraging,
    Robust,
    ServerProximal,
    Wrapper,
)
from kerasreg.callbacks import (
    GeneralizationGap,
    GradientRatio,
    Scheduled,
    TargetSparsity,
)
from kerasreg.regularizers import L1
from tests.federated.models import build_linear, linear_data
from tests.federated.strategies.problems import averaging


def private(**settings):
    return Private(averaging(), 2.0, 0.5, delta=1e-3, **settings)


def flowers():
    return DifferentialPrivacyServerSideFixedClipping(averaging(), 1.0, 0.5, 4)


def run(strategy, **settings):
    x, y = linear_data(60)
    clients = [(x[:5], y[:5]), (x[5:20], y[5:20]), (x[20:], y[20:])]
    return federated.simulate(
        build_linear(), clients, strategy, 2, L1(0.1), verbose=0, **settings
    )


def test_they_are_told_no_metrics_and_the_history_has_plain_means():
    class Spy(Wrapper):
        seen = []

        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            self.seen.append(dict(metrics))
            return arrays, metrics

        def aggregate_evaluate(self, server_round, replies):
            metrics = super().aggregate_evaluate(server_round, replies)
            self.seen.append(dict(metrics))
            return metrics

    result = run(Spy(private()), validation_split=0.2)
    assert Spy.seen == [{}] * 4
    last = result.history.rounds[-1]
    for name, value in (("loss", last.train), ("val_loss", last.evaluate)):
        mean = np.mean([metrics[name] for metrics in last.clients.values()])
        np.testing.assert_allclose(value["loss"], mean)


@pytest.mark.parametrize("inner", [private, flowers])
@pytest.mark.parametrize("around", [ServerProximal, FederatedDualAveraging])
def test_a_map_at_the_server_needs_a_step_that_no_client_has_said(around, inner):
    with pytest.raises(ValueError) as caught:
        around(inner())
    name = type(inner()).__name__
    assert str(caught.value) == (
        "Invalid value for argument `step`. Expected a positive number, learning rate "
        f"times steps a round, around {name}: how far the clients' steps went has no "
        "noise. Received: step=None"
    )


@pytest.mark.parametrize("around", [ServerProximal, FederatedDualAveraging])
def test_with_a_given_step_the_number_of_local_steps_says_nothing(around):
    strategy = around(private(), step=0.1)
    assert run(strategy, batch_size=5).history["proximal_step"] in (
        [0.1, 0.1],
        [0.1, 0.2],
    )


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (GradientRatio(0.1), ["gradient_norm", "penalty_gradient_norm"]),
        (GeneralizationGap(), list(GeneralizationGap().needs_logs)),
    ],
)
@pytest.mark.parametrize("inner", [private, flowers])
def test_policies_that_need_the_clients_are_refused(inner, policy, told):
    with pytest.raises(ValueError) as caught:
        AdaptiveStrength(inner(), policy)
    message = str(caught.value)
    assert message.startswith("Invalid value for argument `policy`. ")
    assert all(f"{name!r}" in message for name in told)
    assert message.endswith(
        f"so the account of {type(inner()).__name__} would not hold. Expected a "
        "policy that goes by the aggregate alone, such as TargetSparsity or "
        f"Scheduled. Received: policy={policy!r}"
    )


@pytest.mark.parametrize("policy", [Scheduled(lambda epoch: 0.1), TargetSparsity(0.5)])
def test_policies_that_go_by_the_aggregate_are_taken(policy):
    assert AdaptiveStrength(private(), policy).policy is policy


def test_robust_is_refused_around_it_and_not_inside():
    strategy = ServerProximal(private(), step=0.1)
    with pytest.raises(ValueError) as caught:
        Robust(strategy)
    assert str(caught.value) == (
        "Invalid value for argument `strategy`. Expected one without Private, which "
        "clips every update and ignores what is not finite: its account does not cover "
        "that one client's reply decides about another's. "
        f"Received: strategy={strategy!r}"
    )
    Private(Robust(FedAvg()), 2.0, 0.5, delta=1e-3)
