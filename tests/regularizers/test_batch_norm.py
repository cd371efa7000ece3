"""The warning about penalized kernels before a batch normalization."""

import warnings

import keras
import numpy as np
from keras import layers

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, regularize
from tests.regularizers.networks import pretrained

SENTENCE = (
    "A batch normalization follows the penalized kernels {}. It undoes their scale, so "
    "an L2 penalty there only changes the effective learning rate and a penalty can "
    "fall without the model getting simpler. Penalize the normalization's gamma "
    "instead, or whole units by GroupLasso (van Laarhoven 2017, arXiv 1706.05350)."
)


def normalized(**normalization):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 2, use_bias=False, name="a"),
            layers.BatchNormalization(name="batch_norm", **normalization),
            layers.Conv2D(4, 2, name="b"),
            layers.BatchNormalization(name="second", **normalization),
            layers.Conv2D(4, 2, name="c"),
            layers.LayerNormalization(name="bn_of_layers"),
            layers.DepthwiseConv2D(2, name="d"),
            layers.Flatten(),
            layers.Dense(1, name="e"),
        ],
        name="net",
    )


def messages(record):
    return [str(w.message) for w in record if "batch norm" in str(w.message)]


def test_one_warning_names_the_kernels_before_a_batch_normalization():
    model = normalized()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, L2(0.1))
        # The optimizer looks as well, and finds that it has been said.
        for _ in range(2):
            model.compile(Proximal("sgd"), "mse")
            model.fit(np.ones((2, 6, 6, 3)), np.ones((2, 1)), verbose=0)
    assert messages(record) == [
        SENTENCE.format(
            "['net/a/kernel (before batch_norm)', 'net/b/kernel (before second)']"
        )
    ]
    said = next(w for w in record if "batch norm" in str(w.message))
    assert said.filename == __file__


def test_the_warning_is_for_penalized_kernels_alone():
    model = normalized()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, {"[c-e]": L2(0.1), "gamma": L1(0.1), "bias": L1(0.1)})
    assert messages(record) == []
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, {"b": L2(0.1)})
    assert messages(record) == []  # the gamma behind it is penalized
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(model, {"gamma": None, "b": L2(0.1)})
    assert messages(record) == [SENTENCE.format("['net/b/kernel (before second)']")]


def test_one_penalty_on_two_kernels_names_both():
    penalty = L2(0.1)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(2, kernel_regularizer=penalty, name="a"),
            layers.BatchNormalization(name="bn_a"),
            layers.Dense(2, kernel_regularizer=penalty, name="b"),
            layers.BatchNormalization(name="bn_b"),
        ],
        name="net",
    )
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        Proximal("sgd").build(model.trainable_variables)
    assert messages(record) == [
        SENTENCE.format("['net/a/kernel (before bn_a)', 'net/b/kernel (before bn_b)']")
    ]


def test_a_pretrained_model_is_warned_about_once():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        regularize(pretrained(), {"Conv1": L2(0.1), "predictions": L2(0.1)})
    assert messages(record) == [SENTENCE.format("['Conv1/kernel (before bn_Conv1)']")]
