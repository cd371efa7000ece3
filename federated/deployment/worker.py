"""Answers the messages of a node, all in one process.

Flower starts a process for each message, which imports TensorFlow and traces the model
anew each time. This one asks the node for messages as Flower's own processes do, and
gives them to `federated.client_app`. The code that came with the run stays where it is.
"""

import contextlib
import os
import pathlib
import sys
import time

from flwr.app import Message
from flwr.app.error import Error
from flwr.proto.runtime_pb2 import AcquireTaskRequest  # the API has no public client
from flwr.supercore.app_utils import start_parent_process_monitor
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
from federated.client_app import FAILED, answer, app
from federated.task import load_task

_KINDS = ("train", "evaluate", "query")
_REFUSED = 4  # code of the error of a site that does not take part


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
            context.state = checkpoint.read(self._kept)

    def _keep(self, context):
        if self._kept and context.state:
            checkpoint.write(self._kept, context.state)

    def _timed(self, message, context):
        """The answer, and a line of text about it."""
        start = time.monotonic()
        reply = self.reply(message, context)
        config = message.content.get(records.CONFIG, {})
        which = f"round {config[records.ROUND]}: " if records.ROUND in config else ""
        what = f"{which}{message.metadata.message_type}"
        print(what, flush=True)
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
        if task != self._task:
            why = f"this site takes part in {self._task!r}, not in {task!r}"
        elif kind.partition(".")[0] not in _KINDS or kind.endswith(".hosted"):
            why = f"this site does not answer {kind!r}"
        else:
            return answer(app, message, context)
        return Message(Error(_REFUSED, why), reply_to=message)


def _discreet(reply, message):
    """An error for the server, without its text, which may have data in it."""
    if reply.error.code != FAILED:
        return reply
    kind = reply.error.reason.partition(":")[0]
    why = f"{kind} (the site's own output says more)"
    return Message(Error(FAILED, why), reply_to=message)


def main():
    """Work until the parent ends: `worker PARENT TASK ADDRESS SECRET [KEPT]`."""
    parent, task, address, secret, *kept = sys.argv[1:]
    start_parent_process_monitor(int(parent))
    try:
        load_task(task)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, ImportError) and error.name != task:
            raise
        print(f"failed: {error}", file=sys.stderr)
        return 1
    file = pathlib.Path(kept[0]) if kept else None
    worker = Worker(task, address, pathlib.Path(secret).read_bytes(), file)
    print(f"ready to take part in {task}", flush=True)
    served = pathlib.Path(os.environ["KERASREG_SERVED"])
    with contextlib.suppress(KeyboardInterrupt):
        while os.getppid() == int(parent):
            if worker.work():
                served.touch()
            else:
                time.sleep(0.2)
    return 130


if __name__ == "__main__":
    sys.exit(main())
