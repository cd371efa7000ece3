"""Dense and convolutional layers that drop single weights in training."""

import warnings

import keras
from keras import ops

from kerasreg import random
from kerasreg.layers import masks
from kerasreg.layers.linear import ConvMap, DenseMap, along_channels, plain_layer
from kerasreg.layers.noise import drawn, noisy

_OWN = ("rate", "mask", "inference", "draws", "seed")

# Where all inputs of an output are zero: it has no variance, and no gradient of it.
_LEAST_VARIANCE = 1e-30


class _DropConnect(keras.layers.Layer):
    """DropConnect on the kernel of a Dense or Conv layer."""

    def __init__(
        self,
        *args,
        rate=0.5,
        mask="example",
        inference="gaussian",
        draws=16,
        seed=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.rate = masks.check_rate(rate)
        self.mask = _check_choice("mask", mask, ("example", "batch"))
        self.inference = _check_choice("inference", inference, ("gaussian", "mean"))
        self.draws = _check_draws(draws)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._keep = 1.0 - self.rate
        if 0.0 < self._keep < 1.0:
            self._law = masks.Law.of(self._keep)

    def call(self, inputs, training=None):
        """The layer's outputs: of masked weights in training, averaged else."""
        kernel = drawn(self)
        if kernel is not None:
            return self.finish(self.linear(inputs, kernel))
        kernel = ops.convert_to_tensor(self.kernel)
        if self._keep == 1.0:
            return self.finish(self.linear(inputs, kernel))
        if noisy(training):
            return self.finish(self._masked(inputs, kernel))
        mean = self.linear(inputs, kernel * self._keep)
        if self.inference == "mean" or _is_linear(self.activation):
            return self.finish(mean)
        return self._average(inputs, kernel, mean)

    def draw_weights(self):
        """A kernel with one mask, for all examples of several calls."""
        kernel = ops.cast(self.kernel, self.compute_dtype)
        if self._keep == 1.0:
            return kernel
        return self._one_mask(kernel)

    def _masked(self, inputs, kernel):
        inputs = ops.cast(inputs, kernel.dtype)  # integers, too
        if self.mask == "example":
            return masks.example_linear(self, inputs, kernel, self._law)
        return self.linear(inputs, self._one_mask(kernel))

    def _one_mask(self, kernel):
        seed = random.next_seed(self.seed_generator)
        mask = masks.batch_mask(kernel.shape, self._keep, seed, self._kernel.value)
        return ops.where(mask, kernel, 0)

    def _average(self, inputs, kernel, mean):
        """The mean of the activation of Normal variables, one draw at a time."""
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        square = ops.square(ops.cast(inputs, dtype))
        variance = self.linear(square, ops.square(ops.cast(kernel, dtype)))
        variance = variance * (self._keep * self.rate)
        deviation = ops.sqrt(ops.maximum(variance, _LEAST_VARIANCE))
        centre = ops.cast(mean, dtype)
        if self.use_bias:
            bias = ops.cast(self.bias, dtype)
            centre = centre + along_channels(self, bias, centre)
        scores = masks.normal_scores(self.draws, self.kernel.shape[-1])
        scores = ops.cast(scores, dtype)

        def add(i, total):
            score = along_channels(self, ops.take(scores, i, axis=0), centre)
            return i + 1, total + self.activation(centre + deviation * score)

        _, total = ops.while_loop(
            lambda i, total: i < self.draws,
            add,
            (0, ops.zeros_like(centre)),
            maximum_iterations=self.draws,
        )
        return ops.cast(total / self.draws, self.compute_dtype)

    def to_plain(self):
        """The plain Keras layer of the mean weights, `(1 − rate)·kernel`.

        With `inference="mean"`, or a linear activation, it predicts the same.

        Returns:
            A built `keras.layers.Dense`, `Conv1D`, `Conv2D` or `Conv3D` with the
            name of this layer, which is not changed.
        """
        averages = self.inference == "gaussian" and self._keep < 1.0
        if averages and not _is_linear(self.activation):
            warnings.warn(
                f"The plain layer of `{self.name}` is that of its mean weights. It "
                'predicts what `inference="mean"` does, not the average over masks of '
                '`inference="gaussian"`.',
                stacklevel=2,
            )
        return plain_layer(self, self.kernel * self._keep, _OWN)

    def get_config(self):
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in _OWN}
        return {**super().get_config(), **own}


def _is_linear(activation):
    return activation is None or activation is keras.activations.linear


def _check_choice(name, value, choices):
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. "
            f"Received: {name}={value!r}"
        )
    return value


def _check_draws(draws):
    message = (
        "Invalid value for argument `draws`. Expected a positive integer. "
        f"Received: draws={draws!r}"
    )
    if isinstance(draws, bool) or not isinstance(draws, int):
        raise TypeError(message)
    if draws < 1:
        raise ValueError(message)
    return draws


@keras.saving.register_keras_serializable(package="kerasreg")
class DropConnectDense(_DropConnect, DenseMap, keras.layers.Dense):
    """A Dense layer that drops single weights in training.

    In training each example sees the kernel W through a mask of its own. At
    inference the activation is averaged over the Normal distribution that has the
    mean and variance of the masked sum:

        training:   activation(x (W·M) + bias),   M ~ Bernoulli(1 − rate)
        inference:  E[activation(u + bias)],
                    u ~ Normal((1 − rate)·x W, rate·(1 − rate)·x² W²)

    The bias is never dropped. As in the paper, and unlike in `keras.layers.Dropout`,
    `rate` is the probability of dropping and the kept weights are **not** rescaled: the
    plain layer of a trained one has the kernel `(1 − rate)·W`. To start with the
    activations of a plain layer would take an initializer `1/(1 − rate)` times as
    large; on MNIST the usual one learned faster.

    **Masks.** With `mask="batch"` all examples of a call share one mask, as cheap as
    it gets; its entries are independent to within a correlation of 1e-4 in groups of
    eight. With `mask="example"` all are different, at the cost of two products with
    the kernel at a rate of one half and of two or three at other rates, with up to ten
    masks of the kernel's shape, however large the batch. Of these masks,

    - each entry is dropped with probability `rate` exactly;
    - the entries that one example sees are independent of each other;
    - an entry that one example sees and one that another sees are independent, at
      all rates that are multiples of 1/20 or 1/16, and at others in small batches.
      In large ones the same weight has, in two examples, a correlation below 0.01
      at rates from 0.05 to 0.95, and below 0.05 beyond;
    - more than two examples, or several weights of two, are not independent
      jointly: all masks come from at most 16 random bits a weight and some an
      example.

    So the masked sums of a batch have the means, variances and covariances of masks
    that are all independent (16 bits being few, to within a correlation of 1e-4).

    With inputs of rank above 2, an example has one mask for all its inner axes.

    **Inference.** The average needs no random numbers: predictions are repeatable.
    With `draws` equally likely values of each unit's Normal variable, in an order of
    its own for activations that mix units, its error falls as 1/`draws` (16: at most
    0.01 standard deviations for ReLU); for activations that mix units, such as
    softmax, as 1/sqrt(`draws`) (16: about 0.025 of probability; take more there).
    `"mean"` puts the mean weights into the activation, cheaper and biased. For linear
    activations both are the same, and exact. Under `kerasreg.layers.sampling()` masks
    are drawn instead.

    What EfficientNet calls "drop connect" is something else, stochastic depth. To drop
    weights of any other layer, wrap it in `kerasreg.layers.DropConnect`, which does
    rescale.

    Args:
        units: Positive integer, the number of outputs.
        rate: Number in [0, 1): the probability of dropping a weight.
        mask: `"example"`, another mask for each example, or `"batch"`, one for all.
        inference: `"gaussian"` or `"mean"`.
        draws: Positive integer, over how many values `"gaussian"` averages.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Dense`: `activation`,
            `kernel_initializer`, ...

    Call arguments:
        inputs: Float tensor of shape `(batch, ..., features)`.
        training: Whether to drop weights. `kerasreg.layers.sampling()` also does.

    Returns:
        A tensor of shape `(batch, ..., units)`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If a number is none.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnectDense
    >>> layer = DropConnectDense(3, rate=0.5, kernel_initializer="ones", seed=1)
    >>> x = keras.ops.eye(4)[None]  # one example, whose outputs show its mask
    >>> sorted(set(layer(x, training=True).numpy().ravel().tolist()))
    [0.0, 1.0]
    >>> layer(x).numpy()[0, 0].tolist()
    [0.5, 0.5, 0.5]

    Reference: Wan, Zeiler, Zhang, Le Cun & Fergus 2013, "Regularization of neural
    networks using DropConnect", sections 3.1 and 3.2 (algorithm 2). The sign masks at
    rate 1/2 are those of Flipout (Wen, Vicol, Ba, Tran & Grosse 2018, arXiv
    1803.04386, eq. 3), made Bernoulli.
    """

    def __init__(self, units, rate=0.5, **kwargs):
        super().__init__(units, rate=rate, **kwargs)


@keras.saving.register_keras_serializable(package="kerasreg")
class DropConnectConv1D(_DropConnect, ConvMap, keras.layers.Conv1D):
    """A 1D convolution that drops single weights in training.

    As `DropConnectDense`, which says how masks are made and averaged over; an example
    has one mask for all positions of the window:

        training:   activation(conv(x, W·M) + bias),   M ~ Bernoulli(1 − rate)
        inference:  E[activation(u + bias)],
                    u ~ Normal((1 − rate)·conv(x, W), rate·(1 − rate)·conv(x², W²))

    The kept weights are not rescaled: the plain layer of a trained one has the kernel
    `(1 − rate)·W`.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple, the size of the window.
        rate: Number in [0, 1): the probability of dropping a weight.
        mask: `"example"`, another mask for each example, or `"batch"`, one for all.
        inference: `"gaussian"` or `"mean"`.
        draws: Positive integer, over how many values `"gaussian"` averages.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv1D`: `strides`, `padding`,
            `dilation_rate`, `groups`, `data_format`, `activation`, ...

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv1D` takes it.
        training: Whether to drop weights. `kerasreg.layers.sampling()` also does.

    Returns:
        What `keras.layers.Conv1D` returns.

    Raises:
        ValueError: As `DropConnectDense`.
        TypeError: As `DropConnectDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnectConv1D
    >>> layer = DropConnectConv1D(8, 3, rate=0.25, padding="same", activation="relu")
    >>> layer(keras.ops.ones((2, 5, 4))).shape
    TensorShape([2, 5, 8])

    Reference: Wan, Zeiler, Zhang, Le Cun & Fergus 2013, "Regularization of neural
    networks using DropConnect", sections 3.1 and 3.2.
    """

    def __init__(self, filters, kernel_size, rate=0.5, **kwargs):
        super().__init__(filters, kernel_size, rate=rate, **kwargs)


@keras.saving.register_keras_serializable(package="kerasreg")
class DropConnectConv2D(_DropConnect, ConvMap, keras.layers.Conv2D):
    """A 2D convolution that drops single weights in training.

    As `DropConnectDense`, which says how masks are made and averaged over; an example
    has one mask for all positions of the window:

        training:   activation(conv(x, W·M) + bias),   M ~ Bernoulli(1 − rate)
        inference:  E[activation(u + bias)],
                    u ~ Normal((1 − rate)·conv(x, W), rate·(1 − rate)·conv(x², W²))

    The kept weights are not rescaled: the plain layer of a trained one has the kernel
    `(1 − rate)·W`.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple, the size of the window.
        rate: Number in [0, 1): the probability of dropping a weight.
        mask: `"example"`, another mask for each example, or `"batch"`, one for all.
        inference: `"gaussian"` or `"mean"`.
        draws: Positive integer, over how many values `"gaussian"` averages.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv2D`: `strides`, `padding`,
            `dilation_rate`, `groups`, `data_format`, `activation`, ...

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv2D` takes it.
        training: Whether to drop weights. `kerasreg.layers.sampling()` also does.

    Returns:
        What `keras.layers.Conv2D` returns.

    Raises:
        ValueError: As `DropConnectDense`.
        TypeError: As `DropConnectDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnectConv2D
    >>> layer = DropConnectConv2D(8, 3, rate=0.25, padding="same", activation="relu")
    >>> layer(keras.ops.ones((2, 5, 5, 4))).shape
    TensorShape([2, 5, 5, 8])

    Reference: Wan, Zeiler, Zhang, Le Cun & Fergus 2013, "Regularization of neural
    networks using DropConnect", sections 3.1 and 3.2.
    """

    def __init__(self, filters, kernel_size, rate=0.5, **kwargs):
        super().__init__(filters, kernel_size, rate=rate, **kwargs)


@keras.saving.register_keras_serializable(package="kerasreg")
class DropConnectConv3D(_DropConnect, ConvMap, keras.layers.Conv3D):
    """A 3D convolution that drops single weights in training.

    As `DropConnectDense`, which says how masks are made and averaged over; an example
    has one mask for all positions of the window:

        training:   activation(conv(x, W·M) + bias),   M ~ Bernoulli(1 − rate)
        inference:  E[activation(u + bias)],
                    u ~ Normal((1 − rate)·conv(x, W), rate·(1 − rate)·conv(x², W²))

    The kept weights are not rescaled: the plain layer of a trained one has the kernel
    `(1 − rate)·W`.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple, the size of the window.
        rate: Number in [0, 1): the probability of dropping a weight.
        mask: `"example"`, another mask for each example, or `"batch"`, one for all.
        inference: `"gaussian"` or `"mean"`.
        draws: Positive integer, over how many values `"gaussian"` averages.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Conv3D`: `strides`, `padding`,
            `dilation_rate`, `groups`, `data_format`, `activation`, ...

    Call arguments:
        inputs: Float tensor, as `keras.layers.Conv3D` takes it.
        training: Whether to drop weights. `kerasreg.layers.sampling()` also does.

    Returns:
        What `keras.layers.Conv3D` returns.

    Raises:
        ValueError: As `DropConnectDense`.
        TypeError: As `DropConnectDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnectConv3D
    >>> layer = DropConnectConv3D(8, 3, rate=0.25, padding="same", activation="relu")
    >>> layer(keras.ops.ones((2, 5, 5, 5, 4))).shape
    TensorShape([2, 5, 5, 5, 8])

    Reference: Wan, Zeiler, Zhang, Le Cun & Fergus 2013, "Regularization of neural
    networks using DropConnect", sections 3.1 and 3.2.
    """

    def __init__(self, filters, kernel_size, rate=0.5, **kwargs):
        super().__init__(filters, kernel_size, rate=rate, **kwargs)
