import json
import sys
import types

import keras
import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import FedAvg

from federated import History, Round, RoundError, server_app
from federated.__main__ import in_process, main
from federated.nodes import NodeGrid
from federated.server_app import serve
from federated.task import named_task
from tests.federated import tasks
from tests.federated.nodes import FakeGrid, Frozen

TASK = "tests.federated.tasks"
CONFIG = {"task": TASK, "num-server-rounds": 2, "min-clients": 1, "epochs": ""}


def same(a, b):
    return all(
        np.array_equal(x, y)
        for x, y in zip(a.model.get_weights(), b.model.get_weights(), strict=True)
    )


@pytest.fixture(scope="module")
def expected():
    """The run in one process."""
    return in_process(CONFIG, 4)


@pytest.mark.parametrize("seed", [1, 2])
def test_node_ids_do_not_matter(expected, seed):
    result = serve(NodeGrid(FakeGrid(CONFIG, 4, seed=seed)), CONFIG)
    assert same(result, expected)
    assert list(result.history)[1].clients == list(expected.history)[1].clients


def test_the_first_round_waits_for_all_nodes(expected):
    grid = NodeGrid(FakeGrid(CONFIG, 4, calls=3))
    assert list(grid.get_node_ids()) == [0, 1, 2, 3]
    assert same(serve(grid, CONFIG), expected)


def test_the_run_config_is_never_changed(expected):
    """The nodes' is frozen by `FakeGrid`: all of them would have failed."""
    result = serve(NodeGrid(FakeGrid(CONFIG, 4)), Frozen(CONFIG))
    assert all(not r.errors for r in result.history)


def test_the_app_reads_the_context(tmp_path):
    config = {**CONFIG, "history": str(tmp_path / "history.json"), "timeout": 60}
    context = Context(1, 1, {}, RecordDict(), config)
    server_app.app(FakeGrid(config, 2), context)
    rounds = json.loads((tmp_path / "history.json").read_text())
    assert sorted(History.from_json(rounds).rounds[-1].clients) == [0, 1]


def test_a_node_that_is_missing():
    fake = FakeGrid(CONFIG, 3)
    del fake.connected[next(iter(fake.connected))]
    with pytest.raises(TimeoutError) as caught:
        NodeGrid(fake, timeout=0.2)
    assert str(caught.value) == "Only the clients [1, 2] of 3 connected within 0.2 s."
    with pytest.raises(TimeoutError) as caught:
        NodeGrid(FakeGrid(CONFIG, 0), timeout=0.2)
    assert str(caught.value) == "Only the clients [] of any connected within 0.2 s."


@pytest.mark.parametrize("name", ["partition-id", "num-partitions"])
def test_a_node_that_does_not_say_who_it_is(name):
    fake = FakeGrid(CONFIG, 2)
    node = max(fake.connected)
    fake.connected[node] = {k: v for k, v in fake.connected[node].items() if k != name}
    with pytest.raises(ValueError) as caught:
        NodeGrid(fake)
    assert str(caught.value) == (
        f"Node {node} cannot take part: ValueError: The node's config has no "
        f'`{name}`. Expected `--node-config "partition-id=0 num-partitions=2"`.'
    )


def test_a_node_that_goes_and_comes_back(expected):
    fake = FakeGrid(CONFIG, 4)
    grid = NodeGrid(fake)
    (gone,) = [n for n, c in fake.connected.items() if c["partition-id"] == 2]
    config = fake.connected.pop(gone)
    assert grid.get_node_ids() == [0, 1, 3]
    (reply,) = grid.send_and_receive(
        [grid.create_message(RecordDict(), "train", 2, "")]
    )
    assert reply.error.reason == "its node is not connected"
    assert reply.metadata.src_node_id == 2
    fake.connect(config)
    assert grid.get_node_ids() == [0, 1, 2, 3]
    assert same(serve(grid, CONFIG), expected)


def test_a_node_that_dies_in_a_round_does_not_lose_it():
    fake = FakeGrid(CONFIG, 4)
    grid = NodeGrid(fake)
    send = fake.send_and_receive
    gone = next(iter(fake.connected))
    client = fake.connected[gone]["partition-id"]

    def lose(messages, **arguments):
        messages = list(messages)
        fake.connected.pop(gone, None)
        return send(messages, **arguments)

    fake.send_and_receive = lose
    result = serve(grid, {**CONFIG, "timeout": 5.0})
    assert result.history.rounds[1].errors == {client: "no reply within 5 s"}
    assert len(result.history.rounds[1].clients) == 3
    assert not result.history.rounds[2].errors  # it is not asked again


def test_a_strategy_that_waits_for_more_than_there_are():
    fake = FakeGrid(CONFIG, 2)
    grid = NodeGrid(fake, timeout=0.5)
    del fake.connected[next(iter(fake.connected))]
    strategy = FedAvg(min_available_nodes=2)
    with pytest.raises(RoundError) as caught:
        strategy.configure_train(1, None, {}, grid)
    clients = grid._connected()
    assert str(caught.value) == (
        f"The strategy has waited 0.5 s for more clients than {sorted(clients)}, which "
        "are all that are connected."
    )


def make_task(monkeypatch, **attributes):
    """A module of that name, with what `tasks` has and more."""
    module = types.ModuleType("another_task")
    vars(module).update({**vars(tasks), **attributes})
    monkeypatch.setitem(sys.modules, "another_task", module)
    return {**CONFIG, "task": "another_task"}


def test_the_task_and_the_run_say_how_to_train(monkeypatch, expected):
    def fields(config, **settings):
        task = named_task({**config, **settings}, 4)
        return task.epochs, task.batch_size, task.validation_split, task.seed

    assert fields(CONFIG) == (1, 16, 0.25, 0)
    config = make_task(monkeypatch, epochs=2, seed=3, batch_size=None)
    assert fields(config) == (2, None, 0.25, 3)
    settings = {"epochs": 4, "batch-size": 8, "validation-split": 0, "seed": 5}
    assert fields(config, **settings) == (4, 8, 0.0, 5)
    assert not same(in_process({**CONFIG, "epochs": 2}, 4), expected)
    assert named_task(CONFIG, 4).data(3)[0][0].shape == (17, 3)  # 23 less a quarter


def test_the_task_says_strategy_and_evaluation(monkeypatch, expected):
    bias = float(expected.model.get_weights()[1][0])
    assert expected.history["server_bias"][-1] == bias
    config = make_task(monkeypatch, strategy=lambda: FedAvg(fraction_train=0.5))
    trained = in_process(config, 4).history.to_frame(clients=True)["loss"]
    assert trained.notna().sum() == 4  # two of four in two rounds
    config = make_task(monkeypatch, strategy=lambda: FedAvg(min_available_nodes=9))
    with pytest.raises(ValueError, match="content with 4 client"):
        in_process(config, 4)


def test_what_is_written(tmp_path, expected):
    paths = {"model": str(tmp_path / "m.keras"), "history": str(tmp_path / "h.json")}
    config = {**CONFIG, **paths, "checkpoint": str(tmp_path / "state")}
    in_process({**config, "num-server-rounds": 1}, 4)
    assert len(list((tmp_path / "state").iterdir())) == 1
    assert same(in_process({**config, "resume": True}, 4), expected)
    model = keras.models.load_model(tmp_path / "m.keras")
    for a, b in zip(model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(History.from_json(json.loads((tmp_path / "h.json").read_text()))) == 2


def test_a_run_that_fails_writes_what_there_is(tmp_path, monkeypatch):
    def load_data(client, num_clients):
        raise OSError("no disk")

    path = tmp_path / "h.json"
    config = make_task(monkeypatch, load_data=load_data, evaluate=None)
    with pytest.raises(RoundError, match="no disk"):
        in_process({**config, "history": str(path)}, 2)
    assert [r["number"] for r in json.loads(path.read_text())] == [0]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            {},
            ValueError,
            'The run\'s config names no task. Expected `task = "module"` in '
            "[tool.flwr.app.config].",
        ),
        ({"task": "no_such"}, ImportError, "No module named 'no_such'"),
        (
            {"task": TASK, "epochs": "many"},
            ValueError,
            "Invalid value for `epochs` in the run's config. Expected a number (int). "
            "Received: epochs='many'",
        ),
        (
            {"task": TASK, "timeout": True},
            ValueError,
            "Invalid value for `timeout` in the run's config. Expected a number "
            "(float). Received: timeout=True",
        ),
        (
            {"task": "tests.federated.models"},
            AttributeError,
            "The task module 'tests.federated.models' has no function `build_model`. "
            "Expected `build_model()`, which returns a compiled keras.Model, and "
            "`load_data(client, num_clients)`, which returns (x, y).",
        ),
    ],
)
def test_errors(config, error, message):
    with pytest.raises(error) as caught:
        in_process(config, 2)
    assert str(caught.value) == message


def test_the_command(tmp_path, capsys, expected):
    model = tmp_path / "model.keras"
    arguments = [TASK, "--clients", "4", "--rounds", "2", "--model", str(model)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "INFO" not in said.err
    lines = said.out.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["round 1/2", "round 2/2"]
    assert lines[2].startswith("4 clients, 2 rounds in ")
    assert lines[3] == f"model: {model}"
    for a, b in zip(
        keras.models.load_model(model).get_weights(),
        expected.model.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_the_command_fails_with_a_reason(monkeypatch, capsys):
    def load_data(client, num_clients):
        raise OSError("no disk")

    config = make_task(monkeypatch, load_data=load_data)
    assert main([config["task"], "--clients", "3", "--rounds", "2"]) == 1
    assert "Clients 0, 1, 2: OSError: no disk. " in capsys.readouterr().err


def test_what_a_node_raises_is_a_line(monkeypatch):
    """Flower's workers would send pages, and its pool lose a worker."""

    def load_data(client, num_clients):
        if client == 1:
            raise OSError("no disk")
        return tasks.load_data(client, num_clients)

    config = make_task(monkeypatch, load_data=load_data)
    history = serve(NodeGrid(FakeGrid(config, 3)), config).history
    assert [r.errors for r in history] == [{}, *[{1: "OSError: no disk"}] * 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["no_such"],
            "No module named 'no_such'. Expected a module that Python finds from the "
            "present folder.",
        ),
        (
            ["tests/federated/tasks.py"],
            "No module named 'tests/federated/tasks'. Expected the name of a module: "
            "tests.federated.tasks.",
        ),
        (
            ["tests.federated.models"],
            "The task module 'tests.federated.models' has no function `build_model`.",
        ),
        (
            [TASK, "--resume"],
            "Invalid value for argument `checkpoint`. Expected the path of a folder to "
            "resume from.",
        ),
        (
            [TASK, "--model", "final.model"],
            "Invalid value for `model`. Expected a path that ends in .keras.",
        ),
    ],
)
def test_the_command_line_is_checked_before_anything_runs(arguments, message, capsys):
    assert main(arguments) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"failed: {message}")
    assert text.count("\n") == 1


@pytest.mark.parametrize("rounds", ["0", "-2"])
def test_a_command_without_rounds(rounds, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([TASK, f"--rounds={rounds}"])
    assert stopped.value.code == 2
    assert f"{rounds} is not a positive integer" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Expected a positive integer"):
        in_process({**CONFIG, "num-server-rounds": int(rounds)}, 2)


def test_the_line_of_a_round_has_the_reason_of_a_failure():
    last = Round(2, train={"loss": 0.5}, errors={3: "late", 1: "OSError: no disk"})
    assert server_app.line_of(last, 4) == (
        "round 2/4  loss 0.5  failed 2  client 1: OSError: no disk"
    )
