"""A federation on one machine, in one call."""

import contextlib
import threading

from flwr.serverapp.strategy import FedAvg, Strategy

from federated.checkpoint import check as check_checkpoint
from federated.client_app import make_client_app
from federated.clients import Clients
from federated.engine import quiet, run_on_workers
from federated.fresh import fresh
from federated.grids import LocalGrid
from federated.server import check_evaluate, conduct
from federated.strategies.base import chain
from federated.task import Task
from kerasreg.regularizers.base import check_count, check_number

_ONE = threading.RLock()  # global random numbers and Flower's log are the process's


def simulate(
    build_model,
    clients,
    strategy=None,
    rounds=10,
    penalties=None,
    *,
    evaluate=None,
    epochs=1,
    batch_size=32,
    validation_split=0.0,
    seed=0,
    workers=None,
    mods=(),
    min_clients=1,
    timeout=3600.0,
    checkpoint=None,
    resume=False,
    verbose=1,
):
    """Train a Keras model across clients, with the penalties it has centrally.

    Each round, the strategy picks clients; each trains from the server's weights on
    its own examples, with a fresh optimizer; the strategy makes new weights of
    theirs. The penalties act at the clients as they do in `fit`: in the loss, or by
    their proximal map if the model is compiled with `Proximal`.

    Simulations in several threads of a process run one after the other.

    The same seed gives the same weights, whichever node a client runs on and however
    many workers there are. In this process TensorFlow has all cores for an operation,
    and in workers one; where it divides a sum among them (convolutions), weights are
    the same bit for bit if `TF_NUM_INTRAOP_THREADS` is set before Python starts.

    Args:
        build_model: Function without arguments that returns a compiled, built
            `keras.Model`.
        clients: List with `(x, y)` or `(x, y, sample_weight)` for each client, or what
            a partitioner of `federated.partition` returns.
        strategy: A `flwr.serverapp.strategy.Strategy`, of Flower or of
            `federated.strategies`; all clients and averages (`FedAvg`) by default. What
            a run before has left in it (momentum) is set back.
        rounds: Number of rounds.
        penalties: Rules for `kerasreg.regularizers.regularize`, or `None` to leave
            the penalties of the model.
        evaluate: `(x, y)` by which the server evaluates each round's model, or a
            function from the model to a dict of metrics.
        epochs: Epochs that a client trains in a round.
        batch_size: Its batch size; `None` for all of its examples at once.
        validation_split: Share of each client's examples that it holds out. Clients
            evaluate each round's model by them, and not at all if it is 0.
        seed: Non-negative integer.
        workers: `None` to run the clients in this process, or the number of worker
            processes of Flower's simulation engine.
        mods: Mods of Flower, applied around every client's training.
        min_clients: Fewest clients whose training a round must have.
        timeout: Seconds after which a round goes on without the clients that have not
            replied. In this process, a client that has begun is waited for.
        checkpoint: Path of a folder that the run is written to after each round. One
            that has a run in it is refused, unless it is to be resumed.
        resume: Whether to go on from the newest checkpoint there, if there is one.
        verbose: 0 for silence, 1 for a progress bar, 2 for Flower's log, too.

    Returns:
        A `Result` with `model`, `history`, `strengths`, `bytes_sent`, `privacy`, why
        it was `stopped` early, if it was, and `personal_model(client)`.

    Raises:
        TypeError, ValueError: If an argument is none of those, the strategy waits for
            more clients than there are, or the model does not take the clients' data.
        RoundError: If fewer than `min_clients` trained in a round, or the model has
            NaN after it. Its `result` holds the model and history until then.

    Example:

    >>> import keras, numpy as np
    >>> import federated
    >>> from kerasreg.regularizers import L2
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
    >>> y = x @ np.array([[1.0], [-1.0]], "float32")
    >>> clients = [(x[:20], y[:20]), (x[20:], y[20:])]
    >>> result = federated.simulate(
    ...     build_model, clients, rounds=3, penalties=L2(0.01), verbose=0
    ... )
    >>> len(result.history), result.strengths
    (3, {'sequential/dense/kernel': 0.01})

    Reference: McMahan et al. 2017, "Communication-efficient learning of deep networks
    from decentralized data", algorithm 1.
    """
    check_count("rounds", rounds)
    check_count("min_clients", min_clients)
    if workers is not None:
        check_count("workers", workers)
    check_checkpoint(checkpoint, resume)
    check_evaluate(evaluate)
    timeout = check_number("timeout", timeout, above=0)
    check_number("validation_split", validation_split)
    clients = Clients.from_list(clients)
    if min_clients > len(clients):
        raise ValueError(
            "Invalid value for argument `min_clients`. Expected at most the number of "
            f"clients, {len(clients)}. Received: min_clients={min_clients}"
        )
    strategy = checked_strategy(strategy, len(clients), validation_split > 0)
    task = Task(
        build_model,
        clients,
        penalties,
        epochs,
        batch_size,
        validation_split,
        seed,
        mods,
    )

    def serve(grid):
        with fresh(strategy):
            return conduct(
                task,
                grid,
                strategy,
                rounds,
                evaluate=evaluate,
                checkpoint=checkpoint,
                resume=resume,
                verbose=verbose,
                min_clients=min_clients,
                timeout=timeout,
                evaluate_clients=validation_split > 0,
            )

    with _ONE, contextlib.nullcontext() if verbose > 1 else quiet():
        if workers is None:
            return serve(LocalGrid(make_client_app(task), len(clients)))
        return run_on_workers(task, workers, serve)


def checked_strategy(strategy, num_clients, evaluates=True):
    """The strategy, or the default, checked: Flower would wait for ever.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy` or `None`.
        num_clients: Number of clients that there are.
        evaluates: Whether clients evaluate, too.

    Raises:
        TypeError: If it is none.
        ValueError: If it waits for more clients than there are, or asks more than all.
    """
    if strategy is None:
        return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    if not isinstance(strategy, Strategy):
        raise TypeError(
            "Invalid value for argument `strategy`. Expected a "
            "flwr.serverapp.strategy.Strategy, such as FedAvg(). "
            f"Received: strategy={strategy!r}"
        )
    names = ["min_available_nodes", "min_train_nodes"]
    shares = ["fraction_train"]
    if evaluates:
        names, shares = [*names, "min_evaluate_nodes"], [*shares, "fraction_evaluate"]
    for each in chain(strategy):
        for name in shares:
            if not 0 <= getattr(each, name, 0) <= 1:
                raise ValueError(
                    "Invalid value for argument `strategy`. Expected one that asks a "
                    f"share of the clients in [0, 1]. Received: {type(each).__name__}"
                    f"({name}={getattr(each, name)})"
                )
        for name in names:
            wanted = getattr(each, name, 0)
            if wanted > num_clients:
                raise ValueError(
                    f"Invalid value for argument `strategy`. Expected one that is "
                    f"content with {num_clients} client(s): lower its {name}. "
                    f"Received: {type(each).__name__}({name}={wanted})"
                )
    return strategy
