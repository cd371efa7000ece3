"""The data sets, each with its model and how that is trained."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import mnist
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split


@dataclasses.dataclass
class Problem:
    """Args: see README.md; `load(seed)` gives training and test data."""

    load: Callable
    hidden: tuple[int, ...]
    optimizer: str
    rate: float
    epochs: int
    batch: int
    seeds: int


def images(name, count):
    """Some of the training images, other ones for each seed, and all test images."""

    def load(seed):
        (x, y), test = mnist.load(name)
        chosen = np.random.default_rng(seed).permutation(len(x))[:count]
        return (x[chosen], y[chosen]), test

    return load


def table(read, test_size, spread=1.0):
    """A stratified part for the test; columns standardized by the training part."""

    def load(seed):
        x, y = read()
        x, x_test, y, y_test = train_test_split(
            x, y.astype("int32"), test_size=test_size, stratify=y, random_state=seed
        )
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        x, x_test = (
            ((a - mean) / scale * spread).astype("float32") for a in (x, x_test)
        )
        return (x, y), (x_test, y_test)

    return load


def breast_cancer():
    return load_breast_cancer(return_X_y=True)


def digits():
    return load_digits(return_X_y=True)


def golub():
    path = pathlib.Path(os.environ.get("KERASREG_DATA", ""), "multtest_golub.npz")
    if not path.exists():
        raise FileNotFoundError(
            "Golub's data are needed: set KERASREG_DATA to a folder with "
            "multtest_golub.npz (arrays X, 38 x 3051, and y)"
        )
    with np.load(path) as file:
        return file["X"], file["y"]


PROBLEMS = {
    "breast_cancer": Problem(table(breast_cancer, 0.3), (64,), "adam", 3e-3, 40, 32, 3),
    "golub": Problem(table(golub, 12, spread=0.1), (), "sgd", 0.1, 50, 8, 3),
    "fashion_1000": Problem(
        images("fashion_mnist", 1000), (128,), "adam", 3e-3, 40, 32, 2
    ),
    "fashion_10000": Problem(
        images("fashion_mnist", 10000), (128,), "adam", 2e-3, 20, 128, 2
    ),
}
# What arguments of policies were chosen on.
OTHERS = {
    "digits": Problem(table(digits, 1497), (64,), "adam", 3e-3, 40, 32, 3),
    "mnist_1000": Problem(images("mnist", 1000), (128,), "adam", 3e-3, 40, 32, 2),
}
