"""Priors of `tfp.distributions`, by name or as an instance."""

import difflib
import inspect

import numpy as np
from keras import ops

from kerasreg.extras import require
from kerasreg.regularizers.families import FAMILIES, check_broadcast, check_parameter

_SETTINGS = {"validate_args", "allow_nan_stats", "name"}


def distributions():
    """The module `tfp.distributions`."""
    return require("tensorflow_probability", "bayes").distributions


class Foreign:
    """A distribution of TensorFlow Probability over real weights.

    Args:
        name: Name of its class.
        params: Its parameters, or `None` for those of `instance`.
        instance: Kept if its parameters are not plain numbers.
    """

    def __init__(self, name, params, instance=None):
        self.name, self.instance, self.params = name, instance, params
        if instance is None:
            self._cls = getattr(distributions(), name)
            self._properties = self._cls.parameter_properties()
            self.params = {k: self._plain(k, v) for k, v in params.items()}
        self._check()

    def _plain(self, key, value):
        if key not in self._properties or value is None:
            return value
        return check_parameter(key, value)

    def _check(self):
        """Build it once, with TFP's own checks, and look at its support."""
        try:
            made = self.make(distributions(), self.params, validate_args=True)
        except Exception as error:  # TFP raises TypeError, ValueError, tf.errors...
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"Invalid parameters of the prior {self.name!r}. "
                f"Received: {self.params}. TensorFlow Probability says: {reason}"
            ) from error
        if not _over_reals(made):
            raise ValueError(
                f"Invalid value for argument `distribution`. Expected a continuous "
                f"distribution over the reals. Received: distribution={self.name!r}"
            )

    def make(self, module, params, validate_args=False):
        """The distribution, in float32."""
        if self.instance is not None:
            return self.instance
        made = {
            k: ops.cast(ops.convert_to_tensor(v), "float32")
            if k in self._properties and v is not None
            else v
            for k, v in params.items()
        }
        return getattr(module, self.name)(**made, validate_args=validate_args)

    def unconstrained(self, key):
        """The parameter as given, on the whole real line."""
        value = ops.convert_to_tensor(self.params[key], "float32")
        return np.asarray(self._bijector(key).inverse(value))

    def constrained(self, key, value):
        """The parameter of the unconstrained tensor `value`."""
        return self._bijector(key).forward(ops.convert_to_tensor(value))

    def _bijector(self, key):
        return self._properties[key].default_constraining_bijector_fn()

    @property
    def kinds(self):
        """The parameters that can be trained."""
        return {} if self.instance is not None else self.params

    def log_prob(self, w, params):
        """Σ log p(w), a scalar."""
        made = self.make(distributions(), params)
        event, batch = tuple(made.event_shape), tuple(made.batch_shape)
        check_broadcast(self.name, event, batch, tuple(w.shape))
        return ops.cast(ops.sum(made.log_prob(ops.cast(w, made.dtype))), w.dtype)

    def kl_from_normal(self, mean, log_scale, params):
        """TFP's closed form, or `None` if it has none."""
        module = distributions()
        made = self.make(module, params)
        event, batch = tuple(made.event_shape), tuple(made.batch_shape)
        check_broadcast(self.name, event, batch, tuple(mean.shape))
        # Its formulas take the logarithm of a scale that must not be 0.
        scale = ops.exp(ops.maximum(log_scale, -40.0))
        normal = module.Normal(mean, scale)
        if len(event) == 1:
            normal = module.MultivariateNormalDiag(mean, scale)
        elif event:
            return None
        try:
            return ops.sum(module.kl_divergence(normal, made))
        except NotImplementedError:
            return None


def from_instance(instance):
    """The `Foreign` of a distribution object, by its parameters where possible."""
    name = type(instance).__name__
    params = {k: v for k, v in instance.parameters.items() if k not in _SETTINGS}
    params = {k: v for k, v in params.items() if v is not None}
    try:
        if getattr(distributions(), name, None) is not type(instance):
            raise TypeError
        properties = type(instance).parameter_properties()
        plain = {
            k: np.asarray(v, "float64").tolist() if k in properties else v
            for k, v in params.items()
        }
        if not all(
            isinstance(v, (bool, int, float, str, list)) for v in plain.values()
        ):
            raise TypeError
    except (TypeError, ValueError, NotImplementedError):
        return name, None
    return name, plain


def check_name(name):
    """Raise, with the nearest names, unless it is a distribution."""
    module = distributions()
    names = [
        each
        for each, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, module.Distribution)
    ]
    if name not in names:
        near = difflib.get_close_matches(name, [*FAMILIES, *names], n=3, cutoff=0.4)
        if name.lower() == "gaussian":
            near = ["Normal"]
        raise ValueError(
            "Invalid value for argument `distribution`. Expected the name of a "
            f"distribution; the nearest are {list(dict.fromkeys(near))}. "
            f"Received: distribution={name!r}"
        )


def _over_reals(made):
    if not made.dtype.is_floating:
        return False
    bijectors = require("tensorflow_probability", "bayes").bijectors
    try:
        onto = made.experimental_default_event_space_bijector()
        if isinstance(onto, bijectors.Identity):
            return True
    except NotImplementedError:
        pass
    # Not said: a density over the reals is finite at numbers of either sign.
    shape = tuple(made.event_shape)
    try:
        values = [
            np.asarray(made.log_prob(np.full(shape, x, "float32")))
            for x in (-10.5, -0.5, 0.3, 10.5)
        ]
    except Exception:  # with `validate_args` TFP raises outside the support
        return False
    return bool(np.all(np.isfinite(np.concatenate([np.ravel(v) for v in values]))))
