"""What samples of a prediction say: moments, quantiles and parts of the uncertainty."""

import dataclasses
import math
import statistics
from typing import Any

import keras
import numpy as np
from keras import ops

_LIKELIHOODS = ("categorical", "bernoulli", "normal")
_SPREADS = ("log_variance", "variance", "std")
_LEAST_VARIANCE = 1e-300  # of the noise, so that no density is 0/0


class Prediction:
    """Predictions averaged over samples of a model, made by `predict`.

    Attributes:
        mean: The mean over samples, of probabilities for `from_logits`; of a Normal
            likelihood with `spread`, of the means.
        num_samples: How many samples there were, S.

    Example:

    >>> import keras, numpy as np
    >>> from kerasreg.uncertainty import predict
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dropout(0.2),
    ...         keras.layers.Dense(3, activation="softmax"),
    ...     ]
    ... )
    >>> p = predict(model, np.ones((2, 4)), samples=50, keep_samples=True)
    >>> bool((p.total_uncertainty >= p.aleatoric).all())
    True
    >>> low, high = p.interval(0.9)
    >>> low.shape
    (2, 3)
    """

    def __init__(self, stats, num_samples, likelihood=None, noise_variance=None):
        self._stats = stats
        self.mean = stats["mean"]
        self.num_samples = num_samples
        self.likelihood = likelihood
        self._noise_variance = noise_variance

    @property
    def var(self):
        """The variance over samples, divided by S."""
        return self._stats["m2"] / self.num_samples

    @property
    def std(self):
        """The standard deviation over samples."""
        return np.sqrt(self.var)

    @property
    def samples(self):
        """All samples: an array of shape `(S, inputs, ...)`."""
        if "mean samples" not in self._stats:
            raise ValueError(
                "The samples were not kept. Give `keep_samples=True` to `predict` for "
                "`samples`, `quantile`, `interval` and `log_prob`."
            )
        return self._stats["mean samples"]

    def quantile(self, q):
        """Quantiles of the samples (of the function, not of noisy targets).

        Args:
            q: Number in [0, 1], or an array of them.

        Returns:
            An array; with the shape of `q` in front.
        """
        if np.any(np.asarray(q) < 0) or np.any(np.asarray(q) > 1):
            raise ValueError(
                "Invalid value for argument `q`. Expected numbers in [0, 1]. "
                f"Received: q={q!r}"
            )
        return np.quantile(self.samples, q, axis=0)

    def interval(self, level=0.95, noise=False):
        """A central interval: of the function, or of targets with their noise.

        Args:
            level: Number in (0, 1), the share inside.
            noise: `False`: the credible interval of the samples, in which the function
                lies; new targets fall outside it more often. `True`: an interval for
                new targets, that of the Normal of `mean` and `total_uncertainty`; for
                `likelihood="normal"`.

        Returns:
            Two arrays, the lower and the upper ends.
        """
        if not 0 < level < 1:
            raise ValueError(
                "Invalid value for argument `level`. Expected a number in (0, 1). "
                f"Received: level={level!r}"
            )
        if noise:
            if self.likelihood != "normal":
                raise ValueError(
                    "Invalid value for argument `noise`. Expected False unless the "
                    'likelihood is "normal": give `predict` the argument '
                    f"`noise_variance` or `spread`. Received: noise={noise!r}"
                )
            reach = statistics.NormalDist().inv_cdf((1 + level) / 2)
            half = reach * np.sqrt(self.total_uncertainty)
            return self.mean - half, self.mean + half
        low, high = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return low, high

    @property
    def total_uncertainty(self):
        """Of classes the predictive entropy in nats; of Normals the total variance."""
        if self.likelihood == "normal":
            return self.aleatoric + self.epistemic
        return _entropy(self.mean, self._needs_likelihood())

    @property
    def aleatoric(self):
        """What remains if the function is known.

        Of classes the mean over samples of the entropy; of Normals the mean of the
        variance of the noise.
        """
        if self._needs_likelihood() != "normal":
            # Entropy is concave, so a mean larger than the total is by rounding; one
            # that is larger by more is shown as it is.
            entropy, total = self._stats["entropy"], self.total_uncertainty
            rounded = entropy - total < 1e-5 * (1 + total)
            return np.where(rounded, np.minimum(entropy, total), entropy)
        if "noise" in self._stats:
            return self._stats["noise"]
        return np.full_like(self.mean, self._noise_variance)

    @property
    def epistemic(self):
        """What is not known of the function, total less aleatoric.

        Of classes the mutual information of class and function; of Normals the
        variance of the means over samples.
        """
        if self._needs_likelihood() == "normal":
            return self.var
        return self.total_uncertainty - self.aleatoric

    @property
    def predictive_entropy(self):
        """Of classes: the entropy of the mean, `total_uncertainty`, in nats."""
        return self._of_classes("total_uncertainty")

    @property
    def expected_entropy(self):
        """Of classes: the mean of the entropies, `aleatoric`, in nats."""
        return self._of_classes("aleatoric")

    @property
    def mutual_information(self):
        """Of classes: the mutual information, `epistemic`, in nats."""
        return self._of_classes("epistemic")

    def log_prob(self, y):
        """Log predictive density of targets: `log 1/S Σ_s p(y | f_s)`.

        Args:
            y: Targets: integers for `"categorical"`; zeros and ones for
                `"bernoulli"`; numbers for `"normal"`. These two have the shape of
                the outputs.

        Returns:
            Array; of Normals and Bernoullis one number an output.

        Reference: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation"
        (arXiv 1506.02142), eq. 8.
        """
        kind = self._needs_likelihood()
        outputs = self.samples.astype("float64")
        y = np.asarray(y)
        expected = outputs.shape[1:-1] if kind == "categorical" else outputs.shape[1:]
        if y.shape != expected:
            raise ValueError(
                f"Invalid value for argument `y`. Expected the shape {expected}. "
                f"Received: shape={y.shape}"
            )
        self._check_targets(y, outputs.shape[-1])
        with np.errstate(divide="ignore"):
            if kind == "categorical":
                index = np.broadcast_to(y, outputs.shape[:-1])[..., None].astype(int)
                logs = np.log(np.take_along_axis(outputs, index, axis=-1)[..., 0])
            elif kind == "bernoulli":
                logs = np.log(np.where(y > 0.5, outputs, 1 - outputs))
            else:
                noise = self._stats.get("noise samples", self._noise_variance)
                noise = np.maximum(np.asarray(noise, "float64"), _LEAST_VARIANCE)
                logs = -0.5 * ((y - outputs) ** 2 / noise + np.log(2 * np.pi * noise))
            return np.logaddexp.reduce(logs, axis=0) - math.log(self.num_samples)

    def _check_targets(self, y, classes):
        """Raise unless the targets are classes, where they have to be."""
        if self.likelihood == "normal":
            return
        classes = classes if self.likelihood == "categorical" else 2
        if not np.all(np.isin(y, np.arange(classes))):
            raise ValueError(
                f"Invalid value for argument `y`. Expected integers from 0 to "
                f"{classes - 1}. Received: values from {y.min()} to {y.max()}"
            )

    def _needs_likelihood(self):
        if self.likelihood is None:
            raise ValueError(
                "This needs to know what the outputs are. Give `predict` the argument "
                '`likelihood`: "categorical", "bernoulli" or "normal".'
            )
        return self.likelihood

    def _of_classes(self, name):
        if self.likelihood not in ("categorical", "bernoulli"):
            raise ValueError(
                'Entropies need `likelihood="categorical"` or "bernoulli". Received: '
                f"likelihood={self.likelihood!r}"
            )
        return getattr(self, name)


def _entropy(p, kind):
    """Entropy in nats of arrays or tensors."""
    total = -p * ops.log(ops.maximum(p, 1e-37))
    if kind == "categorical":
        total = ops.sum(total, axis=-1)
    else:
        total = total - (1.0 - p) * ops.log(ops.maximum(1.0 - p, 1e-37))
    return total if ops.is_tensor(p) else np.asarray(total)


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """What a model's outputs are.

    Attributes:
        names: Of each output one of `_LIKELIHOODS` or `None`; the last for all others.
        from_logits: Whether they are logits.
        spread: What the second half of an output is, or `None`.
        noise_variance: Known variance of the noise, or `None`.
    """

    names: tuple
    from_logits: bool
    spread: str | None
    noise_variance: float | None

    def at(self, i):
        """The name for output `i`."""
        return self.names[min(i, len(self.names) - 1)]

    def values(self, outputs):
        """What to average of one sample.

        Args:
            outputs: Structure of tensors.

        Returns:
            The structure of outputs, and a list of a dict for each.
        """
        if self.spread is not None:
            if isinstance(outputs, dict) and len(outputs) > 1:
                raise ValueError(
                    "Invalid value for argument `spread`. Expected a model whose "
                    "outputs are a list, the means first. Received: a dict of "
                    f"{sorted(outputs)}, which has no order"
                )
            outputs, value = self._normal(keras.tree.flatten(outputs))
            return outputs, [value]
        flat = enumerate(keras.tree.flatten(outputs))
        return outputs, [self._value(_float(output), self.at(i)) for i, output in flat]

    def _value(self, output, name):
        if name not in ("categorical", "bernoulli"):
            return {"mean": output}
        if self.from_logits:
            squash = ops.softmax if name == "categorical" else ops.sigmoid
            output = squash(output)
        return {"mean": output, "entropy": _entropy(output, name)}

    def _normal(self, outputs):
        if len(outputs) == 1:
            if outputs[0].shape[-1] % 2:
                raise ValueError(
                    "Invalid value for argument `spread`. Expected an output whose "
                    "last axis holds means and as many spreads, or two outputs. "
                    f"Received: an output of shape {tuple(outputs[0].shape)}"
                )
            outputs = ops.split(outputs[0], 2, axis=-1)
        elif len(outputs) != 2:
            raise ValueError(
                "Invalid value for argument `spread`. Expected a model of one or two "
                f"outputs. Received: one of {len(outputs)}"
            )
        mean, spread = map(_float, outputs)
        if self.spread == "log_variance":
            spread = ops.exp(spread)
        elif self.spread == "std":
            spread = ops.square(spread)
        return mean, {"mean": mean, "noise": spread}


def _float(tensor):
    wide = keras.backend.standardize_dtype(tensor.dtype) == "float64"
    return tensor if wide else ops.cast(tensor, "float32")


def likelihood_of(model, name, from_logits, spread, noise_variance):
    """Check the arguments of `predict` that say what outputs are.

    Returns:
        `Likelihood`.
    """
    if name not in ("auto", None, *_LIKELIHOODS):
        _refuse(
            "likelihood", '"auto", "categorical", "bernoulli", "normal" or None', name
        )
    if spread not in (None, *_SPREADS):
        _refuse("spread", '"log_variance", "variance", "std" or None', spread)
    known: Any = noise_variance
    if known is not None and not (
        isinstance(known, int | float | np.floating)
        and not isinstance(known, bool)
        and 0 <= known < math.inf
    ):
        _refuse("noise_variance", "a non-negative number or None", known)
    normal = spread is not None or known is not None
    both = spread is not None and known is not None
    if both or (name != "auto" and (name == "normal") != normal):
        raise ValueError(
            'Invalid value for argument `likelihood`. Expected "normal" with one of '
            "`spread` and `noise_variance`, and others with neither. Received: "
            f"likelihood={name!r}, spread={spread!r}, noise_variance={known!r}"
        )
    if normal:
        names: tuple = ("normal",)
    elif name == "auto":
        names = tuple(_found(model, from_logits)) or (None,)
    else:
        names = (name,)
    if from_logits and not set(names) & {"categorical", "bernoulli"}:
        _refuse("from_logits", "True only for a likelihood of classes", from_logits)
    return Likelihood(names, bool(from_logits), spread, known)


def _found(model, from_logits):
    """The likelihoods that the last activations stand for."""
    kinds = {"softmax": "categorical", "sigmoid": "bernoulli"}
    if isinstance(model, keras.Function | keras.Sequential) and not from_logits:
        for output in getattr(model, "outputs", None) or []:
            layer = output._keras_history.operation
            activation = getattr(layer, "activation", None)
            if isinstance(layer, keras.layers.Softmax):
                last = layer.axis in (-1, len(output.shape) - 1)
                activation = keras.activations.softmax if last else None
            recurrent = hasattr(layer, "recurrent_activation")
            name = getattr(activation, "__name__", "")
            yield None if recurrent else kinds.get(name)


def _refuse(name, expected, value):
    raise ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. "
        f"Received: {name}={value!r}"
    )
