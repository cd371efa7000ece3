"""Moving variances, counters and frozen layers under strategies that step or add."""

import keras
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as flower

import federated
from federated import records
from federated.arrays import means, nonnegative, unflat
from federated.privacy import LocallyPrivate, SecureAggregation, secure_mod
from federated.strategies import BayesianAggregation, ServerProximal
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import L1
from tests.federated.models import build_linear, linear_data, split
from tests.federated.replies import grid, reply, sent
from tests.federated.strategies.problems import averaging
from tests.federated.test_accounting import MOD
from tests.federated.test_privacy import one_round, private


@pytest.mark.parametrize(
    "strategy",
    [
        averaging(flower.FedAdam),
        averaging(flower.FedAvgM, server_momentum=0.9),
        ServerProximal(averaging(), server_learning_rate=2.0),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_moving_variances_stay_variances_under_steps_of_the_server(strategy):
    def build_model():
        layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.SGD(0.05), "mse")
        return model

    x, y = linear_data()
    clients = split((0.02 * x, y), 2)
    result = federated.simulate(
        build_model, clients, strategy, 12, L1(0.01), evaluate=clients[0], verbose=0
    )
    assert result.model.layers[0].moving_variance.numpy().min() >= 0
    assert np.isfinite(result.history["server_loss"]).all()


def test_only_variances_of_normalization_layers_are_kept_from_below_zero():
    names = ["norm/moving_variance", "scale/variance", "head/log_variance", "v/kernel"]
    keys = [f"{i:03d}/net/{name}" for i, name in enumerate(names)]
    arrays = records.write_arrays(keys, [np.array([-1.0, 2.0], "float32")] * 4)
    got = records.read_arrays(nonnegative(arrays))
    lowest = [float(got[key].min()) for key in keys]
    assert lowest == [0.0, 0.0, -1.0, -1.0]
    assert {a.dtype.name for a in got.values()} == {"float32"}
    assert list(got) == keys


def test_the_variance_of_a_normalization_layer_is_one_under_privacy():
    key = "001/net/normalization/variance"
    start = {key: np.zeros(1000, "float32")}
    got, _ = one_round(private(z=1.0, seed=0), start, [start])
    assert got[key].min() == 0 < got[key].max()
    layer = keras.layers.Normalization(name="norm")
    layer.adapt(np.ones((4, 2)))
    model = keras.Sequential([keras.Input((2,)), layer], name="net")
    with pytest.raises(ValueError) as caught:
        LocallyPrivate(averaging(), MOD, delta=1e-3).bind(model)
    assert "norm/variance'" in str(caught.value)


def test_integers_of_a_vector_are_rounded_and_booleans_the_majority():
    like = {
        "000/n": np.array([1, -1], "int32"),
        "001/f": np.array([True, True]),
        "002/s": np.array(3),
    }
    got = unflat(np.array([1.9, -1.9, 0.2, 0.8, 3.99]), like)
    assert [a.numpy().tolist() for a in got.values()] == [[2, -2], [False, True], 4]
    assert got["000/n"].dtype == "int32"


class Count(keras.layers.Layer):
    """Counts its batches."""

    def build(self, shape):
        self.count = self.add_weight(
            shape=(2,), dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, x, training=False):
        if training:
            self.count.assign_add(keras.ops.ones((2,), "int32"))
        return x


@pytest.mark.parametrize("most", [None, 60])
def test_counters_are_not_cut_off_by_secure_aggregation(most):
    def build_model():
        model = keras.Sequential([keras.Input((3,)), Count(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        return model

    x, y = linear_data(90)
    clients = split((x, y), 3)  # each counts three batches a round
    strategy = SecureAggregation(averaging(), most)
    result = federated.simulate(
        build_model, clients, strategy, 3, batch_size=10, mods=[secure_mod], verbose=0
    )
    assert result.model.layers[0].count.numpy().tolist() == [9, 9]


def test_metrics_are_averaged_by_the_weights_of_the_arrays():
    rows = [{"loss": 1.0, "acc": 0.0}, {"loss": 4.0}]
    assert means(rows) == {"acc": 0.0, "loss": 2.5}
    assert means(rows, [2, 1]) == {"acc": 0.0, "loss": 2.0}


@pytest.mark.parametrize("most", [None, 60])
def test_the_map_s_step_is_weighted_as_the_weights_are(most):
    x, y = linear_data(60)
    clients = [(x[a:b], y[a:b]) for a, b in ((0, 5), (5, 15), (15, 60))]
    batches = np.array([1, 2, 9])
    examples = np.array([5, 10, 45]) if most else np.ones(3)
    result = federated.simulate(
        build_linear(),
        clients,
        ServerProximal(SecureAggregation(averaging(), most)),
        1,
        L1(0.1),
        batch_size=5,
        mods=[secure_mod],
        verbose=0,
    )
    expected = 0.1 * np.average(batches, weights=examples)
    np.testing.assert_allclose(result.history["proximal_step"], expected, rtol=1e-6)


def test_a_frozen_posterior_is_not_multiplied():
    def build_model():
        layers = [BayesianDense(2, name="frozen"), BayesianDense(1, name="head")]
        model = keras.Sequential([keras.Input((3,)), *layers])
        layers[0].trainable = False
        model.compile(keras.optimizers.Adam(0.05), "mse")
        return model

    model = build_model()
    strategy = BayesianAggregation(averaging())
    strategy.bind(model)
    strategy.configure_train(1, sent(model), ConfigRecord(), grid(3))
    start = records.read_arrays(sent(model))
    arrays, _ = strategy.aggregate_train(1, [reply(start, k) for k in range(3)])
    final = records.read_arrays(strategy.final_arrays(arrays))
    for key, weight in zip(start, model.weights, strict=True):
        if "frozen" in weight.path:
            np.testing.assert_allclose(final[key], start[key], rtol=1e-6)
    heads = [k for k in start if "head" in k and k.endswith("log_scale")]
    assert all((final[k] != start[k]).all() for k in heads)
    assert heads
    model.trainable = False
    with pytest.raises(ValueError) as caught:
        strategy.bind(model)
    assert str(caught.value) == (
        "BayesianAggregation needs posteriors. Expected a model with Bayesian layers "
        "(see kerasreg.layers.BayesianDense) that are trained. Received: "
        f"{model.name!r}"
    )


def test_arrays_without_negative_variances_are_left_as_they_are():
    arrays = ArrayRecord({})
    assert nonnegative(arrays) is arrays
