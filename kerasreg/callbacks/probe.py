"""Measure gradients where the optimizer has them anyway, inside the traced step."""

import operator
import weakref
from typing import Any

import keras
from keras import ops

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import Anchored, Penalty

_NAME = "_kerasreg_probe"


class Probe:
    """Sums up squared norms of the gradients of every so many steps.

    It listens to the optimizer that updates the weights, after the gradients of
    several batches (accumulation) or replicas have been added up, and takes them as
    they were before clipping (with several replicas: after it). A step that is not
    measured costs a comparison. Once it is part of a traced train step it stays there,
    and does nothing while nobody asks, so that the next `fit` is not traced again.
    """

    def __init__(self, model, optimizer, proximal):
        self.weights = [
            weight
            for weight in model.trainable_weights
            if isinstance(weight.regularizer, Penalty)
        ]
        self._model: Any = weakref.ref(model)
        self._optimizer, self._proximal = optimizer, proximal
        self._slots = []
        self._raw = None
        self._originals = optimizer._clip_gradients, optimizer._all_reduce_sum_gradients
        optimizer._clip_gradients = self._before_clipping
        optimizer._all_reduce_sum_gradients = self._after_adding_up

    @classmethod
    def of(cls, model):
        """The probe of a compiled model; a new one if it has none that fits."""
        optimizer = wrapped(model.optimizer)[-1]
        probe = getattr(optimizer, _NAME, None)
        if probe is not None and probe._fits(model):
            return probe
        if probe is not None:
            probe._remove()
        probe = cls(model, optimizer, is_proximal(model.optimizer))
        object.__setattr__(optimizer, _NAME, probe)  # past Keras's tracking
        return probe

    def claim(self, owner):
        """Give someone a slot to measure in, before the step is traced.

        Args:
            owner: The object that asks; the slot is free when it is gone, or has
                stopped.

        Returns:
            A `Slot`.
        """
        for slot in self._slots:
            if slot.owner() in (None, owner):
                slot.owner = weakref.ref(owner)
                return slot
        model = self._model()
        with model.distribute_strategy.scope():
            self._slots.append(Slot(owner, len(self.weights), self._optimizer))
        model.train_function = None  # to be traced with it
        return self._slots[-1]

    def _fits(self, model):
        """Whether it measures the penalized weights of this model, no others."""
        now = [w for w in model.trainable_weights if isinstance(w.regularizer, Penalty)]
        same = len(now) == len(self.weights) and all(
            map(operator.is_, now, self.weights)
        )
        return same and self._model() is model

    def _remove(self):
        clip, add_up = self._originals
        self._optimizer._clip_gradients = clip
        self._optimizer._all_reduce_sum_gradients = add_up

    def _before_clipping(self, grads):
        clipped = self._originals[0](grads)
        self._raw = None if clipped is grads else list(grads)
        return clipped

    def _after_adding_up(self, grads_and_vars):
        pairs = list(self._originals[1](grads_and_vars))
        raw, self._raw = self._raw, None
        variables = [
            self._optimizer._trainable_variables[
                self._optimizer._get_variable_index(variable)
            ]
            for _, variable in pairs
        ]
        replicas = self._model().distribute_strategy.num_replicas_in_sync
        if raw is None or len(raw) != len(pairs) or replicas > 1:
            raw = [gradient for gradient, _ in pairs]
        gradients = {id(v): g for v, g in zip(variables, raw, strict=True)}
        for slot in self._slots:
            due = slot.due()
            if replicas == 1:
                ops.cond(
                    due,
                    lambda slot=slot: slot.add(self._rows(gradients)),
                    lambda: ops.zeros(()),
                )
            else:  # a variable of several replicas cannot be set within a condition
                rows = self._rows(gradients)
                slot.add(ops.where(due, rows, ops.zeros_like(rows)))
        return pairs

    def _rows(self, gradients):
        """‖∇L‖², ‖∇h‖², ‖w‖² and 1 for each weight; zeros if it has no gradient."""
        rows = []
        for weight in self.weights:
            gradient = gradients.get(id(weight))
            if gradient is None:
                rows.append(ops.zeros((4,)))
                continue
            rows.append(ops.stack(self._row(weight, gradient)))
        return ops.stack(rows)

    def _row(self, weight, gradient):
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        penalty, w = weight.regularizer, tf.convert_to_tensor(weight)

        def gradient_of(part):
            with tf.GradientTape() as tape:
                tape.watch(w)
                value = part.value(wide(w))
            return tape.gradient(value, w, unconnected_gradients="zero")

        own = gradient_of(strengthened(penalty))
        data = ops.cast(tf.convert_to_tensor(gradient), own.dtype)
        if not (self._proximal and penalty.has_prox):
            # All of it is part of the loss that was differentiated.
            whole = strengthened(penalty) is penalty
            data = data - (own if whole else gradient_of(penalty))
        row = [ops.sum(ops.square(t)) for t in (data, own, w)]
        return [ops.cast(number, "float32") for number in [*row, ops.ones(())]]


class Slot:
    """What is measured for one who asks: the sums, and which steps are due."""

    def __init__(self, owner, size, optimizer):
        self.owner: Any = weakref.ref(owner)
        self._optimizer = optimizer
        self._interval = _variable((), "int32", "interval")
        self._start = _variable((), "int32", "start")
        self._sums = _variable((max(size, 1), 4), "float32", "sums")

    def due(self):
        """Whether this step is to be measured, a tensor."""
        steps = self._optimizer.gradient_accumulation_steps or 1
        interval = ops.reshape(self._interval, ())
        number = self._batches() + 1 - self._start
        # The first update at or after each multiple of the interval.
        first = ops.less(ops.mod(number, ops.maximum(interval, 1)), steps)
        return ops.logical_and(ops.greater(interval, 0), first)

    def _batches(self):
        """Batches so far; `iterations` counts updates, if batches are accumulated."""
        return ops.cast(self._optimizer._iterations, "int32")

    def add(self, rows):
        """Add what was measured in a step."""
        self._sums.assign_add(rows)
        return ops.zeros(())

    def start(self, interval, done=0):
        """Measure every `interval`-th step from now on."""
        self._start.assign(self._batches() - done)
        self._interval.assign(interval)
        self._sums.assign(ops.zeros(self._sums.shape))

    def stop(self):
        """Measure no more, and be free for somebody else."""
        self._interval.assign(0)
        self.owner = _nobody

    def read(self):
        """The sums since the last reading, an array with a row a weight."""
        sums = self._sums.numpy()
        self._sums.assign(ops.zeros(self._sums.shape))
        return sums


def strengthened(penalty):
    """The part of a penalty that its strength multiplies: `Anchored` pulls besides."""
    while isinstance(penalty, Anchored) and penalty.penalty is not None:
        penalty = penalty.penalty
    return penalty


def wide(w):
    """A weight as a tensor of at least single precision, as its penalty reads it."""
    w = ops.reshape(w, w.shape)
    double = keras.backend.standardize_dtype(w.dtype) == "float64"
    return w if double else ops.cast(w, "float32")


def _nobody():
    return None


def wrapped(optimizer):
    """An optimizer and what it wraps, down to the one that updates the weights.

    Args:
        optimizer: A Keras optimizer.
    """
    line = [optimizer]
    while getattr(line[-1], "inner_optimizer", None) is not None:
        line.append(line[-1].inner_optimizer)
    return line


def is_proximal(optimizer):
    """Whether an optimizer is, or has within, a `Proximal`."""
    return any(isinstance(each, Proximal) for each in wrapped(optimizer))


def _variable(shape, dtype, name):
    return keras.Variable(
        initializer="zeros",
        shape=shape,
        dtype=dtype,
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )
