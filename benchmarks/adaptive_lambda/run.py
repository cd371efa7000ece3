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
        grid = losses["grid"]
        difference = (losses[name] - grid) / grid.mean()
        error = np.std(difference, ddof=1) / len(grid) ** 0.5 if len(grid) > 1 else 0.0
        for key in ("seconds", "cpu_seconds"):
            whole = np.mean([r[key] for r in runs["grid"]])
            means[f"{key}_to_grid"] = round(float(means[key] / whole), 4)
        means["loss_to_grid"] = round(float(1 + difference.mean()), 4)
        means["loss_to_grid_error"] = round(float(error), 4)
        near = means["loss_to_grid"] <= 1.02
        means["meets"] = bool(near and means["seconds_to_grid"] < 0.1)
        summary[name] = means
    return summary


def main(quick):
    problems = PROBLEMS
    if quick:
        problems = {
            name: dataclasses.replace(problem, epochs=2, seeds=1)
            for name, problem in PROBLEMS.items()
            if name in ("breast_cancer", "golub")
        }
    runs = {name: {method: [] for method in METHODS} for name in problems}
    for seed in range(max(problem.seeds for problem in problems.values())):
        for name, problem in problems.items():
            if seed >= problem.seeds:
                continue
            for called, method in METHODS.items():
                row = measure(method, problem, seed)
                runs[name][called].append(row)
                print(name, seed, called, row, file=sys.stderr, flush=True)
            done = {n: each for n, each in runs.items() if each["grid"]}
            summary = {n: summarize(each) for n, each in done.items()}
            harness.write(__file__, {"summary": summary, "runs": done}, quick)


if __name__ == "__main__":
    main(harness.arguments().quick)
