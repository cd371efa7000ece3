"""A whole run, from the first round to the final model."""

import functools

import keras

from federated import checkpoint as checkpoints
from federated import records
from federated.history import Result
from federated.rounds import Rounds, privacy_spent
from federated.strategies.base import Wrapper, chain
from kerasreg.regularizers import penalties_of


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
    keys = records.weight_keys(model)
    for each in chain(strategy):
        if isinstance(each, Wrapper):
            each.bind(model)
    state = Rounds(
        strategy,
        grid,
        records.write_arrays(keys, model.get_weights()),
        seed=task.seed,
        evaluate=_evaluator(model, evaluate),
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
        bar.stateful_metrics.update(shown)  # else it would show means over rounds
        bar.update(state.done, shown.items(), finalize=False)
        if checkpoint is not None:
            checkpoints.save(checkpoint, state, task.seed)
        if on_round is not None:
            on_round(state.history.rounds[-1])
    bar.update(state.done, finalize=True)
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
    """What is shown of a round while it runs: its scalars, and failures."""
    numbers = {**last.train, **{f"val_{k}": v for k, v in last.evaluate.items()}}
    numbers |= {f"server_{k}": v for k, v in last.server.items()}
    numbers |= last.report
    scalars = {k: v for k, v in numbers.items() if isinstance(v, float)}
    return {**scalars, "failed": float(len(last.errors))} if last.errors else scalars
