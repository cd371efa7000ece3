"""Support recovery of the federated lasso: averaging, proximal maps, dual averaging."""

import logging
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
from flwr.serverapp.strategy import FedAvg
from sklearn.linear_model import Lasso

import federated
from federated.strategies import (
    FederatedDualAveraging,
    FederatedMirrorDescent,
    ServerProximal,
)
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1

CLIENTS, ROWS, INPUTS, NONZEROS = 64, 128, 1024, 64
PER_ROUND, EPOCHS, BATCH = 16, 5, 32
ALPHA = 0.1
SHOWN = (5, 10, 20, 50, 100)
RATES = (0.001, 0.003, 0.01, 0.02)


class Problem:
    """The clients' data of a seed, and the lasso on all of them."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.truth = np.zeros(INPUTS)
        self.truth[rng.choice(INPUTS, NONZEROS, replace=False)] = 1.0
        self.clients = []
        for _ in range(CLIENTS):
            mean = 0.3 * rng.normal(size=INPUTS)
            scale = rng.uniform(0.5, 1.5, size=INPUTS)
            x = mean + scale * rng.normal(size=(ROWS, INPUTS))
            y = x @ self.truth + 1.0 + rng.normal(size=ROWS)
            self.clients.append((x.astype("float32"), y[:, None].astype("float32")))
        self.x = np.concatenate([x for x, _ in self.clients])
        self.y = np.concatenate([y for _, y in self.clients])[:, 0]
        pooled = Lasso(alpha=ALPHA, tol=1e-8, max_iter=10**5)
        pooled.fit(self.x.astype("float64"), self.y)
        self.pooled, self.intercept = pooled.coef_, pooled.intercept_
        self.minimum = self.objective(self.pooled, self.intercept)

    def objective(self, w, b):
        residual = self.y - self.x @ w.astype("float32") - np.float32(b)
        return float(np.mean(residual.astype("float64") ** 2) / 2) + ALPHA * float(
            np.abs(w).sum()
        )

    def quality(self, w, b):
        """How well the support is recovered, and how near the pooled lasso is."""
        found, true = w != 0, self.truth != 0
        hits = int((found & true).sum())
        precision = hits / max(int(found.sum()), 1)
        recall = hits / int(true.sum())
        return {
            "density": float(found.mean()),
            "precision": precision,
            "recall": recall,
            "f1": 2 * hits / (int(found.sum()) + int(true.sum())),
            "f1_pooled": 2
            * int((found & (self.pooled != 0)).sum())
            / max(int(found.sum()) + int((self.pooled != 0).sum()), 1),
            "gap": self.objective(w, b) / self.minimum - 1,
        }


def methods():
    """Name: the optimizer of the clients, and the strategy around an average."""
    return {
        "FedAvg, L1 in the loss": (keras.optimizers.SGD, lambda s: s),
        "FedAvg of Proximal": (
            lambda r: Proximal(keras.optimizers.SGD(r)),
            lambda s: s,
        ),
        "ServerProximal": (keras.optimizers.SGD, ServerProximal),
        "FederatedMirrorDescent": (keras.optimizers.SGD, FederatedMirrorDescent),
        "FederatedDualAveraging": (keras.optimizers.SGD, FederatedDualAveraging),
    }


def run(problem, method, rate, rounds, seed):
    """The quality after each round."""
    optimizer, wrap = methods()[method]

    def build_model():
        layer = keras.layers.Dense(1, kernel_initializer="zeros", name="dense")
        model = keras.Sequential([keras.Input((INPUTS,)), layer])
        model.compile(optimizer(rate), "mse")
        return model

    def evaluate(model):
        kernel, bias = model.get_weights()
        return problem.quality(kernel[:, 0].astype("float64"), float(bias[0]))

    strategy = wrap(
        FedAvg(
            fraction_train=PER_ROUND / CLIENTS,
            min_train_nodes=1,
            min_available_nodes=1,
        )
    )
    result = federated.simulate(
        build_model,
        problem.clients,
        strategy,
        rounds,
        L1(2 * ALPHA),
        evaluate=evaluate,
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=seed,
        verbose=0,
    )
    return [r.server for r in result.history]


def tuned(method, rounds):
    """The learning rate with the least objective on a problem of its own."""
    problem = Problem(1000)
    gaps = {}
    for rate in RATES:
        gap = run(problem, method, rate, rounds, 0)[-1]["gap"]
        gaps[rate] = gap if np.isfinite(gap) else np.inf
    return min(gaps, key=lambda r: gaps[r]), gaps


def main():
    quick = harness.arguments().quick
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    rounds, seeds = (3, 1) if quick else (max(SHOWN), 5)
    problems = [Problem(seed) for seed in range(seeds)]
    result = {
        "pooled lasso": summary(
            [p.quality(p.pooled, p.intercept) for p in problems],
        ),
        "methods": {},
    }
    for method in methods():
        begin = time.perf_counter()
        rate, gaps = tuned(method, rounds)
        histories = [run(p, method, rate, rounds, s) for s, p in enumerate(problems)]
        result["methods"][method] = {
            "learning_rate": rate,
            "gaps_of_rates": {str(r): round(g, 5) for r, g in gaps.items()},
            "rounds": {
                str(n): summary([h[n] for h in histories]) for n in SHOWN if n <= rounds
            },
            "seconds": round(time.perf_counter() - begin, 1),
        }
        print(method, result["methods"][method], flush=True)
    harness.write(__file__, result, quick)


def summary(rows):
    """Mean, and the least and largest of the seeds."""
    return {
        name: {
            "mean": round(statistics.fmean(r[name] for r in rows), 5),
            "least": round(min(r[name] for r in rows), 5),
            "most": round(max(r[name] for r in rows), 5),
        }
        for name in rows[0]
    }


if __name__ == "__main__":
    main()
