"""Dropout whose probability is learned: the concrete relaxation of its masks."""

import inspect
import math

import keras
from keras import ops

from kerasreg import random
from kerasreg.layers.copies import (
    build_layer,
    channel_axis,
    copy_layer,
    input_features,
    input_kernels,
    layers_inside,
    steps_axis,
)
from kerasreg.layers.evidence import Evidence
from kerasreg.layers.noise import noisy
from kerasreg.regularizers.base import check_number

# Logits beyond this count as this: the rate stays in [3e-7, 1 - 3e-7].
_LARGEST_LOGIT = 15.0


@keras.saving.register_keras_serializable(package="kerasreg")
class ConcreteDropout(Evidence, keras.layers.Wrapper):
    """Dropout on the inputs of a layer, with a probability that is learned.

    In training the inputs are multiplied by `(1 − z)/(1 − p)`, with a relaxed mask
    `z = sigmoid((logit(p) + logit(u))/temperature)`, `u` uniform in (0, 1), drawn
    for each entry. At temperature 0 it is dropout with rate p; at any temperature
    `P(z > 1/2) = p`. At inference the inputs pass as they are. Around a recurrent
    layer one mask serves all time steps, as Gal & Ghahramani (2016) derive it.

    The rate p, one for the layer, follows from the variational objective: the layer
    adds `kl_strength · scale · KL / num_examples` to the loss, with

        KL = ½·length_scale²·Σ kernel²/(1 − p) + K·(p·log p + (1 − p)·log(1 − p)),

    where K is the number of input features (of channels, in a convolution). This is
    the divergence up to a constant, so it may be negative. Kernels are what
    multiplies the inputs; biases, recurrent kernels and those of all but the first of
    stacked cells are left out. The first part is a weight decay, so the kernel needs
    no other. The scale follows from the data loss, which Keras averages over
    N = `num_examples` examples. The factors of Σ kernel²/(1 − p) and of
    p·log p + (1 − p)·log(1 − p) are

    | data loss | arguments | weights | dropout |
    |---|---|---|---|
    | cross-entropy, any −log likelihood | `loss="nll"` | l²/2N | K/N |
    | `"mse"` | `loss="mse"`, `noise_precision=τ` | l²/τN | 2K/τN |
    | `"mse"` of d outputs | `noise_precision=d*τ` | l²/dτN | 2K/dτN |
    | exp(−s)·(y − m)² + s | `loss="nll"`, `kl_strength=2` | l²/N | 2K/N |
    | cross-entropy of d sigmoids | `kl_strength=1/d` | l²/2dN | K/dN |

    τ is the precision, 1/variance, of the noise in the targets. Keras divides the
    losses of d outputs by d; the fourth is twice the −log likelihood of a Normal with
    log variance s. A loss that is averaged over time steps or pixels as well counts
    each of them as an example.

    Args:
        layer: A layer with one input and a kernel: Dense, EinsumDense, a convolution,
            a recurrent layer, or one of these in `Bidirectional`, `TimeDistributed`
            or `DropConnect`. `Bidirectional` goes inside:
            `ConcreteDropout(Bidirectional(LSTM(8)))`; Keras refuses the other order.
            Inside a layer of your own, every weight named `"kernel"` counts.
        num_examples: Positive number of training examples. May be set later, as
            the attribute, before the first loss.
        loss: `"nll"` or `"mse"`: the kind of data loss, as in the table.
        noise_precision: Positive number, τ of the table; for `loss="mse"` only.
        length_scale: Positive number l: the prior of the weights is
            Normal(0, 1/l²).
        kl_strength: Non-negative factor on both terms.
        initial_rate: Number in (0, 1), where p starts.
        temperature: Positive number. The paper's is 0.1.
        seed: Integer, or `None` for a random one.
        **kwargs: Keras's layer arguments: `name`, `trainable`, and `dtype`, by
            default that of `layer`.

    Call arguments:
        inputs: Float tensor, as `layer` takes it.
        training: Whether to drop. `kerasreg.layers.sampling()` also turns it on.
        mask: Passed on to `layer`.
        **kwargs: Passed on to `layer`, such as `initial_state`.

    Returns:
        What `layer` returns.

    Raises:
        ValueError: If a number is out of range, `loss` is unknown or does not go with
            `noise_precision`; when built, if the layer has no kernel.
        TypeError: If `layer` is no layer, or a model, or has several inputs
            (`MultiHeadAttention`), or a number is none.

    Example:

    >>> import keras
    >>> from kerasreg.layers import ConcreteDropout
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((200, 5), seed=0)
    >>> layer = ConcreteDropout(keras.layers.Dense(1), num_examples=200)
    >>> model = keras.Sequential([keras.Input((5,)), layer])
    >>> model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    >>> round(layer.rate, 3)
    0.1
    >>> history = model.fit(x, x[:, :1] > 0, epochs=20, verbose=0)
    >>> 0 < layer.rate < 0.1
    True

    Reference: Gal, Hron & Kendall 2017, "Concrete dropout" (arXiv 1705.07832),
    eq. 1-5; its M is the kernel divided by 1 − p, as dropout is inverted here.
    """

    def __init__(
        self,
        layer,
        *,
        num_examples=None,
        loss="nll",
        noise_precision=None,
        length_scale=1.0,
        kl_strength=1.0,
        initial_rate=0.1,
        temperature=0.1,
        seed=None,
        **kwargs,
    ):
        _check_layer(layer)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.supports_masking = layer.supports_masking
        self.loss = loss
        self.noise_precision = noise_precision
        self._scale = _scale(loss, noise_precision)
        self.length_scale = check_number("length_scale", length_scale, above=0.0)
        self.initial_rate = check_number("initial_rate", initial_rate, above=0.0)
        if not self.initial_rate < 1:
            raise ValueError(
                "Invalid value for argument `initial_rate`. Expected a number in "
                f"(0, 1). Received: initial_rate={initial_rate!r}"
            )
        self.temperature = check_number("temperature", temperature, above=0.0)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._set_divergence(
            self._kl, num_examples=num_examples, kl_strength=kl_strength
        )

    def build(self, input_shape):
        """Build the layer inside, and the logit of the rate."""
        self._check_shape(input_shape)
        if not self.layer.built:
            build_layer(self.layer, input_shape)
        if not self._kernels():
            raise ValueError(
                f"Invalid layer for `{type(self).__name__}`. Expected a layer with a "
                "kernel that multiplies its inputs. Received: "
                f"layer={self.layer!r}, with the weights "
                f"{[w.name for w in self.layer.weights]}"
            )
        self.features = input_features(self.layer, input_shape)
        start = math.log(self.initial_rate) - math.log1p(-self.initial_rate)
        self.logit = self.add_weight(
            name="logit",
            shape=(),
            initializer=keras.initializers.Constant(start),
            regularizer=self.divergence,
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs, training=None, mask=None, **kwargs):
        """The layer's output for the inputs, dropped in training."""
        if noisy(training):
            inputs = ops.cast(inputs, self.compute_dtype)  # integers, too
            keep = self._keep(ops.shape(inputs))
            inputs = inputs * ops.cast(keep, inputs.dtype)
        if mask is not None and _takes_mask(self.layer):
            kwargs["mask"] = mask
        return self.layer(inputs, **kwargs)

    def compute_mask(self, inputs, mask=None):
        """The mask of the layer inside."""
        return self.layer.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape):
        """The output shape of the layer inside."""
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs, training=None, mask=None, **kwargs):
        """The output of the layer inside, symbolically."""
        return self.layer.compute_output_spec(inputs, **kwargs)

    @property
    def rate(self):
        """The current probability of dropping, a float."""
        if not self.built:
            return self.initial_rate
        return float(ops.convert_to_numpy(ops.sigmoid(_bounded(self.logit))))

    def to_plain(self):
        """A plain copy of the layer inside, under this layer's name: no dropout.

        Returns:
            A built layer of the class of `layer`, with its weights and without the
            dropout, the learned rate or its terms in the loss.
        """
        return copy_layer(self.layer, name=self.name)

    def get_config(self):
        """The constructor's arguments, with the *current* strength."""
        return {
            **super().get_config(),
            **self._evidence_config(),
            "loss": self.loss,
            "noise_precision": self.noise_precision,
            "length_scale": self.length_scale,
            "initial_rate": self.initial_rate,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Make the layer of `get_config`."""
        return super().from_config(dict(config), custom_objects)

    def _check_shape(self, input_shape):
        """Raise if the input has not the axes that the masks need."""

    def _noise_shape(self, shape):
        """The shape of the masks for inputs of `shape`."""
        steps = steps_axis(self.layer)  # one mask for all time steps
        return tuple(1 if axis == steps else n for axis, n in enumerate(shape))

    def _keep(self, shape):
        """What multiplies the inputs: a relaxed mask over its mean, in float32."""
        logit = _bounded(self.logit)
        seed = random.next_seed(self.seed_generator)
        # Half a step up: never 0 or 1, and symmetric.
        u = random.uniform(self._noise_shape(shape), seed) + 2.0**-24
        noise = ops.log(u) - ops.log1p(-u)
        keep = ops.sigmoid(-(logit + noise) / self.temperature)
        return keep * (1.0 + ops.exp(logit))

    def _kl(self, logit):
        """The divergence, times the scale of the data loss."""
        logit = _bounded(logit)
        drop, keep = ops.sigmoid(logit), ops.sigmoid(-logit)
        entropy = drop * ops.softplus(-logit) + keep * ops.softplus(logit)
        square = sum(
            ops.sum(ops.square(ops.cast(w, "float32"))) for w in self._kernels()
        )
        decay = 0.5 * self.length_scale**2 * square * (1.0 + ops.exp(logit))
        return self._scale * (decay - self.features * entropy)

    def _kernels(self):
        return input_kernels(self.layer)


@keras.saving.register_keras_serializable(package="kerasreg")
class SpatialConcreteDropout(ConcreteDropout):
    """`ConcreteDropout` that drops whole channels, for convolutions.

    Each example has one mask entry a channel, shared by all positions (and time
    steps): neighbouring pixels say much the same, so dropping some of them leaves
    their information in. Channels are those of the layer's `data_format`.

    Args:
        layer: A layer with one input of at least three axes and a kernel.
        **kwargs: All other arguments of `ConcreteDropout`, which also says what is
            added to the loss.

    Raises:
        ValueError: As `ConcreteDropout`; when built, if the input has no positions.
        TypeError: As `ConcreteDropout`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import SpatialConcreteDropout
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((28, 28, 1)),
    ...         keras.layers.Conv2D(16, 3, activation="relu"),
    ...         SpatialConcreteDropout(
    ...             keras.layers.Conv2D(32, 3, activation="relu"), num_examples=60000
    ...         ),
    ...     ]
    ... )
    >>> model.layers[1].features  # input channels
    16

    Reference: Gal, Hron & Kendall 2017, "Concrete dropout" (arXiv 1705.07832),
    section 4; Tompson et al. 2015, "Efficient object localization using
    convolutional networks", section 3.2.
    """

    def _check_shape(self, input_shape):
        if len(input_shape) < 3:
            raise ValueError(
                "Invalid input of `SpatialConcreteDropout`. Expected at least three "
                "axes: batch, positions, channels (for other inputs there is "
                f"`ConcreteDropout`). Received: shape={tuple(input_shape)}"
            )

    def _noise_shape(self, shape):
        channels = channel_axis(self.layer) % len(shape)
        return tuple(n if axis in (0, channels) else 1 for axis, n in enumerate(shape))


def _scale(loss, noise_precision):
    """How many nats one unit of the data loss is, inverted."""
    if loss not in ("nll", "mse"):
        raise ValueError(
            'Invalid value for argument `loss`. Expected "nll" (any negative log '
            'likelihood, cross-entropy too) or "mse". '
            f"Received: loss={loss!r}"
        )
    if (loss == "mse") == (noise_precision is None):
        raise ValueError(
            "Invalid value for argument `noise_precision`. Expected a positive number "
            'with loss="mse", and `None` otherwise. '
            f"Received: loss={loss!r}, noise_precision={noise_precision!r}"
        )
    if loss == "nll":
        return 1.0
    return 2.0 / check_number("noise_precision", noise_precision, above=0.0)


def _bounded(logit):
    """The logit clipped, with the gradient of the bound beyond it instead of none."""
    logit = ops.convert_to_tensor(logit)
    excess = logit - ops.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return logit - ops.stop_gradient(excess)


def _takes_mask(layer):
    return "mask" in inspect.signature(layer.call).parameters


def _check_layer(layer):
    """Raise unless this is a layer with one input, in wrappers or not."""
    core = layer if isinstance(layer, keras.layers.Layer) else None
    while layers_inside(core):
        core = layers_inside(core)[0]
    if core is None or isinstance(core, keras.Model):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer "
            "that is no model (wrap the layers in it, each by itself). "
            f"Received: layer={layer!r}"
        )
    shapes = [
        p.name
        for p in inspect.signature(layer.build).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if len(shapes) > 1:
        raise TypeError(
            "Invalid value for argument `layer`. Expected a layer with one input. "
            f"Received: layer={layer!r}, which is built from {shapes}"
        )
