"""Which examples a classifier gets right, attacked or not."""

import copy
import math

import numpy as np
from keras import ops, tree

from kerasreg.adversarial.labels import as_targets, check_examples, class_numbers
from kerasreg.adversarial.problem import Problem
from kerasreg.adversarial.scores import class_guesses, class_loss, class_scores, margin
from kerasreg.adversarial.tensors import to_tensors
from kerasreg.regularizers.base import check_count


class Judge:
    """Attacks batches of examples and counts what is still right.

    Args:
        model: A compiled `keras.Model` with one output, of classes.
        x: Inputs, array(s) or a list of rows.
        y: Class numbers or one-hot rows; 0 and 1 for a single output.
        batch_size: Positive integer.
        seed: Integer, for attacks that begin at random.

    Attributes:
        inputs: The inputs as tensors.
        classes: The classes, an int array (examples,).
        examples: How many there are.
        loss: The loss of the model.

    Raises:
        ValueError: If the model is no classifier, or the data do not suit it.
        TypeError: If the model is none, or the batch size no integer.
    """

    def __init__(self, model, x, y, batch_size=128, seed=0):
        self.model, self.seed = model, seed
        size = check_count("batch_size", batch_size)
        class_loss(model)
        self.inputs, self.examples = check_examples(x)
        self._size, self._graphs, self._kinds = min(size, self.examples), {}, {}
        self.loss, outputs = self.kind(model)
        self.classes = class_numbers(y, self.examples, outputs)
        self._y = to_tensors(np.asarray(y)), ops.convert_to_tensor(self.classes)

    def kind(self, model, name="model"):
        """The loss of a classifier, and how many outputs it has.

        Args:
            model: A `keras.Model`.
            name: Name of the argument that it is, for messages.
        """
        if model not in self._kinds:
            loss = class_loss(model, name)
            first = tree.map_structure(lambda a: a[: self._size], self.inputs)
            y_pred = model(first, training=False)
            class_scores(y_pred, loss, name)
            self._kinds[model] = loss, y_pred.shape[-1]
        return self._kinds[model]

    def admit(self, surrogate):
        """Check another model, on which attacks are to be made.

        Args:
            surrogate: A `keras.Model`.

        Raises:
            ValueError: If it is not compiled, or is no classifier for the same classes.
            TypeError: If it is no model.
        """
        outputs = self.kind(surrogate, "surrogate")[1]
        expected = self.kind(self.model)[1]
        if max(outputs, 2) != max(expected, 2):
            raise ValueError(
                "Invalid value for argument `surrogate`. Expected a model for the same "
                f"classes, with {expected} outputs. Received: one with {outputs}"
            )

    def targets(self, attack):
        """The classes in the form of the loss that an attack raises on the model.

        Args:
            attack: An `Attack`.
        """
        loss, outputs = self.kind(self.model)
        given, classes = self._y
        return as_targets(classes, given, attack.loss or loss, outputs)

    def predictions(self):
        """What the model returns: a float array (examples, outputs)."""
        return self._each_batch(
            "predictions",
            lambda x, y, classes, seed: ops.cast(
                self.model(x, training=False), "float32"
            ),
        )[0]

    def clean(self):
        """Which examples are predicted right: a bool array (examples,)."""
        return self.guesses(self.predictions()) == self.classes

    def guesses(self, predictions):
        """Which classes are predicted: an int array (examples,), -1 for NaN.

        Args:
            predictions: Float array (examples, outputs).
        """
        y_pred = ops.convert_to_tensor(predictions)
        return ops.convert_to_numpy(class_guesses(y_pred, self.loss))

    def right(self, attack, radii=None, *, objective=None, source=None):
        """Which are right under attack: a bool array (radii, examples).

        Args:
            attack: An `Attack`.
            radii: Sequence of numbers; by default the attack's own.
            objective: What it raises, a function of classes (batch,), predictions and
                the loss, instead of the loss.
            source: Another model, compiled, on which the attack is made.
        """
        model = self.model if source is None else source
        loss, outputs = self.kind(model)

        def run(x, given, classes, seed, radius):
            aim = None
            if objective is not None:

                def aim(y_pred):
                    return objective(classes, y_pred, loss)

            twin = with_radius(attack, radius)
            y = as_targets(classes, given, attack.loss or loss, outputs)
            problem = _Problem(twin, model, x, y, aim)
            deltas = twin.perturb(problem, seed)
            if source is not None:
                y_pred = self.model(problem.inputs(deltas), training=False)
            else:
                y_pred = problem.predict(deltas)
            return class_guesses(y_pred, self.loss)

        radii = [attack.eps] if radii is None else radii
        guesses = self._each_batch((attack, objective, source), run, radii)
        return guesses == self.classes

    def flat(self, attack):
        """Where neither the loss nor the margin has a gradient that is finite.

        The loss of a sure prediction may be rounded to 0, that of a tie is not.

        Args:
            attack: An `Attack`, which says what may be changed.

        Returns:
            A bool array (examples,).
        """
        loss, outputs = self.kind(self.model)

        def run(x, given, classes, seed):
            y = as_targets(classes, given, attack.loss or loss, outputs)
            problem = _Problem(attack, self.model, x, y)

            def ahead(deltas):
                return margin(classes, problem.predict(deltas), loss)

            flat = True
            for function in (problem.losses, ahead):
                slopes = problem.gradient(problem.zeros(), function)
                for space, slope in zip(problem.spaces, slopes, strict=True):
                    rest = tuple(range(1, len(slope.shape)))
                    size = ops.sum(ops.abs(space.masked(slope)), axis=rest)
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
        data = self.inputs, *self._y
        results = []
        for radius in radii:
            parts = []
            # The last batch begins early; what it repeats is dropped.
            for i in range(math.ceil(self.examples / self._size)):
                begin = min(i * self._size, self.examples - self._size)
                batch = tree.map_structure(
                    lambda a, b=begin: a[b : b + self._size], data
                )
                draw = (self.seed * 100_003 + i) % 2**31
                seed = ops.convert_to_tensor([0, draw], "int32")
                fresh = i * self._size - begin
                if key not in self._graphs:
                    graph = tf.function(function, autograph=False)
                    graph = graph.get_concrete_function(*batch, seed, *radius)
                    self._graphs[key] = graph
                found = self._graphs[key](*batch, seed, *radius)
                parts.append(ops.convert_to_numpy(found)[fresh:])
            results.append(np.concatenate(parts))
        return np.stack(results)


class _Problem(Problem):
    """One in which a model that no gradient comes through has gradients of 0."""

    def gradient(self, deltas, function=None):
        try:
            return super().gradient(deltas, function)
        except (TypeError, LookupError):  # an operation without a gradient
            return self.zeros()


def with_radius(attack, radius):
    """The same attack with another radius, its steps in proportion.

    Args:
        attack: An `Attack`.
        radius: Number or scalar tensor.
    """
    twin = copy.copy(attack)
    # Past the attack's checks, which take no tensors.
    vars(twin)["eps"] = radius
    if getattr(attack, "step", None) is not None:
        step = attack.step * radius / attack.eps if attack.eps > 0 else None
        vars(twin)["step"] = step
    return twin
