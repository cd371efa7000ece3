"""Run a task across simulated clients: `python -m federated my_package.task`.

The task is a module with `build_model()` and `load_data(client, num_clients)`, see
`federated.task.load_task`, found from the present folder.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import sys
import tempfile

from federated.client_app import make_client_app
from federated.engine import quiet
from federated.grids import LocalGrid
from federated.history import History
from federated.launch import RunError, flower_run
from federated.rounds import RoundError
from federated.server_app import check_paths, serve
from federated.task import load_task, named_task

_NUMBERS = ("epochs", "batch-size", "validation-split", "seed", "min-clients")
_PATHS = ("checkpoint", "model", "plain-model", "history")


def main(arguments=None, prog="python -m federated"):
    """Run what the command line asks for.

    Args:
        arguments: List of strings, of the command line by default.
        prog: Name of the command.

    Returns:
        The exit status: 1 if the run failed.
    """
    options = _parser(prog).parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kerasreg-") as folder:
        config = _run_config(options)
        config.setdefault("history", os.path.join(folder, "history.json"))
        if wrong := _wrong(config):
            print(f"failed: {wrong}", file=sys.stderr)
            return 1
        try:
            if options.engine == "flower":
                flower_run(config, options.clients, show=_show)
            else:
                with contextlib.nullcontext() if options.verbose else quiet():
                    in_process(config, options.clients)
        except (RoundError, RunError) as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        text = pathlib.Path(config["history"]).read_text(encoding="utf-8")
    _report(History.from_json(json.loads(text)), options)
    return 0


def in_process(run_config, num_clients):
    """Run the Flower app with its clients in this process, one after the other.

    The weights are those of `federated.launch.flower_run`.

    Args:
        run_config: Dict of `federated.server_app.serve`.
        num_clients: Number of clients.

    Returns:
        A `federated.Result`.
    """
    clients = make_client_app(named_task(run_config, num_clients))
    return serve(LocalGrid(clients, num_clients), run_config)


def _wrong(run_config):
    """What is wrong with the command line, or nothing."""
    name = run_config["task"]
    try:
        check_paths(run_config)
    except ValueError as error:
        return error
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another
        return f"{error}. {_hint(name)}"
    try:
        load_task(name)
    except (TypeError, ValueError, AttributeError) as error:
        return error
    return None


def _hint(name):
    if name.endswith(".py"):
        return f"Expected the name of a module: {name[:-3].replace('/', '.')}."
    return "Expected a module that Python finds from the present folder."


def _count(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive integer")
    return number


def _parser(prog):
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("task", nargs="?", default="federated.example")
    parser.add_argument("--clients", type=_count, default=4)
    parser.add_argument("--rounds", type=_count, default=10)
    for name in _NUMBERS:
        kind = float if name == "validation-split" else int
        parser.add_argument(f"--{name}", type=kind, help="instead of the task's")
    for name in _PATHS:
        parser.add_argument(f"--{name}", metavar="PATH")
    parser.add_argument("--resume", action="store_true", help="from the checkpoint")
    parser.add_argument("--verbose", action="store_true", help="Flower's log, too")
    parser.add_argument(
        "--engine",
        choices=["process", "flower"],
        default="process",
        help="clients in this process, or each a node of a SuperLink (`flwr run`)",
    )
    return parser


def _run_config(options):
    given = {name.replace("_", "-"): v for name, v in vars(options).items()}
    config = {"task": options.task, "num-server-rounds": options.rounds}
    config |= {name: given[name] for name in _NUMBERS if given[name] is not None}
    config |= {name: os.path.abspath(given[name]) for name in _PATHS if given[name]}
    return {**config, "resume": options.resume}


def _show(line):
    print(line, flush=True)


def _report(history, options):
    sent = sum(r.bytes_down + r.bytes_up for r in history)
    seconds = sum(r.seconds for r in history)
    print(
        f"{options.clients} clients, {len(history)} rounds in {seconds:.1f} s, "
        f"{sent / 1e6:.3g} MB of weights sent"
    )
    if options.model:
        print(f"model: {options.model}")


if __name__ == "__main__":
    sys.exit(main())
