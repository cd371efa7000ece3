"""What a penalty costs in a training step, against Keras's own and against none."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import harness
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import ElasticNet, GroupLasso

BATCH, STEPS, ROUNDS = 128, 20, 15


class Counted(keras.Sequential):
    """Counts how often its train step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def network(sizes, features, penalty, proximal, jit_compile):
    """A compiled classifier and a function that takes `STEPS` training steps."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((features,))]
    for units in sizes:
        regularizer = penalty() if penalty else None
        layers.append(keras.layers.Dense(units, "relu", kernel_regularizer=regularizer))
    layers[-1].activation = keras.activations.linear
    model = Counted(layers)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer = Proximal(optimizer) if proximal else optimizer
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, features)).astype("float32")
    y = rng.integers(0, sizes[-1], BATCH)
    data = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    model.make_train_function()

    def steps():
        for _ in range(STEPS):
            model.train_function(data)

    return model, steps


NETS = {
    "784-800-800-10": ((800, 800, 10), 784),
    "50 layers of 32": ((32,) * 50 + (10,), 32),
}
KINDS = {
    "none": (None, False),
    "keras L1L2 in the loss": (lambda: keras.regularizers.L1L2(1e-5, 1e-5), False),
    "ElasticNet in the loss": (lambda: ElasticNet(1e-5, 1e-5), False),
    "ElasticNet, Proximal": (lambda: ElasticNet(1e-5, 1e-5), True),
    "GroupLasso, Proximal": (lambda: GroupLasso(1e-5), True),
    "none, Proximal": (None, True),
}


def measure(net, jit_compile):
    """Ratios to no penalty, the penalty in the loss to Keras's, and traces."""
    made = {
        name: network(*NETS[net], penalty, proximal, jit_compile)
        for name, (penalty, proximal) in KINDS.items()
    }
    seconds = harness.side_by_side({k: steps for k, (_, steps) in made.items()}, ROUNDS)
    ours = {k: seconds[k] for k in KINDS if k.endswith("in the loss")}
    return {
        "milliseconds a step, plain Adam": 1e3 * min(seconds["none"]) / STEPS,
        "ratio to plain Adam": harness.ratios(seconds, "none"),
        "ElasticNet / keras L1L2, both in the loss": harness.ratios(
            ours, "keras L1L2 in the loss"
        )["ElasticNet in the loss"],
        "traces": {k: model.traces for k, (model, _) in made.items()},
    }


if __name__ == "__main__":
    harness.write(
        __file__,
        {
            f"{net}, {'jit_compile' if jit else 'default'}": measure(net, jit)
            for net in NETS
            for jit in (False, True)
        },
    )
