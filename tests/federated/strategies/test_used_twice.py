"""A strategy that is used for a second run begins it as its first."""

import numpy as np
import pytest

import federated
from federated.privacy import Private
from federated.strategies import FederatedDualAveraging, PFedBayes, ServerProximal
from kerasreg.regularizers import L1
from tests.federated.models import build_linear, linear_data, split
from tests.federated.strategies import test_pfedbayes
from tests.federated.strategies.problems import averaging


@pytest.mark.parametrize(
    "strategy",
    [
        FederatedDualAveraging(averaging()),
        ServerProximal(averaging()),
        Private(averaging(), 0.3, 0.3, delta=1e-3, seed=0, quantile=0.5),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_it_begins_anew(strategy):
    data = linear_data()
    one, other = (
        federated.simulate(
            build_linear(),
            split(data, 4),
            strategy,
            2,
            L1(0.3),
            evaluate=data,
            verbose=0,
        )
        for _ in range(2)
    )
    assert one.history["server_loss"] == other.history["server_loss"]
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_account_of_one_object_goes_on():
    strategy = Private(averaging(), 2.0, 0.3, delta=1e-3)
    for runs in (1, 2):
        result = federated.simulate(
            build_linear(), split(linear_data(), 4), strategy, 2, verbose=0
        )
        assert result.privacy["epsilon"] == strategy.epsilon(2 * runs)


def test_updates_are_measured_against_what_was_sent():
    """PFedBayes sends the global distribution in the place of the posteriors."""

    def around(inner):
        return Private(inner, 1e-9, 0.05, delta=1e-3, seed=0)

    one, other = (
        federated.simulate(
            test_pfedbayes.build_model,
            test_pfedbayes.opposites(),
            strategy,
            3,
            batch_size=None,
            epochs=5,
            verbose=0,
        )
        for strategy in (around(PFedBayes(averaging())), PFedBayes(around(averaging())))
    )
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
