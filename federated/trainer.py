"""One compiled Keras model of a process that plays any client, traced once."""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from federated.leftovers import Leftovers
from federated.optimizers import local_optimizer
from federated.records import TAKEN, place, weight_keys
from federated.seeds import generator
from kerasreg.callbacks.data_loss import DataLoss
from kerasreg.callbacks.meter import SAMPLES, Meter
from kerasreg.layers import set_num_examples
from kerasreg.regularizers import Anchored, Penalty, as_penalty
from kerasreg.regularizers.attach import separate


class Trainer:
    """Trains and evaluates clients, one after the other, with one model.

    A client costs two calls of traced functions and never a new model: the first sets
    back whatever the client before left behind (weights, optimizer, random seeds,
    metrics), the second runs all local epochs.

    Args:
        task: A `federated.task.Task`.
    """

    def __init__(self, task):
        self.task = task
        self.model = task.model()
        separate(self.model)
        self.keys = weight_keys(self.model)
        self._weights = self.model.weights
        self._seeds = [
            v for v in self.model.variables if v.path.endswith("seed_generator_state")
        ]
        self._strengths = {
            place: weight.regularizer.strength
            for place, weight in enumerate(self._weights)
            if isinstance(weight.regularizer, Penalty)
        }
        self._now = dict(self._strengths)
        self._bayesian = any(
            hasattr(layer, "num_examples") for layer in self.model._flatten_layers()
        )
        self._anchored: list = []
        self._mu = 0.0
        self._loss = DataLoss.of(self.model)
        self._own, self._optimizer = self.model.optimizer, None
        self._initial: dict = {}
        self._leftovers = Leftovers(self.model)
        self._reset: Any = None
        self._traced: dict = {}
        self._own_logs: dict = {}
        self._meter: Any = None
        self.measured: dict[str, dict[str, float | None]] = {}
        """What was measured of the penalized weights in the last training, by key."""

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
        measure=(),
    ):
        """Train from the server's weights on a client's examples.

        Args:
            arrays: Dict from the keys of the server to weights, arrays or tensors.
            client: Number of the client.
            server_round: Number of the round.
            mu: Strength of the pull towards the server's weights (FedProx).
            strengths: Dict from the key of a weight to the strength of its penalty;
                the others have those of the task.
            epochs: Epochs, instead of the task's.
            optimizer: Name in `federated.optimizers.OPTIMIZERS`, instead of the
                model's own optimizer.
            before: The sum of that optimizer's steps in the rounds before.
            measure: Fields of `kerasreg.callbacks.Unit` to measure of each penalized
                weight, into `measured`, as `LayerwiseAdaptiveLambda` does.

        Returns:
            The list of new weights, the number of examples, and a dict of metrics.
        """
        self._use(optimizer)
        self._make_meter(tuple(measure))
        data = self._tensors(self.task.data(client)[0])
        total = _rows(data)
        at = (server_round, client)
        self._begin(True, arrays, data, total, mu, strengths, (*at, 0))
        if optimizer is not None:
            self.model.optimizer.begin(before)
        rng = generator(self.task.seed, *at)
        epochs = self.task.epochs if epochs is None else epochs
        order = np.stack([rng.permutation(total) for _ in range(epochs)])
        batch_size = self.task.batch_size or total
        if measure:
            self._meter.start(max(epochs * -(-total // batch_size) // SAMPLES, 1))
        weights, logs = self._run(True, data, order, batch_size)
        self.measured = self._read_meter() if measure else {}
        if optimizer is not None:
            weights = self.model.optimizer.sent(self._weights)
            logs[TAKEN] = float(self.model.optimizer.taken)
        return weights, total, logs

    def evaluate(self, arrays, client, server_round, *, strengths=None):
        """Evaluate weights on what a client holds out, or else on all it has.

        Args:
            arrays: Dict from the keys of the server to weights, arrays or tensors.
            client: Number of the client.
            server_round: Number of the round.
            strengths: Dict from the key of a weight to the strength of its penalty.

        Returns:
            The number of examples, and a dict of metrics.
        """
        training, held_out = self.task.data(client)
        data = self._tensors(training if held_out is None else held_out)
        total = _rows(data)
        at = (server_round, client, 1)
        # A divergence has the weight that it has in training.
        examples = _rows(training)
        self._begin(False, arrays, data, examples, 0.0, strengths, at)
        order = np.arange(total)[None]
        batch_size = self.task.batch_size or total
        if not self._leftovers.stateful:
            batch_size = max(self.task.batch_size or 0, 256)
        _, logs = self._run(False, data, order, batch_size)
        return total, logs

    def _begin(self, training, arrays, data, examples, mu, strengths, at):
        """Set everything to what it is at the start of a client."""
        self._pull(mu)
        self._strengthen(strengths or {})
        if self._bayesian:
            set_num_examples(self.model, examples)
        trace = self._resetting() if self._reset is None else None
        if training not in self._own_logs:
            self._own_logs[training] = self._probed(training, data)
            if self._leftovers.grow:
                trace = self._resetting()
        self._reset = trace() if trace else self._reset  # with the metrics' variables
        rng = generator(self.task.seed, *at)
        seeds = [_as(rng.integers(2**31, size=s.shape), s.dtype) for s in self._seeds]
        self._reset(self._placed(arrays), seeds)

    def _placed(self, arrays):
        """The server's arrays in the order of the model's weights, checked."""
        by_place = {place(key): array for key, array in arrays.items()}
        if sorted(by_place) != list(range(len(self._weights))):
            raise ValueError(
                f"Received {len(by_place)} arrays for {len(self._weights)} weights."
            )
        placed = []
        for i, weight in enumerate(self._weights):
            if tuple(weight.shape) != tuple(by_place[i].shape):
                raise ValueError(
                    f"Received an array of shape {tuple(by_place[i].shape)} for the "
                    f"weight {weight.path} of shape {tuple(weight.shape)}."
                )
            placed.append(_as(by_place[i], weight.dtype))
        return placed

    def _use(self, optimizer):
        """Train by the optimizer of this name, or by the model's own for `None`."""
        if optimizer == self._optimizer:
            return
        self.model.optimizer = (
            self._own if optimizer is None else local_optimizer(self._own, optimizer)
        )
        self._optimizer, self._meter = optimizer, None
        if optimizer is not None:
            self._initial.pop(optimizer, None)  # it is a new one
        self._forget()

    def _make_meter(self, fields):
        """Have the steps measure these fields, from the first time they are asked."""
        if fields and (self._meter is None or self._meter.fields != fields):
            weights = {
                self.keys[i]: [self._weights[i]]
                for i in self._strengths
                if self._weights[i].trainable
            }
            self._meter = Meter(self.model, weights, fields)
            self._forget()
        elif not fields and self._meter is not None:
            self._meter.stop()

    def _read_meter(self):
        fields = self._meter.fields
        return {
            key: {name: getattr(unit, name) for name in fields}
            for key, unit in self._meter.read().items()
        }

    def _pull(self, mu):
        """Pull all weights towards those that are sent, FedProx's client term."""
        if mu and not self._anchored:
            for weight in self.model.trainable_weights:
                inner = as_penalty(weight.regularizer)
                weight.regularizer = Anchored(inner, mu, anchor=weight)
                self._anchored.append(weight)
            self._forget()
        if mu != self._mu:
            for weight in self._anchored:
                weight.regularizer.mu = mu
            self._mu = mu

    def _strengthen(self, strengths):
        """Set the strengths of the penalties that differ from what they are."""
        wanted = {place(key): float(value) for key, value in strengths.items()}
        for i, strength in (self._strengths | wanted).items():
            if i not in self._strengths:
                raise ValueError(
                    f"Received a strength for {self._weights[i].path}, which has no "
                    "penalty."
                )
            if strength != self._now[i]:
                self._weights[i].regularizer.strength = strength
                self._now[i] = strength

    def _forget(self):
        """Have everything traced anew: the optimizer or the loss is another."""
        self._reset, self._traced, self._own_logs = None, {}, {}

    def _resetting(self):
        """What makes the function that sets back all state to what it is now."""
        import tensorflow as tf  # tensorflow: one traced function

        model = self.model
        if self._optimizer not in self._initial:
            model.optimizer.build(model.trainable_variables)
            kept = [(v, v.numpy()) for v in model.optimizer.variables]
            self._initial[self._optimizer] = _constants(kept)
        initial = self._initial[self._optimizer]
        initial = initial + _constants(self._leftovers.initial())

        @tf.autograph.experimental.do_not_convert
        def reset(weights, seeds):
            for weight, value in zip(self._weights, weights, strict=True):
                weight.assign(value)
            for weight in self._anchored:
                weight.regularizer.anchor(weight.value)
            for variable, value in initial:
                variable.assign(ops.zeros_like(variable) if value is None else value)
            for state, value in zip(self._seeds, seeds, strict=True):
                state.assign(value)
            model.reset_metrics()
            if self._loss:
                self._loss.reset(True)
                self._loss.reset(False)

        if model.run_eagerly:
            return lambda: reset
        specs = [
            [tf.TensorSpec(v.shape, v.dtype) for v in variables]
            for variables in (self._weights, self._seeds)
        ]
        trace = tf.function(reset).get_concrete_function
        return functools.partial(trace, *specs)

    def _probed(self, training, data):
        """Zeros for the logs of a step that reports something else than its metrics.

        The step, whose effects are set back, also makes the metrics' variables. As
        with `fit`, logs that are no metrics are those of the last batch.
        """
        step = self.model.train_step if training else self.model.test_step
        total = _rows(data)
        size = min(self.task.batch_size or total, total)
        logs = step(keras.tree.map_structure(lambda a: a[:size], data))
        if self._loss and self._loss.read(training) is None:
            self._loss = None  # a step of the user's own goes another way
        if set(logs) == set(self.model.get_metrics_result()):
            return {}
        return {k: ops.zeros_like(v) for k, v in logs.items() if not len(v.shape)}

    def _run(self, training, data, order, batch_size):
        """Run the batches, and read the weights and the metrics."""
        import tensorflow as tf  # tensorflow: one traced loop over the batches

        kind = training, *(_spec(a) for a in keras.tree.flatten(data))
        if kind not in self._traced:
            self._traced[kind] = self._tracing(training, data)
        weights, logs = self._traced[kind](
            data, tf.constant(order, "int64"), tf.constant(batch_size, "int64")
        )
        logs = {name: value.numpy() for name, value in logs.items()}
        # All clients report the same names, NaN or not: Flower refuses others.
        logs = {name: float(v) for name, v in logs.items() if not v.ndim}
        return [w.numpy() for w in weights], logs

    def _tracing(self, training, data):
        """The function that runs the batches of clients of all sizes."""
        import tensorflow as tf  # tensorflow: autograph makes the loop

        model = self.model
        step = model.train_step if training else model.test_step
        if model.jit_compile:
            step = tf.function(step, jit_compile=True, reduce_retracing=True)
        own_logs = self._own_logs[training]

        @tf.autograph.experimental.do_not_convert
        def on(data, rows):
            take = functools.partial(tf.gather, indices=rows)
            logs = step(keras.tree.map_structure(take, data))
            return {name: logs[name] for name in own_logs}

        @tf.autograph.experimental.do_not_convert
        def outcome(logs):
            if training:
                model.optimizer.finalize_variable_values(model.trainable_weights)
            logs = logs or model.get_metrics_result()
            if self._loss:
                logs["data_loss"] = self._loss.result(training)
            weights = self._weights if training else []
            return [ops.convert_to_tensor(w) for w in weights], logs

        def run(data, order, batch_size):
            logs = own_logs
            shape = tf.shape(order, "int64")
            for epoch in tf.range(shape[0]):
                for start in tf.range(tf.zeros_like(batch_size), shape[1], batch_size):
                    logs = on(data, order[epoch, start : start + batch_size])
            return outcome(logs)

        if model.run_eagerly:
            return run
        spec = keras.tree.map_structure(_spec, data)
        integer = tf.TensorSpec((), "int64")
        orders = tf.TensorSpec((None, None), "int64")
        return tf.function(run).get_concrete_function(spec, orders, integer)

    def _tensors(self, data):
        """Data as tensors, floats in Keras's precision, as `fit` has them."""
        return keras.tree.map_structure(_tensor, data)


def _constants(pairs):
    import tensorflow as tf  # tensorflow: for a traced function

    # What is zero need not be kept.
    return [(v, tf.constant(a) if a.any() else None) for v, a in pairs]


def _tensor(array):
    floats = np.issubdtype(array.dtype, np.floating)
    return ops.convert_to_tensor(array, keras.config.floatx() if floats else None)


def _as(array, dtype):
    if ops.is_tensor(array) and array.dtype == dtype:
        return array
    return ops.convert_to_tensor(array, dtype=dtype)


def _rows(data):
    return len(keras.tree.flatten(data)[0])


def _spec(tensor):
    """What is the same for clients of all sizes."""
    import tensorflow as tf  # tensorflow: a type that tracing knows

    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)
