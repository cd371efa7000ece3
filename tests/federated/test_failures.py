"""What is left of a run that fails, or is told to end, in mid-round."""

import functools

import keras
import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

import federated
from federated.rounds import StopFederation
from federated.strategies import AdaptiveStrength, FederatedDualAveraging, Wrapper
from kerasreg.callbacks import Scheduled
from kerasreg.regularizers import L1
from tests.federated.models import build_linear, linear_data, split

ALL = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


class Failing(Wrapper):
    """Raises in a round, at one of its four places."""

    def __init__(self, strategy, where, error, failing_round=3):
        super().__init__(strategy)
        self.where, self.error, self.failing_round = where, error, failing_round

    def _at(self, where, server_round):
        if where == self.where and server_round == self.failing_round:
            raise self.error

    def configure_evaluate(self, server_round, arrays, config, grid):
        self._at("configure_evaluate", server_round)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays = super().aggregate_train(server_round, replies)
        self._at("aggregate_train", server_round)
        return arrays

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        self._at("aggregate_evaluate", server_round)
        return metrics


def strategy(*failing):
    inner = FederatedDualAveraging(FedAvg(**ALL))
    policy = Scheduled(lambda epoch: 0.1 * 0.5**epoch)
    whole = AdaptiveStrength(inner, policy)
    return Failing(whole, *failing) if failing else whole


def run(strategy, rounds=4, **settings):
    data = split(linear_data(), 3)
    settings = {"validation_split": 0.2, **settings}
    return federated.simulate(
        build_linear(), data, strategy, rounds, L1(0.1), verbose=0, **settings
    )


@functools.cache
def two_rounds():
    return run(strategy(), 2)


def check_of_two_rounds(result):
    expected = two_rounds()
    assert len(result.history) == 2
    assert result.strengths == expected.strengths
    weights = result.model.get_weights(), expected.model.get_weights()
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "where", ["aggregate_train", "configure_evaluate", "aggregate_evaluate"]
)
def test_the_result_is_that_of_the_last_whole_round(where):
    error = federated.RoundError("enough")
    with pytest.raises(federated.RoundError) as raised:
        run(strategy(where, error))
    check_of_two_rounds(raised.value.result)
    check_of_two_rounds(run(strategy(where, StopFederation("enough"))))


def test_errors_of_other_kinds_have_a_result_too():
    with pytest.raises(TypeError, match="no such sum") as raised:
        run(strategy("aggregate_train", TypeError("no such sum")))
    check_of_two_rounds(raised.value.result)
    left = [1, 1, 1]

    def evaluate(model):
        left.pop()  # raises in the third round, after round 0
        return {}

    with pytest.raises(IndexError) as raised:
        run(strategy(), evaluate=evaluate)
    check_of_two_rounds(raised.value.result)


def test_an_evaluation_that_tries_other_strengths_does_not_change_training():
    def evaluate(model):
        for weight in model.weights:
            if weight.regularizer is not None:
                weight.regularizer.strength = 0.0
        return {}

    plain, tried = run(strategy()), run(strategy(), evaluate=evaluate)
    assert tried.strengths == plain.strengths
    for a, b in zip(plain.model.get_weights(), tried.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Scalars(keras.layers.Layer):
    """Counts batches in a scalar, and knows by a boolean whether there were any."""

    def build(self, shape):
        for name, dtype in (("count", "int64"), ("used", "bool")):
            weight = self.add_weight(
                shape=(), dtype=dtype, initializer="zeros", trainable=False, name=name
            )
            setattr(self, name, weight)

    def call(self, x, training=False):
        if training:
            self.count.assign_add(1)
            self.used.assign(self.count < 3)
        return x


def test_weights_that_are_no_floats_survive_aggregation():
    def build_model():
        normalization = keras.layers.Normalization()
        normalization.adapt(linear_data()[0])
        layers = [normalization, Scalars(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        return model

    x, y = linear_data(80)
    clients = [(x[:10], y[:10]), (x[10:40], y[10:40]), (x[40:70], y[40:70])]
    result = federated.simulate(
        build_model, clients, rounds=1, batch_size=10, verbose=0
    )
    layer = result.model.layers[1]
    # 1, 3 and 3 batches, weighed by 10, 30 and 30 examples: 19/7 and 1/7
    assert (int(layer.count.numpy()), bool(layer.used.numpy())) == (3, False)
    assert result.model.layers[0].variance.numpy().min() > 0
