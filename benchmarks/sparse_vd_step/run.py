"""The cost of a training step with sparse variational dropout, and of its parts."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
from keras import ops

from kerasreg.layers import SparseVariationalDense

BATCH = 128
INPUTS, UNITS = 784, (800, 800, 10)


class TwoProducts(keras.layers.Dense):
    """A floor: the weights and the matrix products of sparse VD, and nothing else."""

    def build(self, input_shape):
        super().build(input_shape)
        self.second = self.add_weight(
            name="second", shape=self.kernel.shape, initializer="zeros"
        )

    def call(self, inputs):
        outputs = ops.matmul(inputs, self.kernel)
        outputs += ops.matmul(ops.square(inputs), self.second)
        return self.activation(outputs + self.bias)


class WithoutKL(SparseVariationalDense):
    """A floor: all of sparse VD but the divergence."""

    def build(self, input_shape):
        super().build(input_shape)
        self.log_sigma2.regularizer = None


class Autodiff(SparseVariationalDense):
    """Sparse VD with the divergence written down and differentiated by TensorFlow."""

    def _kl(self, log_sigma2):
        square = ops.square(ops.convert_to_tensor(self._kernel))
        log_alpha = log_sigma2 - ops.log(square + 1e-8)
        rise = ops.sigmoid(1.87320 + 1.48695 * log_alpha)
        return -ops.sum(0.63576 * rise - 0.5 * ops.log1p(ops.exp(-log_alpha)) - 0.63576)


def sparse(cls):
    return lambda units, activation: cls(units, activation, num_examples=60000)


CASES = {
    "Dense": keras.layers.Dense,
    "floor: two products, twice the weights": TwoProducts,
    "floor: without the KL": sparse(WithoutKL),
    "SparseVariationalDense": sparse(SparseVariationalDense),
    "the KL by autodiff": sparse(Autodiff),
}


def batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, INPUTS)).astype("float32")
    return x, rng.integers(0, 10, BATCH)


def table(jit_compile, steps, rounds):
    made = {
        name: harness.classifier_steps(UNITS, make, *batch(), jit_compile, steps)
        for name, make in CASES.items()
    }
    return harness.summary(harness.step_seconds(made, steps, rounds), "Dense")


def main():
    quick = harness.arguments().quick
    steps, rounds = (2, 2) if quick else (20, 25)
    result = {
        mode: table(jit_compile, steps, rounds)
        for mode, jit_compile in (("default", "auto"), ("jit_compile=True", True))
    }
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
