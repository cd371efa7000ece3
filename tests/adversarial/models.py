"""Small classifiers and data that the adversarial tests share."""

import functools

import keras
import numpy as np


def logits_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@functools.cache
def digits():
    """Images of digits as rows of 64 pixels in [0, 1]: training and test data."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = (data.data / 16).astype("float32"), data.target
    return (x[:1200], y[:1200]), (x[1200:1400], y[1200:1400])


def classifier(factor=1.0, last=None):
    """A net for digits; its logits are multiplied by a factor."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, "relu"),
            keras.layers.Dense(10),
            keras.layers.Rescaling(factor),
            keras.layers.Activation(last),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=last is None)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


@functools.cache
def trained_weights():
    model = classifier()
    model.fit(*digits()[0], epochs=12, batch_size=64, verbose=0)
    return model.get_weights()


def trained(factor=1.0, last=None):
    model = classifier(factor, last)
    model.set_weights(trained_weights())
    return model


def linear(kernel, bias=0.0, loss="mse", activation=None):
    """A compiled linear model with these weights."""
    kernel = np.asarray(kernel, "float32")
    layer = keras.layers.Dense(kernel.shape[1], activation)
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layer])
    layer.set_weights([kernel, np.broadcast_to(np.float32(bias), kernel.shape[1])])
    model.compile("sgd", loss)
    return model
