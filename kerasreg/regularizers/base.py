"""The base class of every penalty: a value, a proximal map and a strength."""

import keras
import numpy as np
from keras import ops

from kerasreg.regularizers import routing


class Penalty(keras.regularizers.Regularizer):
    """A penalty on a weight: one object with a value, a map and a strength.

    A subclass implements `value(w)` and, if it has one, `prox(w, step)`, both
    in terms of `self.lam`, the current strength as a scalar tensor. It can then
    be given wherever Keras takes a regularizer; `kerasreg.optimizers.Proximal`
    and `solve` use its proximal map, and everything else in kerasreg turns its
    strength.

    The strength is to a penalty what `learning_rate` is to an optimizer. It
    lives in a scalar variable, so that a running `fit` sees a change without
    being traced again. The variable is not a weight of the model: it is never in
    `get_weights()`; it is saved in the config, and by `Proximal` with its state.

    Args:
        strength: Non-negative finite number.

    Raises:
        ValueError: If `strength` is negative, NaN or infinite.
        TypeError: If `strength` is not a number.

    Example:

    >>> from keras import ops
    >>> from kerasreg.regularizers import Penalty
    >>> class Huber(Penalty):
    ...     def value(self, w):
    ...         size = ops.abs(w)
    ...         bowl = ops.where(size < 1.0, ops.square(w) / 2.0, size - 0.5)
    ...         return self.lam * ops.sum(bowl)
    ...
    ...     def get_config(self):
    ...         return {"strength": self.strength}
    >>> penalty = Huber(0.1)
    >>> penalty.strength = 2.0
    >>> float(penalty(ops.array([0.0, 3.0])))
    5.0

    Reference: Parikh & Boyd 2014, "Proximal algorithms", section 1.1.
    """

    def __init__(self, strength):
        strength = check_number("strength", strength)
        self._strength = keras.Variable(
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(
                strength, dtype=dtype
            ),
            shape=(),
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="strength",
        )

    @property
    def strength(self):
        """The current strength, a float. Setting it reaches a running `fit`."""
        return shortest(self._strength.numpy())

    @strength.setter
    def strength(self, value):
        self._strength.assign(self._valid_strength(value))

    def _valid_strength(self, value):
        return check_number("strength", value)

    @property
    def lam(self):
        """The current strength as a scalar tensor, for `value` and `prox`."""
        return ops.reshape(self._strength, ())

    @property
    def pull(self):
        """All strengths of the penalty together, a scalar tensor."""
        return self.lam

    @property
    def longest_step(self):
        """The longest step of a convex proximal problem, or `None` for any.

        `Proximal` takes no longer one: beyond it the map of a concave penalty is
        hard thresholding, which would zero a weight that has settled and whose
        adaptive step has grown because its gradient has vanished.
        """
        return None

    @property
    def has_prox(self):
        """Whether this penalty has a proximal map."""
        return type(self).prox is not Penalty.prox

    def attach(self, variable):
        """Hook that `regularize` calls with the weight it attaches a penalty to.

        A subclass raises here if it does not fit the weight, or notes its value.

        Args:
            variable: `keras.Variable`.
        """

    def save_own_variables(self, store):
        """Save what can change in training; `Proximal` saves it with its state.

        Args:
            store: Dict that takes a number or array for each name.
        """
        store["strength"] = self.strength

    def load_own_variables(self, store):
        """Restore what `save_own_variables` saved.

        Args:
            store: Dict from name to array; what is missing stays as it is.
        """
        if "strength" in store:
            self.strength = float(store["strength"])

    def __call__(self, w):
        """The penalty of `w`, a scalar, as Keras adds it to the loss.

        Args:
            w: Weight or activity, of any floating-point dtype. Half precision
                is computed in float32.

        Returns:
            A scalar tensor, float32 (float64 for a float64 `w`).
        """
        if not hasattr(self, "_strength"):
            raise AttributeError(
                f"{type(self).__name__} has no strength: call "
                "`super().__init__(strength)` in its constructor."
            )
        # Of another weight, or in `add_loss`, nobody would apply its map.
        own = isinstance(w, keras.Variable) and w.regularizer is self
        w = routing.tap(w) if own and self.has_prox else ops.convert_to_tensor(w)
        if keras.backend.standardize_dtype(w.dtype) != "float64":
            w = ops.cast(w, "float32")
        value = self.value(w)
        if len(value.shape):
            raise ValueError(
                f"Invalid result of `{type(self).__name__}.value`. Expected a scalar: "
                f"sum over the weights. Received: shape={tuple(value.shape)}"
            )
        return value

    def value(self, w):
        """The penalty of `w`.

        Args:
            w: Float tensor.

        Returns:
            A scalar tensor.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `value(self, w)`."
        )

    def prox(self, w, step):
        """The proximal map: argmin_u Σ (u − w)²/(2·step) + value(u).

        Args:
            w: Float tensor.
            step: Positive scalar, or a tensor of the shape of `w`.

        Returns:
            A tensor of the shape of `w`.

        Raises:
            NotImplementedError: If the penalty has no proximal map.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no proximal map: it stays in the loss. "
            "To give it one, implement `prox(self, w, step)`."
        )

    def get_config(self):
        """The constructor's arguments, with the *current* strength."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `get_config(self)`."
        )

    @classmethod
    def from_config(cls, config):
        """Make the penalty of `get_config`."""
        return cls(**config)

    def __reduce__(self):
        return _rebuild, (type(self), self.get_config())

    def __copy__(self):
        return self.from_config(self.get_config())

    def __deepcopy__(self, memo):
        return self.from_config(self.get_config())

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _rebuild(cls, config):
    return cls.from_config(config)


def check_number(name, value, above=None):
    """Check a scalar argument and return it as a float.

    Args:
        name: Name of the argument, for the message.
        value: What the user gave.
        above: The value must be greater than this; by default it must be
            non-negative.

    Returns:
        The float.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is out of range, NaN or infinite (as a float32).
    """
    expected = "a non-negative finite number"
    if above is not None:
        expected = f"a finite number greater than {above:g}"
    message = (
        f"Invalid value for argument `{name}`. Expected {expected}. "
        f"Received: {name}={value!r}"
    )
    if isinstance(value, (str, bytes, bool, np.bool_)) or value is None:
        raise TypeError(message)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(message) from None
    in_range = number >= 0 if above is None else number > above
    if not in_range or number > _LARGEST:  # NaN is not in range
        raise ValueError(message)
    return number


def check_count(name, value):
    """Check a positive integer argument and return it as an int.

    Args:
        name: Name of the argument, for the message.
        value: What the user gave.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is less than 1.
    """
    message = (
        f"Invalid value for argument `{name}`. Expected a positive integer. "
        f"Received: {name}={value!r}"
    )
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(message)
    if value < 1:
        raise ValueError(message)
    return int(value)


_LARGEST = float(np.finfo("float32").max)


def shortest(value):
    """The float with the fewest digits that is the same float32 as `value`."""
    return float(str(np.float32(value)))


def strength_variable(penalty):
    """The variable that holds the strength of a penalty.

    Args:
        penalty: A `Penalty`; of an `Anchored` it is that of the penalty within.
    """
    inner = getattr(penalty, "penalty", None)
    return penalty._strength if inner is None else strength_variable(inner)
