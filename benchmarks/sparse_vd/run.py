"""Sparse variational dropout, LeNet-300-100 on MNIST: see README.md."""

import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # sets the log level first
import keras
import mnist
import sparsify

from kerasreg.callbacks import KLWarmup
from kerasreg.layers import SparseVariationalDense, to_deterministic

UNITS = (300, 100, 10)
KL_STRENGTH = 1.3
CURVE = (0.5, 2.5)  # the same recipe with other strengths, one seed


def fit(model, data, epochs, rate, power, callbacks=(), jit_compile=True):
    """Train with a rate that falls to zero as a power of the time that is left."""
    schedule = keras.optimizers.schedules.PolynomialDecay(
        rate, epochs * sparsify.STEPS, 0.0, power
    )
    sparsify.compile_for(model, schedule, jit_compile)
    model.fit(
        *data, sparsify.BATCH, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )


def dense(data, epochs):
    """The start: a dense net trained with dropout. Returns its weights."""
    layers = [keras.Input((784,)), keras.layers.Dropout(0.2)]
    for units in UNITS[:-1]:
        layers += [
            keras.layers.Dense(units, "relu", kernel_initializer="he_normal"),
            keras.layers.Dropout(0.5),
        ]
    model = keras.Sequential([*layers, keras.layers.Dense(UNITS[-1])])
    # The random numbers of Keras's Dropout are slow under XLA on a CPU.
    fit(model, data, epochs, 1e-3, 1.0, jit_compile=False)
    return model.get_weights()


def sparse(data, weights, kl_strength, epochs):
    """Sparse variational dropout from these weights; returns the sparse plain net."""
    arguments = {"num_examples": len(data[0]), "kl_strength": kl_strength}
    layers = [SparseVariationalDense(n, "relu", **arguments) for n in UNITS[:-1]]
    layers.append(SparseVariationalDense(UNITS[-1], **arguments))
    model = keras.Sequential([keras.Input((784,)), *layers])
    sparsify.start_from(model, weights)
    warmup = KLWarmup(0, epochs / 4, every="batch")
    fit(model, data, epochs, 2e-3, 2.0, [warmup])
    return to_deterministic(model)


def fine_tune(model, data, epochs):
    """Train the weights that are left."""
    sparsify.hold_zeros(model)
    fit(model, data, epochs, 3e-4, 1.0)


def run(seed, kl_strength, data, epochs):
    """One net from its random start to its fine-tuned end."""
    train, test = data
    keras.utils.set_random_seed(seed)
    begin = time.perf_counter()
    model = sparse(train, dense(train, epochs[0]), kl_strength, epochs[1])
    result = {"seed": seed, "kl_strength": kl_strength}
    result["sparse"] = sparsify.judge(model, test)
    fine_tune(model, train, epochs[2])
    result["fine_tuned"] = sparsify.judge(model, test)
    result["seconds"] = round(time.perf_counter() - begin)
    print(result, flush=True)
    return result


def draw(result):
    """Error against compression: `curve.svg`, from the result."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    runs = result["runs"] + result["curve"]
    one_seed = sorted(
        (r for r in runs if r["seed"] == 0), key=lambda r: r["kl_strength"]
    )
    for stage, colour, label in (
        ("sparse", "C0", "as pruned"),
        ("fine_tuned", "C1", "fine-tuned"),
    ):
        points = [(r[stage]["compression"], r[stage]["error_percent"]) for r in runs]
        axes.plot(*zip(*points, strict=True), "o", color=colour, label=label)
        points = [
            (r[stage]["compression"], r[stage]["error_percent"]) for r in one_seed
        ]
        axes.plot(*zip(*points, strict=True), "-", color=colour, linewidth=1)
    axes.plot(68, 1.92, "k*", markersize=10, label="Molchanov et al. 2017")
    for run in one_seed:
        spot = [run["fine_tuned"][key] for key in ("compression", "error_percent")]
        text = f"strength {run['kl_strength']}"
        axes.annotate(text, spot, (0, -15), textcoords="offset points", ha="center")
    axes.set(xlabel="weights of the dense net over weights left")
    axes.set(ylabel="test error in %", xlim=(30, 120), ylim=(1.4, 2.2))
    axes.legend(loc="lower right")
    figure.savefig(pathlib.Path(__file__).with_name("curve.svg"))


def main():
    """Train all nets, write the result and draw it."""
    if "--draw" in sys.argv:
        draw(json.loads(pathlib.Path(__file__).with_name("result.json").read_text()))
        return
    quick = harness.arguments().quick
    data = mnist.load()
    epochs, seeds = ((1, 2, 1), 1) if quick else ((40, 70, 10), 3)
    runs = [run(seed, KL_STRENGTH, data, epochs) for seed in range(seeds)]
    means = {
        stage: {
            key: round(statistics.mean(r[stage][key] for r in runs), 3)
            for key in ("error_percent", "compression")
        }
        for stage in ("sparse", "fine_tuned")
    }
    result = {"epochs": epochs, "mean": means, "runs": runs, "curve": []}
    harness.write(__file__, result, quick)
    for strength in () if quick else CURVE:
        result["curve"].append(run(0, strength, data, epochs))
        harness.write(__file__, result, quick)
    if not quick:
        draw(result)


if __name__ == "__main__":
    main()
