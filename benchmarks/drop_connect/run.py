"""DropConnect against Dropout and neither, 784-800-800-10 on MNIST: see README.md."""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import numpy as np

from kerasreg.layers import DropConnectDense

BATCH = 128


def none():
    """Plain layers."""
    return [keras.layers.Dense(800, activation="relu") for _ in range(2)]


def dropout():
    """Half of the hidden units dropped."""
    return [
        layer
        for _ in range(2)
        for layer in (
            keras.layers.Dense(800, activation="relu"),
            keras.layers.Dropout(0.5),
        )
    ]


def drop_connect():
    """Half of the weights of the hidden layers dropped, a mask an example.

    The kept weights are not rescaled, as in the paper, so twice the usual initial
    weights give the usual initial activations.
    """
    start = keras.initializers.VarianceScaling(4.0, "fan_avg", "uniform")
    return [
        DropConnectDense(800, rate=0.5, activation="relu", kernel_initializer=start)
        for _ in range(2)
    ]


def train(hidden, seed, data, epochs):
    """Train one net; returns its test probabilities and the seconds of `fit`."""
    (x, y), (x_test, _) = data
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((784,)), *hidden(), keras.layers.Dense(10, activation="softmax")]
    )
    steps = epochs * (len(x) // BATCH + 1)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        loss="sparse_categorical_crossentropy",
        jit_compile=False,
    )
    begin = time.perf_counter()
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - begin
    return model.predict(x_test, batch_size=1000, verbose=0), seconds


def error(probabilities, labels):
    """Test error in per cent."""
    return float(np.mean(np.argmax(probabilities, axis=-1) != labels) * 100)


def measure(hidden, data, seeds, epochs):
    """Errors of single nets and of their vote (the mean of their probabilities)."""
    labels = data[1][1]
    runs = []
    for seed in range(seeds):
        runs.append(train(hidden, seed, data, epochs))
        print(hidden.__name__, seed, error(runs[-1][0], labels), flush=True)
    errors = [error(p, labels) for p, _ in runs]
    return {
        "errors_percent": [round(e, 2) for e in errors],
        "mean": round(statistics.mean(errors), 3),
        "standard_deviation": round(statistics.stdev(errors), 3),
        "vote_of_all": round(error(sum(p for p, _ in runs), labels), 2),
        "seconds_a_net": round(statistics.mean(s for _, s in runs), 1),
    }


def main():
    """Train all nets and write the result."""
    quick = harness.arguments().quick
    data = mnist.load()
    seeds, epochs = (2, 1) if quick else (5, 20)
    result = {"epochs": epochs, "seeds": seeds}
    for hidden in (none, dropout, drop_connect):
        result[hidden.__name__] = measure(hidden, data, seeds, epochs)
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
