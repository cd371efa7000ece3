"""What clipping leaves of a gradient."""

from keras import ops


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
    sparse = hasattr(gradient, "values")  # tf.IndexedSlices
    if clipped is gradient or (sparse and elementwise):
        return 1.0
    before = gradient.values if sparse else gradient
    after = clipped.values if sparse else clipped
    if not elementwise:
        before = ops.sqrt(ops.sum(ops.square(before)))
        after = ops.sqrt(ops.sum(ops.square(after)))
    zero = ops.equal(before, 0)
    return ops.where(zero, 1.0, ops.divide(after, ops.where(zero, 1.0, before)))
