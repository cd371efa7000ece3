"""The cost of a training step with Bayesian layers, beside its peers."""

import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasreg.layers import BayesianDense

BATCH = 128
INPUTS, UNITS = 784, (800, 800, 10)


class TwiceTheWeights(keras.layers.Dense):
    """A floor: one product, and Adam on twice the weights."""

    products = 1

    def build(self, input_shape):
        super().build(input_shape)
        self.second = self.add_weight(
            name="second", shape=self.kernel.shape, initializer="zeros"
        )

    def call(self, inputs):
        if self.products == 1:
            outputs = ops.matmul(inputs, self.kernel + self.second)
        else:
            outputs = ops.matmul(inputs, self.kernel)
            outputs += ops.matmul(ops.square(inputs), self.second)
        return self.activation(outputs + self.bias)


class TwoProducts(TwiceTheWeights):
    """A floor: two products, and Adam on twice the weights."""

    products = 2


class WithoutKL(BayesianDense):
    """A floor: all but the divergence."""

    def build(self, input_shape):
        super().build(input_shape)
        for posterior in self._posteriors.values():
            posterior.log_scale.regularizer = None


def bayesian(cls, estimator):
    return lambda units, activation: cls(
        units, activation, num_examples=60000, estimator=estimator
    )


ESTIMATORS = ("reparameterization", "local_reparameterization", "flipout")
CASES = {
    "Dense": keras.layers.Dense,
    "floor: one product, twice the weights": TwiceTheWeights,
    "floor: two products, twice the weights": TwoProducts,
    **{f"{e}, without the KL": bayesian(WithoutKL, e) for e in ESTIMATORS},
    **{e: bayesian(BayesianDense, e) for e in ESTIMATORS},
}


def batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, INPUTS)).astype("float32")
    return x, rng.integers(0, 10, BATCH)


def peer_steps(make, jit_compile, steps):
    """The same with tfp.layers, which are layers of tf_keras (Keras 2)."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    *hidden, classes = UNITS
    model = tf_keras.Sequential(
        [
            tf_keras.Input((INPUTS,)),
            *(make(n, "relu") for n in hidden),
            make(classes, None),
        ]
    )
    model.compile(
        tf_keras.optimizers.Adam(1e-3),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    iterator = iter(tf.data.Dataset.from_tensors(batch()).repeat())
    train = model.make_train_function()

    def run():
        for _ in range(steps):
            logs = train(iterator)
        float(logs["loss"])

    return run


def keras_proba():
    """The peer on Keras 3."""
    from keras_proba import layers

    def make(cls):
        return lambda units, activation: cls(
            units, activation=activation, kl_weight=1 / 60000
        )

    return {
        "reparameterization": make(layers.DenseReparameterization),
        "local_reparameterization": make(layers.DenseLocalReparameterization),
        "flipout": make(layers.DenseFlipout),
    }


def peers():
    import tensorflow_probability as tfp
    import tf_keras

    def kl(q, p, _):
        return tfp.distributions.kl_divergence(q, p) / 60000

    def layer(cls):
        return lambda units, activation: cls(
            units, activation=activation, kernel_divergence_fn=kl
        )

    return {
        "tf_keras Dense": tf_keras.layers.Dense,
        "reparameterization": layer(tfp.layers.DenseReparameterization),
        "local_reparameterization": layer(tfp.layers.DenseLocalReparameterization),
        "flipout": layer(tfp.layers.DenseFlipout),
    }


def table(jit_compile, steps, rounds):
    cases = CASES | {f"keras-proba: {n}": make for n, make in keras_proba().items()}
    made = {
        name: harness.classifier_steps(UNITS, make, *batch(), jit_compile, steps)
        for name, make in cases.items()
    }
    ours = harness.summary(harness.step_seconds(made, steps, rounds), "Dense")
    jit = jit_compile is True
    made = {n: peer_steps(make, jit, steps) for n, make in peers().items()}
    seconds = harness.step_seconds(made, steps, max(2, rounds // 3))
    return {
        "kerasreg": ours,
        "tfp.layers": harness.summary(seconds, "tf_keras Dense"),
    }


def peak(package, estimator, jit_compile):
    """Prints the peak memory in MB of a process that makes a few steps."""
    if package == "tfp.layers":
        run = peer_steps(peers()[estimator], jit_compile, 20)
    else:
        make = (keras_proba() if package == "keras-proba" else CASES)[estimator]
        run = harness.classifier_steps(UNITS, make, *batch(), jit_compile, 20)
    run()
    # Not `ru_maxrss`, in which Linux counts what the parent had at the fork.
    status = pathlib.Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    print(round(int(kilobytes) / 1024))


def memory(jit_compile):
    """Peak memory of each package and estimator, each in a process of its own."""
    found = {}
    for package in ("kerasreg", "tfp.layers", "keras-proba"):
        for estimator in ESTIMATORS:
            arguments = ["--peak", package, estimator, str(int(jit_compile))]
            done = subprocess.run(
                [sys.executable, __file__, *arguments],
                capture_output=True,
                text=True,
                check=True,
            )
            found[f"{package}: {estimator}"] = int(done.stdout.split()[-1])
    return found


def main():
    if sys.argv[1:2] == ["--peak"]:
        package, estimator, jit_compile = sys.argv[2:]
        peak(package, estimator, jit_compile == "1")
        return
    quick = harness.arguments().quick
    steps, rounds = (3, 3) if quick else (10, 15)
    result = {
        mode: table(jit_compile, steps, rounds)
        for mode, jit_compile in (("default", "auto"), ("jit_compile=True", True))
    }
    if not quick:
        result["peak_memory_mb"] = {
            "default": memory(False),
            "jit_compile=True": memory(True),
        }
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
