"""The objective of a compiled model as a function of its trainable weights."""

import contextlib
import copy

import keras
from keras import ops, tree

from kerasreg.optimizers.proximal import proximal_penalty


class Objective:
    """`F(w) = f(w) + h(w)`: a smooth part and the penalties with a proximal map.

    `f` is the loss that the model was compiled with, in inference mode, and all
    that Keras adds to it, except the penalties in `h`.

    Args:
        model: A built and compiled `keras.Model`.
    """

    cautious = True  # its values are rounded too much to judge steps by them alone

    def __init__(self, model):
        self.model = model
        self.loss = model._compile_loss
        self._data = (None, None, None)
        self.variables = list(model.trainable_variables)
        self.penalties = [proximal_penalty(v) for v in self.variables]
        self.regularizers = [v.regularizer for v in self.variables]
        double = any(v.dtype == "float64" for v in self.variables)
        self.dtype = "float64" if double else "float32"

    def is_of(self, model):
        """Whether `model` still has the weights, penalties and loss of this one."""
        variables = model.trainable_variables
        return (
            model._compile_loss is self.loss
            and len(variables) == len(self.variables)
            and all(a is b for a, b in zip(variables, self.variables, strict=True))
            and all(
                v.regularizer is r
                for v, r in zip(variables, self.regularizers, strict=True)
            )
        )

    def weights(self):
        """The current weights, a list of tensors."""
        return [ops.convert_to_tensor(v.value) for v in self.variables]

    def on(self, data):
        """This objective on data, a tuple of inputs, targets and sample weights."""
        bound = copy.copy(self)
        bound._data = data
        return bound

    def image(self, weights):
        """What is linear in the weights and worth to be kept: nothing here."""
        return []

    def smooth(self, weights, image):
        """`f`, a scalar of the dtype of the compiled loss.

        Args:
            weights: List of tensors, the values of `variables`.
            image: What `image` returned for them.
        """
        x, y, sample_weight = self._data
        mapping = list(zip(self.variables, weights, strict=True))
        mapped = [
            variable
            for variable, penalty in zip(self.variables, self.penalties, strict=True)
            if penalty is not None
        ]
        with (
            without_penalties(mapped),
            keras.StatelessScope(mapping, collect_losses=True),
        ):
            y_pred = self.model(x, training=False)
            return self.model._compute_loss(x, y, y_pred, sample_weight, training=False)

    def gradient(self, weights, image):
        """`f` and its gradient, a list of tensors."""
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            value = self.smooth(weights, image)
        gradients = tape.gradient(
            value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return value, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def penalty(self, weights):
        """`h`, a scalar."""
        total = ops.zeros((), dtype=self.dtype)
        for penalty, w in zip(self.penalties, weights, strict=True):
            if penalty is not None:
                total = total + ops.cast(penalty(w), self.dtype)
        return total

    def prox(self, weights, step):
        """The proximal map of `step · h`, a list of tensors."""
        return [
            w if penalty is None else penalty.prox(w, ops.cast(step, w.dtype))
            for penalty, w in zip(self.penalties, weights, strict=True)
        ]

    def to_tensors(self, data):
        """Arrays as tensors, floating-point ones in the dtype of the objective."""

        def convert(array):
            kind = keras.backend.standardize_dtype(array.dtype)
            if kind.startswith(("float", "bfloat")):
                return ops.convert_to_tensor(array, dtype=self.dtype)
            return ops.convert_to_tensor(array)

        return tree.map_structure(convert, data, none_is_leaf=False)


@contextlib.contextmanager
def without_penalties(variables):
    """Context in which these weights have no regularizers.

    Args:
        variables: List of `keras.Variable`.
    """
    held = [(variable, variable.regularizer) for variable in variables]
    try:
        for variable, _ in held:
            variable.regularizer = None
        yield
    finally:
        for variable, regularizer in held:
            variable.regularizer = regularizer
