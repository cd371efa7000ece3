"""What a site's worker answers, and what it keeps to itself."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from federated import checkpoint
from federated.deployment.worker import Worker

TASK = "tests.deployment.task"


@pytest.fixture
def worker():
    return Worker(TASK, "127.0.0.1:1", b"secret")


def ask(worker, kind, config=None, task=TASK):
    content = RecordDict() if config is None else RecordDict({"config": config})
    context = Context(
        run_id=1,
        node_id=1,
        node_config={"partition-id": 0, "num-partitions": 2},
        state=RecordDict(),
        run_config={"task": task},
    )
    message = Message(content, dst_node_id=1, message_type=kind)
    return worker._timed(message, context)


@pytest.fixture(autouse=True)
def _identified():
    from federated.grids import identify

    identify()


def test_it_says_who_it_is(worker):
    reply = ask(worker, "query")
    assert dict(reply.content["config"]) == {"client": 0, "clients": 2}


def test_another_task_is_refused(worker, capsys):
    """The name of a module is the server's to choose; which one runs is the site's."""
    reply = ask(worker, "query", task="os")
    assert reply.error.reason == f"this site takes part in {TASK!r}, not in 'os'"
    assert "query failed: this site takes part" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["train.hosted", "evaluate.hosted", "query.hosted"])
def test_other_messages_are_refused(worker, kind):
    """`hosted` would have it read a pickled task from a path that the server names."""
    reply = ask(worker, kind, ConfigRecord({"task": "/tmp/evil"}))
    assert reply.error.reason == f"this site does not answer {kind!r}"


def with_note(error, note):
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("patient 4711 is too old"), "ValueError"),
        (with_note(ValueError("bad"), "patient 4711: too old"), "ValueError"),
        (KeyError("patient 4711"), "KeyError"),
        (SyntaxError("patient 4711"), "SyntaxError"),
        (ValueError(), "ValueError"),
        (type("patient 4711", (Exception,), {"__module__": "a"})("x"), "Error"),
    ],
)
def test_the_text_of_an_error_stays_at_the_site(worker, monkeypatch, error, kind):
    from federated import client_app

    def fail(context):
        raise error

    monkeypatch.setattr(client_app, "_node_app", fail)
    reply = ask(worker, "train", ConfigRecord({"server-round": 3}))
    assert reply.error.reason == f"{kind} (the site's own output says more)"


def test_the_site_itself_can_read_it(worker, monkeypatch, capsys):
    from federated import client_app

    def fail(context):
        raise ValueError("patient 4711 is too old")

    monkeypatch.setattr(client_app, "_node_app", fail)
    ask(worker, "train", ConfigRecord({"server-round": 3}))
    assert capsys.readouterr().out == (
        "round 3: train\nround 3: train failed: ValueError: patient 4711 is too old\n"
    )


def test_settings_are_the_site_s_own(worker, monkeypatch):
    """By a split that leaves one example, a server could read it off the weights."""
    from federated import client_app

    seen = []
    monkeypatch.setattr(client_app, "_node_app", lambda c: seen.append(c.run_config))
    context = Context(1, 1, {"partition-id": 0, "num-partitions": 2}, RecordDict(), {})
    context.run_config = {"task": TASK, "validation-split": 0.99, "epochs": 1000}
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    worker.reply(message, context)
    assert seen == [{"task": TASK}]


def test_more_epochs_than_the_task_has_are_refused(worker):
    reply = ask(worker, "train", ConfigRecord({"server-round": 1, "epochs": [2, 50]}))
    assert reply.error.reason == "this site trains 2 epochs a round, not 50"


def test_what_stays_at_the_site_outlives_the_node(tmp_path):
    """Flower keeps it in memory; a new node has an empty state."""
    file = tmp_path / "kept.npz"
    worker = Worker(TASK, "127.0.0.1:1", b"secret", file)
    state = RecordDict({"personal": ArrayRecord({"w": Array(np.arange(3.0))})})
    context = Context(1, 1, {}, state, {})
    worker._keep(context)
    assert checkpoint.read(file)["task"] == TASK
    other = Context(2, 2, {}, RecordDict(), {})
    Worker(TASK, "127.0.0.1:1", b"secret", file)._restore(other)
    assert other.state["personal"]["w"].numpy().tolist() == [0.0, 1.0, 2.0]
    newer = RecordDict({"personal": ArrayRecord({"w": Array(np.zeros(3))})})
    present = Context(3, 3, {}, newer, {})
    worker._restore(present)
    assert present.state["personal"]["w"].numpy().tolist() == [0.0, 0.0, 0.0]
    Worker(TASK, "127.0.0.1:1", b"secret")._keep(context)  # nothing is written
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]


def test_a_file_that_cannot_be_read_is_put_aside(tmp_path, capsys):
    file = tmp_path / "kept.npz"
    file.write_text("cut off")
    context = Context(1, 1, {}, RecordDict(), {})
    Worker(TASK, "127.0.0.1:1", b"secret", file)._restore(context)
    assert not context.state
    assert (tmp_path / "kept.unreadable").read_text() == "cut off"
    assert "cannot be read" in capsys.readouterr().out


def test_a_disk_that_is_full_does_not_end_the_site(tmp_path, capsys):
    file = tmp_path / "missing" / "kept.npz"
    state = RecordDict({"personal": ArrayRecord({"w": Array(np.arange(3.0))})})
    worker = Worker(TASK, "127.0.0.1:1", b"secret", file)
    worker._keep(Context(1, 1, {}, state, {}))
    assert "cannot be written" in capsys.readouterr().out
