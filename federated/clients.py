"""The clients of a simulation: who has which examples."""

import pathlib
from typing import Any

import keras
import numpy as np


class Clients:
    """The data of all clients: one set of arrays, and who has which rows of it.

    `clients[k]` is what client `k` has, and `len(clients)` their number. Partitioners
    (`federated.partition`) return one, and `simulate` makes one of a list of (x, y).

    Args:
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of arrays with one row an
            example; each may be a dict or list of such arrays.
        rows: List with an integer array, a boolean mask, or a slice for each client:
            its rows.
        names: List with a name for each client, such as those of hospitals; their
            numbers by default.

    Raises:
        ValueError: If there is no client, a client has no example, the arrays have
            different numbers of rows, or a mask another number.

    Example:

    >>> import numpy as np
    >>> from federated import Clients
    >>> clients = Clients((np.arange(4.0), np.arange(4) % 2), [[0, 2], [1, 3]])
    >>> len(clients), clients[1][0]
    (2, array([1., 3.]))
    """

    def __init__(self, data, rows, names=None):
        self.data = keras.tree.map_structure(_array, tuple(data))
        _check_rows("value for argument `data`", self.data)
        sizes = {len(a) for a in keras.tree.flatten(self.data)}
        if len(sizes) != 1:
            raise ValueError(
                "Invalid value for argument `data`. Expected arrays with the same "
                f"number of rows. Received: {sorted(sizes)} rows"
            )
        (self._total,) = sizes
        self.rows = [self._numbers(r) for r in rows]
        if not self.rows:
            raise ValueError(_NONE)
        empty = [k for k in range(len(self)) if not self.num_examples(k)]
        if empty:
            raise ValueError(f"The clients {empty} have no examples.")
        self.names = list(range(len(self)) if names is None else names)

    def _numbers(self, rows):
        if isinstance(rows, slice):
            return rows
        rows = np.asarray(rows)
        if rows.dtype != bool:
            return rows.astype("int64", copy=False)
        if rows.shape != (self._total,):
            raise ValueError(
                "Invalid value for argument `rows`. Expected masks with a value for "
                f"each of {self._total} rows. Received: a mask of shape {rows.shape}"
            )
        return np.flatnonzero(rows)

    @classmethod
    def from_list(cls, clients):
        """Make it of what each client has.

        Args:
            clients: List of `(x, y)` or `(x, y, sample_weight)`, one a client.

        Raises:
            TypeError: If it is no list, or a client's data no such tuple.
            ValueError: If clients' data differ in structure, in the shape of an
                example, or, within a client, in length.
        """
        if isinstance(clients, Clients):
            return clients
        _check_list(clients)
        if not clients:
            raise ValueError(_NONE)
        parts = [keras.tree.map_structure(_array, tuple(data)) for data in clients]
        ends = np.cumsum([_length(k, part) for k, part in enumerate(parts)])
        for k, part in enumerate(parts[1:], 1):
            _check_alike(k, parts[0], part)
        data = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        starts = [0, *ends[:-1]]
        return cls(data, [slice(a, b) for a, b in zip(starts, ends, strict=True)])

    def __len__(self):
        return len(self.rows)

    def __repr__(self):
        return f"<{len(self)} Clients with {self._total} rows of data>"

    def __getitem__(self, client):
        rows = self.rows[client]
        return keras.tree.map_structure(lambda a: np.asarray(a[rows]), self.data)

    def num_examples(self, client):
        """Number of examples of a client."""
        rows = self.rows[client]
        if isinstance(rows, slice):
            return len(range(*rows.indices(self._total)))
        return len(rows)

    def plot(self, labels=None):
        """Who has what, a `matplotlib` figure; see `federated.plots.partition`."""
        from federated.plots import partition as figure

        return figure(self, labels)

    def save(self, folder):
        """Write the arrays where other processes can map them into memory.

        Args:
            folder: Path of a folder.

        Returns:
            A `Clients` that reads them from there, and that pickles in a few bytes.
        """
        folder = pathlib.Path(folder)
        leaves = keras.tree.flatten(self.data)
        if any(leaf.dtype == object for leaf in leaves):
            raise TypeError(
                "The clients' data hold Python objects. Expected arrays of numbers or "
                "fixed-width strings."
            )
        for i, leaf in enumerate(leaves):
            np.save(folder / f"data{i}.npy", leaf)
        paths = [str(folder / f"data{i}.npy") for i in range(len(leaves))]
        structure = keras.tree.map_structure(lambda _: 0, self.data)
        return _Mapped(keras.tree.pack_sequence_as(structure, paths), self.rows)


class _Mapped(Clients):
    """Clients whose arrays lie in files, which all processes share."""

    def __init__(self, paths, rows):
        self.paths = paths
        super().__init__(
            keras.tree.map_structure(lambda path: np.load(path, mmap_mode="r"), paths),
            rows,
        )

    def __reduce__(self):
        return _Mapped, (self.paths, self.rows)


_NONE = "There is no client. Expected one or more. Received: 0"


def _array(values):
    # Of a memory-mapped file the map is kept.
    return values if isinstance(values, np.ndarray) else np.asarray(values)


def _check_list(clients):
    good = isinstance(clients, list | tuple) and all(
        isinstance(data, list | tuple) and len(data) in (2, 3) for data in clients
    )
    if not good:
        raise TypeError(
            "Invalid value for argument `clients`. Expected a list with a tuple (x, y) "
            "or (x, y, sample_weight) for each client, or what a partitioner of "
            f"federated.partition returns. Received: {_brief(clients)}"
        )


def _length(client, data):
    _check_rows(f"data of client {client}", data)
    sizes = {len(a) for a in keras.tree.flatten(data)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"Invalid data of client {client}. Expected arrays with the same number of "
            f"rows, one or more. Received: {sorted(sizes)} rows"
        )
    return sizes.pop()


def _check_rows(what, data):
    for path, leaf in _flatten_with_path(data):
        if not np.ndim(leaf):
            raise ValueError(
                f"Invalid {what}. Expected NumPy arrays with a row for each example: "
                f"lists count as several inputs. Received: a single value at {path}"
            )


def _check_alike(client, first, data):
    shapes: list[Any] = []
    for each in (first, data):
        shapes.append(
            [(path, leaf.shape[1:]) for path, leaf in _flatten_with_path(each)]
        )
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Invalid data of client {client}. Expected examples of the shapes of "
            f"client 0, {shapes[0]}. Received: {shapes[1]}"
        )


def _flatten_with_path(data):
    return [
        ("/".join(map(str, path)), leaf)
        for path, leaf in keras.tree.flatten_with_path(data)
    ]


def _brief(value):
    text = repr(value)
    return text if len(text) < 200 else f"{type(value).__name__}, {text[:150]} ..."
