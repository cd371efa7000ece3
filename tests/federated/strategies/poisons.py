"""Replies of honest clients and of one that is poisoned, of every kind."""

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord

from federated import records
from tests.federated import replies

HONEST, POISONED = 6, 2  # numbers of clients, and the number of the bad one
KERNEL, BIAS = "000/kernel", "001/bias"


ARRAYS = {KERNEL: np.ones((3, 2), "float32"), BIAS: np.zeros(2, "float32")}


def honest(client, server_round=1):
    """A client's reply: the same, however often it is asked for."""
    rng = np.random.default_rng([client, server_round])
    moved = {
        key: (a + 0.1 * rng.normal(size=a.shape)).astype("float32")
        for key, a in ARRAYS.items()
    }
    return replies.reply(moved, client, 10 + client, loss=rng.random())


def begin():
    """What the server sends."""
    return records.write_arrays(ARRAYS, ARRAYS.values())


def on_kernel(change):
    """Poison that replaces the kernel."""

    def poison(content):
        arrays = records.read_arrays(content[records.ARRAYS])
        arrays[KERNEL] = change(arrays[KERNEL])
        content[records.ARRAYS] = records.write_arrays(arrays, arrays.values())

    return poison


def _first(value):
    def change(kernel):
        kernel = kernel.copy()
        kernel[0, 0] = value
        return kernel

    return on_kernel(change)


def _keys(change):
    """Poison that changes the list of (key, array)."""

    def poison(content):
        pairs = change(list(content[records.ARRAYS].items()))
        content[records.ARRAYS] = ArrayRecord(dict(pairs))

    return poison


def _metrics(**changes):
    def poison(content):
        metrics = dict(content[records.METRICS])
        for name, value in changes.items():
            name = name.replace("_", "-")
            metrics.pop(name, None)
            if value is not None:
                metrics[name] = value
        content[records.METRICS] = MetricRecord(metrics)

    return poison


def _empty(content):
    for name in list(content):
        del content[name]


def _no_arrays(content):
    del content[records.ARRAYS]


def _no_metrics(content):
    del content[records.METRICS]


def _two_records(content):
    content["more"] = content[records.ARRAYS]


def _broken(content):
    array = Array(np.zeros((3, 2), "float32"))
    array.data = array.data[:-4]
    content[records.ARRAYS][KERNEL] = array


POISONS = {
    "NaN": (_first(np.nan), f"NaN or infinity in '{KERNEL[4:]}'"),
    "infinity": (_first(np.inf), f"NaN or infinity in '{KERNEL[4:]}'"),
    "shape": (
        on_kernel(lambda k: k.T),
        f"shape (2, 3) instead of (3, 2) of '{KERNEL[4:]}'",
    ),
    "scalar": (
        on_kernel(lambda k: k[0, 0]),
        f"shape () instead of (3, 2) of '{KERNEL[4:]}'",
    ),
    "float16": (
        on_kernel(lambda k: k.astype("float16")),
        f"dtype float16 instead of float32 of '{KERNEL[4:]}'",
    ),
    "integers": (
        on_kernel(lambda k: k.astype("int32")),
        f"dtype int32 instead of float32 of '{KERNEL[4:]}'",
    ),
    "missing weight": (
        _keys(lambda pairs: pairs[:1]),
        "the weights ['bias'] are missing",
    ),
    "unknown weight": (
        _keys(lambda pairs: [*pairs, ("002/other", pairs[0][1])]),
        "unknown weights ['other']",
    ),
    "wrong name": (
        _keys(lambda pairs: [("000/other", pairs[0][1]), *pairs[1:]]),
        f"the weights ['{KERNEL[4:]}'] are missing",
    ),
    "order": (_keys(lambda pairs: pairs[::-1]), "the weights are in another order"),
    "norm": (
        on_kernel(lambda k: k + 10.0),
        "the norm of its update, 24.6, is an outlier",
    ),
    "no examples": (_metrics(num_examples=0), "the number of examples is 0"),
    "negative examples": (_metrics(num_examples=-5), "the number of examples is -5"),
    "NaN examples": (_metrics(num_examples=np.nan), "the number of examples is nan"),
    "infinite examples": (
        _metrics(num_examples=10**400),
        "the number of examples is 1000",
    ),
    "list of examples": (_metrics(num_examples=[3]), "the number of examples is [3]"),
    "unsaid examples": (_metrics(num_examples=None), "the number of examples is None"),
    "absurd examples": (
        _metrics(num_examples=10**9),
        "the number of examples, 1e+09, is more than 100 times the median, ",
    ),
    "NaN metric": (_metrics(loss=np.nan), "NaN or infinity in the metric 'loss'"),
    "other metrics": (
        _metrics(loss=None),
        "other metrics than most clients: ['num-examples']",
    ),
    "empty": (_empty, "the records of arrays [] instead of one, 'arrays'"),
    "no metrics": (_no_metrics, "0 records of metrics instead of one"),
    "no arrays": (_no_arrays, "the records of arrays [] instead of one, 'arrays'"),
    "two records": (
        _two_records,
        "the records of arrays ['arrays', 'more'] instead of one, 'arrays'",
    ),
    "broken bytes": (_broken, "the weights cannot be read: "),
}


def poisoned(poison, server_round=1):
    """The bad client's reply."""
    reply = honest(POISONED, server_round)
    poison(reply.content)
    return reply
