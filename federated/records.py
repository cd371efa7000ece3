"""What server and clients send each other: the one module that knows the keys.

A training message holds an `ArrayRecord` `"arrays"` and a `ConfigRecord` `"config"`;
its reply an `ArrayRecord` `"arrays"` with the same keys and a `MetricRecord`
`"metrics"`. Each array is one weight of the Keras model, under the key of
`weight_keys`. Strengths of penalties go down in the config; what was measured comes
up in the metrics.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
NUM_EXAMPLES = "num-examples"
ROUND = "server-round"  # Flower's
MU = "proximal-mu"  # FedProx's, Flower's
STRENGTHS = "strengths"
EPOCHS = "epochs"
PERSONAL = "personal"  # keys of the weights that stay at the client
CLIENT = "client"
CLIENTS = "clients"
HOSTED = "hosted"
OPTIMIZER = "optimizer"  # of `federated.optimizers`, in the place of the model's
BEFORE = "steps-before"  # the sum of the optimizer's steps in the rounds before
TAKEN = "steps"  # the sum of those in this round
MEASURE = "measure"  # fields of `kerasreg.callbacks.Unit` that clients measure
MEASURED = "measured"


def weight_keys(model):
    """A key for each weight of a model: its place, and its path for people.

    The place alone identifies it: a layer that the user makes outside of
    `build_model` can have another name in another process.

    Args:
        model: A built `keras.Model`.

    Returns:
        A list of strings, in the order of `model.weights`.

    Example:

    >>> import keras
    >>> from federated.records import weight_keys
    >>> layer = keras.layers.Dense(1, name="head")
    >>> weight_keys(keras.Sequential([keras.Input((2,)), layer], name="model"))
    ['000/model/head/kernel', '001/model/head/bias']
    """
    return [f"{i:03d}/{weight.path}" for i, weight in enumerate(model.weights)]


def place(key):
    """The place of a weight in `model.weights`, from its key."""
    return int(key.partition("/")[0])


def is_variance(key):
    """Whether a weight is a variance of Keras's normalization layers, by its key.

    Args:
        key: Its key, or its path.
    """
    return key.rpartition("/")[2] in ("moving_variance", "variance")


def write_arrays(keys, arrays):
    """An `ArrayRecord` of NumPy arrays.

    Args:
        keys: List of strings.
        arrays: List of arrays, as many.
    """
    return ArrayRecord(
        {k: Array(_writable(a)) for k, a in zip(keys, arrays, strict=True)}
    )


def _writable(array):
    """The array, of a dtype that NumPy writes: bfloat16 is none."""
    array = np.asarray(array)
    return array.astype("float32") if array.dtype.isbuiltin == 2 else array


def typed_as(arrays, sent):
    """Arrays in the dtypes that were sent: a mean of integers is a float.

    Args:
        arrays: `ArrayRecord`.
        sent: `ArrayRecord` with the same keys, or some.
    """
    wrong = {k for k, a in sent.items() if k in arrays and arrays[k].dtype != a.dtype}
    if not wrong:
        return arrays
    return ArrayRecord(
        {
            key: Array(rounded(array.numpy(), sent[key].dtype))
            if key in wrong
            else array
            for key, array in arrays.items()
        }
    )


def rounded(array, dtype):
    """An array in another dtype: integers are rounded, not cut off.

    Args:
        array: Array.
        dtype: Name of a dtype.
    """
    if not np.issubdtype(np.dtype(dtype), np.inexact):  # booleans by the majority
        array = np.rint(array)
    return np.asarray(array, dtype)  # of a scalar, `rint` makes no array


def read_arrays(record):
    """The NumPy arrays of an `ArrayRecord`, a dict by key, in its order."""
    return {key: array.numpy() for key, array in record.items()}


def write_strengths(config, strengths):
    """Put the strengths of penalties into the config that goes to the clients.

    Args:
        config: `ConfigRecord`.
        strengths: Dict from the key of a weight to its strength.
    """
    config[f"{STRENGTHS}.keys"] = list(strengths)
    config[f"{STRENGTHS}.values"] = [float(s) for s in strengths.values()]


def read_strengths(config):
    """The strengths in a config, a dict from the key of a weight; may be empty."""
    keys = config.get(f"{STRENGTHS}.keys", [])
    return dict(zip(keys, config.get(f"{STRENGTHS}.values", []), strict=True))


def write_measured(units):
    """A `ConfigRecord` of what a client measured.

    Args:
        units: Dict from the key of a weight to a dict of numbers by field; `None` for
            what could not be measured.
    """
    fields = sorted({name for values in units.values() for name in values})
    record = ConfigRecord({"keys": list(units)})
    for name in fields:
        numbers = [values[name] for values in units.values()]
        record[name] = [float("nan") if n is None else float(n) for n in numbers]
    return record


def read_measured(content):
    """What a client measured: a dict from the key of a weight to numbers by field.

    Args:
        content: `RecordDict` of the reply.
    """
    record = content.get(MEASURED, {"keys": []})
    keys = record["keys"]
    fields = [n for n in record if n != "keys" and len(record[n]) == len(keys)]
    return {
        key: {name: record[name][i] for name in fields} for i, key in enumerate(keys)
    }


def write_metrics(num_examples, logs):
    """A `MetricRecord` of a client.

    Args:
        num_examples: Number of its examples, the weight of its reply.
        logs: Dict from name to number.
    """
    numbers = {name: float(value) for name, value in logs.items()}
    return MetricRecord({NUM_EXAMPLES: int(num_examples), **numbers})


def read_metrics(content):
    """The numbers of a reply by name, without its number of examples.

    Args:
        content: `RecordDict` of the reply.
    """
    numbers = {}
    for record in content.metric_records.values():
        numbers.update({k: v for k, v in record.items() if k != NUM_EXAMPLES})
    return numbers


def size_of(content):
    """Bytes of the arrays in a `RecordDict`, as they are sent, masked ones too."""
    arrays = sum(
        len(array.data)
        for record in content.array_records.values()
        for array in record.values()
    )
    masked = sum(
        len(value)
        for record in content.config_records.values()
        for values in record.values()
        for value in (values if isinstance(values, list) else [])
        if isinstance(value, bytes)
    )
    return arrays + masked


def copied(content):
    """A `RecordDict` whose records can be changed without a change in others."""
    return RecordDict({name: type(r)(dict(r)) for name, r in content.items()})
