"""Timing side by side, and the JSON that a card quotes."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path

VERSIONS = ("kerasreg", "keras", "tensorflow", "numpy", "scikit-learn")


def side_by_side(functions, rounds):
    """Time functions in turn, A B C A B C ..., after one call of each.

    Args:
        functions: Dict from a name to a callable without arguments.
        rounds: Number of timed calls of each.

    Returns:
        Dict from the name to a list of seconds.
    """
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds, base):
    """Median, over rounds, of each function's time over the base's in that round."""
    return {
        name: statistics.median(
            a / b for a, b in zip(times, seconds[base], strict=True)
        )
        for name, times in seconds.items()
    }


def write(file, measured):
    """Write `result.json` beside a benchmark's script, and print it.

    Args:
        file: The script's `__file__`.
        measured: What was measured; numbers are rounded to four digits.
    """
    result = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "versions": {name: _version(name) for name in VERSIONS},
        "measured": _rounded(measured),
    }
    text = json.dumps(result, indent=2) + "\n"
    Path(file).with_name("result.json").write_text(text, encoding="utf-8")
    print(text)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
