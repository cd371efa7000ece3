"""Simulations on workers of Flower's engine, and the traps that lie there.

Workers take long to start: one script, run once, gives all there is to look at.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys

import filelock
import pytest

import federated
from federated.engine import worker_environment
from tests.federated.models import build_linear, linear_data
from tests.federated.worst_case import (
    CLIENTS,
    KILLED_ONCE,
    KILLS_ALWAYS,
    RAISES,
    ROUNDS,
)

pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/statm").exists(), reason="reads memory from /proc"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    # Processes of pytest-xdist share these tests, and what one has run.
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    result = shared / "engine" / "result.json"
    with filelock.FileLock(shared / "engine.lock"):
        if not result.exists():
            _worst_case(result.parent)
    return json.loads(result.read_text())


def _worst_case(folder):
    folder.mkdir(exist_ok=True)
    script = pathlib.Path(__file__).with_name("worst_case.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "TF_NUM_INTRAOP_THREADS"},
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_all_clients_are_there_in_the_first_round_and_none_is_lost_with_a_worker(run):
    _, first, *_ = run["rounds"]
    assert first == {"clients": list(range(CLIENTS)), "errors": {}}
    killed = [line for line in run["logs"] if line[:2] == [1, KILLED_ONCE]]
    assert len(killed) == 2  # it was begun on a worker that died, and once more


def test_a_client_that_kills_its_worker_or_raises_loses_only_itself(run):
    second = run["rounds"][2]
    assert sorted(second["errors"]) == [str(KILLS_ALWAYS), str(RAISES)]
    assert second["errors"][str(RAISES)] == "ValueError: no data today"
    assert second["errors"][str(KILLS_ALWAYS)].startswith("its worker failed: ")
    others = set(range(CLIENTS)) - {KILLS_ALWAYS, RAISES}
    assert second["clients"] == sorted(others)
    for later in run["rounds"][3:]:  # the dead poison nothing
        assert later == {"clients": list(range(CLIENTS)), "errors": {}}


def test_when_all_clients_fail_the_error_says_why_and_has_the_result(run):
    some = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 190 more"
    assert run["message"] == run["local_message"]
    assert run["message"] == (
        f"Round {ROUNDS}: 0 of {CLIENTS} clients trained, fewer than min_clients=1. "
        f"Clients {some}: ValueError: nobody trains. "
    )
    assert len(run["rounds"]) == ROUNDS  # with the model before the first


def test_an_error_in_building_the_model_on_a_worker_is_told(run):
    assert run["build_message"] == (
        "Round 1: 0 of 2 clients trained, fewer than min_clients=1. "
        "Clients 0, 1: OSError: no such file on the worker. "
    )


def test_workers_and_this_process_give_the_same_weights_and_history(run):
    assert run["same_weights"]
    assert run["same_losses"]


def test_each_worker_keeps_its_process_its_threads_and_its_memory(run):
    by_process = collections.defaultdict(dict)
    for number, _, process, resident, telemetry, threads in run["logs"]:
        assert telemetry == "0"
        assert threads == "1"
        if number >= 3:
            by_process[process][number] = resident  # the last of each round
    assert len(by_process) == 2
    for process in by_process:  # the model is built and traced once in each
        assert run["builds"].count(str(process)) == 1
    for resident in by_process.values():
        assert resident[10] <= 1.05 * resident[3]


@pytest.mark.parametrize("name", ["memory", "memory_local"])
def test_the_server_does_not_grow(run, name):
    assert run[name][10] <= 1.05 * run[name][3]


def test_nothing_is_left_behind(run):
    assert not run["ray"]
    assert run["environment"]
    assert run["telemetry"] == "0"


def test_threads_are_the_users_if_they_say_so(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert worker_environment()["TF_NUM_INTRAOP_THREADS"] == "3"


def test_a_running_ray_is_left_alone(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError) as error:
        federated.simulate(build_linear(), [linear_data()], workers=1, verbose=0)
    assert str(error.value) == (
        "ray runs in this process already, and the engine would end it. Call "
        "`ray.shutdown()` first, or simulate with `workers=None`."
    )
