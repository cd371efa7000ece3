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
NETS = pathlib.Path(__file__).parent / "state" / "nets.npz"


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
    """Half of the weights of the hidden layers dropped, a mask an example."""
    return [DropConnectDense(800, rate=0.5, activation="relu") for _ in range(2)]


# Chosen for DropConnect on held-out data, see README.md.
RATES = {none: 1e-3, dropout: 1e-3, drop_connect: 3e-3}


def train(hidden, seed, data, epochs):
    """Train one net; returns its test probabilities and the seconds of `fit`."""
    (x, y), (x_test, _) = data
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((784,)), *hidden(), keras.layers.Dense(10, activation="softmax")]
    )
    steps = epochs * (len(x) // BATCH + 1)
    rate = keras.optimizers.schedules.CosineDecay(RATES[hidden], steps)
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


def summary(runs, labels):
    """Errors of single nets and of their vote (the mean of their probabilities)."""
    errors = [error(p, labels) for p, _ in runs]
    return {
        "errors_percent": [round(e, 2) for e in errors],
        "mean": round(statistics.mean(errors), 3),
        "standard_deviation": round(statistics.stdev(errors), 3)
        if len(errors) > 1
        else None,
        "vote_of_all": round(error(sum(p for p, _ in runs), labels), 2),
        "seconds_a_net": round(statistics.mean(s for _, s in runs), 1),
    }


def kept(runs):
    """The nets of an earlier run that was interrupted, by their test probabilities."""
    if NETS.exists():
        with np.load(NETS) as stored:
            for hidden, done in runs.items():
                probabilities = stored[hidden.__name__].astype("float32")
                seconds = stored[f"{hidden.__name__}_seconds"]
                done += zip(probabilities, seconds.tolist(), strict=True)
    return runs


def keep(runs):
    """Write down what `kept` reads."""
    arrays = {}
    for hidden, done in runs.items():
        arrays[hidden.__name__] = np.array([p for p, _ in done], "float16")
        arrays[f"{hidden.__name__}_seconds"] = np.array([s for _, s in done])
    NETS.parent.mkdir(exist_ok=True)
    np.savez_compressed(NETS, **arrays)


def main():
    """Train all nets, one of each kind a round, and write the result each round."""
    quick = harness.arguments().quick
    data = mnist.load()
    seeds, epochs = (2, 1) if quick else (5, 60)
    runs = {hidden: [] for hidden in RATES}
    if not quick:
        runs = kept(runs)
    for seed in range(len(runs[none]), seeds):
        for hidden, done in runs.items():
            done.append(train(hidden, seed, data, epochs))
            print(hidden.__name__, seed, error(done[-1][0], data[1][1]), flush=True)
        result = {"epochs": epochs, "seeds": seed + 1}
        for hidden, done in runs.items():
            result[hidden.__name__] = summary(done, data[1][1])
        harness.write(__file__, result, quick)
        if not quick:
            keep(runs)


if __name__ == "__main__":
    main()
