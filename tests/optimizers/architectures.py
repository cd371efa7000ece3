"""Small models of other layers than Dense, with penalties, and data for them."""

import keras
import numpy as np
from keras import layers

from kerasreg.regularizers import L1, GroupLasso

ROWS, TOKENS = 24, 12


def embedding():
    """Looks up tokens 1 to 7 of 12; token 0 is a mask."""
    return [
        keras.Input((5,)),
        layers.Embedding(TOKENS, 3, mask_zero=True, embeddings_regularizer=L1(0.01)),
        layers.GlobalAveragePooling1D(),
    ]


def lstm():
    """Learns its embedding, dropout in the recurrence included."""
    return [
        keras.Input((5,)),
        layers.Embedding(TOKENS, 3, mask_zero=True),
        layers.LSTM(
            4,
            kernel_regularizer=L1(0.01),
            recurrent_regularizer=L1(0.01),
            dropout=0.2,
            recurrent_dropout=0.2,
        ),
    ]


def gru():
    """Both directions of a GRU."""
    gru = layers.GRU(3, kernel_regularizer=L1(0.02), recurrent_regularizer=L1(0.01))
    return [keras.Input((5, 4)), layers.Bidirectional(gru)]


def stateful():
    """A recurrent layer that fixes the number of rows and keeps its state."""
    return [
        keras.Input((5, 4), batch_size=ROWS),
        layers.SimpleRNN(4, kernel_regularizer=GroupLasso(0.2), stateful=True),
    ]


def attention():
    """Self-attention, one penalty on four projections."""
    inputs = keras.Input((5, 4))
    heads = layers.MultiHeadAttention(2, 3, dropout=0.3, kernel_regularizer=L1(0.05))
    outputs = layers.LayerNormalization()(heads(inputs, inputs))
    return [inputs, keras.Model(inputs, outputs), layers.GlobalAveragePooling1D()]


def separable():
    """A separable convolution, with a normalization and dropout behind it."""
    return [
        keras.Input((6, 6, 3)),
        layers.SeparableConv2D(
            4, 3, depthwise_regularizer=L1(0.05), pointwise_regularizer=L1(0.05)
        ),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.GlobalAveragePooling2D(),
    ]


ARCHITECTURES = {
    make.__name__: make
    for make in (embedding, lstm, gru, stateful, attention, separable)
}


def build(name):
    """The model of that name, not compiled, and its data."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([*ARCHITECTURES[name](), layers.Dense(1)])
    rng = np.random.default_rng(0)
    if name in ("embedding", "lstm"):
        x = rng.integers(0, 8, size=(ROWS, 5))
        x[:, 0] = rng.integers(1, 8, size=ROWS)
        return model, x, (x[:, :1] % 2).astype("float32")
    x = rng.normal(size=(ROWS, *model.input_shape[1:])).astype("float32")
    return model, x, 3 * x[..., 0].reshape(ROWS, -1).mean(1, keepdims=True)


def penalized(model):
    """The weights that have a penalty."""
    return [v for v in model.trainable_variables if v.regularizer is not None]
