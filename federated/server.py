"""A whole run, from the first round to the final model."""

import contextlib
import functools
import json

import keras

from federated import checkpoint as checkpoints
from federated import records
from federated.client_app import plain
from federated.clients import Clients
from federated.history import Result
from federated.rounds import Rounds, privacy_spent
from federated.strategies.base import Wrapper, chain
from kerasreg.regularizers import penalties_of

_TROUBLES = ("failed", "rejected")


def conduct(
    task,
    grid,
    strategy,
    rounds,
    *,
    evaluate=None,
    checkpoint=None,
    resume=False,
    verbose=1,
    on_round=None,
    **settings,
):
    """Run the rounds of a task on a grid.

    Args:
        task: `federated.task.Task`.
        grid: `federated.grids.ClientGrid`.
        strategy: A `flwr.serverapp.strategy.Strategy`.
        rounds: Number of rounds.
        evaluate: `(x, y)`, or a function from the model to a dict of metrics, which
            the server evaluates each round's model by; or `None`.
        checkpoint: Path of a folder that the state is written to after each round.
        resume: Whether to go on from the newest checkpoint, if there is one.
        verbose: 0 for no progress bar.
        on_round: Function that is called with each `Round` that was done, or `None`.
        **settings: Of `federated.rounds.Rounds`.

    Returns:
        A `Result`.

    Raises:
        RoundError: If a round had too few clients; its `result` holds what there is.
            What strategies, `evaluate` and `on_round` raise comes as it is, and if it
            was in a round, with such a `result`, too.
    """
    model = task.model()
    _check_first(model, task.clients)
    keys, facts = records.weight_keys(model), _facts(model, task)
    for each in chain(strategy):
        if isinstance(each, Wrapper):
            each.bind(model)
    state = Rounds(
        strategy,
        grid,
        records.write_arrays(keys, model.get_weights()),
        seed=task.seed,
        evaluate=_evaluator(model, evaluate),
        names=getattr(task.clients, "names", None),
        facts=facts,
        **_keeping(checkpoint, strategy),
        **settings,
    )
    if not (resume and checkpoints.restore(checkpoint, state, task.seed)):
        state.start()
    bar = keras.utils.Progbar(rounds, unit_name="round", verbose=min(verbose, 1))
    while state.done < rounds and state.stopped is None:
        done, strengths = state.done, _strengths(model)
        try:
            state.run()
        except Exception as error:
            _strengthen(model, strengths)
            error.result = _result(model, state, task.model)  # type: ignore
            raise
        if state.done == done:  # a strategy ended the run in mid-round
            _strengthen(model, strengths)
            break
        shown = shown_of(state.history.rounds[-1])
        shown |= dict.fromkeys({*_TROUBLES} & bar.stateful_metrics - {*shown}, 0.0)
        bar.stateful_metrics.update(shown)  # else it would show means over rounds
        bar.update(state.done, shown.items(), finalize=False)
        if checkpoint is not None:
            checkpoints.save(checkpoint, state, task.seed)
        if on_round is not None:
            on_round(state.history.rounds[-1])
    bar.update(state.done, finalize=True)
    if verbose and state.stopped:
        print(state.stopped)
    return _result(model, state, task.model)


def _result(model, state, build_model):
    _assign(model, state.final())
    for each in chain(state.strategy):
        if isinstance(each, Wrapper):
            each.finish(model)
    return Result(
        model,
        state.history,
        {path: penalty.strength for path, penalty in penalties_of(model).items()},
        privacy_spent(state.strategy),
        state.stopped,
        {
            client: kept[records.PERSONAL]
            for client, kept in state.grid.states.items()
            if records.PERSONAL in kept
        },
        build_model,
    )


def _facts(model, task):
    """What a resumed run should have as it had it when it began."""
    compiled: dict = {}
    with contextlib.suppress(Exception):  # Keras writes down most models, not all
        compiled = model.get_compile_config() or {}
    facts = {
        "optimizer": compiled.get("optimizer"),
        "loss": compiled.get("loss"),
        "penalties": {
            path: [type(penalty).__name__, penalty.get_config()]
            for path, penalty in penalties_of(model).items()
        },
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "validation_split": task.validation_split,
    }
    if isinstance(task.clients, Clients):
        numbers = map(task.clients.num_examples, range(len(task.clients)))
        facts["numbers of examples"] = list(numbers)
    write = json.JSONEncoder(sort_keys=True, default=lambda v: type(v).__name__).encode
    return {name: write(value) for name, value in facts.items()}


def check_evaluate(evaluate):
    """Raise unless it is data or a function, or `None`."""
    data = isinstance(evaluate, list | tuple) and len(evaluate) in (2, 3)
    if not (data or evaluate is None or callable(evaluate)):
        raise TypeError(
            "Invalid value for argument `evaluate`. Expected (x, y), "
            "(x, y, sample_weight) or a function from the model to a dict. "
            f"Received: {type(evaluate).__name__}"
        )


def _check_first(model, clients):
    """Raise if the model cannot take what the first client has."""
    if not isinstance(clients, Clients):  # the data are elsewhere
        return
    x = keras.tree.map_structure(lambda a: a[:1], clients[0][0])
    try:
        with keras.StatelessScope():  # it draws random numbers, say
            model(x)
    except (TypeError, ValueError) as error:
        shapes = keras.tree.map_structure(lambda a: (a.dtype.name, a.shape[1:]), x)
        raise ValueError(
            f"The model does not take the data of client 0, examples of {shapes}: "
            f"{plain(str(error))}"
        ) from error


def _keeping(checkpoint, strategy):
    if checkpoint is None:
        return {}
    kept = functools.partial(checkpoints.keep_account, checkpoint, strategy)
    return {"keep_account": kept}


def _assign(model, arrays):
    by_place = {records.place(k): a for k, a in records.read_arrays(arrays).items()}
    model.set_weights([by_place[i] for i in range(len(by_place))])


def _strengths(model):
    return [penalty.strength for penalty in penalties_of(model).values()]


def _strengthen(model, strengths):
    penalties = penalties_of(model).values()
    for penalty, strength in zip(penalties, strengths, strict=True):
        if penalty.strength != strength:
            penalty.strength = strength


def _evaluator(model, evaluate):
    """The function that `Rounds` evaluates by, on the server's model."""
    if evaluate is None:
        return None
    if not callable(evaluate):
        data = evaluate

        def evaluate(model):
            x, y, weights = (*data, None)[:3]
            return model.evaluate(
                x, y, sample_weight=weights, verbose=0, return_dict=True
            )

    def run(number, arrays):
        _assign(model, arrays)
        strengths = _strengths(model)
        try:
            found = evaluate(model)
        finally:  # it may try other strengths; training has its own
            _strengthen(model, strengths)
        if not isinstance(found, dict):
            raise TypeError(
                "Invalid result of `evaluate`. Expected a dict from names to numbers. "
                f"Received: {found!r}"
            )
        return found

    return run


def shown_of(last):
    """What is shown of a round while it runs: its scalars, failures, rejections."""
    numbers = {**last.train, **{f"val_{k}": v for k, v in last.evaluate.items()}}
    numbers |= {f"server_{k}": v for k, v in last.server.items()}
    numbers |= last.report
    scalars = {k: v for k, v in numbers.items() if isinstance(v, float)}
    counts = [len(last.errors), len(last.report.get("rejected", {}))]
    troubles = zip(_TROUBLES, map(float, counts), strict=True)
    return scalars | {name: number for name, number in troubles if number}
