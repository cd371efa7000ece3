"""Bayesian Dense and convolutional layers."""

import keras
from keras import ops

from kerasreg import random
from kerasreg.layers.bayesian.base import OWN, Bayesian, float_inputs
from kerasreg.layers.linear import ConvMap, DenseMap, along_channels, plain_layer
from kerasreg.layers.masks import turned_inputs
from kerasreg.layers.noise import drawn, noisy

# Where all inputs of an output are zero: it has no noise, and no gradient of it.
_LEAST_VARIANCE = 1e-30


class _BayesianLinear(Bayesian):
    """A posterior on the kernel, and maybe the bias, of a Dense or Conv layer."""

    def build(self, input_shape):
        """Make kernel, bias and the log scales of their entries.

        Args:
            input_shape: Shape of the inputs, with the batch axis.
        """
        super().build(input_shape)
        self._build_posteriors(self._kernel, self.bias)

    def call(self, inputs, training=None):
        """The outputs: of the mean weights, or of weights drawn from the posterior."""
        inputs = float_inputs(self, inputs)
        weights = drawn(self)
        if weights is None:
            if not noisy(training):
                return self.finish(self.linear(inputs, self.kernel))
            if self.estimator != "reparameterization":
                return getattr(self, f"_{self.estimator}")(inputs)
            weights = self.draw_weights()
        kernel, *bias = weights
        return self.finish(self.linear(inputs, kernel), *bias)

    def _flipout(self, inputs):
        """One draw for the batch, turned by the signs of each example."""
        perturbation, *bias = (
            ops.cast(p.perturbation(), inputs.dtype) for p in self._posteriors.values()
        )
        turned, signs = turned_inputs(self, inputs, perturbation)
        noise = self.linear(turned, perturbation)
        if bias:
            noise = noise + along_channels(self, bias[0], noise)
        noise = noise * along_channels(self, signs, noise)
        return self.finish(self.linear(inputs, self.kernel) + noise)

    def _local_reparameterization(self, inputs):
        """A draw of each output."""
        mean = self.linear(inputs, self.kernel)
        variances = [p.variance() for p in self._posteriors.values()]
        square = ops.square(ops.cast(inputs, "float32"))
        variance = self.linear(square, variances[0])
        if self.bayesian_bias:
            variance = variance + along_channels(self, variances[1], variance)
        seed = random.next_seed(self.seed_generator)
        deviation = ops.sqrt(ops.maximum(variance, _LEAST_VARIANCE))
        noise = deviation * random.normal(ops.shape(variance), seed)
        return self.finish(mean + ops.cast(noise, mean.dtype))

    def to_plain(self):
        """The plain Keras layer of the mean weights, which predicts the same.

        Returns:
            A built `keras.layers.Dense`, `Conv1D`, `Conv2D` or `Conv3D` with the
            name of this layer, which is not changed.
        """
        return plain_layer(self, self._kernel, OWN)


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianDense(_BayesianLinear, DenseMap, keras.layers.Dense):
    """A Dense layer with a distribution over its weights.

    Each entry of the kernel is Normal(μ, σ²) with learned μ and σ, the mean-field
    approximation of its posterior. The layer adds to the loss

        kl_strength · KL(Normal(μ, σ²) ‖ prior) / num_examples

    so that with a mean negative log likelihood the loss is the negative evidence
    lower bound, divided by the number of examples. The divergence is in closed form
    for Normal and Laplace priors, and for those that TensorFlow Probability has one
    for; for all others it is estimated, without bias, from `kl_samples` draws of the
    weights a step: `−Σ log σ − ½·log(2πe) − log p(w)`.

    In training the outputs are drawn by an `estimator`. All three have the same law
    for each single output, `Normal(x·μ, x²·σ²)`:

    * `"flipout"`: one draw `σ·ε` for the batch, times random signs of each example's
      inputs and outputs: `x·μ + ((x∘s)·(σ·ε))∘r`. Gradients of examples are
      uncorrelated, at the price of a second product. Default;
    * `"reparameterization"`: one draw of the weights for the batch: cheapest in
      products, with the noisiest gradients;
    * `"local_reparameterization"`: the outputs themselves are drawn, one number each.
      Over several positions of one example (time steps, pixels) that forgets that
      they share their weights: each position is right, their correlation is lost.

    At inference the weights are μ: `model.predict` returns the prediction of the mean
    weights. `kerasreg.uncertainty.predict` averages over draws and says how far they
    spread.

    The data loss has to be the mean negative log likelihood of an example, as
    cross-entropy is. For `"mse"` with noise of variance v in the targets, that is
    twice v times it: give `kl_strength=2*v` (`2*v/k` for k outputs).

    Args:
        *args: Positional arguments of `keras.layers.Dense`: `units`, `activation`, ...
        prior: `kerasreg.regularizers.Prior` of strength 1, the name of a distribution
            with default parameters, or a `tfp.distributions` object. `None`: a standard
            Normal. Its `trainable` parameters are learned (empirical Bayes) and are
            weights of the layer.
        estimator: `"flipout"`, `"reparameterization"` or `"local_reparameterization"`.
        num_examples: Positive number of training examples. May be set later, as the
            attribute or by `set_num_examples`, before the first loss.
        initial_scale: Positive number, where all σ start.
        bayesian_bias: Whether the bias has a posterior as well. If not, it is a plain
            weight without prior.
        bias_prior: Prior of the bias; by default that of the kernel.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Dense`. Initializer, penalty and
            constraint of kernel and bias are those of μ.

    Call arguments:
        inputs: Float tensor of shape `(batch, ..., features)`.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        A tensor of shape `(batch, ..., units)`.

    Raises:
        ValueError: If an argument is out of range; at the first training loss, if
            there is no `num_examples`, or the prior does not fit the weight's shape.
        TypeError: If a number is none.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianDense
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((100, 2), seed=0)
    >>> y = x[:, :1] - x[:, 1:] + 0.5 * keras.random.normal((100, 1), seed=1)
    >>> layer = BayesianDense(1, num_examples=100, kl_strength=2 * 0.5**2)
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> model.compile(keras.optimizers.Adam(0.02), "mse")
    >>> history = model.fit(x, y, epochs=100, verbose=0)
    >>> layer.kernel.numpy().round(0).ravel().tolist()
    [1.0, -1.0]
    >>> 0.03 < float(keras.ops.mean(layer.kernel_posterior.stddev())) < 0.07  # 0.5/10
    True

    Reference: Blundell et al. 2015, "Weight uncertainty in neural networks" (arXiv
    1505.05424), eq. 2; Wen et al. 2018, "Flipout" (arXiv 1803.04386), eq. 3; Kingma,
    Salimans & Welling 2015 (arXiv 1506.02557), section 2.2.
    """


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianConv1D(_BayesianLinear, ConvMap, keras.layers.Conv1D):
    """A 1D convolution with a distribution over its weights.

    As `BayesianDense`, which says what is added to the loss and what the estimators
    are. `"flipout"` and `"reparameterization"` share an example's weights among all its
    positions; `"local_reparameterization"` draws each position by itself, which has the
    right variance and loses the correlation between positions.

    Args:
        *args: Positional arguments of `keras.layers.Conv1D`: `filters`,
            `kernel_size`, ...
        prior: Prior of the kernel; `None`: a standard Normal.
        estimator: `"flipout"`, `"reparameterization"` or `"local_reparameterization"`.
        num_examples: Positive number of training examples.
        initial_scale: Positive number, where all σ start.
        bayesian_bias: Whether the bias has a posterior as well.
        bias_prior: Prior of the bias; by default that of the kernel.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv1D`: strides, padding,
            dilation, groups, data format and all others.

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv1D` takes it.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.Conv1D` returns.

    Raises:
        ValueError: As `BayesianDense`.
        TypeError: As `BayesianDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianConv1D
    >>> layer = BayesianConv1D(8, 3, padding="same", num_examples=60000)
    >>> layer(keras.ops.ones((2, 5, 4))).shape
    TensorShape([2, 5, 8])

    Reference: Wen et al. 2018, "Flipout" (arXiv 1803.04386), section 3.2.
    """


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianConv2D(_BayesianLinear, ConvMap, keras.layers.Conv2D):
    """A 2D convolution with a distribution over its weights.

    As `BayesianDense`, which says what is added to the loss and what the estimators
    are. `"flipout"` and `"reparameterization"` share an example's weights among all its
    positions; `"local_reparameterization"` draws each position by itself, which has the
    right variance and loses the correlation between positions.

    Args:
        *args: Positional arguments of `keras.layers.Conv2D`: `filters`,
            `kernel_size`, ...
        prior: Prior of the kernel; `None`: a standard Normal.
        estimator: `"flipout"`, `"reparameterization"` or `"local_reparameterization"`.
        num_examples: Positive number of training examples.
        initial_scale: Positive number, where all σ start.
        bayesian_bias: Whether the bias has a posterior as well.
        bias_prior: Prior of the bias; by default that of the kernel.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv2D`: strides, padding,
            dilation, groups, data format and all others.

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv2D` takes it.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.Conv2D` returns.

    Raises:
        ValueError: As `BayesianDense`.
        TypeError: As `BayesianDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianConv2D
    >>> layer = BayesianConv2D(8, 3, padding="same", num_examples=60000)
    >>> layer(keras.ops.ones((2, 5, 5, 4))).shape
    TensorShape([2, 5, 5, 8])

    Reference: Wen et al. 2018, "Flipout" (arXiv 1803.04386), section 3.2.
    """


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianConv3D(_BayesianLinear, ConvMap, keras.layers.Conv3D):
    """A 3D convolution with a distribution over its weights.

    As `BayesianDense`, which says what is added to the loss and what the estimators
    are. `"flipout"` and `"reparameterization"` share an example's weights among all its
    positions; `"local_reparameterization"` draws each position by itself, which has the
    right variance and loses the correlation between positions.

    Args:
        *args: Positional arguments of `keras.layers.Conv3D`: `filters`,
            `kernel_size`, ...
        prior: Prior of the kernel; `None`: a standard Normal.
        estimator: `"flipout"`, `"reparameterization"` or `"local_reparameterization"`.
        num_examples: Positive number of training examples.
        initial_scale: Positive number, where all σ start.
        bayesian_bias: Whether the bias has a posterior as well.
        bias_prior: Prior of the bias; by default that of the kernel.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv3D`: strides, padding,
            dilation, groups, data format and all others.

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv3D` takes it.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.Conv3D` returns.

    Raises:
        ValueError: As `BayesianDense`.
        TypeError: As `BayesianDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianConv3D
    >>> layer = BayesianConv3D(8, 3, padding="same", num_examples=60000)
    >>> layer(keras.ops.ones((2, 5, 5, 5, 4))).shape
    TensorShape([2, 5, 5, 5, 8])

    Reference: Wen et al. 2018, "Flipout" (arXiv 1803.04386), section 3.2.
    """
