"""Gaussian dropout whose rate is learned: Kingma's variational dropout."""

import keras
import numpy as np
from keras import ops

from kerasreg import random
from kerasreg.layers import log_uniform
from kerasreg.layers.evidence import Evidence
from kerasreg.layers.noise import noisy
from kerasreg.regularizers.base import check_number

# The noise of a log α beyond this is that of this: 150 times its unit, which float16
# still holds.
_LARGEST_LOG_ALPHA = 10.0


@keras.saving.register_keras_serializable(package="kerasreg")
class VariationalDropout(Evidence):
    """Gaussian dropout with a rate that is learned, for the layer or for each unit.

    In training the inputs s are multiplied by `1 + sqrt(α)·ε`, with ε standard Normal,
    drawn for each example and unit (and time step, or pixel). That is binary dropout
    with rate r as its Gaussian approximation, `α = r/(1 − r)`. At inference the inputs
    pass as they are.

    The noise belongs to the unit: all weights that leave the unit share it. Its prior
    is log-uniform, so the layer adds to the loss, `D` being the units (the last axis),

        kl_strength · Σ_D KL(α) / num_examples
        KL(α) ≈ k1·sigmoid(−k2 − k3·log α) + ½·log(1 + 1/α)

    with k1 = 0.63576, k2 = 1.87320, k3 = 1.48695 (Molchanov et al. 2017), which is
    within 0.01 of the integral for every α. The cubic polynomial of Kingma et al. holds
    for α ≤ 1 only, where it is the same up to a constant; beyond it turns round, so α
    would have to be clipped there, and no unit could be dropped altogether.

    The data loss has to be the mean negative log likelihood of an example, as
    cross-entropy is. For `"mse"` with noise of variance v in the targets, that is
    twice v times it: give `kl_strength=2*v` (`2*v/k` for k outputs).

    Args:
        granularity: `"layer"` for one α, or `"unit"` for one for each entry of the
            last axis.
        num_examples: Positive number of training examples. May be set later, as
            the attribute, before the first loss.
        initial_rate: Number in (0, 1), the rate r to start from.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Keras's layer arguments: `name`, `trainable`, `dtype`.

    Call arguments:
        inputs: Float tensor of shape `(batch, ..., units)`.
        training: Whether to add noise. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        A tensor of the shape of the inputs. A mask passes through.

    Raises:
        ValueError: If an argument is out of range; at the first training loss, if
            there is no `num_examples`.
        TypeError: If a number is none.

    Example:

    >>> import keras
    >>> from kerasreg.layers import VariationalDropout
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((5,)),
    ...         VariationalDropout("unit", num_examples=60000, initial_rate=0.2),
    ...         keras.layers.Dense(1),
    ...     ]
    ... )
    >>> model.layers[0].rate.round(2).tolist()
    [0.2, 0.2, 0.2, 0.2, 0.2]

    Reference: Kingma, Salimans & Welling 2015, "Variational dropout and the local
    reparameterization trick" (arXiv 1506.02557), section 3.2.
    """

    def __init__(
        self,
        granularity="layer",
        *,
        num_examples=None,
        initial_rate=0.1,
        kl_strength=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if granularity not in ("layer", "unit"):
            raise ValueError(
                'Invalid value for argument `granularity`. Expected "layer" or "unit". '
                f"Received: granularity={granularity!r}"
            )
        self.granularity = granularity
        self.initial_rate = check_number("initial_rate", initial_rate, above=0.0)
        if not self.initial_rate < 1:
            raise ValueError(
                "Invalid value for argument `initial_rate`. Expected a number in "
                f"(0, 1). Received: initial_rate={initial_rate!r}"
            )
        self.supports_masking = True
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._set_divergence(
            self._kl, num_examples=num_examples, kl_strength=kl_strength
        )

    def build(self, input_shape):
        """Make the noise parameter.

        Args:
            input_shape: Shape of the inputs, with the batch axis.
        """
        self.units = input_shape[-1]
        if self.units is None:
            raise ValueError(
                "Invalid input of `VariationalDropout`. Expected a last axis of known "
                f"length. Received: shape={tuple(input_shape)}"
            )
        start = np.log(self.initial_rate) - np.log1p(-self.initial_rate)
        self.log_alpha = self.add_weight(
            name="log_alpha",
            shape=() if self.granularity == "layer" else (self.units,),
            initializer=keras.initializers.Constant(float(start)),
            regularizer=self.divergence,
            dtype="float32",
            autocast=False,
        )
        self.input_spec = keras.layers.InputSpec(
            min_ndim=2, axes={-1: self.units}, allow_last_axis_squeeze=False
        )

    def call(self, inputs, training=None):
        """The inputs, in training times Gaussian noise."""
        inputs = ops.cast(inputs, self.compute_dtype)  # integers, too
        if not noisy(training):
            return inputs
        seed = random.next_seed(self.seed_generator)
        noise = random.normal(ops.shape(inputs), seed)
        noise = 1.0 + ops.exp(0.5 * _bounded(self.log_alpha)) * noise
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        noise = ops.cast(noise, dtype)
        return ops.cast(ops.cast(inputs, dtype) * noise, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """The shape of the inputs."""
        return input_shape

    @property
    def alpha(self):
        """The relative variance: a float, or an array for `"unit"`.

        Beyond 2.2e4 the noise does not grow with it.
        """
        return _number(ops.exp(self.log_alpha))

    @property
    def rate(self):
        """The current rate of the equivalent binary dropout, α/(1 + α)."""
        return _number(ops.sigmoid(self.log_alpha))

    def to_plain(self):
        """The plain Keras layer that does the same at inference.

        Returns:
            A `keras.layers.Identity` with this layer's name.
        """
        # Identity has a config only if its arguments are plain data.
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        plain = keras.layers.Identity(name=self.name, dtype=dtype)
        plain.build_from_config(self.get_build_config())
        return plain

    def get_config(self):
        """The constructor's arguments, with the *current* strength."""
        return {
            **super().get_config(),
            "granularity": self.granularity,
            "initial_rate": self.initial_rate,
            "seed": self.seed,
            **self._evidence_config(),
        }

    def _kl(self, log_alpha):
        total = ops.sum(log_uniform.divergence(log_alpha))
        return total * self.units if self.granularity == "layer" else total


def _bounded(log_alpha):
    """The bound where it is exceeded, with the gradient as if it were not."""
    log_alpha = ops.convert_to_tensor(log_alpha)
    excess = ops.maximum(log_alpha - _LARGEST_LOG_ALPHA, 0.0)
    return log_alpha - ops.stop_gradient(excess)


def _number(tensor):
    array = ops.convert_to_numpy(tensor)
    return array if array.ndim else float(array)
