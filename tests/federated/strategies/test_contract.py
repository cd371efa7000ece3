"""What every strategy must pass: it nests, resumes, and says what it is not."""

import inspect
import json

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

import federated
from federated import checkpoint, strategies
from federated.strategies import Robust, Wrapper
from federated.strategies.base import chain
from tests.exhaustive import some
from tests.federated.models import linear_data, split
from tests.federated.strategies.cases import STRATEGIES
from tests.federated.strategies.problems import averaging

every = pytest.mark.parametrize("case", STRATEGIES, ids=str)


def test_every_strategy_is_in_the_table():
    assert sorted(case.name for case in STRATEGIES) == sorted(strategies.__all__)


@every
def test_it_says_what_it_does(case):
    assert inspect.getdoc(getattr(strategies, case.name))


@every
def test_it_takes_strategies_only(case):
    for value in (None, "FedAvg", FedAvg):
        with pytest.raises(TypeError) as caught:
            case.make(value)
        assert str(caught.value) == (
            "Invalid value for argument `strategy`. Expected a "
            "flwr.serverapp.strategy.Strategy, such as FedAvg(). "
            f"Received: strategy={value!r}"
        )


def _nested(case):
    return Robust(case.make(Wrapper(averaging())))


def _run(case, strategy, **arguments):
    return federated.simulate(
        case.build_model,
        split(linear_data(), 3),
        strategy,
        3,
        case.penalties(),
        batch_size=10,
        validation_split=0.2,
        verbose=0,
        **arguments,
    )


def _state(strategy):
    """The state of all within, as a checkpoint has it."""
    arrays: dict = {}
    states = [s.get_state() for s in chain(strategy) if isinstance(s, Wrapper)]
    return json.dumps(checkpoint.encode(states, arrays)), arrays


@pytest.mark.parametrize(
    "case",
    some(
        STRATEGIES,
        "AdaptiveStrength",
        "BayesianAggregation",
        "FederatedDualAveraging",
        "Personalized",
    ),
)
def test_it_nests_and_resumes_exactly(case, tmp_path):
    strategy = _nested(case)
    expected = _run(case, strategy, checkpoint=tmp_path)
    assert all(np.isfinite(w).all() for w in expected.model.get_weights())
    json.dumps([r.report for r in expected.history])
    (tmp_path / "round-000003.npz").unlink()
    resumed = _nested(case)
    result = _run(case, resumed, checkpoint=tmp_path, resume=True)
    for mine, array in zip(
        result.model.get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, array)
    assert [r.report for r in result.history] == [r.report for r in expected.history]
    assert result.strengths == expected.strengths
    (mine, mine_arrays), (text, arrays) = _state(resumed), _state(strategy)
    assert mine == text
    for name, array in arrays.items():
        np.testing.assert_array_equal(mine_arrays[name], array)
