"""Random numbers for layers: fast under XLA as well, and different on each replica.

`keras.random` cannot name TensorFlow's generator, and the one that XLA takes on the
CPU by default costs 170 ns a number against 1-2 ns for Philox, which gives the same
numbers with XLA and without. These functions are for TensorFlow alone.
"""

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
    # tensorflow: only a replica context knows which replica it is.
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = ops.cast(context.replica_id_in_sync_group, seed.dtype)
    # Not in the word that counts the draws, whose next one would be another's.
    return _words((2,), seed + ops.stack([(replica + 1) * _ODD, replica * 0]))


_ODD = np.uint32(0x9E3779B9)


def random_bytes(shape, seed):
    """Independent uniform bytes.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.

    Returns:
        A uint8 tensor of `shape`.
    """
    words = _words(((_size(shape) + 3) // 4,), seed)
    return _cut(words, "uint8", shape)


def random_words(shape, seed):
    """Independent uniform 16-bit words.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.

    Returns:
        A uint16 tensor of `shape`.
    """
    words = _words(((_size(shape) + 1) // 2,), seed)
    return _cut(words, "uint16", shape)


def _cut(words, dtype, shape):
    """Cut words into smaller numbers, as many as `shape` has."""
    # tensorflow: the words are its own.
    import tensorflow as tf

    numbers = ops.reshape(tf.bitcast(words, dtype), (-1,))
    return ops.reshape(numbers[: _size(shape)], shape)


def coin_and_bytes(chance, size, seed):
    """One draw, since a call of the generator costs as much as 100,000 bytes.

    Args:
        chance: Python float in [0, 1].
        size: How many bytes.
        seed: What `next_seed` returned.

    Returns:
        A Boolean scalar that is true with probability `chance`, and independent
        uniform bytes, a uint8 tensor of shape `(size,)`.
    """
    words = _words((1 + (size + 3) // 4,), seed)
    return _unit(words[0]) < chance, _cut(words[1:], "uint8", (size,))


def bernoulli(shape, keep, seed, dtype="float32"):
    """Ones with probability `keep`, and zeros.

    They are made from one random byte each where 256·keep is an integer, else from
    two, with a threshold that is rounded up or down at random, so that the probability
    of a one is `keep` exactly. That correlates entries by less than 1e-9/(1 - keep) or
    1e-9/keep, whichever is more.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        keep: Python float in [0, 1].
        seed: What `next_seed` returned.
        dtype: Any dtype, `"bool"` too.

    Returns:
        A tensor of `shape`.
    """
    # The rarer outcome, so that the threshold fits into a byte or two.
    rare = float(min(keep, 1.0 - keep))
    if (256 * rare).is_integer():
        numbers, threshold = random_bytes(shape, seed), np.uint8(256 * rare)
    else:
        low = int(65536 * rare)
        # All at once: a call of the generator costs as much as 100,000 bytes.
        words = _words((1 + (_size(shape) + 1) // 2,), seed)
        numbers = _cut(words[1:], "uint16", shape)
        up = _unit(words[0]) < 65536 * rare - low
        threshold = ops.cast(up, "uint16") + np.uint16(low)
    one = numbers < threshold if keep < 0.5 else numbers >= threshold
    return ops.cast(one, dtype)


def normal(shape, seed, dtype="float32"):
    """Independent standard Normal numbers.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.
        dtype: Floating-point dtype; they are computed in float32.

    Returns:
        A tensor of `shape`.
    """
    # tensorflow: two words make two numbers (Box & Muller 1958).
    import tensorflow as tf

    size = _size(shape)
    words = _words((2, (size + 1) // 2), seed)
    share = _unit(words[0]) + 2.0**-24  # in (0, 1)
    angle = ops.cast(tf.bitcast(words[1], tf.int32), "float32") * (np.pi * 2.0**-31)
    radius = ops.sqrt(-2.0 * ops.log(share))
    sine, cosine = _sine_and_cosine(angle)
    both = ops.concatenate([radius * cosine, radius * sine], axis=0)
    return ops.cast(ops.reshape(both[:size], shape), dtype)


def uniform(shape, seed):
    """Independent uniform numbers in [0, 1): multiples of 2^-23.

    Args:
        shape: Tuple; its entries may be scalar tensors.
        seed: What `next_seed` returned.

    Returns:
        A float32 tensor of `shape`.
    """
    return _unit(_words(shape, seed))


def _unit(words):
    """Uniform numbers in [0, 1), from the upper 23 bits of each word.

    TensorFlow's own uniform floats are others with XLA than without.
    """
    # tensorflow: the words are its own.
    import tensorflow as tf

    bits = tf.bitcast(tf.bitwise.right_shift(words, np.uint32(9)), tf.int32)
    return ops.cast(bits, "float32") * 2.0**-23


def _sine_and_cosine(angle):
    """Of angles in [-π, π], within 1e-6. XLA's own take 6 times as long on the CPU."""
    quarter = 0.25 * angle
    y = ops.square(quarter)
    series = 1.0 + y * (-1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y / 362880)))
    square = ops.square(quarter * series)
    half_sine = 2.0 * quarter * series * ops.sqrt(1.0 - square)
    half_cosine = 1.0 - 2.0 * square
    return 2.0 * half_sine * half_cosine, 1.0 - 2.0 * ops.square(half_sine)


def _words(shape, seed):
    """Independent uniform 32-bit words."""
    # tensorflow: named generator.
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
