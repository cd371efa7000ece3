"""Dense and convolutional layers that learn how much noise each weight bears."""

import keras
import numpy as np
from keras import ops

from kerasreg import random
from kerasreg.layers import log_uniform
from kerasreg.layers.evidence import Evidence
from kerasreg.layers.linear import ConvMap, DenseMap, plain_layer
from kerasreg.layers.noise import drawn, noisy
from kerasreg.regularizers.base import check_number, shortest

_OWN = ("num_examples", "kl_strength", "threshold", "initial_log_sigma2", "seed")

# Where all inputs of an output are zero: it has no noise, and no gradient of it.
_LEAST_VARIANCE = 1e-30


class _SparseVariational(Evidence):
    """Sparse variational dropout on the kernel of a Dense or Conv layer."""

    def __init__(
        self,
        *args,
        num_examples=None,
        threshold=3.0,
        initial_log_sigma2=-10.0,
        kl_strength=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._threshold = _Threshold()
        self.threshold = threshold
        self.initial_log_sigma2 = _finite("initial_log_sigma2", initial_log_sigma2)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._set_divergence(
            self._kl, num_examples=num_examples, kl_strength=kl_strength
        )

    def build(self, input_shape):
        """Make kernel, bias and the log variances of the kernel's entries.

        Args:
            input_shape: Shape of the inputs, with the batch axis.
        """
        super().build(input_shape)
        self.log_sigma2 = self.add_weight(
            name="log_sigma2",
            shape=self._kernel.shape,
            initializer=keras.initializers.Constant(self.initial_log_sigma2),
            regularizer=self.divergence,
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs, training=None):
        """The layer's outputs, with noise in training, of the pruned kernel else."""
        kernel = drawn(self)
        if kernel is None and not noisy(training):
            kernel = self._pruned()
        if kernel is not None:
            return self.finish(self.linear(inputs, kernel))
        mean = self.linear(inputs, self.kernel)
        square = ops.square(ops.cast(inputs, "float32"))
        variance = self.linear(square, ops.exp(self.log_sigma2))
        seed = random.next_seed(self.seed_generator)
        deviation = ops.sqrt(ops.maximum(variance, _LEAST_VARIANCE))
        noise = deviation * random.normal(ops.shape(variance), seed)
        return self.finish(mean + ops.cast(noise, mean.dtype))

    def draw_weights(self):
        """A kernel with one draw of its noise, for all examples of several calls."""
        seed = random.next_seed(self.seed_generator)
        noise = random.normal(tuple(self._kernel.shape), seed)
        kernel = ops.cast(self.kernel, "float32")
        kernel = kernel + ops.exp(0.5 * self.log_sigma2) * noise
        return ops.cast(kernel, self.compute_dtype)

    @property
    def threshold(self):
        """The `log α` from which weights are pruned, a float. It may be set."""
        return shortest(self._threshold.variable.numpy())

    @threshold.setter
    def threshold(self, value):
        self._threshold.variable.assign(_finite("threshold", value))

    @property
    def log_alpha(self):
        """The log relative variance of each entry of the kernel, a tensor."""
        # As the layer computes with it, so that all agree on what is pruned.
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return log_uniform.log_alpha(ops.cast(kernel, "float32"), self.log_sigma2)

    def sparsity(self):
        """The share of the kernel's entries that are pruned, a float in [0, 1]."""
        return float(np.mean(ops.convert_to_numpy(self.log_alpha) >= self.threshold))

    def prune(self, threshold=None):
        """Set the pruned entries of the kernel to exact zeros, in place.

        Training can bring them back. What the layer predicts does not change, except
        by another threshold.

        Args:
            threshold: Finite number, from now on the layer's threshold. By default
                the one it has.

        Returns:
            The plain Keras layer of `to_plain`.
        """
        if threshold is not None:
            self.threshold = threshold
        self._kernel.assign(self._pruned())
        return self.to_plain()

    def to_plain(self):
        """The plain Keras layer that predicts the same, with exact zeros.

        Returns:
            A built `keras.layers.Dense`, `Conv1D`, `Conv2D` or `Conv3D` with the
            name of this layer, which is not changed.
        """
        return plain_layer(self, self._pruned(), _OWN)

    def enable_lora(self, *args, **kwargs):
        """Not for this layer: its noise is that of each entry of the kernel."""
        raise NotImplementedError(
            f"`{type(self).__name__}` has no low-rank adaptation. Prune it, and adapt "
            "the plain layer that `prune()` returns."
        )

    def get_config(self):
        """The constructor's arguments, with the *current* strength."""
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "initial_log_sigma2": self.initial_log_sigma2,
            "seed": self.seed,
            **self._evidence_config(),
        }

    def save_own_variables(self, store):
        """Save all weights, the log variances too."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        """Load all weights, the log variances too."""
        keras.layers.Layer.load_own_variables(self, store)

    def _kl(self, log_sigma2):
        theta = ops.cast(ops.convert_to_tensor(self._kernel), log_sigma2.dtype)
        return log_uniform.kernel_divergence(theta, log_sigma2, self._kernel.value)

    def _pruned(self):
        """The kernel with exact zeros."""
        kernel = ops.convert_to_tensor(self.kernel)
        kept = self.log_alpha < self._threshold.variable
        return ops.where(kept, kernel, ops.zeros_like(kernel))


class _Threshold:
    """Holds a variable, so that traced functions see it change; it is no weight."""

    def __init__(self):
        self.variable = keras.Variable(
            0.0, dtype="float32", trainable=False, autocast=False, name="threshold"
        )


def _finite(name, value):
    try:
        return check_number(name, value, above=-np.inf)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"Invalid value for argument `{name}`. Expected a finite number. "
            f"Received: {name}={value!r}"
        ) from None


@keras.saving.register_keras_serializable(package="kerasreg")
class SparseVariationalDense(_SparseVariational, DenseMap, keras.layers.Dense):
    """A Dense layer that learns which of its weights it can do without.

    Each entry of the kernel is Normal(θ, σ²) with learned θ and σ². Where the data
    do not hold it to a value, its noise grows relative to it, `α = σ²/θ²`, until it
    can be left out. In training the noise is added to the outputs (the local
    reparameterization), drawn for each example and unit:

        outputs = activation(x·θ + sqrt(x²·σ²)·ε + bias),   ε ~ Normal(0, 1)

    At inference the kernel is θ where `log α < threshold` and zero elsewhere. The layer
    adds to the loss, summed over the entries of the kernel,

        kl_strength · Σ KL(α) / num_examples
        KL(α) ≈ k1·sigmoid(−k2 − k3·log α) + ½·log(1 + 1/α)
        log α = log σ² − log(θ² + 1e-8)

    with k1 = 0.63576, k2 = 1.87320, k3 = 1.48695, within 0.01 of the integral. The
    prior is log-uniform and improper: this is a sparsifier, not Bayesian inference,
    and its noise says little about the uncertainty of a prediction.

    The data loss has to be the mean negative log likelihood of an example, as
    cross-entropy is. For `"mse"` with noise of variance v in the targets, that is
    twice v times it: give `kl_strength=2*v` (`2*v/k` for k outputs). Starting with the
    full strength can prune too much before anything is learned: raise it with
    `kerasreg.callbacks.KLWarmup`. A learning rate that falls to zero lets the weights
    of no use settle at zero.

    Args:
        *args: Positional arguments of `keras.layers.Dense`: `units`, `activation`, ...
        num_examples: Positive number of training examples. May be set later, as
            the attribute, before the first loss.
        threshold: Finite number. Weights of `log α` at least this are pruned; 3 is a
            noise of 4.5 times the weight.
        initial_log_sigma2: Finite number where `log σ²` starts, for all entries.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Dense`. Initializer, penalty and
            constraint of the kernel are those of θ.

    Call arguments:
        inputs: Float tensor of shape `(batch, ..., features)`.
        training: Whether to add noise. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        A tensor of shape `(batch, ..., units)`.

    Raises:
        ValueError: If an argument is out of range; at the first training loss, if
            there is no `num_examples`.
        TypeError: If a number is none.

    Example:

    >>> import keras
    >>> from kerasreg.layers import SparseVariationalDense
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((500, 6), seed=0)
    >>> layer = SparseVariationalDense(1, num_examples=500, kl_strength=0.02)
    >>> model = keras.Sequential([keras.Input((6,)), layer])
    >>> falling = keras.optimizers.schedules.CosineDecay(0.05, 1200)
    >>> model.compile(keras.optimizers.Adam(falling), "mse")  # of variance 0.01
    >>> history = model.fit(x, x[:, :1] - x[:, 1:2], epochs=75, verbose=0)
    >>> round(layer.sparsity(), 2)
    0.67
    >>> plain = layer.prune()
    >>> plain.kernel.numpy().round(1).ravel().tolist()
    [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]

    Reference: Molchanov, Ashukha & Vetrov 2017, "Variational dropout sparsifies deep
    neural networks" (arXiv 1701.05369), eq. 14 and section 4.2; Kingma, Salimans &
    Welling 2015 (arXiv 1506.02557), section 2.2.
    """


@keras.saving.register_keras_serializable(package="kerasreg")
class SparseVariationalConv1D(_SparseVariational, ConvMap, keras.layers.Conv1D):
    """A 1D convolution that learns which of its weights it can do without.

    As `SparseVariationalDense`, which says what is added to the loss; the noise is
    drawn for each example, position and filter:

        outputs = activation(conv(x, θ) + sqrt(conv(x², σ²))·ε + bias)

    Args:
        *args: Positional arguments of `keras.layers.Conv1D`: `filters`,
            `kernel_size`, ...
        num_examples: Positive number of training examples.
        threshold: Finite number. Weights of `log α` at least this are pruned.
        initial_log_sigma2: Finite number where `log σ²` starts, for all entries.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv1D`: strides, padding,
            dilation, groups, data format and all others.

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv1D` takes it.
        training: Whether to add noise. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.Conv1D` returns.

    Raises:
        ValueError: As `SparseVariationalDense`.
        TypeError: As `SparseVariationalDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import SparseVariationalConv1D
    >>> layer = SparseVariationalConv1D(8, 3, padding="same", num_examples=60000)
    >>> layer(keras.ops.ones((2, 5, 4))).shape
    TensorShape([2, 5, 8])
    >>> layer.sparsity()
    0.0

    Reference: Molchanov, Ashukha & Vetrov 2017, "Variational dropout sparsifies deep
    neural networks" (arXiv 1701.05369), section 4.3.
    """


@keras.saving.register_keras_serializable(package="kerasreg")
class SparseVariationalConv2D(_SparseVariational, ConvMap, keras.layers.Conv2D):
    """A 2D convolution that learns which of its weights it can do without.

    As `SparseVariationalDense`, which says what is added to the loss; the noise is
    drawn for each example, position and filter:

        outputs = activation(conv(x, θ) + sqrt(conv(x², σ²))·ε + bias)

    Args:
        *args: Positional arguments of `keras.layers.Conv2D`: `filters`,
            `kernel_size`, ...
        num_examples: Positive number of training examples.
        threshold: Finite number. Weights of `log α` at least this are pruned.
        initial_log_sigma2: Finite number where `log σ²` starts, for all entries.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv2D`: strides, padding,
            dilation, groups, data format and all others.

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv2D` takes it.
        training: Whether to add noise. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.Conv2D` returns.

    Raises:
        ValueError: As `SparseVariationalDense`.
        TypeError: As `SparseVariationalDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import SparseVariationalConv2D
    >>> layer = SparseVariationalConv2D(8, 3, padding="same", num_examples=60000)
    >>> layer(keras.ops.ones((2, 5, 5, 4))).shape
    TensorShape([2, 5, 5, 8])
    >>> layer.sparsity()
    0.0

    Reference: Molchanov, Ashukha & Vetrov 2017, "Variational dropout sparsifies deep
    neural networks" (arXiv 1701.05369), section 4.3.
    """


@keras.saving.register_keras_serializable(package="kerasreg")
class SparseVariationalConv3D(_SparseVariational, ConvMap, keras.layers.Conv3D):
    """A 3D convolution that learns which of its weights it can do without.

    As `SparseVariationalDense`, which says what is added to the loss; the noise is
    drawn for each example, position and filter:

        outputs = activation(conv(x, θ) + sqrt(conv(x², σ²))·ε + bias)

    Args:
        *args: Positional arguments of `keras.layers.Conv3D`: `filters`,
            `kernel_size`, ...
        num_examples: Positive number of training examples.
        threshold: Finite number. Weights of `log α` at least this are pruned.
        initial_log_sigma2: Finite number where `log σ²` starts, for all entries.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv3D`: strides, padding,
            dilation, groups, data format and all others.

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv3D` takes it.
        training: Whether to add noise. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.Conv3D` returns.

    Raises:
        ValueError: As `SparseVariationalDense`.
        TypeError: As `SparseVariationalDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import SparseVariationalConv3D
    >>> layer = SparseVariationalConv3D(8, 3, padding="same", num_examples=60000)
    >>> layer(keras.ops.ones((2, 5, 5, 5, 4))).shape
    TensorShape([2, 5, 5, 5, 8])
    >>> layer.sparsity()
    0.0

    Reference: Molchanov, Ashukha & Vetrov 2017, "Variational dropout sparsifies deep
    neural networks" (arXiv 1701.05369), section 4.3.
    """
