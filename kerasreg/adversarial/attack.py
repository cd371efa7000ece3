"""Attacks: perturbations of inputs within a ball that raise a model's loss."""

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerasreg.adversarial import hooks
from kerasreg.adversarial.geometry import NORMS
from kerasreg.adversarial.losses import example_losses
from kerasreg.adversarial.space import Space
from kerasreg.regularizers.base import check_number


class Attack:
    """What attacks have in common: where a perturbation may go, and how to ask for it.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `"inf"`, `"2"` or `"1"`.
        bounds: Pair of the least and greatest value of an input (numbers, or arrays of
            the shape of one example), or `None`.
        scale: What counts as a change of 1 for each feature (its standard deviation,
            say): positive number or array; the ball is `‖δ/scale‖ ≤ eps`.
        mask: Bool array, true for features that may be changed.
        on: A layer, or its name, to whose output the perturbation is added instead, as
            an embedding's for text; or `"embedding"` for the model's only Embedding.
        loss: The loss to raise, a Keras loss or its name; by default the one that the
            model is compiled with, without penalties.

    For a model with several inputs `bounds`, `scale` and `mask` may be dicts or lists
    with an entry for each; every input that holds floating-point numbers has a ball of
    its own, others are left alone.
    """

    needs_labels = True

    def __init__(
        self,
        eps,
        norm="inf",
        *,
        bounds=None,
        scale=None,
        mask=None,
        on=None,
        loss=None,
    ):
        self.eps = check_number("eps", eps)
        self.norm = _check_norm(norm)
        self.bounds = _each("bounds", bounds, _check_bounds)
        self.scale = _each("scale", scale, _check_scale)
        self.mask = _each("mask", mask, lambda name, value: np.asarray(value, bool))
        self.on, self.loss = on, keras.losses.get(loss)
        self._graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __call__(self, model, x, y=None, *, seed=0):
        """Attack, in one graph, which is traced once for a model and shape of data.

        The model is in inference mode: no dropout, batch normalization by its moving
        statistics. Neither its weights nor its statistics nor its seeds change.

        Args:
            model: A `keras.Model`.
            x: Inputs as the model takes them: array(s) of n examples.
            y: Targets, as the loss takes them.
            seed: Integer, for attacks that begin at random.

        Returns:
            The adversarial inputs, a structure like `x` of tensors; with `on`, the
            perturbation of that layer's output, for `perturbed`.

        Raises:
            ValueError: If `y` is missing or not of the loss's form, or an input is out
                of bounds.
            TypeError: If there is nothing to differentiate by: no input of
                floating-point numbers.
        """
        x, y = to_tensors(x), None if y is None else to_tensors(y)
        self._check(x, y)
        graph = self._graphs.get(model)
        if graph is None:
            # tensorflow: Keras has no public call that makes a graph of a function.
            import tensorflow as tf

            model_of = weakref.ref(model)
            graph = tf.function(
                lambda *args: self.attack(model_of(), *args),
                autograph=False,
                reduce_retracing=True,
            )
            self._graphs[model] = graph
        return graph(x, y, ops.convert_to_tensor([seed, 0], "int32"))

    def attack(self, model, x, y, seed, *, objective=None, loss=None):
        """The same, for use inside a graph: all arguments are tensors.

        Args:
            model: A `keras.Model`.
            x: Structure of tensors.
            y: Structure of tensors, or `None`.
            seed: Integer tensor (2,), as `kerasreg.random` takes it.
            objective: What is to be raised: a function from predictions to a number an
                example; by default the loss.
            loss: The loss, where the attack has none.
        """
        problem = Problem(self, model, x, y, objective, loss)
        delta = self.perturb(problem, seed)
        if self.on is not None:
            return delta[0]
        return problem.inputs(delta)

    def perturb(self, problem, seed):
        """The perturbation of each attacked input.

        Args:
            problem: A `Problem`.
            seed: Integer tensor (2,).

        Returns:
            A list of tensors.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `perturb(self, problem, seed)`."
        )

    def _check(self, x, y):
        if self.needs_labels and y is None:
            raise ValueError(
                f"{type(self).__name__} raises the loss of given targets. Expected "
                "`y`. Received: y=None"
            )
        if self.on is None:
            for key, value in attacked(x):
                space = self.space(key)
                outside = float(ops.max(ops.abs(space.within_bounds(value) - value)))
                if outside > 1e-5:
                    raise ValueError(
                        "Invalid value for argument `x`. Expected inputs within the "
                        f"bounds {self.bounds}. Received: one that is {outside:.3g} "
                        "outside of them"
                    )

    def space(self, key):
        """The `Space` of one input, by its name, index, or `None` if there is one."""
        return Space(
            self.eps,
            self.norm,
            _entry(self.bounds, key),
            _entry(self.scale, key),
            _entry(self.mask, key),
        )

    def get_config(self):
        """The constructor's arguments."""
        layer = getattr(self.on, "name", self.on)
        return {
            "eps": self.eps,
            "norm": self.norm,
            "bounds": _plain(self.bounds),
            "scale": _plain(self.scale),
            "mask": _plain(self.mask),
            "on": layer,
            "loss": keras.losses.serialize(self.loss) if self.loss else None,
        }

    @classmethod
    def from_config(cls, config):
        """Make the attack of `get_config`."""
        config = dict(config)
        if isinstance(config.get("bounds"), list):  # a pair, as JSON has it
            config["bounds"] = tuple(config["bounds"])
        return cls(**config)

    def __repr__(self):
        given = {k: v for k, v in self.get_config().items() if v is not None}
        inside = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{type(self).__name__}({inside})"


class Problem:
    """The loss of each example as a function of the perturbations.

    Args:
        attack: The `Attack`.
        model: A `keras.Model`.
        x: Structure of tensors.
        y: Structure of tensors, or `None`.
        objective: Function from predictions to a number an example, or `None`.
        loss: The loss, where the attack has none, or `None`.

    Attributes:
        clean: List of the tensors that are attacked.
        spaces: List of the `Space` of each.
    """

    def __init__(self, attack, model, x, y, objective=None, loss=None):
        self.model, self.x, self.y = model, x, y
        self.loss = loss if attack.loss is None else attack.loss
        self._objective = objective
        self._layer = find_layer(model, attack.on)
        if self._layer is None:
            keys, self.clean = zip(*attacked(x), strict=True)
        else:
            keys, self.clean = [None], [hooks.output_of(model, self._layer, x)]
        self.spaces = [attack.space(key) for key in keys]

    def inputs(self, deltas):
        """The model's inputs with the perturbations added, within their bounds."""
        changed = iter(
            space.within_bounds(x + d)
            for space, x, d in zip(self.spaces, self.clean, deltas, strict=True)
        )
        return tree.map_structure(lambda x: next(changed) if real(x) else x, self.x)

    def predict(self, deltas):
        """What the model returns for perturbed inputs, in inference mode."""
        if self._layer is None:
            return self.model(self.inputs(deltas), training=False)
        with hooks.perturbed(self._layer, deltas[0]):
            return self.model(self.x, training=False)

    def losses(self, deltas):
        """What is to be raised, of each example: a tensor (batch,)."""
        y_pred = self.predict(deltas)
        if self._objective is not None:
            return self._objective(y_pred)
        return example_losses(self.model, self.y, y_pred, self.loss)

    def gradient(self, deltas, function=None):
        """The gradient of the sum of `function` (by default the losses)."""
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(deltas)
            total = ops.sum((function or self.losses)(deltas))
        return tape.gradient(
            total, deltas, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    def zeros(self):
        """No perturbation."""
        return [ops.zeros_like(x) for x in self.clean]

    def random(self, seed, spaces=None):
        """A random perturbation of each input within its ball."""
        rows = zip(spaces or self.spaces, self.clean, strict=True)
        return [
            space.random(x, seed + ops.cast([2 * i, 1], seed.dtype))
            for i, (space, x) in enumerate(rows)
        ]

    def climb(self, deltas, gradients, step):
        """A step of steepest ascent of each, constrained."""
        rows = zip(self.spaces, self.clean, deltas, gradients, strict=True)
        return [space.climb(x, d, g, step) for space, x, d, g in rows]


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


def _entry(values: Any, key):
    """What is given for one input: an entry of a dict or list, or the same for all."""
    if isinstance(values, dict):
        return values.get(key)
    return values[key] if isinstance(values, list) else values


def _each(name, values, check):
    """Check a value, or each of a dict or list of them."""
    if values is None:
        return None
    if isinstance(values, dict):
        return {key: _each(name, value, check) for key, value in values.items()}
    if isinstance(values, list) and name != "bounds":
        values = np.asarray(values) if np.ndim(values[0]) == 0 else values
    if isinstance(values, list):
        return [_each(name, value, check) for value in values]
    return check(name, values)


def _plain(values):
    """Arrays as lists of numbers, for the config."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, tuple | list):
        return type(values)(_plain(value) for value in values)
    return values.tolist() if isinstance(values, np.ndarray) else values


def _check_norm(norm):
    text = "inf" if norm in (np.inf, "inf") else str(norm)
    if text not in NORMS:
        raise ValueError(
            f'Invalid value for argument `norm`. Expected "inf", 2 or 1. '
            f"Received: norm={norm!r}"
        )
    return text


def _check_bounds(name, pair):
    try:
        low, high = (np.asarray(bound, dtype=float) for bound in pair)
        right = bool(np.all(low < high))
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(
            "Invalid value for argument `bounds`. Expected a pair of the least and the "
            f"greatest value of an input. Received: bounds={pair!r}"
        )
    return (low, high)


def _check_scale(name, scale):
    scale = np.asarray(scale, dtype=float)
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        raise ValueError(
            "Invalid value for argument `scale`. Expected positive numbers. "
            f"Received: scale={scale!r}"
        )
    return scale
