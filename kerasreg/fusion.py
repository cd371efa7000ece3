"""Run elementwise work on one weight as a single pass over its memory.

An adaptive update followed by a proximal map, or a KL divergence with its gradient,
is some twenty elementwise operations, each of which TensorFlow runs on the CPU as a
pass of its own over the weight. XLA makes one loop of them. (On a GPU Keras compiles
the whole train step with XLA by default, so there is nothing left to do.)
"""

import keras


def fused(function, gradient, variable):
    """Return `function`, compiled by XLA where that makes it faster.

    Args:
        function: Callable of tensors, which reads or updates `variable`.
        gradient: A tensor it will be called with (a sparse gradient is left alone).
        variable: The `tf.Variable` whose size decides.

    Returns:
        A callable of the same signature.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    # tensorflow: only TensorFlow can compile a part of a traced function.
    import tensorflow as tf

    if (
        tf.executing_eagerly()
        or isinstance(gradient, tf.IndexedSlices)
        or tf.distribute.get_strategy().num_replicas_in_sync > 1
        or "CPU" not in variable.device
        or variable.shape.num_elements() < _LEAST_SIZE
    ):
        return function
    return tf.function(function, jit_compile=True, autograph=False)


_LEAST_SIZE = (
    2**17
)  # compiling takes 0.2 s a weight: a few hundred steps of a smaller one
