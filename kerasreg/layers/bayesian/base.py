"""What all Bayesian layers share: arguments, posteriors, divergences, saving."""

import keras
from keras import ops

from kerasreg.layers.bayesian.posterior import Posterior
from kerasreg.layers.evidence import Evidence
from kerasreg.regularizers.base import check_count, check_number
from kerasreg.regularizers.prior import Prior

ESTIMATORS = ("flipout", "reparameterization", "local_reparameterization")

# What the plain Keras layer does not take.
OWN = (
    "prior",
    "bias_prior",
    "bayesian_bias",
    "estimator",
    "initial_scale",
    "kl_samples",
    "num_examples",
    "kl_strength",
    "seed",
)


class Bayesian(Evidence):
    """A Keras layer whose weights have a posterior: see `BayesianDense`.

    A subclass names its weights in `_bayesian_weights` and its estimators in
    `_estimators`, and calls `_build_posteriors` at the end of `build`.
    """

    _bayesian_weights: tuple[str, ...] = ("kernel",)
    _estimators: tuple[str, ...] = ESTIMATORS

    def __init__(
        self,
        *args,
        prior=None,
        estimator="flipout",
        num_examples=None,
        initial_scale=0.02,
        bayesian_bias=False,
        bias_prior=None,
        kl_samples=1,
        kl_strength=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.prior = as_prior("prior", prior)
        self.bias_prior = self.prior
        if bias_prior is not None:
            self.bias_prior = as_prior("bias_prior", bias_prior)
        self.bayesian_bias = _check_bias(self, bayesian_bias, bias_prior)
        self.estimator = self._check_estimator(estimator)
        self.initial_scale = check_number("initial_scale", initial_scale, above=0.0)
        self.kl_samples = check_count("kl_samples", kl_samples)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        names = self._bayesian_weights
        names += ("bias",) if self.bayesian_bias else ()
        self._posteriors = {name: self._posterior(name) for name in names}
        self._set_divergence(
            *(posterior.kl for posterior in self._posteriors.values()),
            num_examples=num_examples,
            kl_strength=kl_strength,
        )

    def _posterior(self, name):
        prior = self.bias_prior if name == "bias" else self.prior
        return Posterior(self, name, prior, self.initial_scale, self.kl_samples)

    def _check_estimator(self, estimator):
        if estimator not in self._estimators:
            raise ValueError(
                "Invalid value for argument `estimator`. Expected one of "
                f"{self._estimators}. Received: estimator={estimator!r}"
            )
        return estimator

    def _build_posteriors(self, *means):
        """Make the variables of the posteriors.

        Args:
            *means: The `keras.Variable` of each weight of `_bayesian_weights`, and
                that of the bias.
        """
        pairs = zip(self._posteriors.values(), means, self.divergences, strict=False)
        for posterior, mean, divergence in pairs:
            posterior.build(mean, divergence)

    def draw_weights(self):
        """A draw of each weight with a posterior, for all examples of several calls."""
        return [p.draw(self.compute_dtype) for p in self._posteriors.values()]

    @property
    def kernel_posterior(self):
        """The posterior of the kernel, a `tfp.distributions.Normal` of its shape.

        It holds the values of the moment: ask again after training.
        """
        return self._posteriors["kernel"].distribution()

    @property
    def bias_posterior(self):
        """The posterior of the bias, if `bayesian_bias`; else `None`."""
        bias = self._posteriors.get("bias")
        return None if bias is None else bias.distribution()

    def get_config(self):
        """The constructor's arguments, with the *current* strength."""
        own_bias = self.bias_prior is not self.prior
        return {
            **super().get_config(),
            "prior": _serialized(self.prior),
            "bias_prior": _serialized(self.bias_prior) if own_bias else None,
            "bayesian_bias": self.bayesian_bias,
            "estimator": self.estimator,
            "initial_scale": self.initial_scale,
            "kl_samples": self.kl_samples,
            "seed": self.seed,
            **self._evidence_config(),
        }

    def enable_lora(self, *args, **kwargs):
        """Not for this layer: its noise is that of each entry of the weight."""
        raise NotImplementedError(
            f"`{type(self).__name__}` has no low-rank adaptation. Adapt the plain "
            "layer that `to_plain()` returns."
        )

    def save_own_variables(self, store):
        """Save all weights, the scales too."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        """Load all weights, the scales too."""
        keras.layers.Layer.load_own_variables(self, store)


def as_prior(name, prior):
    """The prior of an argument: a standard Normal for `None`.

    Args:
        name: Name of the argument, for messages.
        prior: `Prior`, its config, what `Prior` takes as `distribution`, or `None`.

    Returns:
        A `Prior` of strength 1.
    """
    if prior is None:
        return Prior("Normal")
    if isinstance(prior, dict):
        prior = keras.saving.deserialize_keras_object(prior)
    if not isinstance(prior, Prior):
        try:
            prior = Prior(prior)
        except TypeError:
            raise TypeError(
                f"Invalid value for argument `{name}`. Expected a "
                "kerasreg.regularizers.Prior, the name of a distribution or a "
                f"tfp.distributions object. Received: {name}={prior!r}"
            ) from None
    if prior.strength != 1.0:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a prior with `scale=1` "
            "(the layer divides by `num_examples`; a distribution's own scale goes "
            f'into `params={{"scale": ...}}`). Received: {name}={prior!r}'
        )
    return prior


def _serialized(prior):
    """The config of a prior, whose strength has no meaning in a Bayesian layer."""
    config = keras.saving.serialize_keras_object(prior)
    config["config"]["scale"] = 1.0
    return config


def _check_bias(layer, bayesian_bias, bias_prior):
    if bayesian_bias and not getattr(layer, "use_bias", False):
        raise ValueError(
            "Invalid value for argument `bayesian_bias`. Expected False in a layer "
            f"without bias. Received: bayesian_bias={bayesian_bias!r}"
        )
    if bias_prior is not None and not bayesian_bias:
        raise ValueError(
            "Invalid value for argument `bias_prior`. Expected None unless "
            f"`bayesian_bias=True`. Received: bias_prior={bias_prior!r}"
        )
    return bool(bayesian_bias)


def float_inputs(layer, inputs):
    """The inputs in the compute dtype of the layer, integers too."""
    return ops.cast(inputs, layer.compute_dtype)
