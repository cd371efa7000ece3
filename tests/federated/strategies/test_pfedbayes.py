import keras
import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg

import federated
from federated import records
from federated.strategies import PFedBayes
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import Prior
from tests.federated.replies import as_arrays, grid, reply, sent

EVERYBODY = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


def a_prior(shape):
    params = {"loc": np.zeros(shape), "scale": np.ones(shape)}
    return Prior("Normal", params=params, trainable=True)


def build_model(zeta=1.0, inputs=2):
    layer = BayesianDense(
        1,
        use_bias=False,
        prior=a_prior((inputs, 1)),
        kl_strength=zeta,
        initial_scale=0.1,
        estimator="local_reparameterization",
        name="head",
    )
    model = keras.Sequential([keras.Input((inputs,)), layer])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    return model


def posterior(model):
    layer = model.get_layer("head")
    return [
        np.asarray(v) for v in (layer.kernel, layer._posteriors["kernel"].log_scale)
    ]


def opposites(rows=100):
    """Clients whose coefficients of the second input have opposite signs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, rows, 2)).astype("float32")
    coefficients = np.array([[[2.0], [1.0]], [[2.0], [-1.0]]], "float32")
    return list(zip(x, x @ coefficients, strict=True))


def run(zeta, rounds=20):
    return federated.simulate(
        lambda: build_model(zeta),
        opposites(),
        PFedBayes(FedAvg(**EVERYBODY)),
        rounds,
        batch_size=None,
        epochs=20,
        verbose=0,
    )


def test_the_global_distribution_starts_at_the_posterior():
    model = build_model()
    strategy = PFedBayes(FedAvg(**EVERYBODY))
    strategy.bind(model)
    messages = strategy.configure_train(1, sent(model), ConfigRecord(), grid())
    mean, log_scale, loc, scale = as_arrays(messages[0].content[records.ARRAYS])
    assert np.array_equal(mean, posterior(model)[0])
    assert np.array_equal(mean, loc)
    np.testing.assert_allclose(np.exp([log_scale, scale]), 0.1, rtol=1e-6)


def test_a_newcomer_starts_from_the_global_distribution():
    model = build_model()
    strategy = PFedBayes(FedAvg(**EVERYBODY))
    strategy.bind(model)
    strategy.configure_train(1, sent(model), ConfigRecord(), grid())
    trained = [np.full((2, 1), value, "float32") for value in (9.0, 9.0, 3.0, -4.0)]
    replies = [reply(dict(zip(records.weight_keys(model), trained, strict=True)))]
    arrays, _ = strategy.aggregate_train(1, replies)
    for configure in (strategy.configure_train, strategy.configure_evaluate):
        config = ConfigRecord()
        (message, *_) = configure(2, arrays, config, grid())
        got = [a.flat[0] for a in as_arrays(message.content[records.ARRAYS])]
        assert got == [3.0, -4.0, 3.0, -4.0]
        own = [key.split("/")[-1] for key in config[records.PERSONAL]]
        assert own == ["kernel", "kernel_log_scale"]


def test_posteriors_are_the_clients_own_as_far_as_the_divergence_lets_them():
    apart = {}
    for zeta in (0.1, 100.0):
        result = run(zeta)
        means = [posterior(result.personal_model(k))[0].ravel() for k in (0, 1)]
        apart[zeta] = abs(means[0][1] - means[1][1])
        if zeta < 1:
            np.testing.assert_allclose(means, [[2.0, 1.0], [2.0, -1.0]], atol=0.1)
            shared = posterior(result.model)[0].ravel()
            assert abs(shared[0] - 2.0) < 0.1
            assert abs(shared[1]) < 0.7
    assert apart[100.0] < apart[0.1] * 0.6


def test_the_divergence_is_that_of_two_normals():
    model = build_model()
    layer = model.get_layer("head")
    layer.num_examples = 50
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(2, 1)) for _ in range(4)]
    model.set_weights(values)
    mean, log_scale, loc, log_wide = values
    # By draws of q: the mean of log q − log w. Five standard errors: with other seeds
    # the test would fail once in two million times.
    w = mean + np.exp(log_scale) * rng.normal(size=(400_000, 2, 1))
    logs = [
        -(((w - m) / np.exp(s)) ** 2) / 2 - s
        for m, s in ((mean, log_scale), (loc, log_wide))
    ]
    ratios = (logs[0] - logs[1]).sum(axis=(1, 2))
    error = 5 * ratios.std() / np.sqrt(len(ratios))
    assert abs(float(sum(model.losses)) * 50 - ratios.mean()) < error


@pytest.mark.parametrize(
    ("prior", "shapes"),
    [
        (None, "{}"),
        (Prior("Normal", trainable=True), "{'loc': (), 'scale': ()}"),
        (
            Prior("Laplace", params={"loc": [[0.0]], "scale": [[1.0]]}, trainable=True),
            "{'loc': (1, 1), 'scale': (1, 1)}",
        ),
    ],
)
def test_other_priors_are_refused(prior, shapes):
    layer = BayesianDense(1, prior=prior, name="head")
    model = keras.Sequential([keras.Input((1,)), layer])
    with pytest.raises(ValueError) as error:
        PFedBayes(FedAvg()).bind(model)
    assert str(error.value) == (
        "PFedBayes needs priors that can be the global distribution. Expected "
        'Prior("Normal", params={"loc": ..., "scale": ...}, trainable=True) with '
        "arrays of the weight's shape (1, 1), in the layer 'head'. Received: trainable "
        f"parameters of the shapes {shapes}"
    )


def test_a_model_without_posteriors_is_refused():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name="plain")
    with pytest.raises(ValueError) as error:
        PFedBayes(FedAvg()).bind(model)
    assert str(error.value) == (
        "PFedBayes needs posteriors. Expected a model with Bayesian layers "
        "(see kerasreg.layers.BayesianDense). Received: 'plain'"
    )
