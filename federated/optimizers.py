"""Optimizers of the clients that the strategies of composite objectives ask for.

A strategy of `federated.strategies.composite` names one in the round's config; it
takes the place of the model's own at the client. All see the gradient of the data loss
alone, and note how far their steps went in all, which the server's map needs to know.
"""

import keras
from keras import ops

from kerasreg.optimizers import Proximal
from kerasreg.optimizers.proximal import proximal_penalty


class Smooth(Proximal):
    """Steps by the data loss alone; the penalties are left to the server.

    Args:
        optimizer: Plain `keras.optimizers.SGD`.
    """

    def build(self, variables):
        """Make the state for these weights."""
        super().build(variables)
        self.taken = self.add_variable((), dtype="float32", name="taken")
        self.before = self.add_variable((), dtype="float32", name="before")

    def begin(self, accumulated):
        """Take up the weights as the server sent them.

        Args:
            accumulated: The sum of the steps of all rounds before.
        """
        self.before.assign(accumulated)

    def sent(self, weights):
        """What goes back to the server in the place of the weights.

        Args:
            weights: List of the model's variables.
        """
        return [weight.numpy() for weight in weights]

    def apply(self, grads, trainable_variables=None):
        """Update the weights, and note the length of the step."""
        step = ops.convert_to_tensor(self.learning_rate)
        super().apply(grads, trainable_variables)
        self.taken.assign_add(ops.cast(step, "float32"))

    def update_step(self, gradient, variable, learning_rate):
        """A step of gradient descent."""
        return self._inner_step(gradient, variable, learning_rate)

    @property
    def variables(self):
        """The state of the inner optimizer and the steps' lengths."""
        return [*super().variables, self.taken, self.before]


class Mirror(Smooth):
    """A step by the data loss, then the penalty's proximal map, as `Proximal` does."""

    update_step = Proximal.update_step


class Dual(Smooth):
    """Dual averaging: gradients add up in `z`, and the weights are a map of it.

    `z ← z − η·∇loss(w)` and `w ← prox_{s·penalty}(z)`, where `s` is the sum of all
    steps `η` since the first round. Weights without a penalty are their own `z`.
    """

    def build(self, variables):
        """Make the state for these weights."""
        super().build(variables)
        self._duals = {
            index: self.add_variable_from_reference(variable, name="dual")
            for index, variable in enumerate(variables)
            if proximal_penalty(variable) is not None
        }
        # tensorflow: one call for all weights, of each client
        import tensorflow as tf

        self._traced_map = tf.function(self._map)

    def begin(self, accumulated):
        """Take the weights, as they were sent, for `z`, and map them."""
        super().begin(accumulated)
        for index, dual in self._duals.items():
            dual.assign(self._trainable_variables[index].value)
        if accumulated:
            self._traced_map()

    def _map(self):
        step = ops.convert_to_tensor(self.before)
        for index, dual in self._duals.items():
            weight = self._trainable_variables[index]
            weight.assign(proximal_penalty(weight).prox(dual.value, step))

    def sent(self, weights):
        """The `z` of the weights that have one, and the others."""
        duals = {
            id(self._trainable_variables[index]): dual
            for index, dual in self._duals.items()
        }
        return [duals.get(id(weight), weight).numpy() for weight in weights]

    def update_step(self, gradient, variable, learning_rate):
        """A step of `z`, and the weight that belongs to it."""
        index = self.inner_optimizer._get_variable_index(variable)
        if index not in self._duals:
            return self._inner_step(gradient, variable, learning_rate)
        dual = self._duals[index]
        self._inner_step(gradient, dual, learning_rate)
        penalty = proximal_penalty(self._trainable_variables[index])
        step = self.before + self.taken + ops.cast(learning_rate, "float32")
        self.inner_optimizer.assign(variable, penalty.prox(dual.value, step))

    @property
    def variables(self):
        """The state of the inner optimizer, the steps' lengths and `z`."""
        return [*super().variables, *self._duals.values()]


OPTIMIZERS = {"smooth": Smooth, "mirror": Mirror, "dual": Dual}


def local_optimizer(optimizer, kind):
    """The optimizer that takes the place of a model's own.

    Args:
        optimizer: The model's, plain SGD, or `Proximal` around it.
        kind: A name in `OPTIMIZERS`.

    Raises:
        ValueError: If it is not plain SGD, whose steps add up.
    """
    inner = optimizer
    while isinstance(inner, Proximal):
        inner = inner.inner_optimizer
    if type(inner) is not keras.optimizers.SGD or any(
        getattr(inner, setting) for setting in _NOT_PLAIN
    ):
        raise ValueError(
            "Invalid optimizer of the model. Expected keras.optimizers.SGD or "
            "Proximal(SGD), with a learning rate or schedule and without "
            f"{', '.join(_NOT_PLAIN)}: the strategy has to know how far the "
            f"clients' steps go. Received: {optimizer.get_config()}"
        )
    return OPTIMIZERS[kind](keras.optimizers.SGD.from_config(inner.get_config()))


_NOT_PLAIN = (
    "momentum",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "gradient_accumulation_steps",
)
