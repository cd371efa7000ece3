"""The losses without penalties, as `fit` goes along."""

import inspect

import keras
from keras import ops, tree


class DataLoss:
    """The mean of the data loss over the batches since the last reading.

    It listens to `model.compute_loss`: what that returns, in training and in
    validation, without the penalties and other added losses, which one of the user's
    own is taken to add. Once it is part of traced
    steps it stays there, so that the next `fit` is not traced again.

    Args:
        model: The compiled `keras.Model`.
    """

    def __init__(self, model):
        self._model = model
        with model.distribute_strategy.scope():
            self._means = {
                training: keras.metrics.Mean(name="data_loss")
                for training in (True, False)
            }
        self._original = model.compute_loss
        model.compute_loss = self._compute_loss
        model.train_function = model.test_function = None  # to be traced with it

    @classmethod
    def of(cls, model):
        """The one of a model, or `None` where the step does not tell training.

        Args:
            model: The compiled `keras.Model`.
        """
        known = getattr(model.compute_loss, "__self__", None)
        if isinstance(known, cls):
            return known
        if "training" not in inspect.signature(model.compute_loss).parameters:
            return None
        return cls(model)

    def reset(self, training=True):
        """Forget what was measured, in training or in validation."""
        self._means[training].reset_state()

    def result(self, training=True):
        """The mean loss an example since `reset`, a tensor; NaN without batches."""
        mean = self._means[training]
        seen = ops.cast(ops.sum(mean.count), "float32")
        return ops.where(seen > 0, mean.result(), float("nan"))

    def read(self, training=True):
        """The mean loss an example since `reset`, a float; `None` without batches."""
        mean = self._means[training]
        return float(mean.result()) if float(ops.sum(mean.count)) else None

    def _compute_loss(self, *args, **kwargs):
        model, added = self._model, []

        def aggregate(extra):
            added.append(original(extra))
            return added[-1]

        original = model._aggregate_additional_loss
        model._aggregate_additional_loss = aggregate
        try:
            loss = self._original(*args, **kwargs)
        finally:
            del model._aggregate_additional_loss
        if loss is not None:
            if not added:  # a `compute_loss` of the user's own adds them by itself
                added = [ops.sum(extra) for extra in model.losses]
            self._add(loss - sum(added), *args, **kwargs)
        return loss

    def _add(
        self, loss, x=None, y=None, y_pred=None, sample_weight=None, training=True, **_
    ):
        data = [t for t in tree.flatten([y_pred, x, y]) if t is not None]
        if not data or not len(data[0].shape):
            return
        replicas = self._model.distribute_strategy.num_replicas_in_sync
        self._means[bool(training)].update_state(
            ops.cast(loss, "float32") * replicas, sample_weight=ops.shape(data[0])[0]
        )
