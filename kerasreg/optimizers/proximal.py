"""An optimizer that reaches exact zeros."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasreg.fusion import fused
from kerasreg.optimizers.clipping import clip_all, clipping_share
from kerasreg.optimizers.metric import metric_of
from kerasreg.regularizers import Penalty, routing
from kerasreg.regularizers.batch_norm import warn_batch_norm


@keras.saving.register_keras_serializable(package="kerasreg")
class Proximal(keras.optimizers.Optimizer):
    """Give a Keras optimizer the proximal step of the model's penalties.

    For each weight that carries a `Penalty` with a proximal map, the optimizer
    inside sees the gradient of the data loss alone, and

        w ← prox_{d·penalty}(w − d·∇loss)

    follows inside its own update, where `d` is the step that this optimizer
    takes for this weight (its metric). So zeros are exact, and the weights
    settle at a solution of the stated problem. The penalty is still counted,
    once, in the reported loss. Weights without such a penalty train as usual.

    Everything else is the inner optimizer's: learning rate and schedules,
    clipping (of the data gradient), weight decay (AdamW's own decay adds to your
    penalties: give `weight_decay=0` to solve the stated problem), gradient
    accumulation, averaging of weights (an average starts anew when its weight
    reaches zero, so it keeps the zeros). With a learning rate that falls to zero
    the last small weights need not reach zero in mini-batch training; see
    `kerasreg.callbacks.Polish`.

    Args:
        optimizer: A Keras optimizer, its name or its config: SGD, RMSprop, Adam,
            AdamW, Nadam, Adamax or Adagrad. Others have no diagonal metric, or
            one that grows without bound where the gradient does not vanish
            (Adadelta).
        name: Name of the optimizer.

    Raises:
        ValueError: If the optimizer is none of these.
        TypeError: If it is no optimizer.

    Example:

    >>> import keras
    >>> from kerasreg.optimizers import Proximal
    >>> from kerasreg.regularizers import L1
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 5), seed=0)
    >>> model = keras.Sequential([keras.layers.Dense(1, kernel_regularizer=L1(0.1))])
    >>> model.compile(Proximal(keras.optimizers.SGD(0.1)), loss="mse")
    >>> history = model.fit(x, x[:, :1], epochs=30, verbose=0)
    >>> model.layers[0].kernel.numpy().round(2).ravel().tolist()
    [0.95, 0.0, 0.0, 0.0, 0.0]

    Reference: Yun, Lozano & Yang 2021, "Adaptive proximal gradient methods for
    structured neural networks", algorithm 1.
    """

    def __init__(self, optimizer, name="proximal"):
        optimizer = _get(optimizer)
        metric = metric_of(optimizer)
        super().__init__(learning_rate=0.0, name=name)
        self._metric = metric
        self.inner_optimizer = optimizer
        # Everything around the update (accumulation, averages, distribution) is
        # the inner optimizer's; the map has to run inside its update of a weight.
        self._inner_step = type(optimizer).update_step.__get__(optimizer)
        optimizer.update_step = self.update_step
        self._inner_clip = type(optimizer)._clip_gradients.__get__(optimizer)
        optimizer._clip_gradients = self._clip_gradients
        self._iterations = optimizer._iterations
        self._applying = 0
        self._order, self._shares = [], {}
        self._momentum = getattr(optimizer, "momentum", 0.0)
        self._reach = []
        for setting in _SETTINGS:
            setattr(self, setting, getattr(optimizer, setting))

    def build(self, variables):
        """Make the state of the inner optimizer for these weights."""
        if not self.inner_optimizer.built:
            with keras.name_scope(self.inner_optimizer.name):
                self.inner_optimizer.build(variables)
        self._trainable_variables = list(variables)
        self._known = {id(variable) for variable in variables}
        if self._momentum:
            self._reach = [
                self.add_variable(
                    variable.shape if self.inner_optimizer.clipvalue else (),
                    dtype="float32",
                    name=f"reach_{index}",
                )
                for index, variable in enumerate(variables)
            ]
        warn_batch_norm(variables)
        self.built = True

    def scale_loss(self, loss):
        """Scale the loss as the inner optimizer does, and claim its weights."""
        loss = self.inner_optimizer.scale_loss(loss)
        for variable in self._trainable_variables:
            routing.forget(variable)
        routing.claim(id(self), loss, self._trains)
        return loss

    def apply(self, grads, trainable_variables=None):
        """Update the weights by their gradients, then map them.

        Args:
            grads: List of gradients, in the order of `trainable_variables`.
            trainable_variables: List of variables; by default those it was
                built with.
        """
        claim = routing.release(id(self))
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        if not self.built:
            self.build(trainable_variables)
        self._check_claim(claim)
        self.inner_optimizer._check_variables_are_known(trainable_variables)
        grads = [
            self._data_gradient(gradient, variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
        ]
        self._order = [
            self.inner_optimizer._get_variable_index(variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
            if gradient is not None
        ]
        self._applying += 1
        try:
            self.inner_optimizer.apply(grads, trainable_variables)
        finally:
            self._applying -= 1

    def update_step(self, gradient, variable, learning_rate):
        """Let the inner optimizer update one weight, then map it."""
        inner = self.inner_optimizer
        index = inner._get_variable_index(variable)
        penalty = proximal_penalty(inner._trainable_variables[index])
        if penalty is None or not self._applying:  # or it works without us
            return self._inner_step(gradient, variable, learning_rate)

        def update(gradient, learning_rate):
            self._inner_step(gradient, variable, learning_rate)
            # A clipped gradient moves the weight as a shorter step would.
            share = self._shares.get(index, 1.0)
            rate = self._rate(index, learning_rate * share)
            rate = ops.cast(rate, variable.dtype)
            first = ops.cast(_first_step(learning_rate, penalty), variable.dtype)
            step = self._metric(inner, index, rate, first)
            if penalty.longest_step is not None:
                step = ops.minimum(step, penalty.longest_step)
            value = penalty.prox(ops.reshape(variable, variable.shape), step)
            inner.assign(variable, value)
            if inner.use_ema:
                average = inner._model_variables_moving_average[index]
                inner.assign(average, ops.where(ops.equal(value, 0), 0.0, average))

        learning_rate = ops.reshape(learning_rate, ())  # reads a variable
        return fused(update, gradient, variable)(gradient, learning_rate)

    def _rate(self, index, learning_rate):
        """How far a constant gradient moves this weight in the present step."""
        if not self._momentum:
            return learning_rate
        reach = self._reach[index]
        learning_rate = ops.cast(learning_rate, "float32")
        self.inner_optimizer.assign(reach, self._momentum * reach + learning_rate)
        if getattr(self.inner_optimizer, "nesterov", False):
            return self._momentum * reach + learning_rate
        return ops.reshape(reach, reach.shape)

    def _clip_gradients(self, grads):
        """Clip as the inner optimizer does, and note what share it left of each."""
        if not self._applying or not (
            self.clipnorm or self.global_clipnorm or self.clipvalue
        ):
            return self._inner_clip(grads)
        grads, clipped, own = clip_all(grads, self._inner_clip)
        pairs = zip(grads, clipped, strict=True)
        shares = [clipping_share(*pair, self.clipvalue) for pair in pairs]
        self._shares = dict(zip(self._order, shares, strict=True))
        return own

    def _trains(self, variable):
        return not self.built or id(variable) in self._known

    def _check_claim(self, claim):
        """Refuse to go on if a penalty was withheld that will not be applied."""
        withheld = {} if claim is None else claim.withheld
        lost = [v.path for key, v in withheld.items() if key not in self._known]
        if lost:
            raise ValueError(
                f"This optimizer was built with {len(self._known)} weights, but the "
                f"loss it was given also has penalties on {lost}. When several "
                "optimizers train one model, call `optimizer.build(variables)` on "
                "each before the first step."
            )

    def _data_gradient(self, gradient, variable):
        """The gradient without what a penalty with a proximal map added to it."""
        penalty = proximal_penalty(variable)
        if penalty is None:
            return gradient
        if gradient is None:  # only the penalty is on this weight
            return ops.zeros(variable.shape, dtype=variable.dtype)
        if not routing.flowed(variable, gradient):
            return gradient
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        with tf.GradientTape() as tape:
            w = tf.convert_to_tensor(variable)
            tape.watch(w)
            value = penalty.value(w)
        scale = (self.inner_optimizer.loss_scale_factor or 1.0) / (
            tf.distribute.get_strategy().num_replicas_in_sync
        )
        if tf.executing_eagerly():
            routing.forget(variable)
        extra = tape.gradient(value, w)
        return tf.convert_to_tensor(gradient) - tf.cast(scale, extra.dtype) * extra

    @property
    def variables(self):
        """The state of the inner optimizer, and its momentum's reach."""
        return self.inner_optimizer.variables + self._reach

    @property
    def learning_rate(self):
        """The learning rate of the inner optimizer; can be set."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def _model_variables_moving_average(self):
        return self.inner_optimizer._model_variables_moving_average

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Have the inner optimizer's own weight decay leave some weights alone.

        Args:
            var_list: List of variables.
            var_names: List of words in the names of variables.
        """
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list):
        """Set the final values of the weights (their averages, if asked for)."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def set_weights(self, weights):
        """Set the values of `variables`, as when a legacy `.h5` file is loaded.

        Args:
            weights: List of arrays.
        """
        for variable, value in zip(self.variables, weights, strict=False):
            variable.assign(value)

    def save_own_variables(self, store):
        """Save the strengths, as the inner optimizer saves its learning rate."""
        for index, variable in self._penalized():
            own: dict[str, Any] = {}
            variable.regularizer.save_own_variables(own)
            for name, value in own.items():
                store[f"{name}_{index}"] = value
            # A store takes numbers only.
            store[f"kind_{index}"] = np.frombuffer(_kind(variable).encode(), "uint8")
        for index, reach in enumerate(self._reach):
            store[f"reach_{index}"] = reach.numpy()

    def load_own_variables(self, store):
        """Restore the strengths of the weights that have the same kind of penalty."""
        for index, variable in self._penalized():
            end, kind = f"_{index}", _kind(variable)
            names = [name for name in store.keys() if name.endswith(end)]  # noqa: SIM118
            own = {name.removesuffix(end): store[name] for name in names}
            saved = bytes(own.pop("kind", b"")).decode() or kind
            if saved == kind:
                variable.regularizer.load_own_variables(own)
            else:
                warnings.warn(
                    f"The strength that was saved for {saved} is not restored: "
                    f"{variable.path} has {kind}.",
                    stacklevel=2,
                )
        for index, reach in enumerate(self._reach):
            if f"reach_{index}" in store:
                reach.assign(store[f"reach_{index}"])

    def _penalized(self):
        for index, variable in enumerate(self._trainable_variables):
            if isinstance(getattr(variable, "regularizer", None), Penalty):
                yield index, variable

    def get_config(self):
        """The inner optimizer and the name."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"optimizer": inner, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Make the optimizer of `get_config`."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(
            config.pop("optimizer"), custom_objects=custom_objects
        )
        return cls(inner, **config)


_SETTINGS = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "weight_decay",
)


def _first_step(learning_rate, penalty):
    """The step of a weight that has had no gradient: `lr/strength`."""
    pull = ops.cast(penalty.pull, "float32")
    positive = ops.greater(pull, 0.0)
    return learning_rate / ops.where(positive, pull, 1.0)


def _kind(variable):
    """The kind of a weight's penalty, in words, to tell it from others."""
    names, penalty = [], variable.regularizer
    while isinstance(penalty, Penalty):
        names.append(type(penalty).__name__)
        penalty = getattr(penalty, "penalty", None)
    return f"{' of '.join(names)} on a weight of shape {tuple(variable.shape)}"


def proximal_penalty(variable):
    """The penalty of a weight if `Proximal` maps it, else `None`."""
    penalty = getattr(variable, "regularizer", None)
    return penalty if isinstance(penalty, Penalty) and penalty.has_prox else None


def _get(optimizer):
    if isinstance(optimizer, type) or not isinstance(
        optimizer, (str, dict, keras.optimizers.Optimizer)
    ):
        raise TypeError(
            "Invalid value for argument `optimizer`. Expected a Keras optimizer, its "
            f"name or its config. Received: optimizer={optimizer!r}"
        )
    return keras.optimizers.get(optimizer)
