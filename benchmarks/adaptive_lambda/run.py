"""Strengths by policies in one run, beside a grid and Optuna: see README.md."""

import dataclasses
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import numpy as np
from methods import METHODS
from problems import PROBLEMS


def measure(method, problem, seed):
    """Test loss and accuracy, strengths, zeros and seconds of one method."""
    data, test = problem.load(seed)
    begin, cpu = time.perf_counter(), time.process_time()
    net = method(problem, data, seed)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "loss": round(net.loss(test), 4),
        "accuracy": round(net.accuracy(test), 4),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "strengths": [float(f"{s:.3g}") for s in net.strengths()],
        "zeros": round(net.sparsity(), 3),
    }


def summarize(runs):
    """Means over seeds, and beside the grid: loss, its standard error, time."""
    losses = {name: np.array([r["loss"] for r in rows]) for name, rows in runs.items()}
    summary = {}
    for name, rows in runs.items():
        means = {
            key: round(float(np.mean([r[key] for r in rows])), 4)
            for key in ("loss", "accuracy", "seconds", "cpu_seconds")
        }
        if "grid" in runs:
            grid = losses["grid"]
            difference = (losses[name] - grid) / grid.mean()
            error = (
                np.std(difference, ddof=1) / len(grid) ** 0.5 if len(grid) > 1 else 0
            )
            time_ratio = means["seconds"] / np.mean(
                [r["seconds"] for r in runs["grid"]]
            )
            means["loss_to_grid"] = round(float(1 + difference.mean()), 4)
            means["loss_to_grid_error"] = round(float(error), 4)
            means["time_to_grid"] = round(float(time_ratio), 4)
            means["meets"] = bool(difference.mean() <= 0.02 and time_ratio < 0.1)
        summary[name] = means
    return summary


def compare(problem, methods, seeds):
    """All methods on one problem."""
    runs = {name: [] for name in methods}
    for seed in seeds:
        for name, method in methods.items():
            runs[name].append(measure(method, problem, seed))
            print(
                f"  seed {seed} {name}: {runs[name][-1]}", file=sys.stderr, flush=True
            )
    return {"summary": summarize(runs), "runs": runs}


def main(quick):
    problems = PROBLEMS
    if quick:
        chosen = {n: p for n, p in PROBLEMS.items() if n in ("breast_cancer", "golub")}
        problems = {
            name: dataclasses.replace(problem, epochs=2, seeds=1)
            for name, problem in chosen.items()
        }
    result = {}
    for name, problem in problems.items():
        print(name, file=sys.stderr, flush=True)
        result[name] = compare(problem, METHODS, range(problem.seeds))
    harness.write(__file__, result, quick)


if __name__ == "__main__":
    main(harness.arguments().quick)
