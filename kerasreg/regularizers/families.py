"""Log densities of the priors that need no TensorFlow Probability."""

import math

import numpy as np
from keras import ops

_LOG_2PI = math.log(2.0 * math.pi)


class Family:
    """A law of independent real weights.

    Attributes:
        kinds: The parameters, each `"real"`, `"positive"` or `"unit"`.
        defaults: Values of the parameters that may be left out.
    """

    kinds: dict[str, str] = {}
    defaults: dict[str, float] = {}

    def __init__(self, name, params):
        unknown = sorted(set(params) - set(self.kinds))
        if unknown:
            raise ValueError(
                f"Invalid parameters of the prior {name!r}. Expected some of "
                f"{sorted(self.kinds)}. Received: {unknown}"
            )
        params = {**self.defaults, **params}
        missing = sorted(set(self.kinds) - set(params))
        if missing:
            raise ValueError(
                f"Missing parameters of the prior {name!r}. Expected {missing}. "
                f"Received: {sorted(params)}"
            )
        self.name = name
        self.params = {
            key: check_parameter(key, value, self.kinds[key])
            for key, value in params.items()
        }

    def unconstrained(self, key):
        """The parameter as given, on the whole real line (a NumPy array)."""
        value = np.asarray(self.params[key], "float64")
        kind = self.kinds[key]
        if kind == "unit":
            return np.log(value) - np.log1p(-value)
        return np.log(value) if kind == "positive" else value

    def constrained(self, key, value):
        """The parameter of the unconstrained tensor `value`."""
        kind = self.kinds[key]
        if kind == "unit":
            return ops.sigmoid(value)
        return ops.exp(value) if kind == "positive" else value

    def log_prob(self, w, params):
        """Σ log p(w), a scalar."""
        params = {
            key: ops.cast(ops.convert_to_tensor(value), w.dtype)
            for key, value in params.items()
        }
        self.check_fit(w, **params)
        return ops.sum(self.log_density(w, **params))

    def check_fit(self, w, **params):
        """Check that the parameters broadcast to the weight."""
        for value in params.values():
            check_broadcast(self.name, (), tuple(value.shape), tuple(w.shape))

    def log_density(self, w, *args, **params):
        """Log p of each weight."""
        raise NotImplementedError

    def kl_from_normal(self, mean, log_scale, params):
        """Closed form of KL(N(mean, exp(log_scale)²) || this), or `None`."""
        return None

    def make(self, distributions, params):
        """The `tfp.distributions` object."""
        params = {
            k: ops.cast(ops.convert_to_tensor(v), "float32") for k, v in params.items()
        }
        return getattr(distributions, self.name)(**params)


class _LocationScale(Family):
    kinds = {"loc": "real", "scale": "positive"}
    defaults = {"loc": 0.0, "scale": 1.0}


class Normal(_LocationScale):
    """−½((w − loc)/scale)² − log scale − ½ log 2π."""

    def log_density(self, w, loc, scale):
        """Log p of each weight."""
        return -ops.square((w - loc) / scale) / 2.0 - ops.log(scale) - _LOG_2PI / 2.0

    def kl_from_normal(self, mean, log_scale, params):
        """Σ log s/σ + (σ² + (μ − loc)²)/(2s²) − ½."""
        loc = ops.convert_to_tensor(params["loc"], "float32")
        scale = ops.convert_to_tensor(params["scale"], "float32")
        self.check_fit(mean, loc=loc, scale=scale)
        if not (loc.shape or scale.shape):  # fewer passes over a large weight
            second = ops.sum(ops.exp(2.0 * log_scale)) + ops.sum(ops.square(mean - loc))
            constant = (ops.log(scale) - 0.5) * math.prod(mean.shape)
            return second / (2.0 * ops.square(scale)) + constant - ops.sum(log_scale)
        second = ops.exp(2.0 * log_scale) + ops.square(mean - loc)
        each = second / (2.0 * ops.square(scale)) + (ops.log(scale) - 0.5) - log_scale
        return ops.sum(each)


class Laplace(_LocationScale):
    """−|w − loc|/scale − log(2·scale)."""

    def log_density(self, w, loc, scale):
        """Log p of each weight."""
        return -ops.abs(w - loc) / scale - ops.log(2.0 * scale)

    def kl_from_normal(self, mean, log_scale, params):
        """−H + log 2b + E|x − loc|/b, of the mean of a folded normal.

        Beyond 20 deviations E|x − loc| is |μ − loc| to the last bit.
        """
        loc = ops.convert_to_tensor(params["loc"], "float32")
        scale = ops.convert_to_tensor(params["scale"], "float32")
        self.check_fit(mean, loc=loc, scale=scale)
        m = mean - loc
        z = ops.clip(m * ops.exp(-ops.maximum(log_scale, -60.0)), -20.0, 20.0)
        spread = math.sqrt(2.0 / math.pi) * ops.exp(log_scale - ops.square(z) / 2.0)
        size = spread + m * ops.erf(z / math.sqrt(2.0))
        constant = ops.log(2.0 * scale) - (_LOG_2PI + 1.0) / 2.0
        return ops.sum(size / scale + constant - log_scale)


class StudentT(Family):
    """Student's t; without `df` given, of 3 degrees of freedom."""

    kinds = {"df": "positive", "loc": "real", "scale": "positive"}
    defaults = {"df": 3.0, "loc": 0.0, "scale": 1.0}

    def log_density(self, w, df, loc, scale):
        """Log p of each weight."""
        constant = log_gamma((df + 1.0) / 2.0) - log_gamma(df / 2.0)
        constant = constant - ops.log(df * math.pi) / 2.0 - ops.log(scale)
        tail = ops.log1p(ops.square((w - loc) / scale) / df)
        return constant - (df + 1.0) / 2.0 * tail


class Cauchy(_LocationScale):
    """−log(π·scale) − log(1 + ((w − loc)/scale)²)."""

    def log_density(self, w, loc, scale):
        """Log p of each weight."""
        tail = ops.log1p(ops.square((w - loc) / scale))
        return -ops.log(math.pi * scale) - tail


class SpikeAndSlab(Family):
    """π·N(0, σ₁²) + (1 − π)·N(0, σ₂²): Blundell et al. 2015, eq. 7."""

    kinds = {"pi": "unit", "sigma1": "positive", "sigma2": "positive"}
    defaults = {"pi": 0.5, "sigma1": 1.0, "sigma2": 0.0025}

    def log_density(self, w, pi, sigma1, sigma2):
        """Log p of each weight: the wider part, plus what the narrower adds."""

        def part(share, sigma):
            square = ops.square(w / sigma) / 2.0
            return ops.log(share) - square - ops.log(sigma) - _LOG_2PI / 2.0

        wide, narrow = part(pi, sigma1), part(1.0 - pi, sigma2)
        if np.max(self.params["sigma2"]) > np.max(self.params["sigma1"]):
            wide, narrow = narrow, wide
        return wide + ops.softplus(narrow - wide)

    def make(self, distributions, params):
        """A `MixtureSameFamily` of two Normals."""
        pi, first, second = (
            ops.cast(ops.convert_to_tensor(params[key]), "float32")
            for key in ("pi", "sigma1", "sigma2")
        )
        return distributions.MixtureSameFamily(
            distributions.Categorical(probs=ops.stack([pi, 1.0 - pi], axis=-1)),
            distributions.Normal(0.0, ops.stack([first, second], axis=-1)),
        )


FAMILIES = {
    each.__name__: each for each in (Normal, Laplace, StudentT, Cauchy, SpikeAndSlab)
}


def hierarchical_normal(w, loc, concentration, rate):
    """Σ log p(w) of w ~ N(loc, v), v ~ InverseGamma(a, b) shared by all weights.

    With n weights: log Γ(a + n/2) − log Γ(a) + a·log b − n/2·log 2π
    − (a + n/2)·log(b + Σ(w − loc)²/2). In float64: both log Γ are large.
    """
    # tensorflow: the number of weights may be unknown before the graph runs.
    import tensorflow as tf

    loc = ops.cast(ops.convert_to_tensor(loc), w.dtype)
    check_broadcast("Normal", (), tuple(loc.shape), tuple(w.shape))
    half = ops.cast(tf.size(w), "float64") / 2.0
    a, b = (ops.cast(each, "float64") for each in (concentration, rate))
    energy = ops.cast(ops.sum(ops.square(w - loc)), "float64") / 2.0
    total = log_gamma(a + half) - log_gamma(a) - half * (_LOG_2PI + ops.log(b))
    total = total - (a + half) * ops.log1p(energy / b)
    return ops.cast(total, w.dtype)


def log_gamma(x):
    """Log Γ(x)."""
    # tensorflow: keras.ops has no log Γ.
    import tensorflow as tf

    return tf.math.lgamma(x)


def check_parameter(name, value, kind="real"):
    """A parameter as a float or nested lists of floats."""
    expected = {
        "real": "finite numbers",
        "positive": "finite numbers greater than 0",
        "unit": "numbers between 0 and 1",
    }[kind]
    try:
        if isinstance(value, (str, bool)):
            raise TypeError
        array = np.asarray(value, "float64")
        good = bool(np.all(np.isfinite(array)))
    except (TypeError, ValueError):
        good = False
    if good and kind != "real":
        good = bool(np.all(array > 0) and (kind == "positive" or np.all(array < 1)))
    if not good:
        raise ValueError(
            f"Invalid value for the prior's parameter `{name}`. Expected {expected}. "
            f"Received: {name}={value!r}"
        )
    return array.tolist()


def check_broadcast(name, event, batch, shape):
    """Check that a weight of `shape` is made of such events (`None` is any)."""
    split = len(shape) - len(event)
    good = split >= len(batch) and _fit(event, shape[max(split, 0) :], False)
    good = good and _fit(batch, shape[split - len(batch) : split], True)
    if not good:
        raise ValueError(
            f"The prior {name!r} does not fit the weight. Expected event shape "
            f"{event} as its last axes and batch shape {batch} to broadcast to the "
            f"others. Received: a weight of shape {shape}"
        )


def _fit(own, axes, broadcast):
    return all(
        a is None or b is None or a == b or (broadcast and a == 1)
        for a, b in zip(own, axes, strict=True)
    )
