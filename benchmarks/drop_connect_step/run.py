"""The cost of a training step with DropConnect and of its averaged inference."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasreg import random
from kerasreg.layers import DropConnectDense

BATCH = 128
INPUTS, UNITS = 784, (800, 800, 10)


class Floor(keras.layers.Dense):
    """A Dense layer that does a part of DropConnect's work, for its cost."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)


class BytesAlone(Floor):
    """One random byte a weight is drawn, and not used."""

    def call(self, inputs):
        seed = random.next_seed(self.seed_generator)
        drawn = random.random_bytes(self.kernel.shape, seed)
        return super().call(inputs) + 0.0 * ops.cast(drawn[0, 0], "float32")


class ProductAlone(Floor):
    """The kernel is multiplied by a mask that is always the same."""

    def build(self, input_shape):
        super().build(input_shape)
        self.fixed = self.add_weight(
            name="fixed", shape=self.kernel.shape, initializer="ones", trainable=False
        )

    def call(self, inputs):
        outputs = ops.matmul(inputs, self.kernel * self.fixed)
        return self.activation(outputs + self.bias)


class TwoProducts(Floor):
    """The two matrix products of the sign masks, without masks."""

    def call(self, inputs):
        outputs = ops.matmul(inputs, self.kernel)
        outputs += ops.matmul(inputs * 0.5, self.kernel * 0.5)
        return self.activation(outputs + self.bias)


def dropping(rate, mask):
    return lambda units, activation: DropConnectDense(
        units, rate, mask=mask, activation=activation
    )


TRAINING = {
    "Dense": keras.layers.Dense,
    "floor of batch: random bytes": BytesAlone,
    "floor of batch: mask times kernel": ProductAlone,
    "floor of example: two products": TwoProducts,
    "batch, rate 0.5": dropping(0.5, "batch"),
    "batch, rate 0.3": dropping(0.3, "batch"),
    "example, rate 0.5": dropping(0.5, "example"),
    "example, rate 0.25 (2 groups)": dropping(0.25, "example"),
    "example, rate 0.3 (5 groups)": dropping(0.3, "example"),
    "example, rate 0.9 (5 groups)": dropping(0.9, "example"),
    "example, rate 0.37 (8 groups)": dropping(0.37, "example"),
    "example, rate 0.05 (10 groups)": dropping(0.05, "example"),
}

INFERENCE = {
    "Dense": keras.layers.Dense,
    "mean": lambda units, activation: DropConnectDense(
        units, activation=activation, inference="mean"
    ),
    **{
        f"gaussian, {draws} draws": (
            lambda units, activation, draws=draws: DropConnectDense(
                units, activation=activation, draws=draws
            )
        )
        for draws in (8, 16, 32, 64)
    },
}


def model_of(make, jit_compile):
    keras.utils.set_random_seed(0)
    *hidden, classes = UNITS
    model = keras.Sequential(
        [
            keras.Input((INPUTS,)),
            *(make(n, "relu") for n in hidden),
            make(classes, None),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, INPUTS)).astype("float32")
    return model, x, rng.integers(0, 10, BATCH)


def training(make, jit_compile, steps):
    """A function that runs some training steps."""
    return harness.training_steps(*model_of(make, jit_compile), steps)


def inference(make, jit_compile, steps):
    """A function that predicts some batches."""
    model, x, _ = model_of(make, jit_compile)
    predict = tf.function(
        lambda x: model(x, training=False), jit_compile=jit_compile is True
    )
    x = tf.constant(x)

    def run():
        for _ in range(steps):
            outputs = predict(x)
        outputs.numpy()

    return run


def table(kind, cases, jit_compile, steps, rounds):
    made = {name: kind(make, jit_compile, steps) for name, make in cases.items()}
    return harness.summary(harness.step_seconds(made, steps, rounds), "Dense")


def accuracy(draws, masks):
    """Mean absolute errors of a ReLU net's averages, against sampled masks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 40)).astype("float32")
    w = (rng.normal(size=(40, 60)) / np.sqrt(40)).astype("float32")
    v = (rng.normal(size=(60, 3)) / 20 + 0.03).astype("float32")
    total = 0.0
    for _ in range(masks // 200):
        kept = w * (rng.random((200, *w.shape), "float32") < 0.5)
        last = v * (rng.random((200, *v.shape), "float32") < 0.5)
        total = total + (np.maximum(x @ kept, 0.0) @ last).sum(axis=0)
    errors = {}
    for name, arguments in {
        "mean": {"inference": "mean"},
        **{f"gaussian, {n} draws": {"draws": n} for n in draws},
    }.items():
        layers = [DropConnectDense(60, activation="relu", **arguments)]
        layers.append(DropConnectDense(3, **arguments))
        net = keras.Sequential([keras.Input((40,)), *layers])
        net.set_weights([w, np.zeros(60), v, np.zeros(3)])
        errors[name] = round(float(np.abs(net(x) - total / masks).mean()), 5)
    return errors


def main():
    quick = harness.arguments().quick
    steps, rounds = (2, 2) if quick else (5, 15)
    modes = (("default", "auto"), ("jit_compile=True", True))
    result = {
        "training step": {
            mode: table(training, TRAINING, jit, steps, rounds) for mode, jit in modes
        },
        "inference of a batch": {
            mode: table(inference, INFERENCE, jit, steps, rounds) for mode, jit in modes
        },
        "error of inference": accuracy((8, 16, 32, 64), 2000 if quick else 20000),
    }
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
