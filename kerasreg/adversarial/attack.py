"""Attacks: perturbations of inputs within a ball that raise a model's loss."""

import inspect
import operator
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerasreg.adversarial import arguments, where
from kerasreg.adversarial.checks import check_call, check_examples, check_inputs
from kerasreg.adversarial.losses import check_classes
from kerasreg.adversarial.problem import Problem
from kerasreg.adversarial.space import Space
from kerasreg.adversarial.tensors import attacked, keys_of, to_tensors


class Attack:
    """What attacks have in common: where a perturbation may go, and how to ask for it.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `"inf"`, `"2"` or `"1"`.
        bounds: Pair of the least and greatest value of an input (numbers, or arrays of
            the shape of one example; infinite for none), or `None`.
        scale: What counts as a change of 1 for each feature (its standard deviation,
            say): positive number or array; the ball is `‖δ/scale‖ ≤ eps`.
        mask: Bool array, true for features that may be changed.
        on: A layer, or its name, to whose output the perturbation is added instead, as
            an embedding's for text; or `"embedding"` for the model's only Embedding.
        loss: The loss to raise, a Keras loss or its name; by default the one that the
            model is compiled with, without penalties.

    Attributes:
        changes: How often an argument was set, for what was traced with another.

    For a model with several inputs `bounds`, `scale` and `mask` may be dicts, or lists
    with an entry for each; every input that holds floating-point numbers has a ball of
    its own, others are left alone. For one input a list is an array. Balls are kept up
    to rounding: at large magnitudes up to the spacing of float32 numbers there.

    Arguments are attributes, which can be set.
    """

    needs_labels = True
    _checks: dict[str, Any] = {
        "eps": arguments.check_length,
        "norm": arguments.check_norm,
        "bounds": where.check_bounds,
        "scale": where.check_scale,
        "mask": where.check_mask,
        "on": arguments.check_on,
        "loss": arguments.check_loss,
    }

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
        **unknown,
    ):
        if unknown:
            raise TypeError(
                f"{type(self).__name__} takes the arguments {_arguments(self)}. "
                f"Received: {', '.join(unknown)}"
            )
        self.eps, self.norm, self.on, self.loss = eps, norm, on, loss
        self.bounds, self.scale, self.mask = bounds, scale, mask
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
                of bounds, not finite, or of another shape than the model takes.
            TypeError: If an argument is of the wrong type, or there is nothing to
                differentiate by: no input of floating-point numbers.
        """
        check_call(model, seed)
        x, y = to_tensors(x, "x"), None if y is None else to_tensors(y, "y")
        check_inputs(model, x)
        self.check(x, y)
        if self.needs_labels:
            check_classes(model, y, self.loss)
        seed = ops.convert_to_tensor([0, int(seed)], "int32")
        # What is called is a concrete graph: TensorFlow warns of attacks in a loop.
        return self._graph(model, x, y).get_concrete_function(x, y, seed)(x, y, seed)

    def _graph(self, model, x, y):
        """The graph of a model, which is as it was, and of data of these ranks."""
        layers = list(model._flatten_layers(include_self=False))
        state = [getattr(model, "_compile_loss", None), *layers]
        known, graphs = self._graphs.get(model, ([], {}))
        if len(known) != len(state) or any(map(operator.is_not, known, state)):
            graphs = {}
            self._graphs[model] = state, graphs
        ranks = str(tree.map_structure(_rank, (x, y)))
        if ranks not in graphs:
            # tensorflow: Keras has no public call that makes a graph of a function.
            import tensorflow as tf

            model_of = weakref.ref(model)
            graphs[ranks] = tf.function(
                lambda *args: self.attack(model_of(), *args),
                autograph=False,
                reduce_retracing=True,
            )
        return graphs[ranks]

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
        x, y = to_tensors(x, "x"), None if y is None else to_tensors(y, "y")
        check_examples(x, y if self.needs_labels else None)
        if self.on is not None:
            self.check_places([None])
            return
        self.check_places(keys_of(x))
        for key, value in attacked(x):
            self.space(key, value)  # checks shapes
            self._check_bounds(key, value)

    def _check_bounds(self, key, x):
        bounds = self.place(key)["bounds"]
        if bounds is None:
            return
        x = ops.convert_to_numpy(x)
        precision = float(np.finfo("float32").eps)
        low, high = (np.asarray(bound, x.dtype) for bound in bounds)
        # Rounding of what was rescaled, and of large numbers.
        spare = [_SLACK + 4 * precision * np.abs(bound) for bound in (low, high)]
        outside = max(np.max(low - x - spare[0]), np.max(x - high - spare[1]))
        if outside > 0:
            outside = max(np.max(low - x), np.max(x - high))
            raise ValueError(
                "Invalid value for argument `x`. Expected inputs within the bounds "
                f"{where.shown(bounds)}. Received: one that is {outside:.3g} outside "
                "of them"
            )

    def check_places(self, keys):
        """Raise if bounds, scale or mask are for other inputs.

        Args:
            keys: Names of the inputs, their indices, or `[None]` for one.
        """
        for name in _PLACES:
            where.check_entries(name, getattr(self, name), keys)

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
        return {name: where.entry(name, getattr(self, name), key) for name in _PLACES}

    def __setattr__(self, name, value):
        """Check and set an argument; what was traced with another is forgotten."""
        if name in self._checks:
            value = self._checks[name](name, value)
        super().__setattr__(name, value)
        self.__dict__["changes"] = self.__dict__.get("changes", 0) + 1
        self.__dict__.get("_graphs", {}).clear()

    def __getstate__(self):
        """Without what was traced, for copies."""
        return {**self.__dict__, "_graphs": weakref.WeakKeyDictionary()}

    def get_config(self):
        """The constructor's arguments."""
        return {
            "eps": self.eps,
            "norm": self.norm,
            "bounds": where.plain(self.bounds),
            "scale": where.plain(self.scale),
            "mask": where.plain(self.mask),
            "on": getattr(self.on, "name", self.on),
            "loss": keras.losses.serialize(self.loss) if self.loss else None,
        }

    @classmethod
    def from_config(cls, config):
        """Make the attack of `get_config`."""
        whole = {"bounds": tuple}
        places = {
            name: where.from_plain(config.get(name), whole.get(name, np.asarray))
            for name in _PLACES
        }
        return cls(**{**config, **places})

    def __repr__(self):
        given = {k: v for k, v in self.get_config().items() if v is not None}
        texts = {name: repr(value) for name, value in given.items()}
        for name in _PLACES:
            if name in given:
                texts[name] = where.shown(getattr(self, name))
        inside = ", ".join(f"{name}={text}" for name, text in texts.items())
        return f"{type(self).__name__}({inside})"


_SLACK = 1e-5  # of inputs that are rescaled to their bounds
_PLACES = ("bounds", "scale", "mask")


def _rank(tensor):
    if tensor is None:
        return None
    return len(tensor.shape), keras.backend.standardize_dtype(tensor.dtype)


def _arguments(attack):
    """Names of what a constructor takes."""
    parameters = [
        *inspect.signature(type(attack).__init__).parameters.values(),
        *inspect.signature(Attack.__init__).parameters.values(),
    ]
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return [name for name in dict.fromkeys(names) if name != "self"]
