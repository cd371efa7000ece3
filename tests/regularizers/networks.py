"""Models that several tests attach penalties to."""

import keras
from keras import layers

from kerasreg.regularizers import L1


class TwoHeads(keras.Model):
    """A subclassed model in which two weights have the same path."""

    def __init__(self):
        super().__init__(name="two_heads")
        self.heads = [
            layers.Dense(1, kernel_regularizer=L1(0.1 * i), name="head") for i in (1, 2)
        ]

    def call(self, inputs):
        return self.heads[0](inputs) + self.heads[1](inputs)


def pretrained():
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), classes=3
    )
