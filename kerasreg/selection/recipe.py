"""From a candidate to a model that is ready for `fit`."""

import contextlib
import warnings

import keras

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import penalties_of, regularize
from kerasreg.selection.again import set_back, settings

BASELINE = "baseline"


class Recipe:
    """Makes the models of one candidate.

    Args:
        name: Name of the candidate, for messages.
        build: Function without arguments that returns a new compiled model.
        rules: What `regularize` attaches to it, or `None`.
    """

    def __init__(self, name, build, rules=None):
        self.name, self._build, self._rules = name, build, rules
        self._made, self._settings = None, None

    @property
    def own_model(self):
        """Whether it makes a model of its own, rather than adding penalties."""
        return self._rules is None

    def make(self, seed, x):
        """Makes a model with its weights, penalties and optimizer.

        Args:
            seed: Seed of the initial weights.
            x: Some inputs, to build a model that does not know their shape.

        Returns:
            A compiled and built Keras model.

        Raises:
            TypeError: The function returned something else.
            ValueError: The model is not compiled or was trained before.
        """
        keras.utils.set_random_seed(seed)
        model = self._build()
        self._check(model)
        if not model.built:
            model(keras.ops.convert_to_tensor(x[:1]))
        if self._rules is not None:
            regularize(model, self._rules)
        if any(penalty.has_prox for penalty in penalties_of(model).values()):
            _use_proximal(model)
        return model

    def start(self, seed, x, anew=False):
        """Makes a model as `make` does, in the graph of the last one if it can.

        Keras traces a model's functions at its first `fit`. Where the new model has
        the settings of the one that was traced, its variables' values go into that
        one, which then trains exactly as the new one would.

        Args:
            seed: Seed of the initial weights.
            x: Some inputs, to build a model that does not know their shape.
            anew: Whether callbacks may have changed more than variables of the
                last model.

        Returns:
            A compiled and built Keras model, the one of the last call if possible.
        """
        new = self.make(seed, x)
        made, known = settings(new), self._settings
        if anew or made is None or made != known:
            self._made, self._settings = new, made
        else:
            set_back(self._made, new)
        return self._made

    def _check(self, model):
        source = (
            "argument `build`"
            if self.name == BASELINE or self._rules is not None
            else f"candidate '{self.name}'"
        )
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"Invalid value for {source}. Expected a function that returns a "
                f"keras.Model. Received: a function that returns {model!r}"
            )
        if not model.compiled or model.optimizer is None:
            raise ValueError(
                f"Invalid value for {source}. Expected a function that returns a "
                "compiled model, with optimizer and loss. Received: a function that "
                f"returns a model that is not compiled, {model.name}"
            )
        if int(model.optimizer.iterations) > 0:
            raise ValueError(
                f"Invalid value for {source}. Expected a function that makes a new "
                "model with a new optimizer at each call. Received: a function that "
                f"returns one that was trained before, {model.name}"
            )


def recipes(build, candidates):
    """Makes the recipes of the baseline and of all candidates.

    Args:
        build: Function without arguments that returns the baseline's model.
        candidates: As in `compare`.

    Returns:
        A dict of `Recipe` by name, the baseline first.

    Raises:
        TypeError: `build`, `candidates` or one of them is of the wrong type.
        ValueError: There is no candidate, or one is called `"baseline"`.
    """
    if not callable(build) or isinstance(build, keras.Model):
        raise TypeError(
            "Invalid value for argument `build`. Expected a function without "
            "arguments that returns a new compiled model at each call. "
            f"Received: build={build!r}"
        )
    if not isinstance(candidates, dict):
        raise TypeError(
            "Invalid value for argument `candidates`. Expected a dict from names to "
            f"candidates. Received: candidates={candidates!r}"
        )
    if not candidates:
        raise ValueError(
            "Invalid value for argument `candidates`. Expected at least one "
            "candidate. Received: candidates={}"
        )
    if BASELINE in candidates:
        raise ValueError(
            "Invalid value for argument `candidates`. Expected names other than "
            f"'{BASELINE}', which is the model of `build` as it is. "
            f"Received: candidates={candidates!r}"
        )
    made = {BASELINE: Recipe(BASELINE, build)}
    for name, candidate in candidates.items():
        made[name] = _recipe(name, candidate, build)
    return made


def _recipe(name, candidate, build):
    if not isinstance(name, str):
        raise TypeError(
            "Invalid value for argument `candidates`. Expected strings as names. "
            f"Received: {name!r}"
        )
    # A penalty is callable too: this order matters.
    if isinstance(candidate, (keras.regularizers.Regularizer, dict)):
        return Recipe(name, build, candidate)
    if callable(candidate) and not isinstance(candidate, (keras.Model, type)):
        return Recipe(name, candidate)
    raise TypeError(
        "Invalid value for argument `candidates`. Expected a penalty, a dict of rules "
        "for `regularize`, or a function without arguments that returns a new "
        f"compiled model. Received: candidates['{name}']={candidate!r}"
    )


def _use_proximal(model):
    """Wraps the optimizer that the model is compiled with, unless it is wrapped."""
    optimizer = model.optimizer
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    inner = optimizer.inner_optimizer if scaled else optimizer
    if isinstance(inner, Proximal):
        return
    wrapped = Proximal(inner)
    with warnings.catch_warnings():  # Nobody asked to save a lambda here.
        warnings.simplefilter("ignore")
        config = model.get_compile_config()
    config["optimizer"] = keras.saving.serialize_keras_object(wrapped)
    with contextlib.suppress(TypeError, ValueError):  # Not every loss can be saved.
        model.compile_from_config(config)  # The optimizer is saved with the model.
    if model.optimizer is optimizer:
        if scaled:
            wrapped = keras.optimizers.LossScaleOptimizer(wrapped)
        model.optimizer = wrapped
