"""When a layer's noise is on: in training, and where samples are asked for."""

import contextlib
import threading

_local = threading.local()


@contextlib.contextmanager
def sampling():
    """Turn on the noise of every layer called (or traced) inside, in inference too.

    Nothing else is put in training mode: BatchNormalization keeps its averages.
    """
    before = getattr(_local, "on", False)
    _local.on = True
    try:
        yield
    finally:
        _local.on = before


def noisy(training):
    """Whether a layer draws its noise.

    Args:
        training: The layer's `training` argument, a Python bool or `None`.
    """
    return bool(training) or getattr(_local, "on", False)
