"""The server's side: Flower's `ServerApp`, `federated.server_app:app`.

What a run does is in its config, `[tool.flwr.app.config]` and `--run-config`.
"""

import importlib
import json
import pathlib

from flwr.serverapp import ServerApp

from federated import checkpoint
from federated.nodes import NodeGrid
from federated.rounds import RoundError
from federated.server import conduct, shown_of
from federated.simulation import checked_strategy
from federated.task import named_task, read_settings
from kerasreg.layers import to_deterministic
from kerasreg.regularizers.base import check_count

app = ServerApp()


@app.main()
def main(grid, context):
    """Wait for the nodes, which are a client each, and run the rounds.

    Whatever goes wrong is raised, so the run counts as failed.
    """
    config = context.run_config
    settings = read_settings(config, {"timeout": float})
    least = read_settings(config, {"min-clients": int}).get("min-clients", 1)
    folder = config.get("resume") and config.get("checkpoint")
    begun = bool(folder) and any(pathlib.Path(folder).glob("round-*.npz"))
    nodes = NodeGrid(grid, **settings, least=least if begun else None)
    serve(nodes, config)


def serve(grid, run_config):
    """Run the rounds that a run's config asks for, and write what it asks for.

    Args:
        grid: `federated.grids.ClientGrid`.
        run_config: Dict; a setting that is `""` counts as absent. `task` is the name of
            a module, see `federated.task.load_task`, which may also have `strategy()`,
            which returns a `flwr.serverapp.strategy.Strategy`, and `evaluate`, see
            `federated.simulate`. `num-server-rounds`, `min-clients`, `timeout`,
            `epochs`, `batch-size`, `validation-split` and `seed` are numbers, `resume`
            is true or false, and the others are paths of what is written: `checkpoint`
            of a folder, `model` of a `.keras` file, `plain-model` of one that loads
            without kerasreg (see `kerasreg.layers.to_deterministic`), `history` of a
            `.json` file.

    Returns:
        A `federated.Result`.

    Raises:
        RoundError: If a round had too few clients; what there is is written first.
        ValueError: If it asks for what cannot be: no round, a checkpoint that is not
            there or not to be resumed, a model in a file of another kind.
    """
    check_paths(run_config)
    task = named_task(run_config, grid.num_clients)
    module = importlib.import_module(run_config["task"])
    kinds = {"num-server-rounds": int, "min-clients": int, "timeout": float}
    settings = read_settings(run_config, kinds)
    strategy = module.strategy() if hasattr(module, "strategy") else None
    rounds = check_count("num-server-rounds", settings.get("num-server-rounds", 10))
    try:
        result = conduct(
            task,
            grid,
            checked_strategy(strategy, grid.num_clients, task.validation_split > 0),
            rounds,
            evaluate=getattr(module, "evaluate", None),
            checkpoint=run_config.get("checkpoint") or None,
            resume=bool(run_config.get("resume")),
            verbose=0,
            on_round=lambda last: print(line_of(last, rounds), flush=True),
            min_clients=settings.get("min-clients", 1),
            timeout=settings.get("timeout", 3600.0),
            evaluate_clients=task.validation_split > 0,
        )
    except RoundError as error:
        _write(error.result, run_config)
        raise
    _write(result, run_config)
    return result


def check_paths(run_config):
    """Raise if a run could not write its checkpoints, or its model at the end.

    Args:
        run_config: Dict of `serve`.
    """
    folder = run_config.get("checkpoint") or None
    checkpoint.check(folder, bool(run_config.get("resume")))
    for name in ("model", "plain-model"):
        model = run_config.get(name) or ".keras"
        if not model.endswith((".keras", ".h5")):
            raise ValueError(
                f"Invalid value for `{name}`. Expected a path that ends in .keras. "
                f"Received: {name}={model!r}"
            )


def line_of(last, rounds):
    """A line of text for a round that was done, with the reason of one failure.

    Args:
        last: `federated.Round`.
        rounds: Number of rounds of the run.
    """
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown_of(last).items())
    reasons = [f"  client {k}: {why}" for k, why in sorted(last.errors.items())]
    return f"round {last.number}/{rounds}  {numbers}{''.join(reasons[:1])}"


def _write(result, run_config):
    if run_config.get("model"):
        result.model.save(run_config["model"])
    if run_config.get("plain-model"):
        to_deterministic(result.model).save(run_config["plain-model"])
    if run_config.get("history"):
        text = json.dumps(result.history.to_json())
        pathlib.Path(run_config["history"]).write_text(text, encoding="utf-8")
