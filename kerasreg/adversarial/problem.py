"""What an attack climbs: a loss as a function of perturbations of the inputs."""

import keras
import numpy as np
from keras import ops, tree

from kerasreg.adversarial import hooks
from kerasreg.adversarial.losses import example_losses


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
            pairs = attacked(x)
        else:
            pairs = [(None, hooks.output_of(model, self._layer, x))]
        self.spaces = [attack.space(key, tensor) for key, tensor in pairs]

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
        changed = iter(changed)
        return tree.map_structure(lambda x: next(changed) if real(x) else x, self.x)

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
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(deltas)
            total = ops.sum((function or self.losses)(deltas))
        slopes = tape.gradient(total, deltas)
        if all(slope is None for slope in slopes):
            raise TypeError(
                "Invalid value for argument `x`. Expected inputs by which the loss can "
                "be differentiated; for an embedding give the attack "
                f'`on="embedding"`, or a layer. Received: the model {self.model.name!r}'
                ", through which no gradient comes"
            )
        pairs = zip(slopes, deltas, strict=True)
        return [ops.zeros_like(d) if s is None else s for s, d in pairs]

    def zeros(self):
        """No perturbation."""
        return [ops.zeros_like(space.x) for space in self.spaces]

    def random(self, seed):
        """A random perturbation of each input within its ball."""
        return random_points(self.spaces, seed)

    def climb(self, deltas, gradients, step):
        """A step of steepest ascent of each, constrained."""
        rows = zip(self.spaces, deltas, gradients, strict=True)
        return [space.climb(d, g, step) for space, d, g in rows]


def random_points(spaces, seed):
    """A random perturbation in each space.

    Args:
        spaces: List of `Space`.
        seed: Integer tensor (2,).
    """
    return [
        space.random(seed + ops.cast([2 * i, 0], seed.dtype))
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


def to_tensors(data):
    """Arrays as tensors, floating-point ones of NumPy in Keras's default precision."""

    def convert(array):
        if isinstance(array, np.ndarray | list | float) and real(np.asarray(array)):
            return ops.convert_to_tensor(array, dtype=keras.config.floatx())
        return ops.convert_to_tensor(array)

    if isinstance(data, list) and data and np.ndim(data[0]) == 0:
        data = np.asarray(data)
    return tree.map_structure(convert, data)


def real(x):
    """Whether a tensor holds floating-point numbers, so that it can be attacked."""
    return x is not None and "float" in keras.backend.standardize_dtype(x.dtype)


def attacked(x):
    """Pairs of key and tensor of the inputs that can be attacked.

    The key is the name of an input of a dict, its index in a list, or `None`.

    Raises:
        TypeError: If there is none.
    """
    if isinstance(x, dict):
        pairs = [(name, x[name]) for name in sorted(x)]
    elif isinstance(x, list | tuple):
        pairs = list(enumerate(x))
    else:
        pairs = [(None, x)]
    chosen = [(key, value) for key, value in pairs if real(value)]
    if not chosen:
        dtypes = sorted({str(value.dtype) for _, value in pairs})
        raise TypeError(
            "Invalid value for argument `x`. Expected an input of floating-point "
            "numbers, by which the loss can be differentiated; for text give the "
            f'attack `on="embedding"`, or a layer. Received: dtypes {dtypes}'
        )
    return chosen


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
            "Invalid value for argument `on`. Expected the name of one layer. "
            f"Received: on={on!r}, which {len(found)} layers of {model.name!r} are"
        )
    return found[0]
