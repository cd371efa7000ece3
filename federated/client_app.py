"""The client's side: Flower's `ClientApp`, `federated.client_app:app`.

It lives in a module that every worker process can import, so the model that it keeps
is built and traced once a process, not once a message.
"""

import copy
import functools
import pathlib
import pickle
import re
import traceback

import keras
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from federated import packing, records
from federated.seeds import unpredictable
from federated.task import named_task
from federated.trainer import Trainer

FAILED = 1  # code of the errors of single clients
REFUSED = 4  # of a site that does not take part, until somebody changes that


def make_client_app(task):
    """The `ClientApp` of one client of a task, with the task's mods around it.

    It answers `train`, `evaluate` and `query` (with the number of the client). Which
    client it is, Flower tells it by `partition-id` in the node's config.

    Args:
        task: A `federated.task.Task`.
    """
    app, player = ClientApp(), _Player(task)

    @app.train(mods=[_unpredictable, *task.mods] if task.mods else [])
    def train(message, context):
        return _train(player, message, context)

    @app.evaluate()
    def evaluate(message, context):
        return _evaluate(player, message, context)

    return app


def _unpredictable(message, context, call_next):
    """A mod whose inner mods draw noise that no seed repeats."""
    with unpredictable():
        return call_next(message, context)


class _Player:
    """What an app keeps from client to client: the trainer, and what it was sent."""

    def __init__(self, task):
        self._task = task
        self._sent: tuple = ()
        self._weights: dict = {}

    @functools.cached_property
    def trainer(self):
        """Made when the first client comes, in the process where it comes."""
        return Trainer(self._task)

    def received(self, record):
        """The weights in a record, which are read once for all that share them."""
        sent = tuple(array.data for array in record.values())  # bytes do not change
        known = len(sent) == len(self._sent) and list(record) == list(self._weights)
        if not known or any(a is not b for a, b in zip(sent, self._sent, strict=True)):
            self._weights = {
                key: keras.ops.convert_to_tensor(array)
                for key, array in records.read_arrays(record).items()
            }
            self._sent = sent
        return dict(self._weights)


def _train(player, message, context):
    config = message.content[records.CONFIG]
    sent = message.content[records.ARRAYS]
    arrays = player.received(sent)
    kept = config.get(records.PERSONAL, [])
    arrays.update(_own(context, kept))
    weights, total, logs = player.trainer.train(
        arrays,
        client_of(context),
        config[records.ROUND],
        mu=config.get(records.MU, 0.0),
        strengths=records.read_strengths(config),
        epochs=config.get(records.EPOCHS),
        optimizer=config.get(records.OPTIMIZER),
        before=config.get(records.BEFORE, 0.0),
        measure=config.get(records.MEASURE, ()),
    )
    trained = dict(zip(sent, _in_order(sent, weights), strict=True))
    if kept:
        own = {key: trained[key] for key in kept}
        context.state[records.PERSONAL] = records.write_arrays(own, own.values())
        # What stays at the client is answered by what the server had sent.
        trained.update({key: sent[key].numpy() for key in kept})
    content = {
        records.ARRAYS: records.write_arrays(trained, trained.values()),
        records.METRICS: records.write_metrics(total, logs),
    }
    if player.trainer.measured:
        measured = records.write_measured(player.trainer.measured)
        content[records.MEASURED] = measured
    return Message(RecordDict(content), reply_to=message)


def _evaluate(player, message, context):
    config = message.content[records.CONFIG]
    arrays = player.received(message.content[records.ARRAYS])
    arrays.update(_own(context, config.get(records.PERSONAL, [])))
    total, logs = player.trainer.evaluate(
        arrays,
        client_of(context),
        config[records.ROUND],
        strengths=records.read_strengths(config),
    )
    content = {records.METRICS: records.write_metrics(total, logs)}
    return Message(RecordDict(content), reply_to=message)


def _own(context, keys):
    """The weights that a client keeps for itself, from the last time it trained."""
    if not keys or records.PERSONAL not in context.state:
        return {}
    own = records.read_arrays(context.state[records.PERSONAL])
    return {key: own[key] for key in keys if key in own}


def _in_order(keys, weights):
    return [weights[records.place(key)] for key in keys]


def client_of(context):
    """The number of the client that a context belongs to.

    Raises:
        ValueError: If the node does not say.
    """
    return _of_node(context, "partition-id")


def _of_node(context, name):
    if name not in context.node_config:
        raise ValueError(
            f"The node's config has no `{name}`. Expected "
            '`--node-config "partition-id=0 num-partitions=2"`.'
        )
    return int(context.node_config[name])


app = ClientApp()


@app.train()
def _train_node(message, context):
    return _as_node(message, context)


@app.evaluate()
def _evaluate_node(message, context):
    return _as_node(message, context)


@app.query()
def _query_node(message, context):
    return answer(_who, message, context)


def _who(message, context):
    """Which client the node is, and how many there are."""
    numbers = {
        records.CLIENT: client_of(context),
        records.CLIENTS: _of_node(context, "num-partitions"),
    }
    config = ConfigRecord(numbers)
    return Message(RecordDict({records.CONFIG: config}), reply_to=message)


@app.train("hosted")
def _host_train(message, context):
    return _host(message, context, "train")


@app.evaluate("hosted")
def _host_evaluate(message, context):
    return _host(message, context, "evaluate")


def _as_node(message, context):
    """Answer for the client that the node is, by arrays that are packed.

    What a client raises is its reply: Flower would add pages of its own to it.
    """
    reply = answer(_unpacking, message, context)
    if not reply.has_error():
        reply.content = packing.pack(reply.content)
    return reply


def _unpacking(message, context):
    message.content = packing.unpack(message.content)
    return _node_app(context)(message, context)


def _node_app(context):
    """The app of a node that is a client of its own, by the task that the run names."""
    clients = _of_node(context, "num-partitions")
    return _named_app(tuple(sorted(context.run_config.items())), clients)


@functools.lru_cache(maxsize=1)
def _named_app(settings, clients):
    return make_client_app(named_task(dict(settings), clients))


@functools.lru_cache(maxsize=1)
def _stored_app(path):
    return make_client_app(pickle.loads(pathlib.Path(path).read_bytes()))


def _host(message, context, kind):
    """Let one node play many clients, each as if it were a node of its own.

    Every client gets its own message, context and mods; an error of one does not
    reach the others.
    """
    hosted = message.content[records.HOSTED]
    inner = _stored_app(hosted["task"])
    replies = RecordDict()
    for client in hosted[records.CLIENT]:
        content = RecordDict(
            {
                name: record
                for name, record in message.content.items()
                if name != records.HOSTED and "/" not in name
            }
        )
        asked = client_message(message, content, kind, client)
        own = client_context(context, client, hosted["num-clients"])
        for name, record in message.content.items():
            if name.startswith(f"{client}/"):
                own.state[name.partition("/")[2]] = record
        reply = answer(inner, asked, own)
        if reply.has_error():
            error = ConfigRecord({"reason": reply.error.reason})
            replies[f"{client}/error"] = error
            continue
        for name, record in reply.content.items():
            replies[f"{client}/reply/{name}"] = record
        for name, record in own.state.items():
            replies[f"{client}/state/{name}"] = record
    return Message(replies, reply_to=message)


def client_message(message, content, kind, client):
    """A message to one client, which it can change, as if it came from the server."""
    metadata = copy.copy(message.metadata)
    metadata.dst_node_id = client
    metadata.message_type = kind
    content = records.copied(content)
    return Message(content, metadata=metadata)  # type: ignore[call-overload]


def client_context(context, client, num_clients, state=None):
    """The context of one client, as its own node would have it."""
    return Context(
        run_id=context.run_id,
        node_id=client,
        node_config={"partition-id": client, "num-partitions": num_clients},
        state=RecordDict() if state is None else state,
        run_config=context.run_config,
    )


def plain(text):
    """Text without the escape codes that Keras has in messages."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def answer(app, message, context):
    """A client's reply; whatever it raises becomes an error message, as at Flower."""
    try:
        return app(message, context)
    except Exception as error:
        # Not the notes of an exception, which Python would print behind it.
        lines = traceback.TracebackException(type(error), error, None)
        lines.__notes__ = None
        where = plain("".join(lines.format_exception_only()).strip())
        return Message(Error(code=FAILED, reason=where), reply_to=message)
