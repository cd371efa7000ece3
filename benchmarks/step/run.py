"""The cost of a training step with penalties in the loss, and under `Proximal`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, ElasticNet

BATCH = 128
NETS = {"784-800-800-10": (784, (800, 800)), "50 small layers": (32, (32,) * 50)}


def adam():
    return keras.optimizers.Adam(1e-3)


CASES = {
    "Adam": (None, adam),
    "Keras L1L2": (lambda: keras.regularizers.L1L2(1e-5, 1e-5), adam),
    "ElasticNet in the loss": (lambda: ElasticNet(1e-5, 1e-5), adam),
    "Proximal(Adam), ElasticNet": (
        lambda: ElasticNet(1e-5, 1e-5),
        lambda: Proximal(adam()),
    ),
    "Proximal(Adam), L1": (lambda: L1(1e-5), lambda: Proximal(adam())),
}


class Counting(keras.Sequential):
    """A model that counts how often its train step is traced."""

    traces = 0

    def train_step(self, *arguments):
        type(self).traces += 1
        return super().train_step(*arguments)


def steps_of(net, penalty, optimizer, jit_compile, steps):
    """A function that runs some training steps, and the class that counts traces."""
    keras.utils.set_random_seed(0)
    inputs, units = net

    class Model(Counting):
        pass

    def regularizer():
        return penalty() if penalty else None

    model = Model(
        [
            keras.Input((inputs,)),
            *(
                keras.layers.Dense(u, "relu", kernel_regularizer=regularizer())
                for u in units
            ),
            keras.layers.Dense(10, kernel_regularizer=regularizer()),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, inputs)).astype("float32")
    y = rng.integers(0, 10, BATCH)
    return harness.training_steps(model, x, y, steps), Model


def table(net, jit_compile, steps, rounds):
    made = {
        name: steps_of(net, penalty, optimizer, jit_compile, steps)
        for name, (penalty, optimizer) in CASES.items()
    }
    for run, _ in made.values():
        run()
    before = {name: model.traces for name, (_, model) in made.items()}
    seconds = harness.interleave({k: run for k, (run, _) in made.items()}, rounds)
    seconds = {k: [s / steps for s in values] for k, values in seconds.items()}
    rows = harness.summary(seconds, "Adam")
    against = harness.summary(seconds, "Keras L1L2")
    for name, (_, model) in made.items():
        rows[name]["times_Keras L1L2"] = against[name]["times_Keras L1L2"]
        rows[name]["traces_first_call"] = before[name]  # Keras makes two of Adam's
        rows[name]["traces_later"] = model.traces - before[name]
    return rows


def main():
    quick = harness.arguments().quick
    steps, rounds = (2, 2) if quick else (20, 15)
    result = {
        name: {
            mode: table(net, jit_compile, steps, rounds)
            for mode, jit_compile in (("default", "auto"), ("jit_compile=True", True))
        }
        for name, net in NETS.items()
    }
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
