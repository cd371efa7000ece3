"""The data loss of each epoch, beside the loss that Keras logs."""

import keras

_MOST_SAMPLES = 8


class DataLoss(keras.callbacks.Callback):
    """Logs the loss of each epoch without the penalties on weights.

    `data_loss` is Keras's running mean of the training loss minus the mean
    penalty before up to eight batches of the epoch, evenly spread: exact (up to
    rounding) where an epoch has no more batches than that, else an estimate.
    `val_data_loss` is the validation loss minus the penalties at the weights it
    was measured with, exact up to rounding. Penalties on activities and other
    `add_loss` terms are part of the model's outputs on the batch, and stay in.

    Put it first among the callbacks, so that those behind it, and the history,
    see its logs. A metric of the same name that the model is compiled with is
    left as it is.

    Args:
        examples: Number of training examples.
        batch_size: Examples a batch.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((1,)), keras.layers.Dense(1, kernel_regularizer="l2")]
        ... )
        >>> model.compile("sgd", "mse")
        >>> x, y = np.zeros((3, 1)), np.full(3, 2.0)
        >>> callbacks = [DataLoss(3, batch_size=3)]
        >>> history = model.fit(x, y, callbacks=callbacks, verbose=0).history
        >>> round(history["data_loss"][0], 4)
        4.0
    """

    # It reads the weights before a batch, and Keras need not wait for logs.
    async_safe = True

    def __init__(self, examples, batch_size):
        super().__init__()
        self._examples, self._batch = examples, batch_size
        self._stride = -(-examples // (batch_size * _MOST_SAMPLES))
        self._next, self._total, self._seen, self._validation = 0, 0.0, 0, None

    def on_epoch_begin(self, epoch, logs=None):
        """Forgets the last epoch."""
        self._next, self._total, self._seen, self._validation = 0, 0.0, 0, None

    def on_train_batch_begin(self, batch, logs=None):
        """Measures the penalties that the loss of the next batches contains."""
        if batch < self._next:
            return
        self._next = batch + self._stride
        until = min(self._next * self._batch, self._examples)
        count = max(until - batch * self._batch, 1)
        self._total += count * penalties(self.model)
        self._seen += count

    def on_test_end(self, logs=None):
        """Measures the penalties that the validation loss contains."""
        self._validation = penalties(self.model)

    def on_epoch_end(self, epoch, logs=None):
        """Writes both losses."""
        if logs is None:
            return
        if "loss" in logs and self._seen:
            logs.setdefault("data_loss", logs["loss"] - self._total / self._seen)
        if "val_loss" in logs and self._validation is not None:
            logs.setdefault("val_data_loss", logs["val_loss"] - self._validation)


def penalties(model):
    """Adds up the penalties on weights that Keras's loss contains now.

    Args:
        model: A built Keras model.

    Returns:
        A float: 0 without penalties, also where frozen layers carry some.
    """
    return sum(
        (
            float(w.regularizer(w))
            for w in model.trainable_weights
            if w.regularizer is not None
        ),
        0.0,
    )
