"""The Gauss-Newton matrix of Dense and Conv2D kernels as Kronecker products."""

import contextlib

import keras
import numpy as np
from keras import ops

from kerasreg.callbacks.policies.curvature import Sums
from kerasreg.regularizers.sites import find_owners


class Kronecker:
    """Each kernel's block as `A ⊗ G`: of its inputs, and of gradients at its outputs.

    With inputs `a` (patches, of a convolution) and gradients `g` of the roots of the
    curvature at the layer's pre-activations, of T places in each of N samples,

        A = Σₙ Σₜ aₙₜ aₙₜᵀ / N,    G = Σₙ Σₜ gₙₜ gₙₜᵀ / T.

    A bias with a flat prior is integrated out, which takes the mean of `a` off. A
    bias with a penalty is a block by itself, `T·G`.

    Args:
        model: The built `keras.Model`.
        likelihood: A `Likelihood`.
        units: Dict from the name of each unit to its weights.
    """

    def __init__(self, model, likelihood, units):
        self._units = units
        owners = find_owners(model)
        self._layers = {}
        for variables in units.values():
            for v in variables:
                layer, ancestors = owners[id(v)]
                _check_layer(v, layer, ancestors)
                self._layers[id(layer)] = layer
        self._owner = {
            id(v): id(owners[id(v)][0]) for each in units.values() for v in each
        }
        self.sums = Sums(model, likelihood, self._terms, [])

    def _terms(self, weights, forward, weight):
        # tensorflow: Keras has no public call that differentiates.
        import tensorflow as tf

        layers = list(self._layers.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with contextlib.ExitStack() as stack:
                taps = [stack.enter_context(_tapped(layer, tape)) for layer in layers]
                roots = forward()
            # Samples do not see one another, so one pass serves a whole batch.
            summed = ops.reshape(ops.sum(roots, 0), (-1,))
        for layer, (inputs, _) in zip(layers, taps, strict=True):
            if len(inputs) != 1:
                raise ValueError(
                    'curvature="kronecker" needs layers that are called once. '
                    f"Received: {layer.path}, called {len(inputs)} times"
                )
        slopes = tape.jacobian(
            summed,
            [outputs[0] for _, outputs in taps],
            tf.UnconnectedGradients.ZERO,
        )
        terms = [ops.sum(weight)]
        for layer, (inputs, _), slope in zip(layers, taps, slopes, strict=True):
            patches = _flat(_patches(layer, inputs[0]))  # (n, places, inputs)
            slope = ops.cast(slope, "float64")
            slope = ops.reshape(slope, (-1, slope.shape[-1]))
            weighted = ops.reshape(weight, (-1, 1, 1)) * patches
            places = patches.shape[1]
            terms += [
                ops.einsum("nta,ntb->ab", weighted, patches),
                ops.sum(weighted, (0, 1)),
                ops.matmul(ops.transpose(slope), slope) / places,
                ops.sum(weight) * places,
            ]
        return terms

    def determined(self, sums, precisions):
        """How much the data say on each unit, as of `Exact.determined`."""
        weight, factors = sums[0], {}
        for index, (key, layer) in enumerate(self._layers.items()):
            second, first, outer, places = sums[1 + 4 * index : 5 + 4 * index]
            bias = getattr(layer, "bias", None)
            if bias is not None and bias.trainable and bias.regularizer is None:
                second = second - np.outer(first, first) / places
            spectra = (np.linalg.eigvalsh(m) for m in (second / weight, outer))
            a, g = (np.maximum(values, 0.0) for values in spectra)
            factors[key] = np.outer(a, g).ravel(), g * places / weight
        found = {}
        for name, variables in self._units.items():
            gamma = log = 0.0
            for v, precision in zip(variables, precisions[name], strict=True):
                kernel = v.name == "kernel"
                values = factors[self._owner[id(v)]][0 if kernel else 1]
                precision = max(float(precision), _RANK * np.max(values))
                gamma += np.sum(values / (values + precision))
                log += 0.5 * np.sum(np.log1p(values / precision))
            found[name] = float(gamma), float(log)
        return found


_RANK = 1e-10


def _check_layer(variable, layer, ancestors):
    """Raise unless this is the kernel or bias of a layer that we know."""
    inside = [a for a in ancestors if isinstance(a, _REPEATING)]
    known = type(layer) in (keras.layers.Dense, keras.layers.Conv2D)
    conv = known and type(layer) is keras.layers.Conv2D
    if (
        not known
        or inside
        or getattr(layer, "lora_enabled", False)
        or variable.name not in ("kernel", "bias")
        or (conv and (layer.groups != 1 or layer.data_format != "channels_last"))
    ):
        raise ValueError(
            'curvature="kronecker" knows the weights of keras.layers.Dense and of '
            "Conv2D, with one group and channels last. Expected penalties on these "
            'only, or curvature="full" or "block". '
            f"Received: {variable.path} of {type((inside or [layer])[0]).__name__}"
        )


_REPEATING = (keras.layers.Wrapper, keras.layers.RNN)


@contextlib.contextmanager
def _tapped(layer, tape):
    """Context that notes the layer's inputs and its pre-activations."""
    inputs, outputs = [], []
    call, activation = layer.call, layer.activation

    def tapped_call(x, *args, **kwargs):
        inputs.append(x)
        return call(x, *args, **kwargs)

    def tapped_activation(z):
        tape.watch(z)
        outputs.append(z)
        return activation(z)

    # Past Keras's tracking, which would take it for a change of the layer.
    object.__setattr__(layer, "call", tapped_call)
    object.__setattr__(layer, "activation", tapped_activation)
    try:
        yield inputs, outputs
    finally:
        object.__delattr__(layer, "call")
        object.__setattr__(layer, "activation", activation)


def _patches(layer, inputs):
    """What is multiplied with the kernel, in the order of its axes."""
    if isinstance(layer, keras.layers.Dense):
        return inputs
    return ops.image.extract_patches(
        inputs,
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        padding=layer.padding,
        data_format="channels_last",
    )


def _flat(tensor):
    """As float64 (n, places, features)."""
    places = 1
    for size in tensor.shape[1:-1]:
        places *= size
    shape = (tensor.shape[0], places, tensor.shape[-1])
    return ops.reshape(ops.cast(tensor, "float64"), shape)
