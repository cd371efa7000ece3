"""Clipping of gradients, and what it leaves of them."""

from keras import ops


def clip_all(gradients, clip):
    """Clip gradients, those of several replicas after they have been added up.

    Keras clips what each replica has and adds up the rest, which is another
    gradient, and at the solution of a penalized problem not zero.

    Args:
        gradients: List of the gradients of this replica.
        clip: Callable that clips a list of gradients.

    Returns:
        The list of gradients that `clip` saw, the list of what it made of them,
        and a list whose sum over replicas is that.
    """
    # tensorflow: Keras has no public call that adds up over replicas.
    import tensorflow as tf

    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    context = tf.distribute.get_replica_context()
    if replicas == 1 or context is None:
        clipped = clip(gradients)
        return gradients, clipped, clipped
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    clipped = clip(gradients)
    return gradients, clipped, [tf.math.scalar_mul(1 / replicas, g) for g in clipped]


def clipping_share(gradient, clipped, elementwise):
    """The factor that clipping multiplied a gradient by.

    At the solution of a penalized problem the data gradient is not zero, so a clip
    that is at work stays at work, and shortens the optimizer's step for good.

    Args:
        gradient: Tensor before clipping.
        clipped: The tensor after it; the same one where nothing is clipped.
        elementwise: Whether each element was clipped by itself.

    Returns:
        1.0, a scalar tensor, or a tensor of the gradient's shape.
    """
    # tensorflow: Keras has no public call that adds up the slices of a gradient.
    import tensorflow as tf

    if clipped is gradient:
        return 1.0
    if isinstance(clipped, tf.IndexedSlices) and not elementwise:
        gradient, clipped = gradient.values, clipped.values
    before, after = tf.convert_to_tensor(gradient), tf.convert_to_tensor(clipped)
    if not elementwise:
        before = ops.sqrt(ops.sum(ops.square(before)))
        after = ops.sqrt(ops.sum(ops.square(after)))
    zero = ops.equal(before, 0)
    share = ops.where(zero, 1.0, ops.divide(after, ops.where(zero, 1.0, before)))
    return ops.clip(share, 0.0, 1.0)  # slices of one row are clipped one by one
