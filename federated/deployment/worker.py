"""Answers the messages of a node, all in one process.

Flower starts a process for each message, which imports TensorFlow and traces the model
anew each time. This one asks the node for messages as Flower's own processes do, and
gives them to `federated.client_app`. The code that came with the run stays where it is.
"""

import contextlib
import os
import pathlib
import re
import sys
import threading
import time
import traceback

import numpy as np
from flwr.app import Message
from flwr.app.error import Error
from flwr.proto.runtime_pb2 import AcquireTaskRequest  # the API has no public client
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import (
    pull_task_input,
    push_message,
    push_task_output,
)

from federated import checkpoint, records
from federated.client_app import FAILED, REFUSED, answer, app
from federated.task import load_task, named_task

_KINDS = ("train", "evaluate", "query")


class Worker:
    """Answers the messages of a node for one task.

    Args:
        task: Name of the task's module.
        address: Host and port of the node's Runtime API.
        secret: Bytes that the node knows its worker by.
        kept: Path of the file for the weights that stay at the site; `None` to have
            them in memory alone.
    """

    def __init__(self, task, address, secret, kept=None):
        self._task = task
        self._epochs = load_task(task).epochs
        self._kept = kept
        self._address = address
        authentic = SuperExecAuthHttpInterceptor(
            master_secret=secret,
            protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
        )
        self._client = self._connect("SuperExec", authentic)

    def _connect(self, name, interceptor):
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # it never leaves this machine
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(name), interceptor],
            retry_invoker=make_simple_http_retry_invoker(),
        )

    def work(self):
        """Answer the next message, if there is one.

        Returns:
            Whether there was.
        """
        kinds = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        found = self._client.AcquireTask(kinds)
        if not (found.HasField("task") and found.token):
            return False
        token = RuntimeTokenHttpInterceptor(found.token)
        with contextlib.closing(self._connect("flwr-clientapp", token)) as client:
            self._answer(client)
        return True

    def _answer(self, client):
        beating = HeartbeatSender(make_task_heartbeat_fn_http(client))
        beating.start()
        context, status, why = None, "failed", "the worker ended"
        try:
            message, context, _, _ = pull_task_input(client)
            self._restore(context)
            reply = self._timed(message, context)
            self._keep(context)
            push_message(client, reply, context)
            status, why = "completed", ""
        except KeyboardInterrupt:  # Flower's sign that the run has ended
            why = "the run has ended"
        finally:
            push_task_output(client, context, status, why)
            if beating.is_running:
                beating.stop()

    def _restore(self, context):
        """What Flower's node forgets when it ends."""
        if self._kept and not context.state and self._kept.exists():
            try:
                context.state = checkpoint.read(self._kept)["state"]
            except Exception as error:  # whatever a file can be
                aside = self._kept.with_suffix(".unreadable")
                self._kept.rename(aside)
                print(f"{aside} cannot be read: {error!r}", flush=True)

    def _keep(self, context):
        if self._kept and context.state:
            try:
                kept = {"task": self._task, "state": context.state}
                checkpoint.write(self._kept, kept)
            except OSError as error:
                print(f"{self._kept} cannot be written: {error}", flush=True)

    def _timed(self, message, context):
        """The answer, and a line of text about it."""
        start = time.monotonic()
        config = message.content.get(records.CONFIG, {})
        which = f"round {config[records.ROUND]}: " if records.ROUND in config else ""
        what = f"{which}{message.metadata.message_type}"
        print(what, flush=True)
        reply = self.reply(message, context)
        if reply.has_error():
            print(f"{what} failed: {reply.error.reason}", flush=True)
            reply = _discreet(reply, message)
        else:
            print(f"{what} took {time.monotonic() - start:.1f} s", flush=True)
        return reply

    def reply(self, message, context):
        """The answer to a message.

        Args:
            message: `flwr.app.Message`.
            context: `flwr.app.Context` of the node.
        """
        task, kind = context.run_config.get("task"), message.metadata.message_type
        config = message.content.get(records.CONFIG, {})
        epochs = np.max(config.get(records.EPOCHS, 0), initial=0)
        if task != self._task:
            why = f"this site takes part in {self._task!r}, not in {task!r}"
        elif kind.partition(".")[0] not in _KINDS or kind.endswith(".hosted"):
            why = f"this site does not answer {kind!r}"
        elif epochs > self._epochs:
            why = f"this site trains {self._epochs} epochs a round, not {epochs}"
        else:
            # Not the settings that a run can have: how much of what it trains on is
            # the site's own affair.
            context.run_config = {"task": self._task}
            return answer(app, message, context)
        return Message(Error(REFUSED, why), reply_to=message)


def _discreet(reply, message):
    """An error for the server, without its text, which may have data in it."""
    if reply.error.code != FAILED:
        return reply
    kind = reply.error.reason.partition(":")[0]
    kind = kind if re.fullmatch(r"[\w.]+", kind) else "Error"
    why = f"{kind} (the site's own output says more)"
    return Message(Error(FAILED, why), reply_to=message)


def _check(task, client, clients):
    """Raise what keeps the site from taking part: its model and its data are made."""
    checked = named_task({"task": task}, clients)
    checked.model()
    checked.data(client)


def _end_with_parent():
    """End with the command that started this process, in whatever it is doing."""
    sys.stdin.read()
    os._exit(1)


def main():
    """Work until the parent ends: `TASK CLIENT CLIENTS ADDRESS SECRET [KEPT]`."""
    task, client, clients, address, secret, *kept = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = pathlib.Path(kept[0]) if kept else None
    try:
        _check(task, int(client), int(clients))
        if file and file.exists() and checkpoint.read(file)["task"] != task:
            raise ValueError(f"{file} has what was kept for another task")
    except Exception as error:  # whatever the task's own code raises
        traceback.print_exception(error)
        return 1
    worker = Worker(task, address, pathlib.Path(secret).read_bytes(), file)
    print(f"{task} and its data are loaded", flush=True)
    served = pathlib.Path(os.environ["KERASREG_SERVED"])
    served.with_name("ready").touch()
    while True:
        try:
            if worker.work():
                served.touch()
            else:
                time.sleep(0.2)
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # a node that has gone, and its message with it
            print(f"no answer to a message: {error!r}", flush=True)
            time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
