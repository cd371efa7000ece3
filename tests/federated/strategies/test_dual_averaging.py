"""FederatedDualAveraging solves the pooled problem, and keeps its zeros."""

import re

import keras
import numpy as np
import pytest
from flwr.serverapp import strategy as flower

import federated
from federated import records
from federated.privacy import Private
from federated.strategies import FederatedDualAveraging, Personalized, Robust
from federated.task import Task
from federated.trainer import Trainer
from kerasreg.regularizers import L1, MCP
from tests.exhaustive import exhaustive, some
from tests.federated.strategies import problems
from tests.federated.strategies.problems import PENALTIES, averaging, build, proximal

ONE_STEP = {"batch_size": None, "epochs": 1, "verbose": 0}
LOCAL_STEPS = {"batch_size": 10, "epochs": 3, "verbose": 0}
RATE, ROUNDS = 0.02, 20


@pytest.mark.parametrize("penalty", some(PENALTIES, "L1", "GroupLasso"))
def test_one_client_with_full_batches_solves_the_problem_of_scikit_learn(penalty):
    outputs, ours, theirs = penalty
    parts = problems.clients(outputs=outputs)
    result = federated.simulate(
        build(outputs=outputs),
        [problems.pooled(parts)],
        FederatedDualAveraging(averaging()),
        8,
        ours(),
        batch_size=None,
        epochs=100,
        verbose=0,
    )
    kernel, bias = problems.solution(theirs(), parts)
    assert problems.support(result.model.layers[0].kernel) == problems.support(kernel)
    for mine, expected in zip(result.model.get_weights(), (kernel, bias), strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-4)


def test_one_step_of_many_clients_is_the_step_of_one_with_all_data():
    parts = problems.clients(4)
    apart, together = (
        federated.simulate(
            build(),
            data,
            FederatedDualAveraging(averaging()),
            rounds=8,
            penalties=L1(0.4),
            **ONE_STEP,
        ).model.get_weights()
        for data in (parts, [problems.pooled(parts)])
    )
    for mine, expected in zip(apart, together, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6)
    assert 0 < np.mean(apart[0] == 0) < 1


@pytest.fixture(scope="module")
def runs():
    """Three local epochs on small batches of clients that differ."""
    parts = problems.clients()
    made = {}
    for name, optimizer, strategy in (
        ("averaging", proximal, averaging()),
        ("dual", keras.optimizers.SGD, FederatedDualAveraging(averaging())),
    ):
        made[name] = federated.simulate(
            build(RATE, optimizer=optimizer),
            parts,
            strategy,
            ROUNDS,
            L1(0.4),
            **LOCAL_STEPS,
        )
    return parts, made


def test_local_steps_of_unlike_clients_find_the_support_of_the_pooled_lasso(runs):
    parts, made = runs
    kernel, _ = problems.solution(PENALTIES["L1"][2](), parts)
    mine = made["dual"].model.layers[0].kernel.numpy()
    assert problems.support(mine) == problems.support(kernel)
    assert problems.support(kernel) == [[1]] * 4 + [[0]] * 16
    np.testing.assert_allclose(mine, kernel, atol=0.03)


def test_averaging_clients_that_are_sparse_is_dense(runs):
    parts, made = runs
    task = Task(build(RATE, optimizer=proximal), federated.Clients.from_list(parts))
    task.penalties, task.batch_size, task.epochs = L1(0.4), 10, 3
    trainer = Trainer(task)
    arrays = dict(zip(trainer.keys, made["averaging"].model.get_weights(), strict=True))
    kernels = [trainer.train(arrays, k, 99)[0][0] for k in range(len(parts))]
    sparse = [np.mean(kernel == 0) for kernel in kernels]
    assert min(sparse) > 0.3  # each client has zeros, though not the same
    average = made["averaging"].model.layers[0].kernel.numpy()
    assert np.mean(average == 0) < 0.2
    assert np.mean(made["dual"].model.layers[0].kernel.numpy() == 0) == 0.8


def test_the_report_says_how_far_and_how_sparse(runs):
    parts, made = runs
    result = made["dual"]
    report = result.history.rounds[-1].report
    steps = sum(-(-len(x) // 10) * 3 * len(x) for x, _ in parts) / sum(
        len(x) for x, _ in parts
    )
    assert report["zeros"] == 0.8
    assert report["proximal_step"] == pytest.approx(ROUNDS * RATE * steps, rel=1e-5)
    assert records.TAKEN not in result.history.rounds[-1].train


def test_clients_and_the_server_evaluate_the_weights():
    data = problems.pooled(problems.clients(2))
    clients = federated.Clients.from_list([data])
    held_out = Task(build(), clients, validation_split=0.3).data(0)[1]
    result = federated.simulate(
        build(),
        clients,
        FederatedDualAveraging(averaging()),
        rounds=3,
        penalties=L1(0.4),
        evaluate=held_out,
        validation_split=0.3,
        **ONE_STEP,
    )
    np.testing.assert_allclose(
        result.history["val_loss"], result.history["server_loss"][1:], rtol=1e-5
    )
    loss = result.model.evaluate(*held_out, verbose=0)
    assert result.history["server_loss"][-1] == pytest.approx(loss, rel=1e-5)


def test_the_server_goes_on_by_its_own_rate():
    half, whole = (
        federated.simulate(
            build(rate),
            problems.clients(2),
            FederatedDualAveraging(averaging(), server_learning_rate=server_rate),
            rounds=4,
            penalties=L1(0.4),
            **ONE_STEP,
        ).model.get_weights()
        for rate, server_rate in ((0.1, 0.5), (0.05, 1.0))
    )
    for mine, expected in zip(half, whole, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6)


@pytest.mark.parametrize("compiled", ["Proximal", "XLA"])
def test_however_the_model_is_compiled(compiled):
    arguments = {
        "Proximal": {"optimizer": proximal},
        "XLA": {"jit_compile": True},
    }[compiled]
    mine, expected = (
        federated.simulate(
            build(**own),
            problems.clients(2),
            FederatedDualAveraging(averaging()),
            2,
            L1(0.4),
            **LOCAL_STEPS,
        ).model.get_weights()
        for own in (arguments, {})
    )
    for a, b in zip(mine, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_schedule_of_the_learning_rate_is_added_up():
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 1.0)
    strategy = FederatedDualAveraging(averaging())
    federated.simulate(
        build(schedule),
        [problems.clients()[0]],
        strategy,
        2,
        L1(0.4),
        **LOCAL_STEPS,
    )
    steps = 3 * 3  # each round begins anew
    once = sum(0.1 / (1 + k) for k in range(steps))
    assert strategy.steps == pytest.approx(2 * once, rel=1e-6)


def test_resuming_is_as_if_it_had_not_ended(tmp_path):
    def run(rounds, **arguments):
        return federated.simulate(
            build(),
            problems.clients(2),
            FederatedDualAveraging(averaging()),
            rounds,
            L1(0.4),
            **LOCAL_STEPS,
            **arguments,
        ).model.get_weights()

    expected = run(3)
    run(2, checkpoint=tmp_path)
    resumed = run(3, checkpoint=tmp_path, resume=True)
    for mine, array in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(mine, array)


def _poisoned():
    parts = problems.clients(5)
    parts[3] = parts[3][0], np.full_like(parts[3][1], np.nan)
    return parts


def test_it_nests():
    def run(strategy, parts):
        result = federated.simulate(build(), parts, strategy, 2, L1(0.4), **ONE_STEP)
        return result.model.get_weights()

    honest = [part for k, part in enumerate(_poisoned()) if k != 3]
    expected = run(FederatedDualAveraging(averaging()), honest)
    for strategy in (
        Robust(FederatedDualAveraging(averaging())),
        FederatedDualAveraging(Robust(averaging())),
        Robust(
            flower.DifferentialPrivacyServerSideFixedClipping(
                FederatedDualAveraging(averaging()), 0.0, 1e9, 5
            )
        ),
    ):
        for mine, array in zip(run(strategy, _poisoned()), expected, strict=True):
            np.testing.assert_allclose(mine, array, atol=1e-6)


def test_a_trainer_goes_back_to_the_model_s_own_optimizer():
    clients = federated.Clients.from_list(problems.clients(1))
    task = Task(build(0.01, optimizer=proximal), clients, L1(0.4))
    trainer = Trainer(task)
    arrays = dict(zip(trainer.keys, trainer.model.get_weights(), strict=True))
    before = trainer.train(arrays, 0, 1)[0]
    for optimizer in ("dual", "mirror", "smooth"):
        trainer.train(arrays, 0, 1, optimizer=optimizer)
    after = trainer.train(arrays, 0, 1)[0]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "inner",
    [
        flower.FedAdam(),
        flower.FedAvgM(),
        flower.FedProx(proximal_mu=0.1),
        FederatedDualAveraging(flower.FedAvg()),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_strategies_that_do_not_average_are_refused(inner):
    with pytest.raises(TypeError) as caught:
        FederatedDualAveraging(Robust(inner))
    assert str(caught.value) == (
        "Invalid value for argument `strategy`. Expected one that takes an average or "
        "a median of the clients' weights, such as FedAvg, FedMedian or Krum: the "
        f"server's map needs the length of its step. Received: {type(inner).__name__}"
    )


def test_penalties_that_are_not_convex_are_refused():
    strategy = FederatedDualAveraging(averaging())
    with pytest.raises(ValueError) as caught:
        federated.simulate(build(), problems.clients(2), strategy, 1, MCP(0.1, 3.0))
    assert str(caught.value).startswith(
        "FederatedDualAveraging needs convex penalties: its map's step grows without "
        "bound. Received: MCP(lam=0.1, gamma=3.0) on "
    )


def test_a_model_without_penalties_is_refused():
    strategy = FederatedDualAveraging(averaging())
    with pytest.raises(ValueError) as caught:
        federated.simulate(build(), problems.clients(2), strategy, 1)
    assert str(caught.value).startswith(
        "FederatedDualAveraging needs a penalty with a proximal map on a weight that "
        "is trained, and the model "
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam,
        lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
        lambda rate: keras.optimizers.SGD(rate, clipnorm=1.0),
        lambda rate: keras.optimizers.SGD(rate, weight_decay=1e-3),
    ],
    ids=["Adam", "momentum", "clipnorm", "weight_decay"],
)
def test_optimizers_whose_steps_do_not_add_up_are_refused(optimizer):
    strategy = FederatedDualAveraging(averaging())
    with pytest.raises(ValueError) as caught:
        federated.simulate(
            build(optimizer=optimizer), problems.clients(2), strategy, 1, L1(0.1)
        )
    assert str(caught.value).startswith(
        "Invalid optimizer of the model. Expected keras.optimizers.SGD or "
        "Proximal(SGD), with a learning rate or schedule and without momentum, "
        "weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, "
        "gradient_accumulation_steps: the strategy has to know how far the clients' "
        "steps go. Received: {'name': "
    )


def test_it_has_to_know_the_model():
    strategy = FederatedDualAveraging(averaging())
    with pytest.raises(RuntimeError) as caught:
        strategy.configure_train(1, {}, {}, None)
    assert str(caught.value) == (
        "FederatedDualAveraging does not know the model. Run it by federated.simulate "
        "or the server app of federated."
    )


def test_metrics_that_say_nothing_of_the_steps_are_refused():
    def nothing(contents, weight):
        return records.MetricRecord({"loss": 1.0})

    strategy = FederatedDualAveraging(averaging(train_metrics_aggr_fn=nothing))
    with pytest.raises(ValueError) as caught:
        federated.simulate(
            build(), problems.clients(2), strategy, 1, L1(0.1), **ONE_STEP
        )
    assert str(caught.value) == (
        "The metrics of FedAvg lack 'steps', how far the clients' steps went. Give it "
        "to FederatedDualAveraging as `step`: learning rate times steps a round."
    )


def test_under_privacy_the_step_is_given():
    clients = problems.clients(3, rows=30)
    sizes = {len(x) for x, _ in clients}
    assert len(sizes) == 3  # a private average has equal weights
    equal = [(x[:30], y[:30]) for x, y in clients]

    def run(strategy):
        result = federated.simulate(build(), equal, strategy, 3, L1(0.4), **ONE_STEP)
        return result.model.get_weights()

    private = Private(
        FederatedDualAveraging(averaging(), step=0.05), 1e-9, 1e3, delta=1e-5, seed=0
    )
    expected = run(FederatedDualAveraging(averaging()))
    for mine, array in zip(run(private), expected, strict=True):
        np.testing.assert_allclose(mine, array, atol=1e-5)


def test_penalized_weights_that_stay_at_the_clients_are_refused():
    for strategy in (
        Personalized(FederatedDualAveraging(averaging()), ["*/kernel"]),
        FederatedDualAveraging(Personalized(averaging(), ["*/kernel"])),
    ):
        with pytest.raises(ValueError) as caught:
            federated.simulate(
                build(), problems.clients(2), strategy, 1, L1(0.1), **ONE_STEP
            )
        assert re.fullmatch(
            r"FederatedDualAveraging applies the penalties of the weights "
            r"\['000/.*kernel'\] at the server, but they stay at the clients\. Take "
            r"the penalties off them, or share them\.",
            str(caught.value),
        )


@pytest.mark.parametrize(
    "inner",
    [
        averaging(fraction_train=0.5),
        pytest.param(averaging(flower.FedMedian), marks=exhaustive),
        pytest.param(averaging(flower.FedTrimmedAvg), marks=exhaustive),
        pytest.param(averaging(flower.Krum), marks=exhaustive),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_whatever_takes_an_average_finds_the_support(inner):
    result = federated.simulate(
        build(),
        problems.clients(),
        FederatedDualAveraging(inner),
        6,
        L1(0.4),
        batch_size=10,
        epochs=2,
        verbose=0,
    )
    kernel = result.model.layers[0].kernel.numpy()
    assert problems.support(kernel) == [[1]] * 4 + [[0]] * 16
