"""Adversarial training on a table some of whose columns stay: see README.md."""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from kerasreg.adversarial import FGSM, PGD, AdversarialModel, robust_evaluate
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, regularize

EPS = 0.3
LOSS = keras.losses.BinaryCrossentropy(from_logits=True)


def load(seed):
    data = load_breast_cancer()
    # Standard errors of measurements are properties of the device: they stay.
    mask = np.array([0.0 if "error" in n else 1.0 for n in data.feature_names])
    parts = train_test_split(
        data.data.astype("float32"),
        data.target,
        test_size=0.3,
        random_state=seed,
        stratify=data.target,
    )
    return *parts, mask.astype("float32")


def net(x, penalty=None):
    normalize = keras.layers.Normalization()
    normalize.adapt(x)
    layers = [keras.layers.Dense(32, "relu", name="first"), keras.layers.Dense(1)]
    model = keras.Sequential([normalize, *layers])
    model.build(x.shape)
    if penalty is not None:
        regularize(model, {"first": penalty})
    return model


def rows(where):
    """How each row is trained: attack, objective, weight, penalty."""
    return {
        "plain": None,
        "plain, L1": (None, None, None, L1(0.003)),
        "FGSM": (FGSM(EPS, random_start=True, **where), "adversarial", 1.0, None),
        "PGD-10": (PGD(EPS, steps=10, **where), "adversarial", 1.0, None),
        "TRADES": (PGD(EPS, steps=10, **where), "trades", 2.0, None),
        "TRADES, L1": (PGD(EPS, steps=10, **where), "trades", 2.0, L1(0.003)),
    }


def train(x, y, how, epochs, seed):
    keras.utils.set_random_seed(seed)
    attack, objective, weight, penalty = how or (None, None, None, None)
    inner = model = net(x, penalty)
    if attack is not None:
        model = AdversarialModel(inner, attack, objective, weight=weight)
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(Proximal(optimizer) if penalty else optimizer, LOSS)
    begin = time.perf_counter()
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    inner.compile(loss=LOSS)
    return inner, time.perf_counter() - begin


def measure(seed, epochs):
    x, x_test, y, y_test, mask = load(seed)
    where = {"scale": x.std(axis=0), "mask": mask, "bounds": (0.0, 10 * x.max(axis=0))}
    judge = PGD(EPS, steps=40, restarts=5, **where)
    found = {}
    for name, how in rows(where).items():
        model, seconds = train(x, y, how, epochs, seed)
        report = robust_evaluate(model, x_test, y_test, judge)
        moved = np.abs(np.asarray(judge(model, x_test, y_test)) - x_test)
        assert moved[:, mask == 0].max() == 0  # they stay
        assert (moved / x.std(axis=0)).max() <= EPS * (1 + 1e-5)
        kernel = np.asarray(model.get_layer("first").kernel)
        found[name] = {
            "clean": report.clean,
            "robust": report.robust,
            "half": report.curve[EPS * 0.5],
            "passed": report.passed,
            "features": int(np.any(kernel != 0, axis=1).sum()),
            "seconds": seconds,
        }
        print(seed, name, found[name], flush=True)
    return found


def main():
    quick = harness.arguments().quick
    seeds, epochs = (1, 2) if quick else (5, 40)
    runs = [measure(seed, epochs) for seed in range(seeds)]
    result = {}
    for name in runs[0]:
        result[name] = {
            key: round(statistics.mean(float(run[name][key]) for run in runs), 4)
            for key in runs[0][name]
        }
        robust = [run[name]["robust"] for run in runs]
        result[name]["robust_each"] = [round(float(value), 4) for value in robust]
    harness.write(__file__, {"seeds": seeds, "epochs": epochs, "rows": result}, quick)


if __name__ == "__main__":
    main()
