"""Attacks: perturbations of inputs within a ball that raise a model's loss."""

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasreg.adversarial.geometry import NORMS
from kerasreg.adversarial.problem import Problem, attacked, to_tensors
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

    Attributes:
        changes: How often an argument was set, for what was traced with another.

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
        self.check(x, y)
        graph, loss = self._graphs.get(model, (None, None))
        if graph is None or loss is not getattr(model, "loss", None):
            # tensorflow: Keras has no public call that makes a graph of a function.
            import tensorflow as tf

            model_of = weakref.ref(model)
            graph = tf.function(
                lambda *args: self.attack(model_of(), *args),
                autograph=False,
                reduce_retracing=True,
            )
            self._graphs[model] = graph, getattr(model, "loss", None)
        return graph(x, y, ops.convert_to_tensor([0, seed], "int32"))

    def attack(self, model, x, y, seed, *, objective=None, compiled=None):
        """The same, for use inside a graph: all arguments are tensors.

        Args:
            model: A `keras.Model`.
            x: Structure of tensors.
            y: Structure of tensors, or `None`.
            seed: Integer tensor (2,), as `kerasreg.random` takes it.
            objective: What is to be raised: a function from predictions to a number an
                example; by default the loss.
            compiled: The model that is compiled with the loss; by default `model`.
        """
        problem = Problem(self, model, x, y, objective, compiled)
        return problem.inputs(self.perturb(problem, seed))

    def perturb(self, problem, seed):
        """The perturbation of each attacked input, in units of its scale.

        Args:
            problem: A `Problem`.
            seed: Integer tensor (2,). Its first number may be added to, for more
                draws; the second one counts calls.

        Returns:
            A list of tensors.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `perturb(self, problem, seed)`."
        )

    def check(self, x, y):
        """Raise if inputs or targets are not fit to be attacked.

        Args:
            x: Structure of tensors.
            y: Targets, or `None`.
        """
        if self.needs_labels and y is None:
            raise ValueError(
                f"{type(self).__name__} raises the loss of given targets. Expected "
                "`y`. Received: y=None"
            )
        if self.on is not None:
            return
        for key, value in attacked(x):
            self.space(key, value)  # checks shapes
            bounds = self.place(key)["bounds"]
            if bounds is None:
                continue
            low, high = bounds
            value = ops.convert_to_numpy(value)
            outside = max(np.max(low - value), np.max(value - high))
            if outside > _SLACK:
                raise ValueError(
                    "Invalid value for argument `x`. Expected inputs within the "
                    f"bounds {_plain(bounds)}. Received: one that is {outside:.3g} "
                    "outside of them"
                )

    def space(self, key, x):
        """The `Space` of one input.

        Args:
            key: Its name, its index, or `None` if there is one input.
            x: Its tensor.
        """
        return Space(x, self.eps, self.norm, **self.place(key))

    def place(self, key):
        """Bounds, scale and mask of one input, a dict.

        Args:
            key: Its name, its index, or `None` if there is one input.
        """
        names = ("bounds", "scale", "mask")
        return {name: _entry(getattr(self, name), key) for name in names}

    def __setattr__(self, name, value):
        """Set an argument; what was traced with another is forgotten."""
        super().__setattr__(name, value)
        self.__dict__["changes"] = self.__dict__.get("changes", 0) + 1
        self.__dict__.get("_graphs", {}).clear()

    def __getstate__(self):
        """Without what was traced, for copies."""
        return {**self.__dict__, "_graphs": weakref.WeakKeyDictionary()}

    def get_config(self):
        """The constructor's arguments."""
        layer = getattr(self.on, "name", self.on)
        bounds = _plain(self.bounds)
        if isinstance(bounds, list):  # JSON makes lists of pairs, too
            bounds = [_EACH, *bounds]
        return {
            "eps": self.eps,
            "norm": self.norm,
            "bounds": bounds,
            "scale": _plain(self.scale),
            "mask": _plain(self.mask),
            "on": layer,
            "loss": keras.losses.serialize(self.loss) if self.loss else None,
        }

    @classmethod
    def from_config(cls, config):
        """Make the attack of `get_config`."""
        return cls(**{**config, "bounds": _pairs(config.get("bounds"))})

    def __repr__(self):
        given = {k: v for k, v in self.get_config().items() if v is not None}
        inside = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{type(self).__name__}({inside})"


_SLACK = 1e-5  # of inputs that are rescaled to their bounds
_EACH = "each input"


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
        numbers = all(v is not None and np.ndim(v) == 0 for v in values)
        values = np.asarray(values) if numbers else values
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


def _pairs(bounds):
    """Bounds from a config, in which pairs may have become lists."""
    if isinstance(bounds, dict):
        return {key: _pairs(pair) for key, pair in bounds.items()}
    if isinstance(bounds, list) and bounds[0] == _EACH:
        return [_pairs(pair) for pair in bounds[1:]]
    return tuple(bounds) if isinstance(bounds, list) else bounds


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
