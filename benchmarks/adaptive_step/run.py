"""The cost of tuning strengths while `fit` runs: epochs with and without, in pairs."""

import functools
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

BATCH, VALIDATION, ROUNDS = 128, 1280, 10
MODES = {"default": "auto", "jit_compile=True": True}
# Inputs, hidden layers and batches in an epoch.
MODELS = {
    "20 layers of 32": (32, (32,) * 19, 469),
    "784-800-800-10": (784, (800, 800), 118),
}


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
        self._ended, self._error, self.tracing = False, None, 0.0

    def _run(self):
        self._go.acquire()
        self._begin = time.perf_counter(), time.process_time()
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
        now = time.perf_counter(), time.process_time()
        self._seconds = tuple(b - a for a, b in zip(self._begin, now, strict=True))
        self._done.release()
        self._go.acquire()
        if self._ended:
            raise _Stopped
        self._begin = time.perf_counter(), time.process_time()

    def epoch(self):
        """Train an epoch; its seconds, by the clock and of the processor."""
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


@functools.cache
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
        adaptive(
            lambda t, v: callbacks.Hypergradient(t, v, batch_size=BATCH, burn_in=0)
        ),
        False,
        False,
    ),
    "Hypergradient, first order": (
        adaptive(
            lambda t, v: callbacks.Hypergradient(
                t, v, batch_size=BATCH, burn_in=0, mode="first_order"
            )
        ),
        False,
        False,
    ),
}


def runner(model, steps, jit_compile, sparse, validated, make=None):
    """The `fit` of a model, with or without a callback."""
    inputs, hidden, _ = MODELS[model]
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


def pairs(base, measured, rounds):
    """Epochs without and with the callback, the first one in turns."""
    fits = (base, measured)
    tracing = measured.epoch()[0] - measured.epoch()[0]
    seconds = ([], [])
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds[which].append(fits[which].epoch())
    measured.end()
    clock, processor = (
        [[epoch[which] for epoch in each] for each in seconds] for which in (0, 1)
    )
    return {
        "epoch_without_ms": round(statistics.median(clock[0]) * 1e3, 1),
        "epoch_with_ms": round(statistics.median(clock[1]) * 1e3, 1),
        **ratios("times", *clock),
        **ratios("cpu_times", *processor),
        "tracing_s": round(tracing - base.tracing, 2),
    }


def ratios(name, without, with_it):
    """Median and quartiles of the ratios in pairs."""
    each = [b / a for a, b in zip(without, with_it, strict=True)]
    low, middle, high = (round(q, 4) for q in statistics.quantiles(each, n=4))
    return {name: middle, f"{name}_quartiles": [low, high]}


def base_of(model, steps, jit_compile, sparse, validated):
    """The `fit` to compare with, warm, and what it took to trace it."""
    base = runner(model, steps, jit_compile, sparse, validated)
    base.tracing = base.epoch()[0] - base.epoch()[0]
    return base


def table(model, steps, jit_compile, cases, rounds):
    """Callbacks on one model."""
    bases, rows = {}, {}
    for name, (make, *kind) in cases.items():
        if tuple(kind) not in bases:
            bases[tuple(kind)] = base_of(model, steps, jit_compile, *kind)
        measured = runner(model, steps, jit_compile, *kind, make)
        rows[name] = pairs(bases[tuple(kind)], measured, rounds)
        print(model, jit_compile, name, rows[name], file=sys.stderr, flush=True)
    for base in bases.values():
        base.end()
    return rows


def main(quick):
    result = {mode: {model: {} for model in MODELS} for mode in MODES}
    for cases, rounds in ((CASES, ROUNDS), (COSTLY, 2)):
        for mode, jit_compile in MODES.items():
            for model, (*_, steps) in MODELS.items():
                steps, turns = (20, 2) if quick else (steps, rounds)
                rows = table(model, steps, jit_compile, cases, turns)
                result[mode][model].update(rows)
                harness.write(__file__, result, quick)  # what there is so far


if __name__ == "__main__":
    main(harness.arguments().quick)
