"""What every benchmark shares: fair timing, and a result with its circumstances."""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def arguments():
    """The command line of every benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--quick", action="store_true", help="try the script; writes no result"
    )
    return parser.parse_args()


def interleave(cases, rounds):
    """Time functions in turns, so that what else the machine does hits all alike.

    Args:
        cases: Dict from name to function; each is called once before.
        rounds: How often each is timed.

    Returns:
        Dict from name to the list of its seconds.
    """
    for function in cases.values():
        function()
    seconds = {name: [] for name in cases}
    for _ in range(rounds):
        for name, function in cases.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def training_steps(model, x, y, steps):
    """A function that runs some training steps of a compiled model on one batch."""
    import tensorflow as tf  # after this module has set its log level

    iterator = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    model.make_train_function()

    def run():
        for _ in range(steps):
            logs = model.train_function(iterator)
        float(logs["loss"])  # wait for it

    return run


def classifier_steps(units, make, x, y, jit_compile, steps):
    """A function that runs some training steps of a classifier with Adam.

    Args:
        units: Units of its layers, the last the number of classes.
        make: Function from units and an activation to a layer.
        x: Inputs of a batch.
        y: Its integer classes.
        jit_compile: As `compile` takes it.
        steps: Steps of each call.
    """
    import keras  # after this module has set its log level

    keras.utils.set_random_seed(0)
    *hidden, classes = units
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            *(make(n, "relu") for n in hidden),
            make(classes, None),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit_compile)
    return training_steps(model, x, y, steps)


def step_seconds(made, steps, rounds):
    """Time functions that run several steps, in turns; the seconds are of one step."""
    for run in made.values():
        run()
    seconds = interleave(made, rounds)
    return {name: [s / steps for s in values] for name, values in seconds.items()}


def summary(seconds, base):
    """Median milliseconds of each case, and its median ratio to `base` in a round."""
    return {
        name: {
            "median_ms": round(statistics.median(values) * 1e3, 3),
            "fastest_ms": round(min(values) * 1e3, 3),
            f"times_{base}": round(
                statistics.median(
                    a / b for a, b in zip(values, seconds[base], strict=True)
                ),
                3,
            ),
        }
        for name, values in seconds.items()
    }


def write(script, result, quick):
    """Print a result and, unless it was a trial, write it beside the script.

    Args:
        script: `__file__` of the benchmark.
        result: Dict of what was measured.
        quick: Whether this was a trial.
    """
    packages = ("kerasreg", "keras", "tensorflow", "numpy", "scikit-learn")
    peers = ("skglm", "celer")
    result = {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load_before": LOAD_BEFORE,
            "python": platform.python_version(),
        },
        "versions": {name: _version(name) for name in packages + peers},
        **result,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if not quick:
        pathlib.Path(script).with_name("result.json").write_text(text + "\n")


def _processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if "model name" in x), "")


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


LOAD_BEFORE = [round(x, 2) for x in os.getloadavg()]
