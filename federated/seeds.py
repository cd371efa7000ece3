"""Random numbers that depend on a seed and a place in the run, and on nothing else."""

import contextlib
import os
import random

import numpy as np


def generator(*entropy):
    """A NumPy generator for a place in the run, such as (seed, round, client).

    Args:
        entropy: Non-negative integers.
    """
    # By the spawn key, (1, 2) and (1, 2, 0) are different places.
    seed, *place = entropy
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


@contextlib.contextmanager
def seeded(*entropy):
    """Seed Python's and NumPy's global generators for a while.

    Flower's strategies sample clients by Python's and draw noise by NumPy's, and Keras
    seeds initializers by Python's. The states they had come back afterwards.

    Args:
        entropy: Non-negative integers.
    """
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    number = generator(*entropy).integers(2**32)
    random.seed(int(number))
    np.random.seed(int(number))  # noqa: NPY002 - Flower draws from this one
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


@contextlib.contextmanager
def unpredictable():
    """Seed NumPy's global generator by the operating system's entropy for a while.

    Flower's differential privacy draws its noise there; who could repeat it by the
    seed of the run could take it off again.
    """
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.frombuffer(os.urandom(2496), "uint32"))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
