"""The cost of an adversarial training step: see README.md."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf

from kerasreg.adversarial import FGSM, PGD, VAT, AdversarialModel

EPS, STEPS = 0.3, 7


class ByHand(keras.Model):
    """The step that users write: signs of gradients, a Python loop, a second tape."""

    def __init__(self, inner, steps, start):
        super().__init__()
        self.inner, self.steps, self.start = inner, steps, start
        self.built = True

    def call(self, x, training=None):
        return self.inner(x, training=training)

    def train_step(self, data):
        x, y = data
        delta = tf.zeros_like(x)
        if self.start:
            delta = tf.random.uniform(tf.shape(x), -EPS, EPS)
        step = EPS if self.steps == 1 else 2.5 * EPS / self.steps
        for _ in range(self.steps):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(delta)
                loss = self.compute_loss(y=y, y_pred=self(x + delta, training=False))
            delta = delta + step * tf.sign(tape.gradient(loss, delta))
            delta = tf.clip_by_value(delta, -EPS, EPS)
            delta = tf.clip_by_value(x + delta, 0.0, 1.0) - x
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x + delta, training=True))
        weights = self.trainable_weights
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return {"loss": loss}


def mlp():
    return [
        keras.Input((784,)),
        keras.layers.Dense(256, "relu"),
        keras.layers.Dense(256, "relu"),
        keras.layers.Dense(10),
    ]


def lenet5():
    return [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(6, 5, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(16, 5, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(120, "relu"),
        keras.layers.Dense(84, "relu"),
        keras.layers.Dense(10),
    ]


def ours(attack, objective="adversarial"):
    return lambda inner: AdversarialModel(inner, attack, objective)


BOUNDS = {"bounds": (0.0, 1.0)}
PGD7 = PGD(EPS, steps=STEPS, **BOUNDS)
CASES = {
    "plain": lambda inner: inner,
    "FGSM by hand": lambda inner: ByHand(inner, 1, False),
    "FGSM": ours(FGSM(EPS, **BOUNDS)),
    "RS-FGSM": ours(FGSM(EPS, random_start=True, **BOUNDS)),
    "PGD-7 by hand": lambda inner: ByHand(inner, STEPS, True),
    "PGD-7": ours(PGD7),
    "TRADES, PGD-7": ours(PGD7, "trades"),
    "VAT": ours(VAT(2.0, **BOUNDS), "vat"),
}


def step(layers, wrap, jit_compile, steps):
    """A function that runs some steps on one batch of 128."""
    keras.utils.set_random_seed(0)
    model = wrap(keras.Sequential(layers()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x = rng.random((128, *layers()[0].shape[1:])).astype("float32")
    return harness.training_steps(model, x, rng.integers(0, 10, 128), steps)


def main():
    quick = harness.arguments().quick
    steps, rounds = (2, 3) if quick else (5, 15)
    result = {}
    for name, layers in (("MLP", mlp), ("LeNet-5", lenet5)):
        for mode, jit in (("default", "auto"), ("jit_compile=True", True)):
            made = {c: step(layers, wrap, jit, steps) for c, wrap in CASES.items()}
            seconds = harness.step_seconds(made, steps, rounds)
            result[f"{name}, {mode}"] = harness.summary(seconds, "plain")
    harness.write(__file__, {"training step": result}, quick)


if __name__ == "__main__":
    main()
