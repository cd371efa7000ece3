"""The graph that draws samples of a block of inputs and averages them."""

import weakref

import keras
from keras import ops

from kerasreg.layers import noise
from kerasreg.uncertainty import stochastic


class Sampler:
    """Statistics of a block of inputs over samples: the function to trace.

    Weights are drawn once a sample for the whole block. The layers are called with a
    batch of it at a time.

    Args:
        model: Model, which is not kept alive.
        law: `Likelihood`.
        keep: Whether to return all outputs as well.
        training_layers: Tuple of further classes to be put in training mode.
        batch_size: Positive integer, or `None` where each block is one batch.

    Attributes:
        structure: The structure of the model's outputs, once it was called.
    """

    def __init__(self, model, law, keep, training_layers, batch_size):
        self.reference = weakref.ref(model)
        self.law, self.keep = law, keep
        self.training_layers = training_layers
        self.batch_size = batch_size
        self.structure = None
        self._specs = {}

    def __call__(self, inputs, seed, first, samples):
        """Trace it.

        Args:
            inputs: Structure of tensors.
            seed: Integer tensor of shape (2,).
            first: Integer scalar, the number of the first batch in this block.
            samples: Integer scalar.

        Returns:
            A list of a dict of statistics for each output.
        """
        model, fold = self.reference(), stochastic.fold
        asked = noise.times_asked()
        chosen = stochastic.keras_samplers(model, self.training_layers)

        def values_of(index):
            own = fold(seed, index)
            draws = stochastic.draw_weights(model, chosen, fold(own, -1))

            def batch_values(tensors, batch):
                outputs = stochastic.call_sampled(
                    sampled, restore(tensors), chosen, draws, fold(own, first + batch)
                )
                if not (chosen or draws or noise.times_asked() > asked):
                    raise ValueError(_nothing(model))
                outputs, values = self.law.values(outputs)
                self.structure = keras.tree.map_structure(lambda _: 0, outputs)
                return values

            return self._in_batches("values", batch_values, tensors)

        with stochastic.LOCK:
            start, sampled = stochastic.cut(model, chosen)
            tensors, restore = self._before(start, inputs)
            return self._average(values_of, samples)

    def _before(self, start, inputs):
        """What comes before the noise, and a function that makes inputs of it."""
        if start is None:
            return keras.tree.flatten(
                inputs
            ), lambda tensors: keras.tree.pack_sequence_as(inputs, tensors)
        masked: list = []

        def batch_before(flat, _):
            with keras.StatelessScope():
                found = start(keras.tree.pack_sequence_as(inputs, flat))
            masks = [getattr(t, "_keras_mask", None) for t in found]
            masked[:] = [i for i, mask in enumerate(masks) if mask is not None]
            return [*found, *(masks[i] for i in masked)]

        flat = keras.tree.flatten(inputs)
        tensors = self._in_batches("before", batch_before, flat)

        def restore(tensors):
            split = len(tensors) - len(masked)
            for i, mask in zip(masked, tensors[split:], strict=True):
                tensors[i]._keras_mask = mask
            return tensors[:split]

        return tensors, restore

    def _in_batches(self, name, function, tensors):
        """`function(batch, its number)` of all batches of a block, put together."""
        if self.batch_size is None:
            return function(tensors, 0)
        # tensorflow: its loops, which run in one graph.
        import tensorflow as tf

        length = tf.shape(tensors[0])[0]

        def call(batch):
            start = batch * self.batch_size
            end = tf.minimum(start + self.batch_size, length)
            return function([t[start:end] for t in tensors], batch)

        if name not in self._specs:  # traced once more; of no cost at run time
            self._specs[name] = keras.tree.map_structure(
                lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype), call(0)
            )
        specs = keras.tree.flatten(self._specs[name])
        count = (length + self.batch_size - 1) // self.batch_size
        arrays = [
            tf.TensorArray(t.dtype, count, infer_shape=False, element_shape=t.shape)
            for t in specs
        ]

        def body(batch, arrays):
            found = keras.tree.flatten(call(batch))
            return batch + 1, [
                array.write(batch, t) for array, t in zip(arrays, found, strict=True)
            ]

        _, arrays = tf.while_loop(
            lambda batch, _: batch < count,
            body,
            (tf.constant(0), arrays),
            parallel_iterations=1,
        )
        joined = [
            tf.ensure_shape(array.concat(), t.shape)
            for array, t in zip(arrays, specs, strict=True)
        ]
        return keras.tree.pack_sequence_as(self._specs[name], joined)

    def _average(self, values_of, samples):
        """Run through the samples."""
        # tensorflow: its loops, which run in one graph.
        import tensorflow as tf

        values = values_of(0)
        state = [v | {"m2": ops.zeros_like(v["mean"])} for v in values]
        kept = [
            {
                key: tf.TensorArray(
                    value.dtype, samples, element_shape=value.shape
                ).write(0, value)
                for key, value in v.items()
                if key != "entropy"
            }
            for v in (values if self.keep else [])
        ]

        def body(index, state, kept):
            values = values_of(index)
            count = ops.cast(index + 1, "float32")
            state = [_update(s, v, count) for s, v in zip(state, values, strict=True)]
            kept = [
                {key: array.write(index, v[key]) for key, array in k.items()}
                for k, v in zip(kept, values, strict=self.keep)
            ]
            return index + 1, state, kept

        _, state, kept = tf.while_loop(
            lambda index, *_: index < samples,
            body,
            (tf.constant(1), state, kept),
            parallel_iterations=1,
        )
        for own, arrays in zip(state, kept, strict=self.keep):
            own |= {f"{key} samples": array.stack() for key, array in arrays.items()}
        return state


def _update(state, value, count):
    """Welford's step: running means, and the squared deviations from the first."""
    new = {}
    for key, x in value.items():
        new[key] = state[key] + (x - state[key]) / ops.cast(count, x.dtype)
    deviation = (value["mean"] - state["mean"]) * (value["mean"] - new["mean"])
    return new | {"m2": state["m2"] + deviation}


def _nothing(model):
    return (
        "Invalid value for argument `model`. Expected a model with noise: a layer of "
        "`kerasreg.layers` that has some, or dropout at a rate above zero. Received: "
        f"{model.name!r}, in which nothing samples."
    )
