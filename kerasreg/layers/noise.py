"""When a layer's noise is on: in training, and where samples are asked for."""

import contextlib
from typing import Any

# In all threads: replicas run in threads of their own.
_depth = 0  # of `sampling()`
_asked = 0  # how often `sampling()` has turned a layer on
_draws: list[dict[int, Any]] = []  # of `drawn_weights()`


@contextlib.contextmanager
def sampling():
    """Turn on the noise of every layer called (or traced) inside, in inference too.

    Nothing else is put in training mode: BatchNormalization keeps its averages, and
    Keras's own Dropout stays off.

    What is traced keeps the noise that it was traced with. Call the model itself
    inside, or a `tf.function` of your own that is called nowhere else. Do not call
    `model.predict` or `evaluate`: traced inside they are noisy ever after (until the
    model is compiled again), traced before they have no noise.

    It holds for all threads of the process, as replicas run in threads of their own.

    Returns:
        A context manager.

    Example:

    >>> import keras
    >>> from kerasreg.layers import DropConnectDense, sampling
    >>> layer = DropConnectDense(1, rate=0.5, seed=0)
    >>> x = keras.ops.ones((1, 50))
    >>> bool(layer(x)[0, 0] == layer(x)[0, 0])
    True
    >>> with sampling():
    ...     len({float(layer(x)[0, 0]) for _ in range(20)})
    20
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def noisy(training):
    """Whether a layer draws its noise: in training, and inside `sampling()`.

    Args:
        training: The layer's `training` argument, a Python bool or `None`.

    Returns:
        A Python bool.

    Example:

    >>> from kerasreg.layers import noisy, sampling
    >>> noisy(training=False)
    False
    >>> with sampling():
    ...     noisy(training=False)
    True
    """
    global _asked
    _asked += _depth > 0
    return bool(training) or _depth > 0


def times_asked():
    """How often a layer has asked `noisy` inside `sampling()`, up to now."""
    return _asked


@contextlib.contextmanager
def drawn_weights(draws):
    """Have layers use weights that were drawn before, one draw for all calls inside.

    A layer with noise on its weights has a method `draw_weights()`, which returns a
    draw (a tensor or any structure of them), and asks `drawn(self)` in its call.

    Args:
        draws: Dict from the `id` of each layer to what its `draw_weights()` returned.

    Returns:
        A context manager.
    """
    _draws.append(draws)
    try:
        yield
    finally:
        _draws.pop()


def drawn(layer):
    """The weights that a layer has to use, or `None` for its own choice.

    Args:
        layer: The layer that asks.

    Returns:
        What its `draw_weights()` returned.
    """
    return _draws[-1].get(id(layer)) if _draws else None
