"""Ways to find the strength: none, a grid, Optuna, and policies in one run."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split
from training import Net

from kerasreg import callbacks
from kerasreg.extras import require

# 1e-5 to 1e-1.
GRID = [float(f"{s:.3g}") for s in np.logspace(-5, -1, 9)]
FOLDS, TRIALS = 5, 30
HELD_OUT = 0.2


def hold_out(data, seed):
    """A stratified part of the training data to train on, and one to validate on."""
    x, x_val, y, y_val = train_test_split(
        *data, test_size=HELD_OUT, stratify=data[1], random_state=seed
    )
    return (x, y), (x_val, y_val)


def no_penalty(problem, data, seed):
    net = Net(problem, data, seed)
    net.fit(data, 0.0)
    return net


def early_stopping(problem, data, seed):
    """No penalty, 20 % held out, and the weights of the best epoch."""
    net = Net(problem, data, seed)
    train, validation = hold_out(data, seed)
    patience = max(problem.epochs // 4, 5)
    stop = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
    net.fit(train, 0.0, [stop], validation)
    return net


def grid(problem, data, seed):
    """The best of 9 strengths by 5-fold cross-validation, then all of the data."""
    net = Net(problem, data, seed)
    x, y = data
    losses = np.zeros((len(GRID), FOLDS))
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for k, (inside, outside) in enumerate(split.split(x, y)):
        for i, strength in enumerate(GRID):
            net.fit((x[inside], y[inside]), strength)
            losses[i, k] = net.loss((x[outside], y[outside]))
    net.fit(data, GRID[int(np.argmin(losses.mean(1)))])
    return net


def tpe(problem, data, seed):
    """30 trials of Optuna's TPE on one split, then all of the data."""
    optuna = require("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    net = Net(problem, data, seed)
    train, validation = hold_out(data, seed)

    def objective(trial):
        net.fit(train, trial.suggest_float("strength", GRID[0], GRID[-1], log=True))
        return net.loss(validation)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, TRIALS)
    net.fit(data, study.best_params["strength"])
    return net


@dataclasses.dataclass
class OneRun:
    """A policy in one run.

    Args:
        make: From training data, validation data and the problem to the policy.
        start: The strength to begin with.
        sparse: L1 under `Proximal`, instead of L2.
        held_out: Whether 20 % of the training data are kept for the policy.
        refit: Whether to train once more on all data with the strengths it ended at.
        every: When the policy is asked, if not by its default.
    """

    make: Callable
    start: float = 1e-3
    sparse: bool = False
    held_out: bool = False
    refit: bool = False
    every: str | int | None = None

    def __call__(self, problem, data, seed):
        net = Net(problem, data, seed, self.sparse)
        train, validation = hold_out(data, seed) if self.held_out else (data, None)
        policy = self.make(train, validation, problem)
        adaptive = callbacks.LayerwiseAdaptiveLambda(policy, every=self.every)
        in_fit = any(name.startswith("val_") for name in policy.needs_logs)
        net.fit(train, self.start, [adaptive], validation if in_fit else None)
        if self.refit:
            net.fit(data, net.strengths())
        return net


def sparsity(train, validation, problem):
    return callbacks.TargetSparsity(0.8)


def gap(train, validation, problem):
    return callbacks.GeneralizationGap()


def decay(train, validation, problem):
    return callbacks.AdaptiveWeightDecay(0.1)


def ratio(train, validation, problem):
    return callbacks.GradientRatio(0.1)


def evidence(train, validation, problem):
    steps = problem.epochs * -(-len(train[0]) // problem.batch)
    return callbacks.Evidence(*train, curvature="kronecker", burn_in=steps * 3 // 4)


# For some hundred steps: the defaults are for more.
HYPER = {"learning_rate": 0.1, "batch_size": 256}


def implicit(train, validation, problem):
    return callbacks.Hypergradient(train, validation, **HYPER)


def first_order(train, validation, problem):
    return callbacks.Hypergradient(train, validation, mode="first_order", **HYPER)


METHODS = {
    "no penalty": no_penalty,
    "no penalty, early stopping": early_stopping,
    "grid": grid,
    "optuna": tpe,
    "TargetSparsity": OneRun(sparsity, sparse=True),
    "GeneralizationGap": OneRun(gap, held_out=True),
    "GeneralizationGap, refit": OneRun(gap, held_out=True, refit=True),
    "AdaptiveWeightDecay": OneRun(decay),
    "GradientRatio": OneRun(ratio),
    "Evidence": OneRun(evidence),
    "Hypergradient": OneRun(implicit, start=1e-2, held_out=True),
    "Hypergradient, refit": OneRun(implicit, start=1e-2, held_out=True, refit=True),
    "Hypergradient, first order": OneRun(first_order, start=1e-2, held_out=True),
}
