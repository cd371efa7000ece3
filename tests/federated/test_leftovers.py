"""Nothing that a model keeps beside its weights goes from a client to the next."""

import keras
import numpy as np
import pytest

from federated.clients import Clients
from federated.task import Task
from federated.trainer import Trainer
from tests.federated.models import linear_data


class TwoOptimizers(keras.Model):
    """Its weights move by an optimizer that it is not compiled with."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.second[0].apply(gradients, self.trainable_variables)
        return {"loss": loss}


def two_optimizers(built, kind=keras.optimizers.Adam):
    def build_model():
        inputs = keras.Input((3,))
        model = TwoOptimizers(inputs, keras.layers.Dense(1)(inputs))
        model.compile(keras.optimizers.SGD(0.05), "mse")
        model.second = [kind(0.05)]
        if built:
            model.second[0].build(model.trainable_variables)
        return model

    x, y = linear_data(64)
    return build_model, [(x[:32], 100 * y[:32]), (x[32:], y[32:])]


def stateful():
    def build_model():
        recurrent = keras.layers.LSTM(2, stateful=True)
        layers = [keras.Input((3, 4), batch_size=8), recurrent, keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.05), "mse")
        return model

    x = np.random.default_rng(0).normal(size=(32, 3, 4)).astype("float32")
    return build_model, [(10 * x[:16], x[:16, 0, :1]), (x[16:], x[16:, 0, :1])]


@pytest.mark.parametrize(
    "made",
    [
        lambda: two_optimizers(built=True),
        lambda: two_optimizers(built=False),
        lambda: two_optimizers(built=False, kind=keras.optimizers.Adagrad),
        stateful,
    ],
    ids=["built", "unbuilt", "accumulators that begin above zero", "stateful"],
)
def test_a_client_finds_what_it_would_find_alone(made):
    build_model, clients = made()

    def last(order, evaluating):
        trainer = Trainer(
            Task(build_model, Clients.from_list(clients), batch_size=8, epochs=2)
        )
        sent = dict(zip(trainer.keys, trainer.model.get_weights(), strict=True))
        if evaluating:
            trainer.evaluate(sent, 0, 1)
        for client in order:
            weights, *_ = trainer.train(sent, client, 1)
        return weights

    alone = last([1], False)
    for order in ([0, 1], [0, 0, 1]):
        for a, b in zip(alone, last(order, len(order) == 3), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_first_client_finds_what_fit_begins_with():
    build_model, _ = two_optimizers(built=False)
    data = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    trainer = Trainer(Task(build_model, Clients.from_list([data])))
    sent = dict(zip(trainer.keys, trainer.model.get_weights(), strict=True))
    weights, *_ = trainer.train(sent, 0, 1)
    model = build_model()
    model.set_weights(list(sent.values()))
    model.fit(*data, batch_size=8, verbose=0)
    for mine, theirs in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
