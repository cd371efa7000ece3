"""A net that is compiled once and trained many times."""

import math

import keras
import numpy as np
import tensorflow as tf

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
}

# Small data: what `tf.data` does to go faster, and what `fit` makes of arrays, takes
# longer than training.
PLAIN = tf.data.Options()
PLAIN.threading.private_threadpool_size = 1
PLAIN.autotune.enabled = False


class Net:
    """A net for one problem and seed; every `fit` begins at the same weights.

    Args:
        problem: A `Problem`.
        data: Its training data `(x, y)`.
        seed: Of the weights and of the order of batches.
        sparse: Whether penalties are L1 under `Proximal`, instead of L2.
    """

    def __init__(self, problem, data, seed, sparse=False):
        keras.utils.set_random_seed(seed)
        self._problem, self._seed = problem, seed
        classes = int(data[1].max()) + 1
        penalty = L1 if sparse else L2
        self.layers = [
            *(
                keras.layers.Dense(
                    n, "relu", kernel_regularizer=penalty(0.0), name=f"hidden{i}"
                )
                for i, n in enumerate(problem.hidden)
            ),
            keras.layers.Dense(
                classes,
                kernel_initializer="glorot_uniform" if problem.hidden else "zeros",
                kernel_regularizer=penalty(0.0),
                name="out",
            ),
        ]
        self.model = keras.Sequential([keras.Input(data[0].shape[1:]), *self.layers])
        optimizer = OPTIMIZERS[problem.optimizer](problem.rate)
        self.model.compile(
            Proximal(optimizer) if sparse else optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._weights = self.model.get_weights()

    def fit(self, data, strength, callbacks=(), validation=None):
        """Train from the start.

        Args:
            data: `(x, y)`.
            strength: A number, or one for each layer.
            callbacks: Keras callbacks.
            validation: `(x, y)`, for callbacks that need it.
        """
        problem = self._problem
        keras.utils.set_random_seed(self._seed)
        self.model.set_weights(self._weights)
        for variable in self.model.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        for layer, s in zip(
            self.layers, np.broadcast_to(strength, len(self.layers)), strict=True
        ):
            layer.kernel_regularizer.strength = float(s)

        def rate(epoch):
            return problem.rate * (1 + math.cos(math.pi * epoch / problem.epochs)) / 2

        rows = tf.data.Dataset.from_tensor_slices(data).shuffle(len(data[0]))
        self.model.fit(
            rows.batch(problem.batch).with_options(PLAIN),
            epochs=problem.epochs,
            validation_data=validation and tf.data.Dataset.from_tensors(validation),
            callbacks=[*callbacks, keras.callbacks.LearningRateScheduler(rate)],
            verbose=0,
        )

    def strengths(self):
        """Each layer's at present."""
        return [layer.kernel_regularizer.strength for layer in self.layers]

    def loss(self, data):
        """Mean negative log likelihood, without penalties."""
        log_p = _log_softmax(self.model.predict_on_batch(data[0]))
        return float(-np.mean(log_p[np.arange(len(log_p)), data[1]]))

    def accuracy(self, data):
        """Share of examples whose class is right."""
        outputs = self.model.predict_on_batch(data[0])
        return float(np.mean(np.argmax(outputs, -1) == data[1]))

    def sparsity(self):
        """Share of kernel entries that are zero."""
        kernels = np.concatenate([np.ravel(layer.kernel) for layer in self.layers])
        return float(np.mean(kernels == 0))


def _log_softmax(outputs):
    outputs = outputs.astype("float64")
    outputs = outputs - outputs.max(-1, keepdims=True)
    return outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
