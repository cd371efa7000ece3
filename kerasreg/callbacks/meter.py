"""Measure the weights of a running `fit`: sizes, zeros, penalties and gradients."""

import functools
import math

import numpy as np
from keras import ops

from kerasreg.callbacks.policies.base import Unit
from kerasreg.callbacks.probe import Probe, strengthened, wide
from kerasreg.regularizers.base import shortest, strength_variable
from kerasreg.regularizers.divergence import Divergence

SAMPLES = 16
"""How often gradients are measured in an epoch, for a policy that is asked after it."""


class Meter:
    """Measures units of weights; one graph for all of them, traced once.

    Make it before the train step is traced (in `set_model` of a callback) if it is to
    measure gradients. Of `Anchored` around another penalty, the other one is measured,
    whose the strength is, and the pull is part of neither gradient.

    Args:
        model: The compiled and built `keras.Model`.
        units: Dict from the name of each unit to the list of its weights.
        fields: Names of the fields of `Unit` to fill in.

    Attributes:
        finite: Whether all weights were finite numbers at the last reading.
    """

    def __init__(self, model, units, fields=()):
        self.units, self.fields, self.finite = units, tuple(fields), True
        self._weights = [weight for members in units.values() for weight in members]
        self._slot = None
        if set(self.fields) & {"gradient_norm", "penalty_gradient_norm"}:
            probe = Probe.of(model)
            rows = {id(weight): row for row, weight in enumerate(probe.weights)}
            self._rows = [rows[id(weight)] for weight in self._weights]
            self._slot = probe.claim(self)
        # tensorflow: Keras has no public call that compiles a function.
        import tensorflow as tf

        # Not a method: a cycle would keep the slot taken after the meter is gone.
        table = functools.partial(_table, self._weights)
        self._graph = tf.function(table, autograph=False)

    def start(self, interval, done=0):
        """Measure gradients at every `interval`-th step from now on.

        Args:
            interval: Positive integer.
            done: How many steps of the first interval are done already.
        """
        if self._slot is not None:
            self._slot.start(interval, done)

    def stop(self):
        """Measure no gradients any more."""
        if self._slot is not None:
            self._slot.stop()

    def read(self):
        """Measure.

        Gradient norms are root mean squares over the steps that were measured since
        the last reading, and so are the other norms if gradients are measured, too;
        they are `None` if no step was. The rest is of the present weights.

        Returns:
            A dict from the name of each unit to its `Unit`.
        """
        table = np.asarray(self._graph(), dtype=float)
        self.finite = bool(np.isfinite(table[:, 1]).all())
        steps = self._slot.read()[self._rows] if self._slot is not None else None
        units, first = {}, 0
        for name, members in self.units.items():
            rows = slice(first, first + len(members))
            first += len(members)
            strengths = [shortest(number) for number in table[rows, 3]]
            units[name] = Unit(
                strength=next((s for s in strengths if s > 0), 0.0),
                size=sum(math.prod(weight.shape) for weight in members),
            )
            self._fill(units[name], table[rows, :3].sum(axis=0))
            if steps is not None:
                self._fill_gradients(units[name], steps[rows])
        return units

    def _fill(self, unit, row):
        zeros, square, penalty = row
        values = {
            "sparsity": zeros / unit.size,
            "norm": math.sqrt(square) if square >= 0 else square,
            "penalty": penalty,
        }
        for name in values.keys() & set(self.fields):
            setattr(unit, name, float(values[name]))

    def _fill_gradients(self, unit, rows):
        counts = rows[:, 3:]
        if counts.any():  # a weight that the loss does not use has no gradient
            norms = np.sqrt((rows[:, :3] / np.maximum(counts, 1)).sum(axis=0)).tolist()
            unit.gradient_norm, unit.penalty_gradient_norm, unit.norm = norms


def _table(weights):
    """Zeros, sum of squares, penalty and strength of each weight: one row each."""
    rows = []
    for weight in weights:
        w = ops.cast(ops.reshape(weight, weight.shape), "float32")
        zeros = ops.count_nonzero(ops.equal(w, 0))
        penalty = strengthened(weight.regularizer).value(wide(weight))
        strength = ops.reshape(strength_variable(weight.regularizer), ())
        row = [zeros, ops.sum(ops.square(w)), penalty, strength]
        rows.append(ops.stack([ops.cast(number, "float64") for number in row]))
    return ops.stack(rows)


class Setter:
    """Sets the strengths of several weights in one call: eager ones cost 60 µs each.

    Args:
        weights: List of `keras.Variable` that have a `Penalty`.
    """

    def __init__(self, weights):
        self._penalties = [weight.regularizer for weight in weights]
        variables = [strength_variable(penalty) for penalty in self._penalties]
        # tensorflow: Keras has no public call that compiles a function.
        import tensorflow as tf

        @functools.partial(tf.function, autograph=False)
        def assign(strengths):
            for variable, strength in zip(
                variables, ops.unstack(strengths, len(variables)), strict=True
            ):
                kept = ops.reshape(variable, ())
                variable.assign(ops.where(ops.isnan(strength), kept, strength))

        self._assign = assign

    def __call__(self, strengths):
        """Set them.

        Args:
            strengths: List of floats, one for each weight; NaN leaves it as it is.
        """
        for penalty, strength in zip(self._penalties, strengths, strict=True):
            if not math.isnan(strength):
                penalty._valid_strength(strength)
        self._assign(ops.convert_to_tensor(strengths, dtype="float32"))


def unit_strength(members):
    """The strength of a unit: that of its first weight that has one.

    Args:
        members: List of the unit's weights.
    """
    strengths = [weight.regularizer.strength for weight in members]
    return next((strength for strength in strengths if strength > 0), 0.0)


def ratios_of(members, known):
    """Each weight's strength relative to the unit's.

    Args:
        members: List of the unit's weights.
        known: Dict from the id of a weight to its ratio before, for a unit of which
            all strengths are 0 now.
    """
    whole = unit_strength(members)
    if not whole:
        return [known.get(id(weight), 1.0) for weight in members]
    return [weight.regularizer.strength / whole for weight in members]


def spread(strengths, before, ratios, lowest, highest):
    """The strengths of the weights, from new ones of their units.

    Args:
        strengths: Dict from the name of each unit to its strength.
        before: The same, as it is now.
        ratios: List with the `ratios_of` each unit.
        lowest: No positive strength is set below this.
        highest: No strength is set above this.

    Returns:
        A list of floats, one for each weight of each unit, as `Setter` takes it: NaN
        where the unit's strength has not changed.
    """
    numbers = []
    for (name, strength), own in zip(strengths.items(), ratios, strict=True):
        if strength == before[name]:
            strength = math.nan
        else:
            positive = [ratio for ratio in own if ratio > 0]
            strength = max(strength, lowest / min(positive))
            strength = min(strength, highest / max(positive))
        numbers += [strength * ratio for ratio in own]
    return numbers


def added_losses(model):
    """What the regularizers of the weights add to the loss at present.

    Args:
        model: A built `keras.Model`.

    Returns:
        The sum of the penalties, and that of the KL divergences: floats.
    """
    sums = [0.0, 0.0]
    for weight in model.trainable_weights:
        if weight.regularizer is not None:
            divergence = isinstance(weight.regularizer, Divergence)
            sums[divergence] += float(weight.regularizer(weight))
    return tuple(sums)
