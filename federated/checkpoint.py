"""A run on disk: one file a round, without pickled code."""

import json
import os
import pathlib
import re
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federated.history import History
from federated.strategies.base import Wrapper, chain

_RECORDS: dict[str, Any] = {
    c.__name__: c for c in (ArrayRecord, MetricRecord, ConfigRecord, RecordDict)
}


def save(folder, rounds, seed):
    """Write the state of a run, and keep the one before it.

    Args:
        folder: Path of a folder; it is made if it is missing.
        rounds: `Rounds`.
        seed: The run's seed.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "seed": seed,
        "keys": list(rounds.arrays),
        "arrays": rounds.arrays,
        "history": rounds.history.to_json(),
        "stopped": rounds.stopped,
        "strategies": [strategy_state(each) for each in chain(rounds.strategy)],
        "clients": {str(k): v for k, v in rounds.grid.states.items()},
    }
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(encode(state, arrays))
    path = folder / f"round-{rounds.done:06d}.npz"
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, **{"state": np.array(text), **arrays})  # type: ignore
    os.replace(unfinished, path)  # never half a checkpoint
    for old in _files(folder)[:-2]:
        old.unlink()


def restore(folder, rounds, seed):
    """Bring a run to where the newest checkpoint is.

    Args:
        folder: Path of the folder.
        rounds: `Rounds` with the same model, clients and strategy.
        seed: The run's seed.

    Returns:
        Whether there was a checkpoint.

    Raises:
        ValueError: If it is of another run: another model, seed or strategy.
    """
    files = _files(pathlib.Path(folder))
    if not files:
        return False
    with np.load(files[-1]) as stored:
        arrays = {k: stored[k] for k in stored.files if k != "state"}
        state = decode(json.loads(str(stored["state"])), arrays)
    strategies = list(chain(rounds.strategy))
    names = [type(each).__name__ for each in strategies]
    shapes = {k: tuple(a.shape) for k, a in rounds.arrays.items()}
    for what, had, has in (
        ("seed", state["seed"], seed),
        ("strategy", [s["name"] for s in state["strategies"]], names),
        ("model", {k: tuple(a.shape) for k, a in state["arrays"].items()}, shapes),
    ):
        if had != has:
            raise ValueError(
                f"The checkpoint {files[-1].name} is of a run with another {what}. "
                f"Expected: {had}. Received: {has}"
            )
    rounds.arrays = state["arrays"]
    rounds.history = History.from_json(state["history"])
    rounds.stopped = state["stopped"]
    rounds.grid.states = {int(k): v for k, v in state["clients"].items()}
    for each, kept in zip(strategies, state["strategies"], strict=True):
        if isinstance(each, Wrapper):
            each.set_state(kept["state"])
        else:
            vars(each).update(kept["state"])
    return True


def strategy_state(strategy):
    """What a strategy remembers: ours say it, Flower's have it in their attributes."""
    if isinstance(strategy, Wrapper):
        state = strategy.get_state()
    else:
        state = {}
        for name, value in vars(strategy).items():
            try:
                encode(value, {})
            except TypeError:
                continue  # functions and objects, which it is constructed with
            state[name] = value
    return {"name": type(strategy).__name__, "state": state}


def encode(value: Any, arrays: dict) -> Any:
    """A value as JSON; its arrays go into `arrays`, and their names stand for them.

    Args:
        value: Numbers, strings, arrays, Flower's records, or dicts and lists of them.
        arrays: Dict that takes the arrays.

    Raises:
        TypeError: If there is something else in it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, np.ndarray) and value.dtype != object:
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Array):
        return {"Array": encode(value.numpy(), arrays)}
    if isinstance(value, tuple(_RECORDS.values())):
        record: Any = value
        items = {k: encode(v, arrays) for k, v in record.items()}
        return {"record": type(value).__name__, "items": items}
    if isinstance(value, dict):
        return {
            "dict": [[encode(k, arrays), encode(v, arrays)] for k, v in value.items()]
        }
    if isinstance(value, list | tuple):
        listed = [encode(v, arrays) for v in value]
        return listed if isinstance(value, list) else {"tuple": listed}
    raise TypeError(
        "Expected numbers, strings, arrays, and dicts and lists of them. "
        f"Received: {type(value).__name__}"
    )


def decode(value, arrays):
    """The value of `encode`."""
    if isinstance(value, list):
        return [decode(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return bytes.fromhex(value["bytes"])
    if "array" in value:
        return arrays[value["array"]]
    if "Array" in value:
        return Array(decode(value["Array"], arrays))
    if "record" in value:
        items = {k: decode(v, arrays) for k, v in value["items"].items()}
        return _RECORDS[value["record"]](items)
    if "tuple" in value:
        return tuple(decode(v, arrays) for v in value["tuple"])
    return {decode(k, arrays): decode(v, arrays) for k, v in value["dict"]}


def _files(folder):
    return sorted(
        p for p in folder.glob("*.npz") if re.match(r"round-\d+\.npz", p.name)
    )
