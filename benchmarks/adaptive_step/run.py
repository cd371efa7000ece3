"""The cost of tuning strengths while `fit` runs: epochs with and without, in pairs."""

import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import numpy as np

from kerasreg import callbacks
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2

BATCH, STEPS, VALIDATION = 128, 235, 1280  # an epoch of 30,080 examples
MODELS = {"784-800-800-10": (784, (800, 800)), "20 layers of 32": (32, (32,) * 19)}


class Runner:
    """A `fit` that trains one epoch whenever it is told to, and says how long it took.

    It lives in a thread of its own, of which one runs at a time, so that epochs of
    several `fit`s can be timed in turns, each without what its first epoch traces.

    Args:
        fit: Function from a list of callbacks to nothing: calls `fit` with many epochs.
        callbacks: The callbacks that are measured.
    """

    def __init__(self, fit, callbacks):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._fit, self._callbacks = fit, callbacks
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._ended, self._error = False, None

    def _run(self):
        self._go.acquire()
        self._begin = time.perf_counter()
        try:
            self._fit(
                [
                    *self._callbacks,
                    keras.callbacks.LambdaCallback(
                        on_epoch_end=lambda epoch, logs: self._hand_over()
                    ),
                ]
            )
        except Exception as error:
            self._error = error
        self._done.release()

    def _hand_over(self):
        self._seconds = time.perf_counter() - self._begin
        self._done.release()
        self._go.acquire()
        if self._ended:
            raise _Stopped
        self._begin = time.perf_counter()

    def epoch(self):
        """Train an epoch; its seconds."""
        if not self._thread.is_alive():
            self._thread.start()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._seconds

    def end(self):
        """End the `fit`."""
        self._ended = True
        self._go.release()
        self._thread.join()


class _Stopped(Exception):
    """Ends a `fit` from within."""


def data(inputs, examples, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, inputs)).astype("float32")
    return x, rng.integers(0, 10, examples)


def adaptive(make):
    return lambda train, validation: callbacks.LayerwiseAdaptiveLambda(
        make(train, validation)
    )


# Callback, whether penalties are L1 under `Proximal`, whether it needs validation.
CASES = {
    "TargetSparsity": (
        adaptive(lambda t, v: callbacks.TargetSparsity(0.8)),
        True,
        False,
    ),
    "GeneralizationGap": (
        adaptive(lambda t, v: callbacks.GeneralizationGap()),
        False,
        True,
    ),
    "AdaptiveWeightDecay": (
        adaptive(lambda t, v: callbacks.AdaptiveWeightDecay(0.02)),
        False,
        False,
    ),
    "GradientRatio": (
        adaptive(lambda t, v: callbacks.GradientRatio(0.02)),
        False,
        False,
    ),
    "Scheduled": (
        adaptive(lambda t, v: callbacks.Scheduled(lambda epoch: 1e-4)),
        False,
        False,
    ),
    "Scheduled by steps": (
        adaptive(lambda t, v: callbacks.Scheduled(lambda step: 1e-4, unit="step")),
        False,
        False,
    ),
    "RegularizationMonitor": (
        lambda t, v: callbacks.RegularizationMonitor(),
        False,
        False,
    ),
    "nothing": (lambda t, v: keras.callbacks.Callback(), False, False),
}
# Not held to the goal.
COSTLY = {
    "Evidence": (
        adaptive(lambda t, v: callbacks.Evidence(*t, curvature="kronecker")),
        False,
        False,
    ),
    "Hypergradient": (
        adaptive(lambda t, v: callbacks.Hypergradient(t, v, batch_size=BATCH)),
        False,
        False,
    ),
    "Hypergradient, first order": (
        adaptive(
            lambda t, v: callbacks.Hypergradient(
                t, v, batch_size=BATCH, mode="first_order"
            )
        ),
        False,
        False,
    ),
}


def runner(model, steps, jit_compile, sparse, validated, make=None):
    """The `fit` of a model, with or without a callback."""
    inputs, hidden = MODELS[model]
    keras.utils.set_random_seed(0)
    penalty = L1 if sparse else L2
    net = keras.Sequential(
        [
            keras.Input((inputs,)),
            *(
                keras.layers.Dense(n, "relu", kernel_regularizer=penalty(1e-4))
                for n in hidden
            ),
            keras.layers.Dense(10, kernel_regularizer=penalty(1e-4)),
        ]
    )
    optimizer = keras.optimizers.Adam(1e-3)
    net.compile(
        Proximal(optimizer) if sparse else optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    train, validation = data(inputs, BATCH * steps, 0), data(inputs, VALIDATION, 1)

    def fit(measured):
        net.fit(
            *train,
            batch_size=BATCH,
            epochs=10**6,
            validation_data=validation if validated else None,
            verbose=0,
            callbacks=measured,
        )

    return Runner(fit, [] if make is None else [make(train, validation)])


def pairs(model, steps, jit_compile, case, rounds):
    """Epochs without and with the callback, the first one in turns."""
    make, sparse, validated = case
    fits = (
        runner(model, steps, jit_compile, sparse, validated),
        runner(model, steps, jit_compile, sparse, validated, make),
    )
    first = [fit.epoch() for fit in fits]
    second = [fit.epoch() for fit in fits]  # warms up, with all that was traced
    seconds = ([], [])
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds[which].append(fits[which].epoch())
    for fit in fits:
        fit.end()
    without, with_it = map(statistics.median, seconds)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return {
        "epoch_without_ms": round(without * 1e3, 1),
        "epoch_with_ms": round(with_it * 1e3, 1),
        "times": round(statistics.median(ratios), 4),
        "quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
        "fastest_times": round(min(seconds[1]) / min(seconds[0]), 4),
        "tracing_s": round((first[1] - second[1]) - (first[0] - second[0]), 2),
    }


def table(jit_compile, steps, rounds, cases):
    return {
        model: {
            name: pairs(model, steps, jit_compile, case, turns)
            for name, case in cases.items()
        }
        for model, turns in zip(MODELS, rounds, strict=True)
    }


def main(quick):
    steps, rounds, few = (20, (2, 2), (2, 2)) if quick else (STEPS, (8, 16), (2, 2))
    result = {}
    for mode, jit_compile in (("default", "auto"), ("jit_compile=True", True)):
        result[mode] = table(jit_compile, steps, rounds, CASES)
        costly = table(jit_compile, steps, few, COSTLY)
        for model, rows in costly.items():
            result[mode][model].update(rows)
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main(harness.arguments().quick)
