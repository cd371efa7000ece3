"""One compiled Keras model of a process that plays any client, traced once."""

import functools
import math

import keras
import numpy as np

from federated.optimizers import local_optimizer
from federated.records import TAKEN, place, weight_keys
from federated.seeds import generator
from kerasreg.callbacks.data_loss import DataLoss
from kerasreg.layers import set_num_examples
from kerasreg.regularizers import Anchored, Penalty, as_penalty


class Trainer:
    """Trains and evaluates clients, one after the other, with one model.

    A whole local epoch is one traced function; a client costs an assignment of the
    weights, never a new model. Whatever a client left behind (optimizer, random seeds,
    metrics) is set back before the next one.

    Args:
        task: A `federated.task.Task`.
    """

    def __init__(self, task):
        self.task = task
        self.model = task.model()
        self.keys = weight_keys(self.model)
        self._seeds = [
            v for v in self.model.variables if v.path.endswith("seed_generator_state")
        ]
        self._anchored: list[Anchored] = []
        self._loss = DataLoss.of(self.model)
        self._built = False
        self._train = self._test = None
        self._own, self._optimizer = self.model.optimizer, None

    def train(
        self,
        arrays,
        client,
        server_round,
        *,
        mu=0.0,
        strengths=None,
        epochs=None,
        optimizer=None,
        before=0.0,
    ):
        """Train from the server's weights on a client's examples.

        Args:
            arrays: Dict from the keys of the server to weights.
            client: Number of the client.
            server_round: Number of the round.
            mu: Strength of the pull towards the server's weights (FedProx).
            strengths: Dict from the key of a weight to the strength of its penalty.
            epochs: Epochs, instead of the task's.
            optimizer: Name in `federated.optimizers.OPTIMIZERS`, instead of the
                model's own optimizer.
            before: The sum of that optimizer's steps in the rounds before.

        Returns:
            The list of new weights, the number of examples, and a dict of metrics.
        """
        self._use(optimizer)
        data, _ = self.task.data(client)
        total = len(keras.tree.flatten(data)[0])
        self._begin(arrays, data, total, mu, strengths, (server_round, client, 0))
        if optimizer is not None:
            self.model.optimizer.begin(before)
        rng = generator(self.task.seed, server_round, client)
        epochs = self.task.epochs if epochs is None else epochs
        order = np.concatenate([rng.permutation(total) for _ in range(epochs)])
        self._run(
            True, data, order.reshape(epochs, total), self.task.batch_size or total
        )
        logs = self._logs(training=True)
        if optimizer is None:
            weights = [np.asarray(w) for w in self.model.get_weights()]
            return weights, total, logs
        logs[TAKEN] = float(self.model.optimizer.taken)
        return self.model.optimizer.sent(self.model.weights), total, logs

    def evaluate(self, arrays, client, server_round, *, strengths=None):
        """Evaluate weights on what a client holds out, or else on all it has.

        Args:
            arrays: Dict from the keys of the server to weights.
            client: Number of the client.
            server_round: Number of the round.
            strengths: Dict from the key of a weight to the strength of its penalty.

        Returns:
            The number of examples, and a dict of metrics.
        """
        training, held_out = self.task.data(client)
        data = training if held_out is None else held_out
        total = len(keras.tree.flatten(data)[0])
        self._begin(arrays, data, total, 0.0, strengths, (server_round, client, 1))
        self._run(
            False, data, np.arange(total)[None], max(self.task.batch_size or 0, 256)
        )
        return total, self._logs(training=False)

    def _begin(self, arrays, data, total, mu, strengths, at):
        """Set everything to what it is at the start of a client."""
        self._build(data)
        self.model.set_weights(self._placed(arrays))
        self._pull(mu)
        for key, strength in (strengths or {}).items():
            self.model.weights[place(key)].regularizer.strength = strength
        for variable, value in self._initial:
            variable.assign(value)
        rng = generator(self.task.seed, *at)
        for state in self._seeds:
            state.assign(rng.integers(2**31, size=state.shape))
        if self._bayesian:
            set_num_examples(self.model, total)
        self.model.reset_metrics()
        if self._loss:
            self._loss.reset(True)
            self._loss.reset(False)

    def _use(self, optimizer):
        """Train by the optimizer of this name, or by the model's own for `None`."""
        if optimizer == self._optimizer:
            return
        self.model.optimizer = (
            self._own if optimizer is None else local_optimizer(self._own, optimizer)
        )
        self._optimizer = optimizer
        self._built, self._train = False, None

    def _placed(self, arrays):
        """The server's arrays in the order of the model's weights, checked."""
        weights = self.model.weights
        by_place = {place(key): array for key, array in arrays.items()}
        if sorted(by_place) != list(range(len(weights))):
            raise ValueError(
                f"Received {len(by_place)} arrays for {len(weights)} weights."
            )
        placed = [by_place[i] for i in range(len(weights))]
        for weight, array in zip(weights, placed, strict=True):
            if tuple(weight.shape) != array.shape:
                raise ValueError(
                    f"Received an array of shape {array.shape} for the weight "
                    f"{weight.path} of shape {tuple(weight.shape)}."
                )
        return placed

    def _pull(self, mu):
        """Anchor all weights to their present values, FedProx's client term."""
        if mu and not self._anchored:
            for weight in self.model.trainable_weights:
                inner = as_penalty(weight.regularizer)
                weight.regularizer = Anchored(inner, mu, anchor=weight)
                self._anchored.append(weight)
            self._train = None  # to be traced with it
        for weight in self._anchored:
            weight.regularizer.mu = mu
            weight.regularizer.anchor(weight)

    def _build(self, data):
        """Make the variables of optimizer and metrics, by a step that is undone."""
        if self._built:
            return
        model = self.model
        model.optimizer.build(model.trainable_variables)
        self._initial = [(v, v.numpy()) for v in model.optimizer.variables]
        strengths = [
            (w.regularizer, w.regularizer.strength)
            for w in model.weights
            if isinstance(w.regularizer, Penalty)
        ]
        model.train_step(keras.tree.map_structure(lambda a: _tensor(a[:1]), data))
        for penalty, strength in strengths:
            penalty.strength = strength
        self._bayesian = any(
            hasattr(layer, "num_examples") for layer in model._flatten_layers()
        )
        self._built = True

    def _run(self, training, data, order, batch_size):
        import tensorflow as tf  # tensorflow: one traced loop over the batches

        if self._train is None:
            self._train = self._traced(tf, self.model.train_step)
        if self._test is None:
            self._test = self._traced(tf, self.model.test_step)
        run = self._train if training else self._test
        run(
            keras.tree.map_structure(tf.constant, data),
            tf.constant(order, "int64"),
            tf.constant(batch_size, "int64"),
        )

    def _traced(self, tf, step):
        if self.model.jit_compile:
            step = tf.function(step, jit_compile=True, reduce_retracing=True)

        def run(data, order, batch_size):
            total = tf.shape(order, "int64")[1]
            for epoch in tf.range(tf.shape(order, "int64")[0]):
                for start in tf.range(tf.zeros_like(total), total, batch_size):
                    rows = order[epoch, start : start + batch_size]
                    take = functools.partial(tf.gather, indices=rows)
                    step(keras.tree.map_structure(take, data))

        return tf.function(run, reduce_retracing=True)

    def _logs(self, training):
        logs = {k: float(v) for k, v in self.model.get_metrics_result().items()}
        data_loss = self._loss and self._loss.read(training)
        if data_loss is not None:
            logs["data_loss"] = data_loss
        return {k: v for k, v in logs.items() if not math.isnan(v) or k == "loss"}


def _tensor(array):
    return keras.ops.convert_to_tensor(array)
