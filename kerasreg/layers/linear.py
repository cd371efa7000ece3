"""The linear part of Dense and Conv layers, as a function of the kernel.

Layers with noise on their weights are Keras's own layers that call this linear map
more than once, or with another kernel: `class X(Noise, DenseMap, keras.layers.Dense)`.
"""

from typing import Any

import keras
from keras import ops


class DenseMap:
    """Mixin of layers that multiply by a kernel of shape (inputs, units)."""

    bias: Any
    activation: Any
    channel_axis = -1

    def linear(self, inputs, kernel):
        """`inputs` times `kernel`; no bias, no activation."""
        return ops.matmul(inputs, kernel)

    def finish(self, outputs, bias=None):
        """Add the bias (the layer's own, or the one given) and apply the activation."""
        bias = self.bias if bias is None else bias
        if bias is not None:
            outputs = ops.add(outputs, bias)
        return outputs if self.activation is None else self.activation(outputs)


class ConvMap:
    """Mixin of layers that convolve with a kernel of shape (*window, inputs, filters).

    With `groups`, `inputs` is the number of input channels of one group.
    """

    use_bias: bool
    bias: Any
    activation: Any
    data_format: str
    padding: str
    strides: Any
    dilation_rate: Any
    kernel_size: Any

    @property
    def channel_axis(self):
        """The axis of the channels, in inputs and outputs."""
        return -1 if self.data_format == "channels_last" else 1

    def linear(self, inputs, kernel):
        """`inputs` convolved with `kernel`; no bias, no activation."""
        padding = self.padding
        if padding == "causal":
            inputs, padding = self._pad_left(inputs), "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def finish(self, outputs, bias=None):
        """Add the bias (the layer's own, or the one given) and apply the activation."""
        if self.use_bias:
            bias = self.bias if bias is None else bias
            outputs = ops.add(outputs, along_channels(self, bias, outputs))
        return outputs if self.activation is None else self.activation(outputs)

    def _pad_left(self, inputs):
        left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
        pads = [[0, 0], [left, 0], [0, 0]]
        if self.data_format != "channels_last":
            pads = [[0, 0], [0, 0], [left, 0]]
        return ops.pad(inputs, pads)


def along_channels(layer, vectors, tensor):
    """Reshape `vectors` so that they broadcast along the channels of `tensor`.

    Args:
        layer: Layer with one of the mixins above.
        vectors: Tensor of shape (channels,), or (batch, channels): one an example.
        tensor: An input or output of the layer.

    Returns:
        `vectors` with axes of length 1 for all other axes of `tensor`.
    """
    rank = len(tensor.shape)
    shape = [1] * rank
    shape[layer.channel_axis % rank] = vectors.shape[-1]
    if len(vectors.shape) == 2:
        shape[0] = -1
    return ops.reshape(vectors, shape)


def plain_layer(layer, kernel, own):
    """The plain Keras layer of a noisy one.

    Args:
        layer: Built layer with one of the mixins above.
        kernel: Tensor, the kernel of the plain layer.
        own: Names of the arguments that the plain layer does not take.

    Returns:
        A built `keras.layers.Dense`, `Conv1D`, `Conv2D` or `Conv3D` with the name and
        the bias of `layer`.
    """
    left_out = (*own, "lora_rank", "lora_alpha")
    config = {k: v for k, v in layer.get_config().items() if k not in left_out}
    (plain,) = (cls for cls in _PLAIN if isinstance(layer, cls))
    plain = plain.from_config(config)
    plain.build_from_config(layer.get_build_config())
    bias = [] if layer.bias is None else [ops.convert_to_numpy(layer.bias)]
    plain.set_weights([ops.convert_to_numpy(kernel), *bias])
    return plain


_PLAIN = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
