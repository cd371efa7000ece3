"""Random numbers for layers: fast under XLA as well, and different on each replica.

`keras.random` cannot name TensorFlow's generator, and the one that XLA takes on the
CPU by default costs 170 ns a number against 1-2 ns for Philox, which gives the same
numbers with XLA and without. Other backends use `keras.random`.
"""

import keras
import numpy as np
from keras import ops


def next_seed(generator):
    """The next seed of a `keras.random.SeedGenerator`, its own on each replica.

    Args:
        generator: `keras.random.SeedGenerator`. Its state moves on.

    Returns:
        An integer tensor of shape (2,), for the other functions here. Each seed is
        for one of them: two draws from one seed are the same numbers.
    """
    seed = generator.next()
    if keras.backend.backend() != "tensorflow":
        return seed
    # tensorflow: only a replica context knows which replica it is.
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = ops.cast(context.replica_id_in_sync_group, seed.dtype)
    return _words((2,), seed + ops.stack([replica * 0, replica]))


def random_bytes(shape, seed):
    """Independent uniform bytes.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.

    Returns:
        A uint8 tensor of `shape`.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.randint(shape, 0, 256, dtype="uint8", seed=seed)
    # tensorflow: named generator; four bytes of each word.
    import tensorflow as tf

    size = _size(shape)
    words = _words(((size + 3) // 4,), seed)
    return ops.reshape(ops.reshape(tf.bitcast(words, tf.uint8), (-1,))[:size], shape)


def normal(shape, seed, dtype="float32"):
    """Independent standard Normal numbers.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.
        dtype: Floating-point dtype.

    Returns:
        A tensor of `shape`.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.normal(shape, dtype=dtype, seed=seed)
    # tensorflow: named generator.
    import tensorflow as tf

    return tf.random.stateless_normal(shape, _signed(seed), dtype=dtype, alg="philox")


def uniform(shape, seed, dtype="float32"):
    """Independent uniform numbers in [0, 1).

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.
        dtype: Floating-point dtype.

    Returns:
        A tensor of `shape`.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, dtype=dtype, seed=seed)
    # tensorflow: named generator.
    import tensorflow as tf

    return tf.random.stateless_uniform(shape, _signed(seed), dtype=dtype, alg="philox")


def _words(shape, seed):
    # tensorflow: `random_bytes` and `next_seed` call this on TensorFlow alone.
    import tensorflow as tf

    return tf.random.stateless_uniform(
        shape, _signed(seed), None, None, dtype=tf.uint32, alg="philox"
    )


def _signed(seed):
    return ops.cast(seed, "int32")


def _size(shape):
    if all(isinstance(n, int) for n in shape):
        return int(np.prod(shape))
    return ops.prod(ops.stack([ops.cast(n, "int32") for n in shape]))
