"""The negative log density of a prior, as a penalty."""

import keras
from keras import ops

from kerasreg import prox
from kerasreg.regularizers import families, foreign
from kerasreg.regularizers.base import Penalty, check_number


@keras.saving.register_keras_serializable(package="kerasreg")
class Prior(Penalty):
    """A prior on a weight: `−scale·Σ log p(w)`, for the most probable weights.

    **`scale` is the factor of the penalty**, its strength: with a mean loss over N
    examples it is 1/N. It is *not* the distribution's own parameter of that name,
    which is given in `params={"scale": ...}`. All other parameters may be given
    by keyword or in `params`.

    `"Normal"` is `L2(scale/(2·s²))` and `"Laplace"` is `L1(scale/b)` plus a
    constant, with the same proximal map (around `loc`). Other priors have none.

    Args:
        distribution: `"Normal"`, `"Laplace"`, `"StudentT"`, `"Cauchy"` or
            `"SpikeAndSlab"` (parameters `pi`, `sigma1`, `sigma2`), which need no
            further package; the name of any other class of `tfp.distributions`;
            or an instance of one. It must be continuous and over the reals. Its
            event axes are the last axes of the weight.
        scale: Non-negative finite number, the strength.
        params: Dict of parameters of the distribution. Those of the five above
            have defaults: `loc` 0, `scale` 1, `df` 3.
        hyperprior: `{"concentration": a, "rate": b}`: the variance of a `"Normal"`
            has an inverse gamma prior and is integrated out; one variance for
            the whole weight. `None` for none.
        trainable: Names of parameters that a Bayesian layer learns, or `True`
            for all. Not for a plain regularizer: the density of a point estimate
            grows without bound as the scale shrinks; use `hyperprior` there.
        **parameters: More parameters of the distribution.

    Raises:
        ValueError: If the distribution is unknown or not over the reals, or a
            parameter is unknown, missing or out of range; when called, if the
            weight does not fit its event shape or a parameter is trainable.
        ImportError: If it needs TensorFlow Probability, which is missing.

    Example:

    >>> import keras
    >>> from kerasreg.regularizers import L1, Prior
    >>> prior = Prior("Laplace", 1 / 100, params={"scale": 0.5})
    >>> w = keras.ops.array([2.0, -0.01])
    >>> prior.prox(w, 1.0).numpy().tolist() == L1(0.02).prox(w, 1.0).numpy().tolist()
    True

    Reference: Blundell et al. 2015, "Weight uncertainty in neural networks", eq. 7;
    Gelman 2006, "Prior distributions for variance parameters".
    """

    def __init__(
        self,
        distribution,
        scale=1.0,
        *,
        params=None,
        hyperprior=None,
        trainable=False,
        **parameters,
    ):
        super().__init__(check_number("scale", scale))
        twice = sorted(set(params or {}) & set(parameters))
        if twice:
            raise ValueError(
                "Invalid value for argument `params`. Expected each parameter once. "
                f"Received: {twice} both in `params` and by keyword"
            )
        self._given = {**(params or {}), **parameters}
        self._family = _family(distribution, self._given)
        self._hyperprior = self._valid_hyperprior(hyperprior)
        self._trainable = self._valid_trainable(trainable)

    def _valid_hyperprior(self, hyperprior):
        if hyperprior is None:
            return None
        keys = {"concentration", "rate"}
        if self._family.name != "Normal" or "scale" in self._given:
            raise ValueError(
                "Invalid value for argument `hyperprior`. Expected None unless the "
                "distribution is 'Normal' without a scale of its own. "
                f"Received: hyperprior={hyperprior!r}"
            )
        if not isinstance(hyperprior, dict) or set(hyperprior) != keys:
            raise ValueError(
                "Invalid value for argument `hyperprior`. Expected a dict of "
                f"'concentration' and 'rate'. Received: hyperprior={hyperprior!r}"
            )
        return {k: check_number(k, v, above=0) for k, v in hyperprior.items()}

    def _valid_trainable(self, trainable):
        allowed = [] if self._hyperprior else list(self._family.kinds)
        names = allowed if trainable is True else list(trainable or [])
        if not set(names) <= set(allowed) or (trainable is True and not names):
            raise ValueError(
                f"Invalid value for argument `trainable`. Expected names among "
                f"{allowed}. Received: trainable={trainable!r}"
            )
        return names

    @property
    def distribution(self):
        """The distribution as a new `tfp.distributions` object."""
        if self._hyperprior:
            raise ValueError(
                "A prior with a `hyperprior` is one joint law of a whole weight, "
                "whose shape it does not know. Use `log_prob`."
            )
        return self._family.make(foreign.distributions(), self._family.params)

    def add_parameters(self, layer, name):
        """Make the variables of the trainable parameters.

        Args:
            layer: The Keras layer that owns them.
            name: Name of the weight; a variable is called `{name}_prior_scale`.

        Returns:
            A dict from parameter name to unconstrained variable.
        """
        made = {}
        for key in self._trainable:
            start = self._family.unconstrained(key)
            made[key] = layer.add_weight(
                name=f"{name}_prior_{key}",
                shape=start.shape,
                initializer=lambda shape, dtype=None, start=start: (
                    ops.convert_to_tensor(start, dtype=dtype)
                ),
                dtype="float32",
                autocast=False,
            )
        return made

    def _values(self, parameters):
        learned = {
            key: self._family.constrained(key, ops.convert_to_tensor(value))
            for key, value in (parameters or {}).items()
        }
        return {**(self._family.params or {}), **learned}

    def log_prob(self, w, parameters=None):
        """Σ log p(w), normalized, without the strength.

        Args:
            w: Float tensor.
            parameters: The dict of `add_parameters`.

        Returns:
            A scalar tensor.
        """
        if self._hyperprior:
            loc = self._family.params["loc"]
            return families.hierarchical_normal(w, loc, **self._hyperprior)
        return self._family.log_prob(w, self._values(parameters))

    def kl_from_normal(self, mean, log_scale, parameters=None):
        """KL(Π N(mean, exp(log_scale)²) || prior), without the strength.

        Args:
            mean: Float tensor.
            log_scale: Float tensor of the same shape.
            parameters: The dict of `add_parameters`.

        Returns:
            A scalar float32 tensor, or `None` if there is no closed form.
        """
        if self._hyperprior:
            return None
        mean, log_scale = (ops.cast(each, "float32") for each in (mean, log_scale))
        return self._family.kl_from_normal(mean, log_scale, self._values(parameters))

    def value(self, w):
        """`−strength·Σ log p(w)`."""
        if self._trainable:
            raise ValueError(
                "A prior with trainable parameters is no penalty of a plain weight: "
                "its density grows without bound as its scale shrinks. Use it in a "
                "Bayesian layer, or give a "
                '`hyperprior={"concentration": ..., "rate": ...}`. '
                f"Received: trainable={self._trainable!r}"
            )
        return ops.multiply(self.lam, ops.negative(self.log_prob(w)))

    @property
    def has_prox(self):
        """Whether it is a Normal or a Laplace with a fixed scale."""
        fixed = not self._hyperprior and not self._trainable
        return fixed and self._family.name in ("Normal", "Laplace")

    def prox(self, w, step):
        """That of `L2` or `L1`, around `loc`."""
        if not self.has_prox:
            return super().prox(w, step)
        loc, scale = (
            ops.cast(ops.convert_to_tensor(self._family.params[key]), w.dtype)
            for key in ("loc", "scale")
        )
        step = ops.multiply(ops.cast(step, w.dtype), ops.cast(self.lam, w.dtype))
        if self._family.name == "Laplace":
            return loc + prox.soft_threshold(w - loc, step / scale)
        return loc + (w - loc) / (1.0 + step / ops.square(scale))

    def get_config(self):
        """The arguments, with the current strength."""
        if self._family.params is None:
            raise ValueError(
                f"The prior {self._family.name!r} cannot be saved: its parameters are "
                "not plain numbers or arrays. Give a distribution by name and "
                "parameters."
            )
        params = dict(self._family.params)
        if self._hyperprior:
            del params["scale"]
        return {
            "distribution": self._family.name,
            "scale": self.strength,
            "params": params,
            "hyperprior": self._hyperprior,
            "trainable": list(self._trainable),
        }

    def __repr__(self):
        if self._family.params is None:
            return f"Prior({self._family.instance!r}, scale={self.strength!r})"
        return super().__repr__()


def _family(distribution, params):
    if not isinstance(distribution, str):
        tfd = foreign.distributions()
        if not isinstance(distribution, tfd.Distribution):
            raise TypeError(
                "Invalid value for argument `distribution`. Expected a name or a "
                "tfp.distributions object. "
                f"Received: distribution={distribution!r}"
            )
        if params:
            raise ValueError(
                "Invalid value for argument `params`. Expected none beside a "
                f"distribution object. Received: params={params!r}"
            )
        instance = distribution
        distribution, params = foreign.from_instance(instance)
        if params is None:
            return foreign.Foreign(distribution, None, instance)
    known = families.FAMILIES.get(distribution)
    if known is not None:
        return known(distribution, params)
    foreign.check_name(distribution)
    return foreign.Foreign(distribution, params)
