"""Robust: what is poisoned is not in the aggregate, and it is said whose it was."""

import keras
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as flower
from sklearn import datasets

import federated
from federated import partition, records
from federated.strategies import Robust, Wrapper
from tests.exhaustive import exhaustive
from tests.federated import replies
from tests.federated.models import build_linear, linear_data, split
from tests.federated.strategies.poisons import (
    BIAS,
    HONEST,
    KERNEL,
    POISONED,
    POISONS,
    begin,
    honest,
    on_kernel,
    poisoned,
)


class Reading(Wrapper):
    """As an adaptive strategy does, reads what clients measured."""

    def configure_train(self, server_round, arrays, config, grid):
        records.write_strengths(config, {KERNEL: 0.1 * server_round})
        return super().configure_train(server_round, arrays, config, grid)


def _some(cls, **arguments):
    return cls(min_train_nodes=1, min_available_nodes=1, **arguments)


STRATEGIES = {
    "FedAvg": lambda: _some(flower.FedAvg),
    "FedAdam": lambda: _some(flower.FedAdam),
    "FedMedian": lambda: _some(flower.FedMedian),
    "Krum": lambda: _some(flower.Krum, num_malicious_nodes=1),
    "FedProx": lambda: _some(flower.FedProx, proximal_mu=0.1),
    "central privacy": lambda: flower.DifferentialPrivacyServerSideFixedClipping(
        _some(flower.FedAvg), 0.1, 0.2, HONEST
    ),
    "adaptive privacy": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(
        _some(flower.FedAvg), 0.1, HONEST
    ),
    "client-side privacy": lambda: flower.DifferentialPrivacyClientSideFixedClipping(
        _some(flower.FedAvg), 0.1, 0.2, HONEST
    ),
    "a wrapper inside": lambda: Reading(_some(flower.FedAvg)),
}


def _run(strategy, rounds, poison=None):
    """What two rounds of fake replies make, with a bad client or without it."""
    arrays = begin()
    for server_round in range(1, rounds + 1):
        np.random.seed(server_round)  # noqa: NPY002 - the noise of Flower's privacy
        grid = replies.grid(HONEST + 1)
        list(strategy.configure_train(server_round, arrays, ConfigRecord(), grid))
        received = [honest(k, server_round) for k in range(HONEST + 1) if k != POISONED]
        if poison:
            received.insert(POISONED, poisoned(poison, server_round))
        arrays, metrics = strategy.aggregate_train(server_round, received)
    return records.read_arrays(arrays), dict(metrics)


def _assert_same(mine, theirs):
    assert list(mine[0]) == list(theirs[0])
    for key, array in theirs[0].items():
        np.testing.assert_array_equal(mine[0][key], array)
    assert mine[1] == theirs[1]


@pytest.mark.parametrize("poison", POISONS)
def test_nothing_poisoned_is_in_the_aggregate_and_it_is_said_why(poison):
    change, reason = POISONS[poison]
    strategy = Robust(STRATEGIES["FedAvg"]())
    mine = _run(strategy, 1, change)
    _assert_same(mine, _run(STRATEGIES["FedAvg"](), 1))
    rejected = strategy.report()["rejected"]
    assert list(rejected) == [POISONED]
    assert rejected[POISONED].startswith(reason)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("poison", ["NaN", "shape", "norm", "absurd examples", "empty"])
def test_any_strategy_sees_the_honest_clients_alone(strategy, poison):
    make = STRATEGIES[strategy]
    mine = _run(Robust(make()), 2, POISONS[poison][0])
    _assert_same(mine, _run(make(), 2))


def test_it_works_inside_a_wrapper():
    mine = _run(Reading(Robust(STRATEGIES["FedAvg"]())), 2, POISONS["NaN"][0])
    _assert_same(mine, _run(STRATEGIES["FedAvg"](), 2))


def test_honest_clients_are_left_alone():
    for make in STRATEGIES.values():
        strategy = Robust(make())
        _assert_same(_run(strategy, 3), _run(make(), 3))
        assert strategy.report() == {}


@pytest.mark.parametrize("clients", [3, 10])
def test_false_alarms_of_the_norm(clients):
    # Norms that differ by a factor of e in standard deviation, as of clients with
    # very different numbers of examples. Of 2e4 clients 1.3 % (among 3) and 0.26 %
    # (among 10) are expected; the bounds are three standard errors above.
    strategy = Robust(STRATEGIES["FedAvg"]())
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(size=(20_000 // clients, clients)))
    alarms = np.mean([row > strategy._norm_bound(row)[0] for row in norms])
    assert alarms < {3: 0.0155, 10: 0.0037}[clients]


def _digits():
    x, y = datasets.load_digits(return_X_y=True)
    return (x / 16).astype("float32"), y


def _classifier():
    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    "deal",
    [
        lambda data: partition.dirichlet(data, 20, 0.1),
        pytest.param(lambda data: partition.shards(data, 20, 2), marks=exhaustive),
        pytest.param(lambda data: partition.quantity(data, 20, 0.5), marks=exhaustive),
    ],
    ids=["labels", "shards", "quantity"],
)
def test_clients_that_are_only_unlike_are_not_refused(deal):
    result = federated.simulate(
        _classifier, deal(_digits()), Robust(flower.FedAvg()), 4, epochs=2, verbose=0
    )
    assert all(not r.report for r in result.history)


def test_an_outlier_is_found_among_clients_that_differ_little_or_much():
    strategy = Robust(STRATEGIES["FedAvg"]())
    assert strategy._norm_bound([1.0, 1.0, 1.1, 50.0])[0] < 50
    assert strategy._norm_bound([1.0, 1.1, 1.2, 4.0])[0] > 4  # less than 5 medians
    assert strategy._norm_bound([0.1, 1.0, 10.0, 50.0])[0] > 50  # they differ as much
    assert strategy._norm_bound([1.0, 1e300])[0] == np.inf  # who of both?
    assert strategy._norm_bound([0.0, 0.0, 0.0, 1.0])[0] == np.inf


def _evaluation(client, **metrics):
    return replies.reply({}, client, 10, "evaluate", **metrics)


def test_evaluation_is_checked():
    strategy = Robust(STRATEGIES["FedAvg"]())
    received = [_evaluation(k, loss=float(k)) for k in (1, 2, 3)]
    bad = [_evaluation(4, loss=np.nan), _evaluation(5, loss=1.0, other=2.0)]
    metrics = strategy.aggregate_evaluate(1, [*bad, *received])
    assert dict(metrics) == {"loss": pytest.approx(2.0)}
    assert strategy.report() == {
        "rejected_evaluation": {
            4: "NaN or infinity in the metric 'loss'",
            5: "other metrics than most clients: ['loss', 'num-examples', 'other']",
        }
    }
    assert strategy.aggregate_evaluate(1, bad[:1]) is None


def test_of_two_clients_the_one_with_absurd_examples_is_out():
    strategy = Robust(STRATEGIES["FedAvg"]())
    received = [replies.reply({}, k, 10**k, "evaluate", loss=k) for k in (1, 9)]
    assert dict(strategy.aggregate_evaluate(1, received)) == {"loss": 1.0}


def test_a_reason_is_short():
    strategy = Robust(STRATEGIES["FedAvg"]())
    long = _evaluation(2, loss=1.0, **{"x" * 10**6: 1.0})
    strategy.aggregate_evaluate(
        1, [_evaluation(0, loss=1.0), _evaluation(1, loss=1.0), long]
    )
    assert len(strategy.report()["rejected_evaluation"][2]) == 300


def test_a_reply_of_a_client_that_was_not_asked():
    strategy = Robust(STRATEGIES["FedAvg"]())
    list(strategy.configure_train(1, begin(), ConfigRecord(), replies.grid(1)))
    aggregate, _ = strategy.aggregate_train(1, [honest(0), honest(4)])
    expected, _ = STRATEGIES["FedAvg"]().aggregate_train(1, [honest(0)])
    for mine, theirs in zip(
        replies.as_arrays(aggregate), replies.as_arrays(expected), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert strategy.report() == {"rejected": {4: "it was not asked"}}


def _clients(*bad):
    clients = split(linear_data(), 4)
    for k in bad:
        x, y = clients[k]
        clients[k] = x, np.full_like(y, np.nan)
    return clients


def test_a_run_goes_on_without_the_bad_client_and_the_history_says_so():
    result = federated.simulate(
        build_linear(), _clients(1), Robust(flower.FedAvg()), rounds=2, verbose=0
    )
    assert all(np.isfinite(w).all() for w in result.model.get_weights())
    kernel = records.weight_keys(result.model)[0]
    reason = f"NaN or infinity in {kernel[4:]!r}"
    assert [r.report for r in result.history][1:] == [{"rejected": {1: reason}}] * 2
    assert list(result.history.to_frame()["rejected"])[1:] == [1] * 2
    each = result.history.to_frame(clients=True).set_index("client")
    assert list(each.loc[1, "rejected"]) == [reason] * 2


EIGHT = [
    "NaN",
    "infinity",
    "shape",
    "float16",
    "wrong name",
    "norm",
    "absurd examples",
    "empty",
]


def _malicious(message, context, call_next):
    """A mod under which all clients from number 9 on poison their replies."""
    reply = call_next(message, context)
    client = int(context.node_config["partition-id"]) - 9
    if client >= 0:
        content = reply.content
        if records.ARRAYS in content:
            renamed = zip((KERNEL, BIAS), content[records.ARRAYS].values(), strict=True)
            names = list(content[records.ARRAYS])
            content[records.ARRAYS] = ArrayRecord(dict(renamed))
            POISONS[EIGHT[client]][0](content)
            if records.ARRAYS in content:
                back = dict(zip((KERNEL, BIAS), names, strict=True))
                pairs = content[records.ARRAYS].items()
                content[records.ARRAYS] = ArrayRecord(
                    {back.get(key, key): array for key, array in pairs}
                )
    return reply


def test_eight_kinds_of_poison_in_one_run():
    clients = split(linear_data(rows=340), 17)
    result = federated.simulate(
        build_linear(),
        clients,
        Robust(flower.FedAvg()),
        rounds=2,
        mods=[_malicious],
        verbose=0,
    )
    without = federated.simulate(
        build_linear(), clients[:9], flower.FedAvg(), rounds=2, verbose=0
    )
    for mine, expected in zip(
        result.model.get_weights(), without.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
    for each in result.history.rounds[1:]:
        assert sorted(each.report["rejected"]) == list(range(9, 17))
        assert not each.errors


def test_too_few_good_clients_are_an_error_that_says_who_and_why():
    strategy = Robust(flower.FedAvg(), min_clients=3)
    with pytest.raises(federated.RoundError) as caught:
        federated.simulate(build_linear(), _clients(1, 3), strategy, 2, verbose=0)
    kernel = records.weight_keys(caught.value.result.model)[0]
    reason = f"NaN or infinity in {kernel[4:]!r}"
    assert str(caught.value) == (
        "Round 1: Robust made no model of 4 replies and 0 failures. "
        f"Robust(min_clients=3) rejected: Clients 1, 3: {reason}. "
    )
    assert all(np.isfinite(w).all() for w in caught.value.result.model.get_weights())


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("max_norm_ratio", 1.0, "a finite number greater than 1"),
        ("max_deviations", 0, "a finite number greater than 0"),
        ("max_examples_ratio", 0.5, "a finite number greater than 1"),
        ("min_clients", 0, "a positive integer"),
    ],
)
def test_arguments(argument, value, expected):
    with pytest.raises(ValueError) as caught:
        Robust(flower.FedAvg(), **{argument: value})
    assert str(caught.value) == (
        f"Invalid value for argument `{argument}`. Expected {expected}. "
        f"Received: {argument}={value!r}"
    )


def test_it_is_no_strategy():
    with pytest.raises(
        TypeError, match=r"Expected a flwr\.serverapp\.strategy\.Strategy"
    ):
        Robust("FedAvg")
    with pytest.raises(TypeError, match="max_norm_ratio"):
        Robust(flower.FedAvg(), max_norm_ratio="big")


def test_weights_so_large_that_their_norm_is_not_finite():
    strategy = Robust(STRATEGIES["FedAvg"]())
    mine = _run(strategy, 1, on_kernel(lambda array: array + np.float32(3e38)))
    _assert_same(mine, _run(STRATEGIES["FedAvg"](), 1))
    assert strategy.report()["rejected"][POISONED].startswith(
        "the norm of its update, inf, is an outlier"
    )


@pytest.mark.parametrize("garbage", [25.0, 1e6])
def test_the_bound_is_never_far_however_unlike_few_clients_are(garbage):
    strategy = Robust(flower.FedAvg())
    bound, median = strategy._norm_bound([0.05, 1.0, garbage])
    assert bound < garbage
    assert bound == pytest.approx(20 * median)
    assert Robust(flower.FedAvg(), 50.0)._norm_bound([1.0, 1.1, 1.2])[0] > 50
