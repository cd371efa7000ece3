"""A run on disk: one file a round, without pickled code."""

import contextlib
import hashlib
import json
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federated.history import History
from federated.strategies.base import Wrapper, chain

_ACCOUNT = "privacy.json"
_RECORDS: dict[str, Any] = {
    c.__name__: c for c in (ArrayRecord, MetricRecord, ConfigRecord, RecordDict)
}


def check(folder, resume):
    """Raise if a run cannot use this folder, before anything is done or lost.

    Args:
        folder: What the user gave, a path or `None`.
        resume: Whether to go on from what is there.

    Raises:
        TypeError: If it is no path.
        ValueError: If it is a file, or holds a run that is not to be resumed, or there
            is none and `resume` is true.
    """
    expected = ""
    error: type[Exception] = ValueError
    if folder is None:
        expected = "the path of a folder to resume from" if resume else ""
    elif not isinstance(folder, str | os.PathLike):
        expected, error = "the path of a folder", TypeError
    elif pathlib.Path(folder).exists() and not pathlib.Path(folder).is_dir():
        expected = "the path of a folder"
    elif not resume and _files(pathlib.Path(folder)):
        expected = "another folder, or resume=True to go on with the run that is there"
    if expected:
        raise error(
            f"Invalid value for argument `checkpoint`. Expected {expected}. "
            f"Received: checkpoint={folder!r}"
        )


def save(folder, rounds, seed):
    """Write the state of a run, and keep the one before it.

    Args:
        folder: Path of a folder; it is made if it is missing.
        rounds: `Rounds`.
        seed: The run's seed.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    strategies = zip(chain(rounds.strategy), rounds.begun, strict=True)
    state = {
        "seed": seed,
        "num_clients": rounds.grid.num_clients,
        "facts": {name: digest(value) for name, value in rounds.facts.items()},
        "arrays": rounds.arrays,
        "history": rounds.history.to_json(),
        "strategies": [strategy_state(*each) for each in strategies],
        "clients": {str(k): v for k, v in rounds.grid.states.items()},
    }
    path = folder / f"round-{rounds.done:06d}.npz"
    write(path, state)
    before = folder / f"round-{rounds.done - 1:06d}.npz"
    for other in _files(folder):
        if other not in (path, before):
            other.unlink()


def write(path, state):
    """Write what `encode` takes into a file, which is there whole or not at all.

    Args:
        path: `pathlib.Path`.
        state: Dict or record.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(encode(state, arrays))
    with _whole(path) as file:
        np.savez(file, **{"state": np.array(text), **arrays})  # type: ignore


def read(path):
    """What `write` wrote.

    Args:
        path: `pathlib.Path`.
    """
    with np.load(path) as stored:
        arrays = {k: stored[k] for k in stored.files if k != "state"}
        return decode(json.loads(str(stored["state"])), arrays)


def keep_account(folder, strategy):
    """Write the accounts of privacy, before what they count is let out.

    A round that fails has no file of its own; what it has cost stays spent.

    Args:
        folder: Path of a folder; it is made if it is missing.
        strategy: A `flwr.serverapp.strategy.Strategy`.
    """
    path = pathlib.Path(folder) / _ACCOUNT
    accounts = [[type(s).__name__, _account(s)] for s in chain(strategy)]
    if all(account is None for _, account in accounts):
        path.unlink(missing_ok=True)  # of a run that was here before
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as file:
        file.write(json.dumps(encode(accounts, {})).encode())


@contextlib.contextmanager
def _whole(path):
    """A file to write into, which has its name once it is whole and on disk."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _account(strategy):
    if hasattr(strategy, "get_account"):
        return strategy.get_account()
    if getattr(strategy, "accountant", None) is not None:  # Flower's
        return strategy.accountant.state_dict()
    return None


def _restore_account(folder, strategy):
    path = pathlib.Path(folder) / _ACCOUNT
    if not path.exists():
        return
    strategies = list(chain(strategy))
    accounts = decode(json.loads(path.read_text()), {})
    names = [type(each).__name__ for each in strategies]
    if names != [name for name, _ in accounts]:
        raise ValueError(
            f"The account of privacy in {path} is of another strategy. Expected: "
            f"{[name for name, _ in accounts]}. Received: {names}"
        )
    for each, (_, account) in zip(strategies, accounts, strict=True):
        if hasattr(each, "set_account"):
            each.set_account(account)
        elif account is not None:
            before = each.accountant.state_dict(), each.privacy_spent().epsilon
            each.accountant.load_state_dict(account)
            if each.privacy_spent().epsilon < before[1]:
                each.accountant.load_state_dict(before[0])


def restore(folder, rounds, seed):
    """Bring a run to where the newest checkpoint is.

    Args:
        folder: Path of the folder.
        rounds: `Rounds` with the same model, clients and strategy.
        seed: The run's seed.

    Returns:
        Whether there was a checkpoint.

    Raises:
        ValueError: If it is of another run (another model, seed, strategy or number
            of clients), or no checkpoint can be read. It warns if other `facts` differ.
    """
    files = _files(pathlib.Path(folder))
    if not files:
        _restore_account(folder, rounds.strategy)
        return False
    state = _newest(files)
    strategies = list(chain(rounds.strategy))
    _check_same_run(state, rounds, seed, strategies)
    rounds.arrays = state["arrays"]
    rounds.history = History.from_json(state["history"])
    rounds.grid.states = {int(k): v for k, v in state["clients"].items()}
    for each, kept in zip(strategies, state["strategies"], strict=True):
        if isinstance(each, Wrapper):
            each.set_state(kept["state"])
        else:
            account = kept["state"].pop("accountant", None)
            vars(each).update(kept["state"])
            if account is not None:  # Flower's, of differential privacy
                each.accountant.load_state_dict(account)
    _restore_account(folder, rounds.strategy)
    return True


def _newest(files):
    """The state in the newest file that can be read."""
    for path in reversed(files):
        try:
            return read(path)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} cannot be read: {error!r}", stacklevel=5)
    raise ValueError(
        f"None of the checkpoints {[str(f) for f in files]} can be read. Remove them, "
        "or start without `resume`."
    )


def _check_same_run(state, rounds, seed, strategies):
    names = [type(each).__name__ for each in strategies]
    had, has = (
        {key: tuple(array.shape) for key, array in arrays.items()}
        for arrays in (state["arrays"], rounds.arrays)
    )
    clients = rounds.grid.num_clients
    facts = [
        ("seed", state["seed"], seed),
        ("number of clients", state["num_clients"], clients),
        ("strategy", [s["name"] for s in state["strategies"]], names),
        ("model", had, has),
    ]
    for each, kept in zip(strategies, state["strategies"], strict=False):
        now = attributes(each)
        for name, value in kept["settings"].items():
            if digest(value) != digest(now.get(name)):
                setting = f"strategy: {kept['name']}.{name} differs"
                facts.append((setting, value, now.get(name)))
    for what, before, after in facts:
        if before != after:
            raise ValueError(
                f"The checkpoint is of a run with another {what}. Expected: {before}. "
                f"Received: {after}"
            )
    begun, now = state.get("facts", {}), rounds.facts
    others = [
        k for k, value in now.items() if begun.get(k) not in (None, digest(value))
    ]
    if others:
        warnings.warn(f"The run goes on with another {', '.join(others)}", stacklevel=5)


def strategy_state(strategy, begun):
    """What a strategy remembers: ours say it, Flower's have it in their attributes.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        begun: Its `attributes` before the first round. What has not changed since is a
            setting, which has to be the same when the run is resumed.
    """
    name, settings = type(strategy).__name__, {}
    if isinstance(strategy, Wrapper):
        state = strategy.get_state()
    else:
        state = attributes(strategy)
        _warn_of_lost(strategy, begun, state)
        settings = {
            k: v for k, v in state.items() if k in begun and digest(v) == begun[k]
        }
        state = {k: v for k, v in state.items() if k not in settings}
        if getattr(strategy, "accountant", None) is not None:
            state["accountant"] = strategy.accountant.state_dict()
    return {"name": name, "state": state, "settings": settings}


def begin(strategy):
    """Digests of the attributes of a strategy of Flower, to see what changes later."""
    found = {name: digest(value) for name, value in attributes(strategy).items()}
    return {n: _fingerprint(v) for n, v in _objects(strategy, found)} | found


def _objects(strategy, stored):
    """The attributes of a strategy of Flower that cannot be stored."""
    return [
        (name, value)
        for name, value in vars(strategy).items()
        if not isinstance(strategy, Wrapper)
        and name not in (*stored, "strategy", "accountant")  # which are, elsewhere
        and not callable(value)
    ]


def _warn_of_lost(strategy, begun, stored):
    for name, value in _objects(strategy, stored):
        if begun.get(name) != _fingerprint(value):
            kind = f"{type(strategy).__name__}.{name}"
            warnings.warn(
                f"{kind} changed and is not part of the checkpoint: a resumed run will "
                "differ. Expected numbers, strings, arrays, and dicts, lists and sets "
                f"of them. Received: {type(value).__name__}",
                stacklevel=5,
            )


def _fingerprint(value):
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:  # whatever an object of the user's own raises
        return str(id(value))


def attributes(strategy):
    """What a strategy of Flower holds; not functions and objects; of ours nothing."""
    found: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if isinstance(strategy, Wrapper):
            break
        with contextlib.suppress(TypeError):
            encode(value, {})
            found[name] = value
    return found


def digest(value):
    """A hash of a value that `encode` can take."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(encode(value, arrays))
    parts = [text.encode(), *(a.tobytes() for a in arrays.values())]
    return [hashlib.sha256(part).hexdigest() for part in parts]


def encode(value: Any, arrays: dict) -> Any:
    """A value as JSON; its arrays go into `arrays`, and their names stand for them.

    Args:
        value: Numbers, strings, arrays, Flower's records, or dicts, lists and sets of
            them.
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
    if isinstance(value, set | frozenset):
        listed = sorted((encode(v, arrays) for v in value), key=json.dumps)
        return {type(value).__name__: listed}
    if isinstance(value, list | tuple):
        listed = [encode(v, arrays) for v in value]
        return listed if isinstance(value, list) else {"tuple": listed}
    raise TypeError(
        "Expected numbers, strings, arrays, and dicts, lists and sets of them. "
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
    if "set" in value:
        return {decode(v, arrays) for v in value["set"]}
    if "frozenset" in value:
        return frozenset(decode(v, arrays) for v in value["frozenset"])
    if "tuple" in value:
        return tuple(decode(v, arrays) for v in value["tuple"])
    return {decode(k, arrays): decode(v, arrays) for k, v in value["dict"]}


def _files(folder):
    return sorted(
        p for p in folder.glob("*.npz") if re.match(r"round-\d+\.npz", p.name)
    )
