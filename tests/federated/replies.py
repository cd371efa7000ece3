"""Replies of clients as strategies get them, without any client."""

from flwr.app import Array, Message, RecordDict

from federated import records
from federated.client_app import client_message
from federated.grids import ClientGrid, identify


def grid(clients=2):
    """A grid of so many clients, which strategies sample from."""
    identify()
    return ClientGrid(clients)


def reply(arrays, client=0, examples=10, kind="train", **metrics):
    """A client's reply.

    Args:
        arrays: Dict from key to array.
        client: Its number.
        examples: Its number of examples.
        kind: "train" or "evaluate".
        **metrics: Numbers.
    """
    identify()
    asked = Message(RecordDict(), client, kind)
    content = {records.METRICS: records.write_metrics(examples, metrics)}
    if arrays:
        content[records.ARRAYS] = records.write_arrays(arrays, arrays.values())
    return Message(
        RecordDict(content), reply_to=client_message(asked, RecordDict(), kind, client)
    )


def sent(model):
    """The `ArrayRecord` of a model, as a run begins with."""
    return records.write_arrays(records.weight_keys(model), model.get_weights())


def as_arrays(record):
    """The arrays of an `ArrayRecord`, a list."""
    return [array.numpy() for array in record.values()]


__all__ = ["Array", "as_arrays", "grid", "reply", "sent"]
