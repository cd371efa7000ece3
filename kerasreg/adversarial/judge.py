"""Which examples a classifier gets right, attacked or not."""

import copy
import math

import keras
import numpy as np
from keras import ops, tree

from kerasreg.adversarial import losses
from kerasreg.adversarial.problem import Problem, to_tensors


class Judge:
    """Attacks batches of examples and counts what is still right.

    Args:
        model: A compiled `keras.Model` with one output, of classes.
        x: Inputs, arrays.
        y: Classes or one-hot rows; 0 and 1 for a single score.
        batch_size: Positive integer.
        seed: Integer, for attacks that begin at random.

    Attributes:
        inputs: The inputs as tensors.
        examples: How many there are.

    Raises:
        ValueError: If the model is no classifier.
    """

    def __init__(self, model, x, y, batch_size=128, seed=0):
        self.model, self.seed = model, seed
        self.loss = class_loss(model)
        self.inputs, self._y = to_tensors(x), to_tensors(y)
        self.examples = int(ops.shape(tree.flatten(self.inputs)[0])[0])
        self._size, self._graphs = min(batch_size, self.examples), {}

    def clean(self):
        """Which examples are predicted right: a bool array (examples,)."""
        return self._each_batch(
            "clean",
            lambda x, y, seed: _right(self.model(x, training=False), y, self.loss),
        )[0]

    def right(self, attack, radii=None, *, objective=None, source=None):
        """Which are right under attack: a bool array (radii, examples).

        Args:
            attack: An `Attack`.
            radii: Sequence of numbers; by default the attack's own.
            objective: What it raises, a function of classes (batch,) and predictions,
                instead of the loss.
            source: Another model, compiled, on which the attack is made.
        """

        def run(x, y, seed, radius):
            aim = None
            if objective is not None:

                def aim(y_pred):
                    return objective(y, y_pred, self.loss)

            twin = with_radius(attack, radius)
            model = self.model if source is None else source
            problem = Problem(twin, model, x, y, aim)
            deltas = twin.perturb(problem, seed)
            if source is not None:
                y_pred = self.model(problem.inputs(deltas), training=False)
            else:
                y_pred = problem.predict(deltas)
            return _right(y_pred, y, self.loss)

        radii = [attack.eps] if radii is None else radii
        return self._each_batch((attack, objective, source), run, radii)

    def flat(self, attack):
        """Which examples' gradients are 0, or not finite: a bool array (examples,)."""

        def run(x, y, seed):
            problem = Problem(attack, self.model, x, y)
            flat = True
            for space, slope in zip(
                problem.spaces, problem.gradient(problem.zeros()), strict=True
            ):
                size = ops.sum(
                    ops.abs(space.masked(slope)), axis=tuple(range(1, len(slope.shape)))
                )
                flat = flat & ~(ops.isfinite(size) & (size > 0))
            return flat

        return self._each_batch(("flat", attack), run)[0]

    def _each_batch(self, key, function, radii=None):
        """Call a function, in one graph, with all batches; they have one size.

        The graph is kept for the next call with the key.
        """
        # tensorflow: Keras has no public call that makes a graph of a function.
        import tensorflow as tf

        radii = [()] if radii is None else [(ops.cast(r, "float32"),) for r in radii]
        results = []
        for radius in radii:
            parts = []
            # The last batch begins early; what it repeats is dropped.
            for i in range(math.ceil(self.examples / self._size)):
                begin = min(i * self._size, self.examples - self._size)
                x, y = tree.map_structure(
                    lambda a, b=begin: a[b : b + self._size], (self.inputs, self._y)
                )
                seed = ops.convert_to_tensor([0, self.seed * 100_003 + i], "int32")
                fresh = i * self._size - begin
                if key not in self._graphs:
                    graph = tf.function(function, autograph=False)
                    graph = graph.get_concrete_function(x, y, seed, *radius)
                    self._graphs[key] = graph
                right = self._graphs[key](x, y, seed, *radius)
                parts.append(ops.convert_to_numpy(right)[fresh:])
            results.append(np.concatenate(parts))
        return np.stack(results)


def with_radius(attack, radius):
    """The same attack with another radius, its steps in proportion.

    Args:
        attack: An `Attack`.
        radius: Number or scalar tensor.
    """
    twin = copy.copy(attack)
    if getattr(attack, "step", None) is not None and attack.eps > 0:
        twin.step = attack.step * radius / attack.eps
    twin.eps = radius
    return twin


def margin(y, y_pred, loss):
    """How far another class is ahead of the right one, in logits.

    Args:
        y: Classes or one-hot rows.
        y_pred: Predictions.
        loss: The model's loss.
    """
    scores = class_scores(y_pred, loss)
    right = ops.one_hot(_classes(y, y_pred), scores.shape[-1], dtype=scores.dtype)
    other = ops.max(scores - 1e9 * right, axis=-1)
    return other - ops.sum(scores * right, axis=-1)


def logit_ratio(y, y_pred, loss):
    """The margin over the distance from the first to the third score.

    It does not depend on the scale of the logits. With two classes it is the margin.

    Args:
        y: Classes or one-hot rows.
        y_pred: Predictions.
        loss: The model's loss.

    Reference: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
    ensemble of diverse parameter-free attacks", eq. 6.
    """
    ahead = margin(y, y_pred, loss)
    scores = class_scores(y_pred, loss)
    if scores.shape[-1] <= 2:
        return ahead
    top = ops.top_k(scores, 3)[0]
    return ahead / (top[..., 0] - top[..., 2] + 1e-12)


def class_loss(model):
    """The cross-entropy that a classifier is compiled with.

    Args:
        model: A `keras.Model`.

    Raises:
        ValueError: If it has none, or another loss.
    """
    given = losses.model_loss(model)
    loss = keras.losses.get(given) if isinstance(given, str) else given
    if isinstance(loss, dict | list) or "crossentropy" not in losses.name_of(loss):
        raise _no_classifier(f"loss={given!r}")
    return loss


def _no_classifier(received):
    return ValueError(
        "Invalid value for argument `model`. Expected one that is compiled with a "
        f"cross-entropy and has one output, of classes. Received: {received}"
    )


def class_scores(y_pred, loss):
    """Logits of all classes, (batch, classes).

    Args:
        y_pred: What a model returned: logits or probabilities, one or several.
        loss: Its loss.

    Raises:
        ValueError: If these are not scores of classes that exclude each other.
    """
    shapes = [tuple(part.shape) for part in tree.flatten(y_pred)]
    single = len(shapes) == 1 and len(shapes[0]) == 2
    if not single or ("binary" in losses.name_of(loss) and shapes[0][1] != 1):
        raise _no_classifier(f"outputs of shapes {shapes}")
    logits = losses.from_logits(loss)
    if y_pred.shape[-1] == 1:
        if not logits:
            y_pred = ops.clip(y_pred, 1e-30, 1.0)
            y_pred = ops.log(y_pred) - ops.log(ops.maximum(1.0 - y_pred, 1e-30))
        return ops.concatenate([ops.zeros_like(y_pred), y_pred], axis=-1)
    return y_pred if logits else ops.log(ops.maximum(y_pred, 1e-30))


def _classes(y, y_pred):
    if len(y.shape) == len(y_pred.shape) and y.shape[-1] == y_pred.shape[-1] > 1:
        return ops.argmax(y, axis=-1)
    return ops.cast(ops.reshape(y, (-1,)), "int32")


def _right(y_pred, y, loss):
    guess = ops.cast(ops.argmax(class_scores(y_pred, loss), axis=-1), "int32")
    return ops.equal(guess, ops.cast(_classes(y, y_pred), "int32"))
