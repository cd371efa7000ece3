"""What an attack climbs: a loss as a function of perturbations of the inputs."""

import keras
from keras import ops, tree

from kerasreg.adversarial import hooks
from kerasreg.adversarial.losses import example_losses
from kerasreg.adversarial.tensors import attacked, keys_of

# What slopes are multiplied by on their way through float16, which ends at 6e-8 and
# is coarse below 6e-5; and where that does not do.
_STEEP, _LEAST, _STEEPER = 2.0**10, 2.0**-14, 2.0**24


class Problem:
    """The loss of each example as a function of the perturbations.

    Args:
        attack: The `Attack`.
        model: A `keras.Model`.
        x: Structure of tensors.
        y: Structure of tensors, or `None`.
        objective: What is to be raised, a function from predictions to a number an
            example; by default the attack's loss, or else the compiled one.
        compiled: The model that is compiled with a loss; by default `model`.

    Attributes:
        spaces: List of the `Space` of each tensor that is attacked.
        loss: The loss that the attack was given, or `None`.
        compiled: The model whose loss it is otherwise.
    """

    def __init__(self, attack, model, x, y, objective=None, compiled=None):
        self.model, self.x, self.y = model, x, y
        self.compiled = model if compiled is None else compiled
        self.loss = attack.loss
        self._objective = objective
        self._layer = find_layer(model, attack.on)
        if self._layer is None:
            attack.check_places(keys_of(x))
            pairs = attacked(x)
        else:
            attack.check_places([None])
            pairs = [(None, hooks.output_of(model, self._layer, x))]
        self._keys = [key for key, _ in pairs]
        self.spaces = [attack.space(key, tensor) for key, tensor in pairs]
        self._half = any(
            part.compute_dtype == "float16" for part in model._flatten_layers()
        )

    def inputs(self, deltas):
        """The model's inputs with the perturbations added, within their bounds.

        With a layer, what is to be added to its output.
        """
        if self._layer is not None:
            (space,) = self.spaces
            return ops.cast(space.unscaled(deltas[0]), space.dtype)
        pairs = zip(self.spaces, deltas, strict=True)
        return self._replaced(space.inputs(delta) for space, delta in pairs)

    def predict(self, deltas):
        """What the model returns for perturbed inputs, in inference mode.

        They are within their bounds up to rounding: at a bound that is clipped, no
        gradient would come through.
        """
        if self._layer is None:
            pairs = zip(self.spaces, deltas, strict=True)
            x = self._replaced(space.moved(delta) for space, delta in pairs)
            return self.model(x, training=False)
        with hooks.perturbed(self._layer, self.inputs(deltas)):
            return self.model(self.x, training=False)

    def _replaced(self, changed):
        """The inputs, some of them changed, in a structure as it was."""
        by_key = dict(zip(self._keys, changed, strict=True))
        if None in by_key:
            return by_key[None]
        if isinstance(self.x, dict):
            return type(self.x)((k, by_key.get(k, v)) for k, v in self.x.items())
        rows = [by_key.get(i, v) for i, v in enumerate(self.x)]
        return tree.pack_sequence_as(self.x, rows)

    def losses(self, deltas):
        """What is to be raised, of each example: a tensor (batch,)."""
        y_pred = self.predict(deltas)
        if self._objective is not None:
            return self._objective(y_pred)
        return example_losses(self.compiled, self.y, y_pred, self.loss)

    def gradient(self, deltas, function=None):
        """The gradient of the sum of `function` (by default the losses).

        Raises:
            TypeError: If it does not depend on any perturbation.
        """
        function = function or self.losses
        if not self._half:
            return self._slopes(deltas, function)
        steep = self._slopes(deltas, function, _STEEP)
        finite, largest = ops.ones((), "bool"), 0.0
        for slope in steep:
            axes = tuple(range(1, len(slope.shape)))
            finite = finite & ops.all(ops.isfinite(slope), axis=axes)
            largest = ops.maximum(largest, ops.max(ops.abs(slope), axis=axes))
        good = finite & (largest > _LEAST / _STEEP)

        def again():
            factors = ops.where(finite, _STEEPER, 1.0)
            return better_of(good, steep, self._slopes(deltas, function, factors))

        return ops.cond(ops.all(good), lambda: steep, again)

    def _slopes(self, deltas, function, factors=None):
        """Slopes of the sum; on their way back through the model they are multiplied.

        Args:
            deltas: List of tensors.
            function: From these to a number an example.
            factors: A number, or one for each example.
        """
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(deltas)
            values = function(deltas)
            if factors is not None:
                values = ops.cast(values, "float32") * factors
            total = ops.sum(values)
        slopes = tape.gradient(total, deltas)
        if all(slope is None for slope in slopes):
            raise TypeError(
                "Invalid value for argument `x`. Expected inputs by which the loss can "
                "be differentiated; for an embedding give the attack "
                f'`on="embedding"`, or a layer. Received: the model {self.model.name!r}'
                ", through which no gradient comes"
            )
        slopes = [
            ops.zeros_like(delta) if slope is None else slope
            for slope, delta in zip(slopes, deltas, strict=True)
        ]
        if factors is None:
            return slopes
        factors = ops.cast(factors, "float32")
        return [
            slope / ops.reshape(factors, (-1,) + (1,) * (len(slope.shape) - 1))
            for slope in slopes
        ]

    def zeros(self):
        """No perturbation."""
        return [ops.zeros_like(space.x) for space in self.spaces]

    def random(self, seed, bounded=True):
        """A random perturbation of each input within its ball."""
        return random_points(self.spaces, seed, bounded)

    def climb(self, deltas, gradients, step):
        """A step of steepest ascent of each, constrained."""
        rows = zip(self.spaces, deltas, gradients, strict=True)
        return [space.climb(d, g, step) for space, d, g in rows]


def random_points(spaces, seed, bounded=True):
    """A random perturbation in each space.

    Args:
        spaces: List of `Space`.
        seed: Integer tensor (2,).
        bounded: Whether to keep the inputs within their bounds.
    """
    return [
        space.random(seed + ops.cast([2 * i, 0], seed.dtype), bounded)
        for i, space in enumerate(spaces)
    ]


def better_of(better, found, best):
    """Of each example the perturbation found, or the best so far.

    Args:
        better: Bool tensor (batch,).
        found: List of tensors (batch, ...).
        best: List of tensors like these.
    """
    return [
        ops.where(ops.reshape(better, (-1,) + (1,) * (len(a.shape) - 1)), a, b)
        for a, b in zip(found, best, strict=True)
    ]


def find_layer(model, on):
    """The layer that `on` means, or `None`.

    Args:
        model: A `keras.Model`.
        on: A layer, its name, `"embedding"`, or `None`.

    Raises:
        ValueError: If the model has none, or several.
    """
    if on is None or isinstance(on, keras.layers.Layer):
        return on
    layers = list(model._flatten_layers())
    found = [layer for layer in layers if layer.name == on]
    if not found and on == "embedding":
        found = [v for v in layers if isinstance(v, keras.layers.Embedding)]
        if len(found) != 1:
            raise ValueError(
                "Invalid value for argument `on`. Expected a layer or its name, for a "
                "model that has not just one Embedding. Received: on='embedding' and "
                f"{model.name!r}, of whose layers {[v.name for v in found]} are"
            )
    if len(found) != 1:
        raise ValueError(
            "Invalid value for argument `on`. Expected the name of one layer. "
            f"Received: on={on!r}, which {len(found)} layers of {model.name!r} are"
        )
    return found[0]
