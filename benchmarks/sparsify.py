"""What the benchmarks of sparse variational dropout share: parts of their recipe."""

import keras
import numpy as np

BATCH = 100
STEPS = 600  # an epoch of MNIST


class Adam(keras.optimizers.Adam):
    """Adam that turns the noise at 0.3 of the learning rate."""

    def update_step(self, gradient, variable, learning_rate):
        """Update one variable."""
        slow = 0.3 if "log_sigma2" in variable.name else 1.0
        super().update_step(gradient, variable, slow * learning_rate)


class HoldZeros(keras.constraints.Constraint):
    """Keep the weights that are zero at zero."""

    def __init__(self, kernel):
        self._kept = keras.ops.cast(keras.ops.not_equal(kernel, 0), "float32")

    def __call__(self, w):
        """Zero them again."""
        return w * self._kept


def weighted(model):
    """The layers of a model that have a kernel."""
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def start_from(model, weights):
    """Give the kernels and biases of a dense net to a sparse variational one."""
    layers = weighted(model)
    for layer, kernel, bias in zip(layers, weights[::2], weights[1::2], strict=True):
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)


def hold_zeros(model):
    """Let training leave the zeros of all kernels alone."""
    for layer in weighted(model):
        layer.kernel.constraint = HoldZeros(layer.kernel)


def compile_for(model, rate, jit_compile):
    """Compile for cross-entropy, with four looks at the callbacks an epoch."""
    model.compile(
        Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=STEPS // 4,
        jit_compile=jit_compile,
    )


def judge(model, test):
    """Test error in per cent, and how many weights are left."""
    logits = model.predict(test[0], batch_size=1000, verbose=0)
    kernels = [np.asarray(layer.kernel) for layer in weighted(model)]
    kept = [int(np.count_nonzero(kernel)) for kernel in kernels]
    return {
        "error_percent": round(float(np.mean(logits.argmax(1) != test[1]) * 100), 2),
        "compression": round(sum(k.size for k in kernels) / sum(kept), 1),
        "zeros_percent": [
            round(100 - 100 * n / kernel.size, 1)
            for n, kernel in zip(kept, kernels, strict=True)
        ],
    }
