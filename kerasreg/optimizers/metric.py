"""The metric of Keras's optimizers: the step each of them takes per weight.

Near the optimum of a penalized problem the data gradient `g` of a weight does
not vanish, and an optimizer moves the weight by `−d·g`, where `d` is its step:
the learning rate for plain SGD, more under momentum, divided by the root of the
second moment for Adam. The proximal map must be taken with that very `d`, else
the weights settle at the solution of another problem.

Each function returns `d` after the optimizer's update of one weight, from the
same state that the update used and the *rate*: the learning rate, or under
momentum `β` its running sum `r ← β·r + lr`, which is what a constant gradient
has moved the momentum buffer by. (It tends to `lr/(1 − β)`, but not while a
schedule lowers the learning rate.) Where a weight has had no gradient at all (an
unseen row of an embedding, a column of zeros), its second moment is 0 and says
nothing of its metric; its step is then `lr/strength`, with which an L1 penalty
moves it by `lr`, as Adam would if it saw the penalty's slope alone.

Reference: Yun, Lozano & Yang 2021, "Adaptive proximal gradient methods for
structured neural networks", algorithm 1.
"""

import keras
from keras import ops


def _sgd(optimizer, index, rate, first):
    return rate


def _rmsprop(optimizer, index, rate, first):
    moment = square = ops.convert_to_tensor(optimizer._velocities[index])
    if optimizer.centered:
        mean = ops.convert_to_tensor(optimizer._average_gradients[index])
        square = square - ops.square(mean)
    step = rate / ops.sqrt(square + optimizer.epsilon)
    return _where_moved(moment, step, first)


def _adam(optimizer, index, rate, first):
    moments = optimizer._velocity_hats if optimizer.amsgrad else optimizer._velocities
    return _over_root(optimizer, moments[index], rate, first)


def _nadam(optimizer, index, rate, first):
    return _over_root(optimizer, optimizer._velocities[index], rate, first)


def _over_root(optimizer, moment, rate, first):
    correction = ops.sqrt(1.0 - _power(optimizer.beta_2, optimizer, rate.dtype))
    # Nadam adds its epsilon to the corrected root, Adam to the plain one.
    if isinstance(optimizer, keras.optimizers.Nadam):
        epsilon = optimizer.epsilon * correction
    else:
        epsilon = optimizer.epsilon
    step = rate * correction / (ops.sqrt(moment) + epsilon)
    return _where_moved(moment, step, first)


def _adamax(optimizer, index, rate, first):
    moment = ops.convert_to_tensor(optimizer._u[index])
    return _where_moved(moment, rate / (moment + optimizer.epsilon), first)


def _adagrad(optimizer, index, rate, first):
    total = ops.convert_to_tensor(optimizer._accumulators[index])
    return _where_moved(total, rate / ops.sqrt(total + optimizer.epsilon), first)


def _where_moved(moment, step, first):
    """The step, or `first` for weights that have had no gradient at all."""
    return ops.where(ops.equal(moment, 0), first, step)


def _power(beta, optimizer, dtype):
    return ops.power(ops.cast(beta, dtype), ops.cast(optimizer.iterations + 1, dtype))


_METRICS = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.Adagrad: _adagrad,
}


def metric_of(optimizer):
    """Find the function that gives an optimizer's step.

    Args:
        optimizer: A Keras optimizer.

    Returns:
        A function of (optimizer, index of the weight, rate, step of a weight that
        has had no gradient), which returns a scalar tensor or one of the weight's
        shape.

    Raises:
        ValueError: If the optimizer's steps have no diagonal metric, or it is a
            subclass with an update of its own.
    """
    for known, metric in _METRICS.items():
        if isinstance(optimizer, known) and (
            type(optimizer).update_step is known.update_step
        ):
            return metric
    names = ", ".join(known.__name__ for known in _METRICS)
    raise ValueError(
        "Invalid value for argument `optimizer`. Expected an optimizer whose step "
        f"for each weight is known: {names}. "
        f"Received: optimizer={type(optimizer).__name__}"
    )
