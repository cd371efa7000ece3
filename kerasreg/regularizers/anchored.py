"""A penalty on the distance from given weights."""

import base64
from concurrent import futures
from typing import Any

import keras
import numpy as np
from keras import ops

from kerasreg.regularizers.base import Penalty, check_number, shortest


@keras.saving.register_keras_serializable(package="kerasreg")
class Anchored(Penalty):
    """Another penalty plus a pull towards given weights: `h(w) + μ/2·‖w − w₀‖²`.

    With the weights that a server sent as `w₀` it is FedProx's client term; with
    a pretrained model's weights it is L2-SP. `w₀` is the weight's value when
    `regularize` attaches the penalty, when `anchor` is called, or else when the
    penalty is first used in a loss. It is saved with the model.

    With `v' = (v + d·μ·w₀)/(1 + d·μ)` and `d' = d/(1 + d·μ)` the proximal map is
    the one of `h` at `v'` with step `d'`.

    Its strength is the one of `h` if there is one, and `μ` otherwise; `mu` can
    be read and set in both cases, also during training.

    Args:
        penalty: The penalty `h`, or `None`.
        mu: Non-negative finite number `μ`.
        anchor: Array `w₀` of the weight's shape, or `None`.

    Raises:
        TypeError: If `penalty` is not a penalty, or `mu` not a number.
        ValueError: If `mu` is negative, NaN or infinite, or, when called, if
            the weight has another shape than `w₀`.

    Example:

    >>> import numpy as np
    >>> from kerasreg.regularizers import L1, Anchored
    >>> penalty = Anchored(L1(0.5), mu=1.0, anchor=np.array([1.0, 0.0]))
    >>> float(penalty(np.array([2.0, 0.0])))
    1.5

    References: Li et al. 2020, "Federated optimization in heterogeneous
    networks", eq. 2; Li, Grandvalet & Davoine 2018, "Explicit inductive bias for
    transfer learning with convolutional networks", eq. 2.
    """

    def __init__(self, penalty=None, mu=0.01, anchor=None):
        mu = check_number("mu", mu)
        if penalty is not None and not isinstance(penalty, Penalty):
            raise TypeError(
                "Invalid value for argument `penalty`. Expected a "
                "kerasreg.regularizers.Penalty or None. "
                f"Received: penalty={penalty!r}"
            )
        super().__init__(mu)
        self.penalty = penalty
        self._anchor: Any = None
        if anchor is not None:
            self.anchor(anchor)

    @property
    def mu(self):
        """The current `μ`, a float. Setting it reaches a running `fit`."""
        return shortest(self._strength.numpy())

    @mu.setter
    def mu(self, value):
        self._strength.assign(check_number("mu", value))

    @property
    def strength(self):
        """The strength of the inner penalty, or `μ` if there is none."""
        return self.mu if self.penalty is None else self.penalty.strength

    @strength.setter
    def strength(self, value):
        if self.penalty is None:
            self.mu = value
        else:
            self.penalty.strength = value

    @property
    def pull(self):
        """`μ` and the strength of the inner penalty together, a scalar tensor."""
        return self.lam if self.penalty is None else self.lam + self.penalty.pull

    @property
    def has_prox(self):
        """Whether the inner penalty, if there is one, has a proximal map."""
        return self.penalty is None or self.penalty.has_prox

    def anchor(self, w):
        """Take `w` as the new `w₀`. A running `fit` sees the change.

        Args:
            w: Array, tensor or variable of the weight's shape.

        Raises:
            ValueError: If an anchor of another shape is there already.
        """
        if self._anchor is None:
            w = np.asarray(ops.convert_to_numpy(w), "float32")
            self._anchor = keras.Variable(
                w, trainable=False, autocast=False, name="anchor"
            )
        else:
            w = ops.convert_to_tensor(w)
            self._check_shape(w.shape)
            self._anchor.assign(w)

    def attach(self, variable):
        """Take the weight's present value as `w₀`, unless there is one."""
        if self._anchor is None:
            self.anchor(variable)
        self._check_shape(variable.shape)
        if self.penalty is not None:
            self.penalty.attach(variable)

    def save_own_variables(self, store):
        """Save the strength, `μ`, the anchor, and what the inner penalty saves."""
        super().save_own_variables(store)
        store["mu"] = self.mu
        if self._anchor is not None:
            store["anchor"] = self._anchor.numpy()
        inner: dict[str, Any] = {}
        if self.penalty is not None:
            self.penalty.save_own_variables(inner)
        for name in inner.keys() - {"strength"}:
            store[f"inner_{name}"] = inner[name]

    def load_own_variables(self, store):
        """Restore what `save_own_variables` saved."""
        store = dict(store)
        if "mu" in store:
            self.mu = float(store.pop("mu"))
        if "anchor" in store:
            self.anchor(store.pop("anchor"))
        if self.penalty is None:
            super().load_own_variables(store)
        else:
            inner = {name.removeprefix("inner_"): store[name] for name in store}
            self.penalty.load_own_variables(inner)

    def __call__(self, w):
        """The penalty of `w`; the first call without an anchor takes `w` as one."""
        if self._anchor is None:
            # Tracing and Keras's scopes hold for one thread: in another one the
            # weight has its present value, and a variable can be made.
            with futures.ThreadPoolExecutor(max_workers=1) as thread:
                thread.submit(self.anchor, w).result()
        return super().__call__(w)

    def value(self, w):
        """`h(w) + μ/2·‖w − w₀‖²`."""
        self._check_shape(w.shape)
        pull = ops.sum(ops.square(w - ops.cast(self._anchor.value, w.dtype)))
        total = ops.multiply(self.lam, pull) / 2.0
        return total if self.penalty is None else total + self.penalty.value(w)

    def prox(self, w, step):
        """The inner map at the average of `w` and `w₀`, with a shorter step."""
        if self._anchor is None:
            return w if self.penalty is None else self.penalty.prox(w, step)
        pull = ops.cast(ops.multiply(self.lam, step), w.dtype)
        w = (w + pull * ops.cast(self._anchor.value, w.dtype)) / (1.0 + pull)
        if self.penalty is None:
            return w
        return self.penalty.prox(w, step / (1.0 + pull))

    def get_config(self):
        """The inner penalty, the current `μ` and the anchor."""
        anchor = None if self._anchor is None else _pack(self._anchor.numpy())
        inner = keras.saving.serialize_keras_object(self.penalty)
        return {"penalty": inner, "mu": self.mu, "anchor": anchor}

    @classmethod
    def from_config(cls, config):
        """Make the penalty of `get_config`."""
        inner = keras.saving.deserialize_keras_object(config["penalty"])
        anchor = config.get("anchor")
        return cls(inner, config["mu"], anchor if anchor is None else _unpack(anchor))

    def _check_shape(self, shape):
        if tuple(shape) != tuple(self._anchor.shape):
            raise ValueError(
                "Invalid weight for Anchored. Expected the anchor's shape "
                f"{tuple(self._anchor.shape)}. Received: shape={tuple(shape)}"
            )

    def __repr__(self):
        return f"Anchored(penalty={self.penalty!r}, mu={self.mu!r})"


def _pack(array):
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"shape": list(array.shape), "data": data}


def _unpack(packed):
    data = np.frombuffer(base64.b64decode(packed["data"]), "float32")
    return data.reshape(packed["shape"])
