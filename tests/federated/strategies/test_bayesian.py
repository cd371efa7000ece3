import math

import keras
import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
)

import federated
from federated import records
from federated.privacy import Private
from federated.strategies import BayesianAggregation, Personalized, Robust
from federated.strategies.bayesian import pool, power
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import Prior
from tests.federated.replies import grid, reply, sent

EVERYBODY = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
INPUTS, NOISE = 4, 0.5  # variance of the noise: then the mean squared error is −log p
LOC, SCALE = 0.5, 1.5
# Few examples, many, and a wide range of them.
EXAMPLES = [(8, 8), (8, 64, 16), (4, 400)]


def build_model(learning_rate=0.02, prior=None, bias=False):
    layer = BayesianDense(
        1,
        use_bias=bias,
        prior=Prior("Normal", loc=LOC, params={"scale": SCALE})
        if prior is None
        else prior,
        initial_scale=0.3,
        name="head",
    )
    model = keras.Sequential([keras.Input((INPUTS,)), layer])
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


def client_data(rows, rng):
    """A linear regression whose inputs are orthogonal, as a mean field needs."""
    x = np.linalg.qr(rng.normal(size=(rows, INPUTS)))[0] * math.sqrt(rows)
    x *= rng.uniform(0.3, 1.5, INPUTS)
    y = x @ rng.normal(size=(INPUTS, 1)) + math.sqrt(NOISE) * rng.normal(size=(rows, 1))
    return x.astype("float32"), y.astype("float32")


def exact(x, y):
    """Mean and precision matrix of the posterior of the coefficients."""
    x, y = np.float64(x), np.float64(y)
    precision = x.T @ x / NOISE + np.eye(INPUTS) / SCALE**2
    moment = x.T @ y / NOISE + LOC / SCALE**2
    return np.linalg.solve(precision, moment), precision


def exact_replies(model, clients):
    """What clients reply whose posteriors are exact."""
    replies = []
    for number, (x, y) in enumerate(clients):
        mean, precision = exact(x, y)
        log_scale = -0.5 * np.log(np.diag(precision))[:, None]
        values = [mean.astype("float32"), log_scale.astype("float32")]
        arrays = dict(zip(records.weight_keys(model), values, strict=True))
        replies.append(reply(arrays, number, len(x), loss=1.0))
    return replies


def aggregate(strategy, model, replies):
    strategy.bind(model)
    strategy.configure_train(1, sent(model), ConfigRecord(), grid(len(replies)))
    arrays, _ = strategy.aggregate_train(1, replies)
    return records.read_arrays(strategy.final_arrays(arrays))


@pytest.mark.parametrize("rows", EXAMPLES)
@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
def test_exact_posteriors_give_that_of_the_pooled_data(rows, inner):
    rng = np.random.default_rng(0)
    clients = [client_data(n, rng) for n in rows]
    mean, precision = exact(
        *(np.concatenate(parts) for parts in zip(*clients, strict=True))
    )
    model = build_model()
    strategy = BayesianAggregation(inner(**EVERYBODY))
    got = aggregate(strategy, model, exact_replies(model, clients))
    found, log_scale = got.values()
    np.testing.assert_allclose(found, mean, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.exp(-2 * np.float64(log_scale[:, 0])), np.diag(precision), rtol=1e-5
    )
    assert strategy.report() == {"pooled_entries": 0}


def test_numbers_of_examples_are_not_counted_twice():
    rng = np.random.default_rng(0)
    model = build_model()
    replies = exact_replies(model, [client_data(n, rng) for n in (8, 64)])
    strategy = BayesianAggregation(FedAvg(**EVERYBODY))
    first = aggregate(strategy, model, replies)
    for each in replies:
        each.content[records.METRICS][records.NUM_EXAMPLES] = 1
    second = aggregate(strategy, model, replies)
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_one_client_keeps_its_posterior():
    rng = np.random.default_rng(0)
    model = build_model()
    replies = exact_replies(model, [client_data(8, rng)])
    got = aggregate(BayesianAggregation(FedAvg(**EVERYBODY)), model, replies)
    own = records.read_arrays(replies[0].content[records.ARRAYS])
    for key, value in own.items():
        np.testing.assert_allclose(got[key], value, rtol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_clients_that_move_by_a_share_in_each_round_end_at_the_same_product(share):
    rng = np.random.default_rng(0)
    clients = [client_data(n, rng) for n in (8, 64, 16)]
    mean, precision = exact(*(np.concatenate(p) for p in zip(*clients, strict=True)))
    model = build_model()
    strategy = BayesianAggregation(FedAvg(**EVERYBODY))
    strategy.bind(model)
    arrays, keys = sent(model), records.weight_keys(model)
    for number in range(1, 50):
        strategy.configure_train(number, arrays, ConfigRecord(), grid(3))
        start = [a.numpy() for a in arrays.values()]
        wide = np.exp(-2 * np.float64(start[1]))
        replies = []
        for client, (own, own_precision) in enumerate(exact(*c) for c in clients):
            narrow = np.diag(own_precision)[:, None]
            moved = (1 - share) * wide + share * narrow
            moment = (1 - share) * wide * start[0] + share * narrow * own
            values = [moment / moved, -0.5 * np.log(moved)]
            trained = [v.astype("float32") for v in values]
            replies.append(reply(dict(zip(keys, trained, strict=True)), client))
        arrays, _ = strategy.aggregate_train(number, replies)
    found, log_scale = records.read_arrays(strategy.final_arrays(arrays)).values()
    np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)
    variances = np.exp(2 * np.float64(log_scale[:, 0]))
    np.testing.assert_allclose(variances, 1 / np.diag(precision), rtol=1e-4)


def test_clients_that_know_nothing_leave_the_prior():
    loc, scale = np.full(3, LOC), np.full(3, SCALE)
    own = np.repeat(loc[None], 50, axis=0), np.repeat(np.log(scale)[None], 50, axis=0)
    pooled = [np.float32(v) for v in pool(*own)]
    (mean, log_scale), _ = power(*pooled, loc, scale, 50)
    np.testing.assert_allclose(mean, LOC, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_scale), SCALE, rtol=1e-4)


def test_products_are_those_of_densities():
    rng = np.random.default_rng(0)
    means, scales = rng.normal(size=(3, 5)), rng.uniform(0.2, 0.9, (3, 5))
    loc, scale = rng.normal(size=5), np.full(5, 1.0)
    w = np.linspace(-12, 12, 20_001)[:, None]

    def log_density(m, s):
        return -(((w - m) / s) ** 2) / 2 - np.log(s)

    log_product = sum(log_density(m, s) for m, s in zip(means, scales, strict=True))
    log_product -= 2 * log_density(loc, scale)
    share = np.exp(log_product - log_product.max(axis=0))
    share /= share.sum(axis=0)
    mean = (share * w).sum(axis=0)
    variance = (share * (w - mean) ** 2).sum(axis=0)
    got, pooled = power(*pool(means, np.log(scales)), loc, scale, 3)
    np.testing.assert_allclose(got[0], mean, rtol=1e-6)
    np.testing.assert_allclose(np.exp(2 * got[1]), variance, rtol=1e-6)
    assert pooled == 0


def test_posteriors_wider_than_the_prior_are_pooled():
    # The second entry: 2 posteriors of precision 1/4 and a prior of precision 1.
    scales = np.log([[0.5, 2.0], [0.5, 2.0]])
    means = np.array([[1.0, 1.0], [1.0, 5.0]])
    got, pooled = power(*pool(means, scales), np.zeros(2), np.ones(2), 2)
    assert pooled == 1
    np.testing.assert_allclose(got[0], [8 / 7, 3.0])
    np.testing.assert_allclose(np.exp(got[1]), [7**-0.5, 2.0])


def test_pooled_entries_are_reported():
    model = build_model()
    keys = records.weight_keys(model)
    wide = [np.zeros((INPUTS, 1)), np.full((INPUTS, 1), math.log(2 * SCALE))]
    replies = [reply(dict(zip(keys, wide, strict=True)), k) for k in (0, 1)]
    strategy = BayesianAggregation(FedAvg(**EVERYBODY))
    aggregate(strategy, model, replies)
    assert strategy.report() == {"pooled_entries": INPUTS}


@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
def test_other_weights_are_those_of_the_wrapped_strategy(inner):
    model = build_model(bias=True)
    values = [[np.full(w.shape, float(k)) for w in model.weights] for k in (1, 2)]
    keys = records.weight_keys(model)
    replies = [
        reply(dict(zip(keys, v, strict=True)), k, 10 * (k + 1))
        for k, v in enumerate(values)
    ]
    plain = inner(**EVERYBODY)
    plain.configure_train(1, sent(model), ConfigRecord(), grid())
    expected = records.read_arrays(plain.aggregate_train(1, replies)[0])
    got = aggregate(BayesianAggregation(inner(**EVERYBODY)), model, replies)
    same = [key for key in got if np.array_equal(got[key], expected[key])]
    assert [key.split("/")[-1] for key in same] == ["bias"]


def test_short_rounds_come_near_the_posterior_of_the_pooled_data():
    rng = np.random.default_rng(0)
    clients = [client_data(n, rng) for n in (64, 128)]
    mean, precision = exact(*(np.concatenate(p) for p in zip(*clients, strict=True)))
    strategy = Robust(BayesianAggregation(FedAvg(**EVERYBODY)))
    result = federated.simulate(
        build_model, clients, strategy, 25, epochs=20, batch_size=None, verbose=0
    )
    posterior = result.model.get_layer("head").kernel_posterior
    scale = np.diag(precision)[:, None] ** -0.5
    # Adam's last steps of 0.02 by noisy gradients are left. A product that clients go
    # on from would be narrower by 2^(25/2) if they did not move at all.
    assert np.all(np.abs(posterior.mean() - mean) < 3 * scale)
    np.testing.assert_allclose(posterior.stddev(), scale, rtol=0.4)


def test_the_server_divides_the_divergence_by_all_examples():
    rng = np.random.default_rng(0)
    clients = [client_data(n, rng) for n in (8, 24)]
    strategy = BayesianAggregation(FedAvg(**EVERYBODY))
    result = federated.simulate(
        build_model, clients, strategy, 1, evaluate=clients[0], verbose=0
    )
    layer = result.model.get_layer("head")
    assert layer.num_examples == 32
    divergence = float(sum(result.model.losses))
    error = np.mean((clients[0][0] @ np.asarray(layer.kernel) - clients[0][1]) ** 2)
    np.testing.assert_allclose(
        result.history["server_loss"][-1], error + divergence, rtol=1e-5
    )


def test_clients_evaluate_the_product():
    rng = np.random.default_rng(0)
    model = build_model()
    strategy = BayesianAggregation(FedAvg(**EVERYBODY))
    replies = exact_replies(model, [client_data(n, rng) for n in (8, 64)])
    product = aggregate(strategy, model, replies)
    arrays, _ = strategy.aggregate_train(1, replies)
    pooled = records.read_arrays(arrays)
    assert not any(np.array_equal(pooled[key], product[key]) for key in product)
    asked = strategy.configure_evaluate(1, arrays, ConfigRecord(), grid())
    for message in asked:
        got = records.read_arrays(message.content[records.ARRAYS])
        assert all(np.array_equal(got[key], product[key]) for key in product)


@pytest.mark.parametrize(
    "prior",
    [
        Prior("Laplace"),
        Prior("Normal", trainable=True),
        Prior("Normal", hyperprior={"concentration": 1.0, "rate": 1.0}),
    ],
)
def test_priors_that_it_cannot_divide_by_are_refused(prior):
    with pytest.raises(ValueError) as error:
        BayesianAggregation(FedAvg()).bind(build_model(prior=prior))
    assert str(error.value) == (
        "BayesianAggregation divides by the prior, and needs one that is Normal. "
        'Expected Prior("Normal") with fixed parameters. '
        f"Received: prior={prior!r} in the layer 'head'"
    )


def test_a_model_without_posteriors_is_refused():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name="plain")
    with pytest.raises(ValueError) as error:
        BayesianAggregation(FedAvg()).bind(model)
    assert str(error.value) == (
        "BayesianAggregation needs posteriors. Expected a model with Bayesian layers "
        "(see kerasreg.layers.BayesianDense) that are trained. Received: 'plain'"
    )


@pytest.mark.parametrize(
    "strategy",
    [
        DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 2),
        Private(FedAvg(), 1.0, 1.0, delta=1e-3),
    ],
)
def test_noise_for_an_average_is_refused(strategy):
    with pytest.raises(ValueError) as error:
        BayesianAggregation(strategy)
    assert str(error.value) == (
        "Invalid value for argument `strategy`. Expected one that neither adds noise "
        "to the average nor hides single replies: the product is made of each of "
        f"them. Received: {type(strategy).__name__}"
    )


def test_robust_goes_around_it():
    with pytest.raises(ValueError) as error:
        BayesianAggregation(Robust(FedAvg()))
    assert str(error.value) == (
        "Invalid value for argument `strategy`. Expected one without Robust, which "
        "goes around BayesianAggregation: inside, the product would have what it "
        "rejects. Received: Robust"
    )


@pytest.mark.parametrize("outside", [False, True])
def test_posteriors_that_stay_at_the_clients_are_not_multiplied(outside):
    rng = np.random.default_rng(0)
    model = build_model()
    start = records.read_arrays(sent(model))
    if outside:
        strategy = Personalized(BayesianAggregation(FedAvg(**EVERYBODY)), ["head"])
        strategy.bind(model)
    else:
        strategy = BayesianAggregation(Personalized(FedAvg(**EVERYBODY), ["head"]))
    strategy.strategy.bind(model)
    replies = exact_replies(model, [client_data(n, rng) for n in (8, 64)])
    got = aggregate(strategy, model, replies)
    assert all(np.array_equal(got[key], start[key]) for key in start)


def test_a_round_without_replies_has_no_model():
    strategy = BayesianAggregation(FedAvg(**EVERYBODY))
    strategy.bind(build_model())
    assert strategy.aggregate_train(1, []) == (None, None)
