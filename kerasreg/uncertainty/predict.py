"""Predict with samples of a model that has noise."""

import math
import random
import weakref

import keras
import numpy as np

from kerasreg.regularizers.base import check_count
from kerasreg.uncertainty import stochastic
from kerasreg.uncertainty.prediction import Prediction, likelihood_of
from kerasreg.uncertainty.sampler import Sampler

# Graphs of each model, and the state of its layers when they were traced.
_graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

_HELD = 2**28  # bytes of what is before the noise and of outputs, for one draw


def predict(
    model,
    x,
    samples=100,
    batch_size=1024,
    *,
    seed=None,
    likelihood="auto",
    from_logits=False,
    spread=None,
    noise_variance=None,
    keep_samples=False,
    training_layers=(),
    jit_compile=False,
    verbose=0,
):
    """Predict by averaging over samples of the model's noise.

    Noise is on in every layer of kerasreg that has some, in Keras's `Dropout`,
    `SpatialDropout1D/2D/3D`, `GaussianDropout` and `AlphaDropout`, in the dropout of
    recurrent and attention layers (MC Dropout), wherever they are in the model. All
    else stays as at inference: BatchNormalization uses its averages, augmentation is
    off. The model is as before afterwards: weights, states, generators, the compiled
    functions of `fit` and `predict`.

    A sample draws the weights of a layer with noise on its weights (`DropConnect`,
    `SparseVariational`, ...) once for all inputs: it is one function. The law for each
    input is that of training. Noise on units (`Dropout`, `VariationalDropout`, ...)
    is drawn for each input.

    The means are those of `f_s(x)` over the samples s = 1 ... S and variances divide
    by S. They run along with the samples, so memory holds a batch and its outputs. What
    comes before the first noise is computed once a batch, in Sequential and
    functional models.

    Args:
        model: Built `keras.Model` with noise.
        x: Array or tensor, list or dict of them as the model takes them, or a
            `tf.data.Dataset` of batches (of inputs, or of tuples that begin with them).
        samples: Positive integer S.
        batch_size: Positive integer, how many inputs to compute at a time; a dataset
            has its own. Weights are drawn once for many batches, of which up to 256 MB
            are held; for each (the same ones) of a dataset or with `jit_compile`, so
            that large ones are faster.
        seed: Integer. The same seed gives the same samples for the same `batch_size`.
            With noise on weights alone they are the same for any `batch_size`, but
            for rounding. `None` draws anew each time.
        likelihood: `"categorical"` (class probabilities along the last axis),
            `"bernoulli"` (probabilities), `"normal"`, or `None`. `"auto"`: after a
            softmax the first, after a sigmoid the second, `"normal"` if one of the
            next arguments says so, else `None`.
        from_logits: Whether outputs are logits, to be turned into probabilities in
            each sample.
        spread: For `"normal"`: what the second half of the last axis of the output, or
            the second of two outputs, is: `"log_variance"`, `"variance"` or `"std"`.
        noise_variance: For `"normal"` without `spread`: non-negative number, the known
            variance of the noise in targets.
        keep_samples: Whether to keep all outputs, which quantiles and `log_prob` need.
        training_layers: Tuple of further layer classes to put in training mode, such
            as `(keras.layers.GaussianNoise,)`.
        jit_compile: Whether to compile with XLA.
        verbose: 1 for a progress bar over batches.

    Returns:
        `Prediction`. For a model of several outputs a list or dict of them.

    Raises:
        ValueError: If nothing in the model samples, it is not built or has a stateful
            recurrent layer, there are no inputs, or an argument is out of range.
        TypeError: If `samples` or `batch_size` is no integer.

    Example:

    >>> import keras, numpy as np
    >>> from kerasreg.uncertainty import predict
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((100,)),
    ...         keras.layers.Dropout(0.5),
    ...         keras.layers.Dense(1, kernel_initializer="ones"),
    ...     ]
    ... )
    >>> prediction = predict(model, np.ones((1, 100)), samples=2000, seed=0)
    >>> prediction.std.round(0).tolist()  # sqrt(100·r/(1 - r))
    [[10.0]]

    Reference: Gal & Ghahramani 2016, "Dropout as a Bayesian approximation"
    (arXiv 1506.02142), eq. 6-8.
    """
    _check(model, samples, batch_size)
    law = likelihood_of(model, likelihood, from_logits, spread, noise_variance)
    base = random.SystemRandom().getrandbits(62) if seed is None else int(seed)
    words = np.array([base & 0x7FFFFFFF, base >> 31 & 0x7FFFFFFF], "int32")
    chosen = stochastic.keras_samplers(model, tuple(training_layers))
    together = 1 if jit_compile else _together(model, x, chosen, batch_size)
    blocks, total = _blocks(x, batch_size * together)
    bar = keras.utils.Progbar(total) if verbose else None
    options = (law, keep_samples, tuple(training_layers), jit_compile,
               samples if jit_compile else None,
               batch_size if together > 1 else None)  # fmt: skip
    parts: list = []
    for index, inputs in enumerate(blocks):
        sampler, run = _graph(model, inputs, *options)
        stats = run(inputs, words, np.int32(index * together), np.int32(samples))
        parts.append(keras.tree.map_structure(np.asarray, stats))
        if bar:
            bar.update(index + 1)
    if not parts:
        raise ValueError(
            "Invalid value for argument `x`. Expected at least one input. "
            "Received none."
        )
    return _collect(sampler.structure, parts, law, samples)


def _collect(structure, parts, law, samples):
    """Put the blocks together."""
    outputs = []
    for i, keys in enumerate(parts[0]):
        joined = {
            key: np.concatenate(
                [stats[i][key] for stats in parts], axis=int("samples" in key)
            )
            for key in keys
        }
        outputs.append(Prediction(joined, samples, law.at(i), law.noise_variance))
    return keras.tree.pack_sequence_as(structure, outputs)


def _graph(model, inputs, law, keep, training_layers, jit_compile, samples, size):
    """The sampler of a model for inputs like these, and its traced function."""
    # tensorflow: its graphs.
    import tensorflow as tf

    state = stochastic.state(model)
    if model not in _graphs or _graphs[model][0] != state:
        _graphs[model] = state, {}
    specs = keras.tree.map_structure(
        lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype), inputs
    )
    key = (repr(specs), law, keep, training_layers, jit_compile, samples, size)
    known = _graphs[model][1]
    if key not in known:
        sampler = Sampler(model, law, keep, training_layers, size)

        def function(inputs, seed, first, count):
            # XLA needs to know how many there are.
            return sampler(inputs, seed, first, samples or count)

        scalar = tf.TensorSpec((), tf.int32)
        known[key] = (
            sampler,
            tf.function(
                function,
                input_signature=(specs, tf.TensorSpec((2,), tf.int32), scalar, scalar),
                jit_compile=jit_compile,
                autograph=False,
            ),
        )
    return known[key]


def _together(model, x, chosen, batch_size):
    """How many batches use one draw of the weights, within the memory for it."""
    if not stochastic.weight_samplers(model) or hasattr(x, "cardinality"):
        return 1
    start, sampled = stochastic.cut(model, chosen)
    held = keras.tree.flatten(x) if start is None else sampled.inputs
    shapes = [tuple(t.shape)[1:] for t in held]
    shapes += [tuple(t.shape)[1:] for t in getattr(model, "outputs", None) or []]
    if any(n is None for shape in shapes for n in shape):
        return 1
    size = 4 * sum(math.prod(shape) for shape in shapes)
    return max(1, _HELD // (size * batch_size))


def _blocks(x, block):
    """Blocks of tensors, and how many if it is known."""
    # tensorflow: its datasets.
    import tensorflow as tf

    if isinstance(x, tf.data.Dataset):
        total = int(x.cardinality())
        inputs = (keras.utils.unpack_x_y_sample_weight(batch)[0] for batch in x)
        some = (i for i in inputs if keras.tree.flatten(i)[0].shape[0])
        return some, total if total >= 0 else None
    x = keras.tree.map_structure(lambda a: a if tf.is_tensor(a) else np.asarray(a), x)
    lengths = {int(a.shape[0]) if a.ndim else 0 for a in keras.tree.flatten(x)}
    if len(lengths) != 1:
        raise ValueError(
            "Invalid value for argument `x`. Expected arrays of the same length. "
            f"Received: lengths {sorted(lengths)}"
        )
    (length,) = lengths
    starts = range(0, length, block)

    def batch(start):
        return keras.tree.map_structure(
            lambda a: tf.convert_to_tensor(_narrow(a[start : start + block])), x
        )

    return map(batch, starts), len(starts)


def _narrow(array):
    """Floats as Keras takes them."""
    if isinstance(array, np.ndarray) and array.dtype == "float64":
        return array.astype(keras.backend.floatx())
    return array


def _check(model, samples, batch_size):
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Invalid value for argument `model`. Expected a built keras.Model. "
            f"Received: model={model!r}"
        )
    check_count("samples", samples)
    check_count("batch_size", batch_size)
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_states"):
            raise ValueError(
                "Invalid value for argument `model`. Expected no stateful recurrent "
                f"layer, whose states samples would share. Received: {layer.name!r}"
            )
