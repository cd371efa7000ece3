"""Who has which examples: data in memory, dealt out to the clients of a simulation.

Each function takes a tuple `(x, y)` or `(x, y, sample_weight)` of arrays with one row
an example (or dicts or lists of such arrays), and returns `federated.Clients`. Every
row goes to one client, and none is copied until it is asked for.
"""

import keras
import numpy as np

from federated.clients import Clients
from federated.seeds import generator
from kerasreg.regularizers.base import check_count, check_number

_STREAM = 2**31  # apart from the random numbers of rounds and clients
_MOST_VALUES = 20
_GROUPS = 10


def iid(data, num_clients, *, seed=0):
    """Deal the rows out at random, in parts of equal size.

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)`.
        num_clients: Number of clients.
        seed: Non-negative integer.

    Returns:
        `Clients`, whose sizes differ by one at most.

    Raises:
        TypeError, ValueError: If an argument is none of those, or there are more
            clients than rows.

    Example:

    >>> import numpy as np
    >>> from federated import partition
    >>> clients = partition.iid((np.arange(10.0), np.arange(10) % 2), 3)
    >>> [clients.num_examples(k) for k in range(3)]
    [4, 3, 3]
    """
    total = _rows(data, num_clients)
    order = generator(seed, _STREAM).permutation(total)
    return Clients(data, np.array_split(order, num_clients))


def dirichlet(data, num_clients, alpha=0.5, *, min_size=1, labels=None, seed=0):
    """Give clients different labels: each label is shared out by a Dirichlet draw.

    The shares of the clients in the rows of a label are drawn from a symmetric
    Dirichlet distribution with concentration `alpha`, one draw for each label. With
    `alpha = 0.1` a client has a few labels, with `alpha = 100` about all of them alike.
    Clients left with fewer than `min_size` rows take some, at random, from those that
    have most.

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)`.
        num_clients: Number of clients.
        alpha: Positive number.
        min_size: Fewest rows of a client.
        labels: Array with a label for each row; by default `y`, or the classes of
            one-hot rows. Numbers with a fraction that take more than 20 values, the
            targets of a regression, are grouped by their deciles.
        seed: Non-negative integer.

    Returns:
        `Clients`.

    Raises:
        TypeError, ValueError: If an argument is none of those, `y` is no label, or
            there are fewer rows than `min_size` for each client.

    Example:

    >>> import numpy as np
    >>> from federated import partition
    >>> y = np.arange(1000) % 10
    >>> clients = partition.dirichlet((np.zeros((1000, 2)), y), 5, alpha=0.1)
    >>> sum(clients.num_examples(k) for k in range(5))
    1000

    Reference: Yurochkin et al. 2019, "Bayesian nonparametric federated learning of
    neural networks", section 4; Hsu, Qi & Brown 2019 draw by client instead.
    """
    total = _rows(data, num_clients, min_size)
    alpha = check_number("alpha", alpha, above=0)
    codes, names = labels_of(data, labels)
    rng = generator(seed, _STREAM)
    owner = np.empty(total, "int64")
    for label in range(len(names)):
        rows = rng.permutation(np.flatnonzero(codes == label))
        shares = rng.dirichlet(np.full(num_clients, alpha))
        owner[rows] = _by_shares(shares, len(rows))
    return _owned(data, owner, num_clients, min_size, rng)


def shards(data, num_clients, shards_per_client=2, *, labels=None, seed=0):
    """Give each client a few labels only: FedAvg's "2 digits a client".

    The rows of each label are cut into shards, and every client gets
    `shards_per_client` of them at random, so it has at most that many labels. All
    shards have about the same size: the largest is as small as can be. (FedAvg cuts the
    sorted rows into shards of equal size, some of which have two labels.)

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)`.
        num_clients: Number of clients.
        shards_per_client: How many shards each gets.
        labels: Array with a label for each row, see `dirichlet`.
        seed: Non-negative integer.

    Returns:
        `Clients`.

    Raises:
        TypeError, ValueError: If an argument is none of those, or there are fewer
            shards than labels.

    Example:

    >>> import numpy as np
    >>> from federated import partition
    >>> y = np.arange(1000) % 10
    >>> clients = partition.shards((np.zeros((1000, 2)), y), 20)
    >>> max(len(np.unique(clients[k][1])) for k in range(20))
    2

    Reference: McMahan et al. 2017, "Communication-efficient learning of deep networks
    from decentralized data", section 3.
    """
    check_count("shards_per_client", shards_per_client)
    _rows(data, num_clients, shards_per_client)
    codes, names = labels_of(data, labels)
    sizes = np.bincount(codes)
    number = num_clients * shards_per_client
    if len(names) > number:
        raise ValueError(
            "Invalid value for argument `shards_per_client`. Expected at least a shard "
            f"for each of {len(names)} labels. Received: {num_clients} clients with "
            f"shards_per_client={shards_per_client}"
        )
    cuts = np.ones(len(names), "int64")
    for _ in range(number - len(names)):
        cuts[np.argmax(sizes / cuts)] += 1  # the largest shards become smaller
    rng = generator(seed, _STREAM)
    pieces = [
        piece
        for label, parts in enumerate(cuts)
        for piece in np.array_split(
            rng.permutation(np.flatnonzero(codes == label)), parts
        )
    ]
    deal = rng.permutation(number).reshape(num_clients, shards_per_client)
    return Clients(data, [np.concatenate([pieces[i] for i in hand]) for hand in deal])


def quantity(data, num_clients, alpha=0.5, *, min_size=1, seed=0):
    """Give clients different numbers of rows, each a random sample of all.

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)`.
        num_clients: Number of clients.
        alpha: Positive number: the shares are drawn from a symmetric Dirichlet
            distribution with this concentration. The smaller, the more uneven.
        min_size: Fewest rows of a client.
        seed: Non-negative integer.

    Returns:
        `Clients`.

    Raises:
        TypeError, ValueError: If an argument is none of those, or there are fewer rows
            than `min_size` for each client.

    Example:

    >>> import numpy as np
    >>> from federated import partition
    >>> data = np.zeros((100, 2)), np.zeros(100)
    >>> clients = partition.quantity(data, 4, alpha=0.5, min_size=5)
    >>> min(clients.num_examples(k) for k in range(4)) >= 5
    True

    Reference: Li et al. 2022, "Federated learning on non-IID data silos: an
    experimental study", section IV.
    """
    total = _rows(data, num_clients, min_size)
    alpha = check_number("alpha", alpha, above=0)
    rng = generator(seed, _STREAM)
    shares = rng.dirichlet(np.full(num_clients, alpha))
    owner = rng.permutation(_by_shares(shares, total))
    return _owned(data, owner, num_clients, min_size, rng)


def by_column(data, column):
    """Make a client of each value of a column: a hospital, a speaker, a user.

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)`.
        column: Array with a number or a text for each row.

    Returns:
        `Clients`, in the sorted order of the values, which are their `names`.

    Raises:
        TypeError, ValueError: If `column` is no such array, or a value is missing.

    Example:

    >>> import numpy as np
    >>> from federated import partition
    >>> hospital = ["Bern", "Aarau", "Bern"]
    >>> clients = partition.by_column((np.arange(3.0), np.arange(3)), hospital)
    >>> clients.names, clients[1][0]
    (['Aarau', 'Bern'], array([0., 2.]))
    """
    total = _rows(data, 1)
    codes, names = _coded("column", column, total)
    owner = _split(codes, len(names))
    return Clients(data, owner, names=names)


def labels_of(data, labels=None):
    """The labels by which rows are told apart, as numbers from 0.

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)`.
        labels: Array with a label for each row, or `None` for those of `y`.

    Returns:
        An integer array, and the list of what its numbers stand for.

    Raises:
        ValueError: If there is not one label for each row.
    """
    total = len(keras.tree.flatten(data)[0])
    if labels is None:
        labels = data[1]
        if isinstance(labels, dict | list | tuple):
            raise ValueError(
                "Invalid value for argument `labels`. Expected an array with a label "
                "for each row, as y is a structure of several arrays. Received: "
                "labels=None"
            )
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] > 1 and _one_hot(labels):
            labels = labels.argmax(axis=1)
    labels = np.asarray(labels)
    if labels.shape == (total, 1):
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and len(np.unique(labels)) > _MOST_VALUES:
        edges = np.quantile(labels, np.arange(1, _GROUPS) / _GROUPS)
        codes, names = _coded("labels", np.searchsorted(edges, labels), total)
        limits = [-np.inf, *edges, np.inf]
        return codes, [f"{limits[i]:.3g} to {limits[i + 1]:.3g}" for i in names]
    return _coded("labels", labels, total)


def _one_hot(rows):
    return bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())


def _coded(argument, values, total):
    """Values as numbers from 0, and the sorted list of the distinct ones."""
    values = np.asarray(values)
    if values.shape != (total,):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected an array with a value "
            f"for each of {total} rows. Received: an array of shape {values.shape}"
        )
    missing = [v is None or v != v for v in values.tolist()]  # or NaN
    if any(missing):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a value for each row. "
            f"Received: none in {sum(missing)} of {total} rows"
        )
    names, codes = np.unique(values, return_inverse=True)
    return codes, names.tolist()


def _rows(data, num_clients, min_size=1):
    """The number of rows, which must be enough for the clients."""
    check_count("num_clients", num_clients)
    check_count("min_size", min_size)
    if not isinstance(data, list | tuple) or len(data) not in (2, 3):
        raise TypeError(
            "Invalid value for argument `data`. Expected a tuple (x, y) or "
            f"(x, y, sample_weight). Received: {type(data).__name__}"
        )
    total = len(keras.tree.flatten(data)[0])
    if num_clients * min_size > total:
        raise ValueError(
            f"Invalid value for argument `num_clients`. Expected at least {min_size} "
            f"row(s) for each client. Received: num_clients={num_clients} for {total} "
            "rows"
        )
    return total


def _by_shares(shares, total):
    """The owner of each of `total` rows in a row, by the shares of the owners."""
    ends = np.rint(np.cumsum(shares) * total).astype("int64")
    ends[-1] = total
    return np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0))


def _owned(data, owner, num_clients, min_size, rng):
    """The clients, once those with too few rows have taken some."""
    sizes = np.bincount(owner, minlength=num_clients)
    for client in np.flatnonzero(sizes < min_size):
        while sizes[client] < min_size:
            donor = sizes.argmax()
            owner[rng.choice(np.flatnonzero(owner == donor))] = client
            sizes[donor] -= 1
            sizes[client] += 1
    return Clients(data, _split(owner, num_clients))


def _split(owner, number):
    """The rows of each owner."""
    ends = np.cumsum(np.bincount(owner, minlength=number))
    return np.split(np.argsort(owner, kind="stable"), ends[:-1])
