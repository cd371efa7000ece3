import math
import warnings

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message
from flwr.app.error import Error
from flwr.serverapp.strategy import FedAdam, FedAvg
from scipy import stats

from federated import records
from federated.privacy import Private
from tests.federated import replies

ERROR_RATE = 1e-6  # of each statistical test
NAMES = ("000/dense/kernel", "001/dense/bias", "002/rate")


def fed_avg(**settings):
    return FedAvg(
        min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1, **settings
    )


def weights(*arrays):
    return dict(zip(NAMES, (np.asarray(a, "float32") for a in arrays), strict=False))


def one_round(strategy, sent, answers, number=1, clients=None):
    """What a strategy makes of answers: dicts of arrays, or `None` for a failure."""
    record = records.write_arrays(sent, sent.values())
    grid = replies.grid(clients or len(answers))
    asked = strategy.configure_train(number, record, ConfigRecord(), grid)
    by_client = {m.metadata.dst_node_id: m for m in asked}
    got = []
    for client, answer in enumerate(answers):
        if client not in by_client:
            continue
        if answer is None:
            error = Error(1, "failed")
            got.append(Message(error, reply_to=by_client[client]))
        else:
            arrays, examples = answer if isinstance(answer, tuple) else (answer, 10)
            got.append(replies.reply(arrays, client, examples, loss=float(client)))
    arrays, metrics = strategy.aggregate_train(number, got)
    return records.read_arrays(arrays), dict(metrics)


def private(strategy=None, z=1e-12, norm=1.0, **settings):
    return Private(strategy or fed_avg(), z, norm, delta=1e-5, **settings)


def test_each_update_is_clipped_as_one_vector_scalars_included():
    sent = weights([[1.0], [2.0]], [3.0], 4.0)
    far = weights([[3.0], [2.0]], [3.0], 5.5)  # norm 2.5
    near = weights([[1.0], [2.3]], [3.4], 4.0)  # norm 0.5
    got, _ = one_round(private(), sent, [far, near])
    expected = weights([[1.4], [2.15]], [3.2], 4.3)
    for name in NAMES:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
        assert got[name].dtype == "float32"


def test_all_clients_weigh_the_same_whatever_their_number_of_examples():
    sent = weights([[0.0]])
    answers = [(weights([[0.1]]), 1), (weights([[0.3]]), 1000)]
    got, _ = one_round(private(), sent, answers)
    np.testing.assert_allclose(got[NAMES[0]], [[0.2]], rtol=1e-6)


def test_failed_and_not_finite_clients_count_as_no_change():
    sent = weights([[0.0]])
    answers = [weights([[0.4]]), None, weights([[np.nan]]), weights([[0.4], [0.4]])]
    strategy = private()
    got, _ = one_round(strategy, sent, answers)
    np.testing.assert_allclose(got[NAMES[0]], [[0.1]], rtol=1e-6)
    assert strategy.report()["ignored"] == [2, 3]


@pytest.mark.parametrize("failed", [0, 3])
def test_the_noise_has_the_scale_that_the_account_assumes(failed):
    sent = weights(np.zeros((50, 400), "float32"))
    answers = [sent] * (7 - failed) + [None] * failed
    got, _ = one_round(private(z=1.5, norm=0.2, seed=1), sent, answers)
    _assert_normal(got[NAMES[0]], 1.5 * 0.2 / 7)


def _assert_normal(values, deviation):
    values = np.asarray(values, "float64").ravel() / deviation
    low, high = stats.chi2(len(values)).ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2])
    assert low < np.sum(values**2) < high
    assert stats.kstest(values, "norm").pvalue > ERROR_RATE


def test_noise_is_new_in_each_round():
    sent = weights(np.zeros((50, 400), "float32"))
    strategy = private(z=1.0, seed=1)
    first, _ = one_round(strategy, sent, [sent])
    second, _ = one_round(strategy, sent, [sent], 2)
    together = np.concatenate([first[NAMES[0]], second[NAMES[0]]])
    r = np.corrcoef(first[NAMES[0]].ravel(), second[NAMES[0]].ravel())[0, 1]
    assert abs(r) * math.sqrt(20_000) < stats.norm.isf(ERROR_RATE / 2)
    _assert_normal(together, 1.0)


def test_integers_stay_and_variances_stay_variances():
    names = ("000/norm/moving_variance", "001/count")
    sent = {names[0]: np.zeros(1000, "float32"), names[1]: np.array([3], "int64")}
    answer = {names[0]: np.zeros(1000, "float32"), names[1]: np.array([9], "int64")}
    got, _ = one_round(private(z=1.0, seed=0), sent, [answer])
    assert got[names[0]].min() == 0
    assert got[names[1]] == 3


def test_the_wrapped_strategy_gets_the_private_average_and_nothing_else():
    class Spy(FedAdam):
        def aggregate_train(self, server_round, replies):
            (self.only,) = replies
            return super().aggregate_train(server_round, replies)

    def adam(kind):
        return kind(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)

    sent = weights([[0.0, 1.0]])
    spy = adam(Spy)
    got, _ = one_round(private(spy), sent, [weights([[0.2, 1.0]]), sent])
    assert dict(spy.only.content[records.METRICS]) == {records.NUM_EXAMPLES: 1}
    expected, _ = one_round(adam(FedAdam), sent, [weights([[0.1, 1.0]])])
    np.testing.assert_allclose(got[NAMES[0]], expected[NAMES[0]], rtol=1e-5)


def test_poisson_sampling_asks_each_client_by_itself_and_divides_by_the_expectation():
    sent = weights([[0.0]])
    strategy = private(sample_rate=0.3, seed=0)
    counts = []
    for number in range(200):
        got, _ = one_round(strategy, sent, [weights([[0.6]])] * 50, number)
        counts.append(got[NAMES[0]].item() / 0.6 * 0.3 * 50)
    counts = np.round(counts, 3)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    total = stats.binom(200 * 50, 0.3)
    assert total.ppf(ERROR_RATE / 2) < counts.sum() < total.isf(ERROR_RATE / 2)
    # A fixed sample size has no variance, this has 50 · 0.3 · 0.7.
    low, high = stats.chi2(200).ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2]) / 200
    assert low < np.mean((counts - 15) ** 2) / 10.5 < high


def test_poisson_sampling_needs_a_strategy_that_asks_all():
    strategy = private(fed_avg(fraction_train=0.5), sample_rate=0.3)
    with pytest.raises(ValueError) as caught:
        one_round(strategy, weights([[0.0]]), [None] * 4)
    assert str(caught.value) == (
        "Invalid value for argument `strategy`. Expected one that asks all 4 clients, "
        "of which sample_rate=0.3 takes its share. Received: one that asked 2"
    )


def test_the_clipping_norm_finds_the_quantile_of_the_norms():
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(size=100))
    sent = weights([0.0])
    answers = [weights([norm]) for norm in norms]
    strategy = Private(fed_avg(), 0.5, 0.01, delta=1e-5, quantile=0.7, seed=0)
    for number in range(1, 81):
        one_round(strategy, sent, answers, number)
    within = np.mean(norms <= strategy.clipping_norm)
    assert abs(within - 0.7) < 0.1
    assert strategy.report()["clipping_norm"] == strategy.clipping_norm


def test_an_adapting_norm_takes_its_share_of_the_noise():
    # The count has deviation 5 = 100/20 and changes by half a client; with it and
    # the noise on the updates, one round is as private as noise_multiplier says.
    sent = weights(np.zeros(20_000, "float32"))
    strategy = private(z=4.0, norm=0.5, quantile=0.5, seed=3)
    got, _ = one_round(strategy, sent, [sent] * 100)
    both = 1 / 16 - (0.5 / 5) ** 2
    _assert_normal(got[NAMES[0]], 0.5 / math.sqrt(both) / 100)


def test_an_adapting_norm_needs_enough_clients():
    sent = weights([0.0])
    with pytest.raises(ValueError) as caught:
        one_round(private(z=1.0, quantile=0.5), sent, [sent] * 10)
    assert str(caught.value) == (
        "Invalid value for argument `noise_multiplier`. Expected less than 1, a tenth "
        "of the clients in a round, with `quantile`. Received: noise_multiplier=1"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"delta": 1.0},
            "Invalid value for argument `delta`. Expected a number between 0 and 1. "
            "Received: delta=1.0",
        ),
        (
            {"clipping_norm": 0},
            "Invalid value for argument `clipping_norm`. Expected a finite number "
            "greater than 0. Received: clipping_norm=0",
        ),
        (
            {"accountant": "gdp"},
            "Invalid value for argument `accountant`. Expected 'rdp' or 'pld'. "
            "Received: accountant='gdp'",
        ),
    ],
)
def test_invalid_arguments(settings, message):
    arguments = {"noise_multiplier": 1.0, "clipping_norm": 1.0, "delta": 1e-5}
    with pytest.raises(ValueError) as caught:
        Private(fed_avg(), **arguments | settings)
    assert str(caught.value) == message


def test_a_delta_of_one_client_in_all_is_warned_of():
    sent, strategy = weights([1.0]), Private(fed_avg(), 1.0, 1.0, delta=0.25)
    with pytest.warns(UserWarning, match="delta=0.25 is no less") as caught:
        one_round(strategy, sent, [sent] * 4)
    assert str(caught[0].message) == (
        "delta=0.25 is no less than 1 / number of clients, 0.25: to publish all that "
        "one client has would be private."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_round(Private(fed_avg(), 1.0, 1.0, delta=0.2), sent, [sent] * 4)
