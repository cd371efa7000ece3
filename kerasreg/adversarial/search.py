"""An attack without gradients."""

import keras
from keras import ops

from kerasreg import random
from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.problem import better_of, random_points
from kerasreg.regularizers.base import check_count


@keras.saving.register_keras_serializable(package="kerasreg")
class RandomSearch(Attack):
    """Random changes, kept if they raise the loss: an attack that needs no gradients.

    Each step gives a random window of an input (a rectangle of an image, all channels
    alike) new random signs of full size, and each example keeps them if its loss rises.
    Windows shrink as the search goes on. Where it does better than `PGD`, gradients are
    masked.

    Args:
        eps: Non-negative number, the radius of the ball.
        norm: `"inf"`, `2` or `1`. Meant for `"inf"`; in the others it is weak.
        steps: Positive integer: the model is called so often.
        **where: `bounds`, `scale`, `mask`, `on` and `loss` of `Attack`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerasreg.adversarial import RandomSearch
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> model.compile(loss="mse")
    >>> attack = RandomSearch(0.1, steps=50)
    >>> attack(model, np.array([[0.5, 0.5]]), np.array([[0.0]])).numpy().round(2)
    array([[0.6, 0.6]], dtype=float32)

    Reference: Andriushchenko, Croce, Flammarion & Hein 2020, "Square attack",
    section 3, of which this is a simple form.
    """

    _checks = {**Attack._checks, "steps": check_count}

    def __init__(self, eps, norm="inf", *, steps=300, **where):
        super().__init__(eps, norm, **where)
        self.steps = steps

    def perturb(self, problem, seed):
        """The best that was found."""
        start = random_points(problem.spaces, seed)

        def search(count, best, highest):
            # Windows from 80 % of the input to 0.3 %.
            share = 0.8 * 2.0 ** (-8.0 * ops.cast(count, "float32") / self.steps)
            found = [
                _changed(space, delta, share, _apart(seed, 100 * count + 10 * i))
                for i, (space, delta) in enumerate(
                    zip(problem.spaces, best, strict=True)
                )
            ]
            losses = problem.losses(found)
            best = better_of(losses > highest, found, best)
            return count + 1, best, ops.maximum(losses, highest)

        first = ops.ones((), "int32"), start, problem.losses(start)
        return ops.while_loop(lambda count, *_: count <= self.steps, search, first)[1]

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "steps": self.steps}


def _apart(seed, offset):
    return seed + ops.cast(ops.stack([offset, 0 * offset]), seed.dtype)


def _changed(space, delta, share, seed):
    """New signs of full size in a window of each example, of a share of its entries."""
    ones = ops.ones_like(delta)
    if len(delta.shape) == _IMAGE:
        inside = _rectangle(ones, share ** (1 / 2), seed)
        draws = ones[:, :1, :1]
    else:
        size = ops.cast(ops.shape(delta)[1], "float32")
        chance = ops.maximum(share, 1.0 / size)
        inside = random.uniform(ops.shape(delta), _apart(seed, 2)) < chance
        draws = ones
    up = random.uniform(ops.shape(draws), _apart(seed, 3)) < _HALF
    full = ops.where(inside, ops.where(up, ones, -ones) * space.eps, delta)
    return space.constrain(full)


def _rectangle(image, share, seed):
    """True in a rectangle of each image, as wide and as high as `share` says."""
    inside = ops.ones((), "bool")
    for axis, shape in ((1, (1, -1, 1, 1)), (2, (1, 1, -1, 1))):
        size = ops.cast(ops.shape(image)[axis], "float32")
        width = ops.maximum(ops.round(size * share), 1.0)
        begin = random.uniform(ops.shape(image)[:1], _apart(seed, axis - 1))
        begin = ops.reshape(ops.floor(begin * (size - width + 1.0)), (-1, 1, 1, 1))
        index = ops.reshape(ops.arange(size), shape)
        inside = inside & (index >= begin) & (index < begin + width)
    return inside


_IMAGE = 4  # axes
_HALF = 0.5
