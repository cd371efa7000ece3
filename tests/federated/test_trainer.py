"""What a client does with the weights it is sent."""

import keras
import numpy as np
import pytest

from federated.clients import Clients
from federated.task import Task
from federated.trainer import Trainer
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import L1, L2
from tests.federated.models import build_linear, linear_data, split


def trainer_of(build_model, clients, **settings):
    """A trainer of a list of clients, and the weights that a server would send."""
    trainer = Trainer(Task(build_model, Clients.from_list(clients), **settings))
    sent = dict(zip(trainer.keys, trainer.model.get_weights(), strict=True))
    return trainer, sent


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Counting(keras.Sequential):
    calls = 0

    def train_step(self, data):
        type(self).calls += 1
        return super().train_step(data)

    def test_step(self, data):
        type(self).calls += 1
        return super().test_step(data)


def test_one_trace_serves_clients_of_all_sizes():
    class Model(Counting):
        pass

    def build_model():
        model = Model([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"])
        return model

    clients = [linear_data(rows) for rows in (5, 33, 64, 100, 1)]
    trainer, sent = trainer_of(build_model, clients)
    trainer.train(sent, 0, 1)
    trainer.evaluate(sent, 0, 1)
    calls = Model.calls
    for client in range(5):
        trainer.train(sent, client, 1)
        trainer.evaluate(sent, client, 1)
    assert calls == 4  # one to make the variables and one to trace, of each kind
    assert Model.calls == calls


def test_the_last_batch_may_be_smaller():
    x, y = np.ones((10, 3), "float32"), np.ones((10, 1), "float32")  # in any order
    trainer, sent = trainer_of(build_linear(), [(x, y)], batch_size=4)
    weights, total, _ = trainer.train(sent, 0, 1)
    model = build_linear()()
    model.set_weights(list(sent.values()))
    model.fit(x, y, batch_size=4, verbose=0)
    assert total == 10
    for mine, theirs in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def schedule():
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    return keras.optimizers.SGD(rate, momentum=0.9)


def averaging():
    return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, schedule, averaging])
def test_every_client_begins_with_a_fresh_optimizer(optimizer):
    x, y = np.ones((10, 3), "float32"), np.ones((10, 1), "float32")

    def build_model():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer(), "mse")
        return model

    trainer, sent = trainer_of(build_model, [(x, y)] * 2, batch_size=2)
    first, *_ = trainer.train(sent, 0, 1)
    second, *_ = trainer.train(sent, 1, 7)
    assert same(first, second)
    model = build_model()
    model.set_weights(list(sent.values()))
    model.fit(x, y, batch_size=2, verbose=0)
    for mine, theirs in zip(first, model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dropout", "drop_connect", "bayesian"])
def test_random_layers_draw_by_seed_round_and_client(kind):
    from kerasreg.layers import DropConnectDense

    layers = {
        "dropout": lambda: [keras.layers.Dense(8), keras.layers.Dropout(0.5)],
        "drop_connect": lambda: [DropConnectDense(8, 0.5)],
        "bayesian": lambda: [BayesianDense(8, num_examples=10)],
    }[kind]

    def build_model():
        model = keras.Sequential([keras.Input((3,)), *layers(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    trainer, sent = trainer_of(build_model, [linear_data(16)] * 2, batch_size=None)
    first, *_ = trainer.train(sent, 0, 1)
    other_client, *_ = trainer.train(sent, 1, 1)
    other_round, *_ = trainer.train(sent, 0, 2)
    again, *_ = trainer.train(sent, 0, 1)
    assert same(first, again)
    assert not same(first, other_client)
    assert not same(first, other_round)
    other_seed, _ = trainer_of(
        build_model, [linear_data(16)] * 2, batch_size=None, seed=1
    )
    assert not same(first, other_seed.train(sent, 0, 1)[0])


def test_the_divergence_counts_once_over_a_clients_examples():
    def build_model():
        layer = BayesianDense(1, num_examples=1)
        model = keras.Sequential([keras.Input((3,)), layer])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    clients = [linear_data(rows) for rows in (10, 40)]
    trainer, sent = trainer_of(build_model, clients, batch_size=5)
    divergences = []
    for client, rows in enumerate((10, 40)):
        _, total, logs = trainer.train(sent, client, 1)
        assert total == rows
        divergences.append((logs["loss"] - logs["data_loss"]) * rows)
    assert divergences[0] == pytest.approx(divergences[1], rel=1e-4)
    assert divergences[0] > 1


def test_strengths_that_are_sent_hold_for_one_message():
    def build_model():
        layers = [
            keras.layers.Dense(2, kernel_regularizer=L1(0.1)),
            keras.layers.Dense(1, kernel_regularizer=L2(0.2)),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    trainer, sent = trainer_of(build_model, [linear_data()])
    first, _, second, _ = map(np.asarray, sent.values())

    def penalty(**settings):
        logs = trainer.train(sent, 0, 1, **settings)[-1]
        return logs["loss"] - logs["data_loss"]

    sums = np.abs(first).sum(), np.square(second).sum()
    own = 0.1 * sums[0] + 0.2 * sums[1]
    assert penalty() == pytest.approx(own, rel=1e-4)
    changed = penalty(strengths={trainer.keys[0]: 3.0})
    assert changed == pytest.approx(3.0 * sums[0] + 0.2 * sums[1], rel=1e-4)
    assert penalty() == pytest.approx(own, rel=1e-4)
    with pytest.raises(ValueError) as error:
        penalty(strengths={trainer.keys[1]: 3.0})
    assert str(error.value) == (
        "Received a strength for sequential/dense/bias, which has no penalty."
    )


def test_the_pull_of_fedprox_is_not_in_the_loss_of_evaluation():
    trainer, sent = trainer_of(build_linear(), [linear_data()])
    before = trainer.evaluate(sent, 0, 1)
    trainer.train(sent, 0, 1, mu=5.0)
    moved = {key: value + 1 for key, value in sent.items()}
    trainer.train(moved, 0, 1, mu=5.0)
    assert trainer.evaluate(sent, 0, 1) == before


def test_weights_that_do_not_fit_are_refused():
    trainer, sent = trainer_of(build_linear(), [linear_data()])
    with pytest.raises(ValueError) as error:
        trainer.train({trainer.keys[0]: sent[trainer.keys[0]]}, 0, 1)
    assert str(error.value) == "Received 1 arrays for 2 weights."
    with pytest.raises(ValueError) as error:
        trainer.train({**sent, trainer.keys[1]: np.zeros(2)}, 0, 1)
    assert str(error.value) == (
        "Received an array of shape (2,) for the weight sequential/dense/bias of "
        "shape (1,)."
    )


def test_held_out_examples_are_not_trained_on():
    x = np.eye(10, dtype="float32")
    y = np.ones((10, 1), "float32")
    trainer, sent = trainer_of(build_linear(inputs=10), [(x, y)], validation_split=0.3)
    weights, total, _ = trainer.train(sent, 0, 1)
    moved = ~np.equal(weights[0], sent[trainer.keys[0]]).ravel()
    evaluated, logs = trainer.evaluate(sent, 0, 1)
    assert (total, evaluated, moved.sum()) == (7, 3, 7)
    kernel, bias = sent.values()
    losses = (x @ kernel + bias - y) ** 2
    assert logs["loss"] == pytest.approx(losses[~moved].mean(), rel=1e-5)


def test_clients_of_one_task_do_not_share_penalties_by_accident():
    shared = L2(0.1)

    def build_model():
        layers = [keras.layers.Dense(2, kernel_regularizer=shared) for _ in range(2)]
        model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    trainer, sent = trainer_of(build_model, split(linear_data(), 2))
    logs = trainer.train(sent, 0, 1, strengths={trainer.keys[0]: 1.0})[-1]
    first, _, second, *_ = sent.values()
    penalty = np.square(first).sum() + 0.1 * np.square(second).sum()
    assert logs["loss"] - logs["data_loss"] == pytest.approx(penalty, rel=1e-4)


def test_metrics_are_those_of_the_client_alone():
    def build_model():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        metrics = ["mae", keras.metrics.RootMeanSquaredError(name="rmse")]
        model.compile(keras.optimizers.SGD(0.0), "mse", metrics=metrics)
        return model

    trainer, sent = trainer_of(build_model, [linear_data(40, seed=s) for s in (0, 1)])
    kernel, bias = sent.values()
    for client in (0, 1, 0):
        x, y = linear_data(40, seed=client)
        errors = x @ kernel + bias - y
        expected = {
            "loss": np.mean(errors**2),
            "data_loss": np.mean(errors**2),
            "mae": np.mean(np.abs(errors)),
            "rmse": np.sqrt(np.mean(errors**2)),
        }
        assert trainer.train(sent, client, 1)[-1] == pytest.approx(expected, rel=1e-4)
        assert trainer.evaluate(sent, client, 1)[-1] == pytest.approx(
            expected, rel=1e-4
        )


def test_what_was_asked_before_does_not_show():
    def build_model():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        return model

    trainer, sent = trainer_of(build_model, [linear_data()])
    fresh, _ = trainer_of(build_model, [linear_data()])
    plain, *_ = trainer.train(sent, 0, 1)
    pulled, *_ = trainer.train(sent, 0, 1, mu=0.5)
    assert same(pulled, fresh.train(sent, 0, 1, mu=0.5)[0])
    assert not same(pulled, plain)
    assert same(trainer.train(sent, 0, 1)[0], plain)


def test_the_divergence_in_evaluation_is_that_of_the_training():
    def build_model():
        layer = BayesianDense(1, num_examples=1)
        model = keras.Sequential([keras.Input((3,)), layer])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    trainer, sent = trainer_of(build_model, [linear_data(50)], validation_split=0.2)
    *_, logs = trainer.train(sent, 0, 1)
    _, held_out = trainer.evaluate(sent, 0, 1)
    divergence = logs["loss"] - logs["data_loss"]
    assert divergence * 40 > 1
    assert held_out["loss"] - held_out["data_loss"] == pytest.approx(
        divergence, rel=1e-4
    )
