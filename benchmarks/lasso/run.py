"""Lasso and L1 logistic regression: `solve` and `Polish` beside their peers."""

import pathlib
import sys
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import harness  # sets the log level first
import keras
import numpy as np
from sklearn import linear_model
from sklearn.datasets import make_regression

from kerasreg.callbacks import Polish
from kerasreg.optimizers import Proximal, solve
from kerasreg.regularizers import L1

N, P, BATCH = 500, 2000, 125
GAP = 1e-6


def problem(kind):
    """Data in float32 values, and the strength for about 100 non-zeros."""
    x, y = make_regression(N, P, n_informative=98, noise=5.0, random_state=0)
    x = x.astype("float32").astype("float64")
    if kind == "lasso":
        y = (y / y.std()).astype("float32").astype("float64")
        largest = np.abs(x.T @ (y - y.mean())).max() / N
        return x, y, 0.17 * largest
    y = (y > 0).astype("float64")
    return x, y, 0.25 * np.abs(x.T @ (y - y.mean())).max() / N


class Problem:
    """One of both objectives, in scikit-learn's terms, and its minimum."""

    def __init__(self, kind):
        self.kind = kind
        self.x, self.y, self.alpha = problem(kind)
        self.x32, self.y32 = self.x.astype("float32"), self.y.astype("float32")
        self.best, self.bias = self.peer(1e-14 if kind == "lasso" else 1e-10)
        self.minimum = self.objective(self.best, self.bias)

    def objective(self, w, b):
        z = self.x @ w + b
        if self.kind == "lasso":
            loss = np.mean((self.y - z) ** 2) / 2
        else:
            loss = np.mean(np.logaddexp(0, z) - self.y * z)
        return loss + self.alpha * np.abs(w).sum()

    def quality(self, w, b):
        """Relative gap, true zeros found and whether the support is exact."""
        w = np.asarray(w, "float64").ravel()
        b = float(np.ravel(b)[0])
        zeros = self.best == 0
        return {
            "gap": float(self.objective(w, b) / self.minimum - 1),
            "true_zeros": f"{int((w[zeros] == 0).sum())} of {int(zeros.sum())}",
            "exact_support": bool(((w != 0) == ~zeros).all()),
        }

    def peer(self, tol):
        """scikit-learn: coordinate descent, or saga."""
        if self.kind == "lasso":
            model = linear_model.Lasso(alpha=self.alpha, tol=tol, max_iter=10**6)
        else:
            model = linear_model.LogisticRegression(
                C=1 / (N * self.alpha),
                l1_ratio=1.0,
                solver="saga",
                tol=tol,
                max_iter=10**6,
            )
        model.fit(self.x, self.y)
        return np.ravel(model.coef_), model.intercept_

    def skglm(self, tol):
        import skglm

        kinds = {"lasso": skglm.Lasso, "logistic": skglm.SparseLogisticRegression}
        model = kinds[self.kind](alpha=self.alpha, tol=tol).fit(self.x, self.y)
        return np.ravel(model.coef_), model.intercept_

    def celer(self, tol):
        import celer

        if self.kind == "lasso":
            model = celer.Lasso(alpha=self.alpha, tol=tol)
        else:  # it has no intercept: not this problem
            return None
        model.fit(np.asfortranarray(self.x), self.y)
        return np.ravel(model.coef_), model.intercept_

    def keras_model(self, penalty, jit_compile="auto"):
        keras.utils.set_random_seed(0)
        # Keras does not halve the squared error: so the strength is doubled.
        factor = 2.0 if self.kind == "lasso" else 1.0
        activation, loss = (
            (None, "mse") if factor == 2 else ("sigmoid", "binary_crossentropy")
        )
        dense = keras.layers.Dense(
            1, activation, kernel_regularizer=penalty(factor * self.alpha)
        )
        model = keras.Sequential([keras.Input((P,)), dense])
        model.compile("adam", loss, jit_compile=jit_compile)
        return model


def loosest(problem, fit, tols):
    """The loosest tolerance with which a peer reaches the gap and the support."""
    for tol in tols:
        found = fit(tol)
        if found is None:
            return None
        quality = problem.quality(*found)
        if quality["gap"] <= GAP and quality["exact_support"]:
            return tol
    return tol


def solvers(kind, rounds):
    """`solve` beside scikit-learn, skglm and celer, each just tight enough."""
    problem = Problem(kind)
    peer = "scikit-learn" if kind == "lasso" else "saga"
    fits = {peer: problem.peer, "skglm": problem.skglm, "celer": problem.celer}
    tols = [10.0**-k for k in range(1, 11)]
    cases, found = {}, {}
    for name, fit in fits.items():
        try:
            tol = loosest(problem, fit, tols)
        except ImportError:
            continue
        if tol is not None:
            found[name] = {"tol": tol, **problem.quality(*fit(tol))}
            cases[name] = lambda fit=fit, tol=tol: fit(tol)
    for name, jit_compile in (("solve", "auto"), ("solve, jit_compile=True", True)):
        model = problem.keras_model(L1, jit_compile)
        zeros = [np.zeros_like(w) for w in model.get_weights()]

        def run(model=model, zeros=zeros):
            model.set_weights(zeros)
            return solve(model, problem.x32, problem.y32)

        begin = time.perf_counter()
        solution = run()
        first = time.perf_counter() - begin
        found[name] = {
            "first_call_s": round(first, 3),
            "steps": solution.steps,
            solution.certificate: solution.gap,
            **problem.quality(*model.get_weights()),
        }
        cases[name] = run
    times = harness.summary(harness.interleave(cases, rounds), peer)
    nonzeros = int((problem.best != 0).sum())
    rows = {name: {**found[name], **times[name]} for name in cases}
    return {"nonzeros": nonzeros, **rows}


def keras_adam(epochs):
    """What Keras itself offers: its L1 in the loss, under Adam."""
    problem = Problem("lasso")
    model = problem.keras_model(keras.regularizers.L1)
    model.optimizer.learning_rate = _cosine(1e-2, epochs)
    begin = time.perf_counter()
    model.fit(
        problem.x32, problem.y32, batch_size=N, epochs=epochs, verbose=0, shuffle=False
    )
    return {
        "epochs": epochs,
        "seconds": round(time.perf_counter() - begin, 2),
        **problem.quality(*model.get_weights()),
    }


def _cosine(rate, steps):
    return keras.optimizers.schedules.CosineDecay(rate, steps, alpha=1e-3)


def minibatch(epochs):
    """Training on batches: how near, how many zeros; and after a polish."""
    problem = Problem("lasso")
    steps = epochs * N // BATCH
    optimizers = {
        "Proximal(SGD)": lambda: keras.optimizers.SGD(_cosine(0.02, steps)),
        "Proximal(Adam)": lambda: keras.optimizers.Adam(_cosine(1e-2, steps)),
    }
    rows = {}
    for name, optimizer in optimizers.items():
        model = problem.keras_model(L1)
        model.compile(Proximal(optimizer()), "mse")
        begin = time.perf_counter()
        model.fit(problem.x32, problem.y32, batch_size=BATCH, epochs=epochs, verbose=0)
        seconds = time.perf_counter() - begin
        rows[name] = {
            "seconds": round(seconds, 2),
            **problem.quality(*model.get_weights()),
        }
        polish = Polish(problem.x32, problem.y32)
        polish.set_model(model)
        begin = time.perf_counter()
        polish.on_train_end()  # what `fit(callbacks=[polish])` calls at its end
        rows[f"{name} and Polish"] = {
            "seconds_more": round(time.perf_counter() - begin, 2),
            "steps": polish.solution.steps,
            **problem.quality(*model.get_weights()),
        }
    return {"batch": BATCH, "epochs": epochs, **rows}


def main():
    quick = harness.arguments().quick
    warnings.simplefilter("ignore")
    result = {
        "lasso": solvers("lasso", 3 if quick else 31),
        "logistic": solvers("logistic", 1 if quick else 5),
        "keras_l1_adam": keras_adam(20 if quick else 600),
        "minibatch": minibatch(5 if quick else 600),
    }
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main()
