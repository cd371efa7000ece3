"""What server and clients send each other: the one module that knows the keys.

A training message holds an `ArrayRecord` `"arrays"` and a `ConfigRecord` `"config"`;
its reply an `ArrayRecord` `"arrays"` with the same keys and a `MetricRecord`
`"metrics"`. Each array is one weight of the Keras model, under the key of
`weight_keys`. Strengths of penalties go down in the config; what was measured comes
up in the metrics.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

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


def write_arrays(keys, arrays):
    """An `ArrayRecord` of NumPy arrays.

    Args:
        keys: List of strings.
        arrays: List of arrays, as many.
    """
    return ArrayRecord(
        {k: Array(np.asarray(a)) for k, a in zip(keys, arrays, strict=True)}
    )


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
    """Bytes of the arrays in a `RecordDict`, as they are sent."""
    return sum(
        len(array.data)
        for record in content.array_records.values()
        for array in record.values()
    )


def copy_config(config):
    """A copy of a `ConfigRecord`, so that rounds do not write into one another's."""
    return ConfigRecord(dict(config))
