"""One client gives the callback's strengths; many clients give defined averages."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg

import federated
from federated import records
from federated.clients import Clients
from federated.seeds import generator
from federated.strategies import AdaptiveStrength
from federated.task import Task
from federated.trainer import Trainer
from kerasreg.callbacks import (
    AdaptiveWeightDecay,
    GradientRatio,
    LayerwiseAdaptiveLambda,
    Policy,
    Scheduled,
    TargetSparsity,
)
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2
from tests.exhaustive import some
from tests.federated.replies import as_arrays, grid, reply, sent

EVERYBODY = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
ROWS, BATCH, ROUNDS = 60, 16, 4


class PenaltyShare(Policy):
    """A policy of a user's own, by what only clients can measure."""

    needs = ("penalty", "size")
    needs_logs = ("data_loss",)

    def update(self, state):
        return {
            name: unit.strength
            * (state.logs["data_loss"] / (state.logs["data_loss"] + unit.penalty))
            for name, unit in state.units.items()
        }


class Overfit(Policy):
    """One by the losses in training and validation, without penalties."""

    needs_logs = ("data_loss", "val_data_loss")

    def update(self, state):
        factor = state.logs["val_data_loss"] / state.logs["data_loss"]
        return {name: factor * unit.strength for name, unit in state.units.items()}


class Record(Policy):
    """Keeps the states that it is given."""

    def __init__(self, *needs):
        self.needs, self.states = needs, []

    def update(self, state):
        self.states.append(state)
        return {}


def build_model(penalty=L2, proximal=False):
    def build():
        layers = [
            keras.layers.Dense(4, "tanh", kernel_regularizer=penalty(0.01), name="a"),
            keras.layers.Dense(1, kernel_regularizer=penalty(0.02), name="b"),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(Proximal(optimizer) if proximal else optimizer, "mse")
        return model

    return build


def data(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).astype("float32")
    y = np.sin(x.sum(axis=1, keepdims=True)) + 0.1 * rng.normal(size=(rows, 1))
    return x, y.astype("float32")


def adaptive(policy, **settings):
    return AdaptiveStrength(FedAvg(**EVERYBODY), policy, **settings)


def run(policy, clients=None, build=None, rounds=ROUNDS, **settings):
    settings = {"batch_size": BATCH, "verbose": 0, **settings}
    strategy = policy if isinstance(policy, AdaptiveStrength) else adaptive(policy)
    clients = [data()] if clients is None else clients
    return federated.simulate(
        build or build_model(), clients, strategy, rounds, **settings
    )


def same_batches(x, y):
    """The batches of client 0 in all rounds, one after the other, and their number."""
    batches = []
    for number in range(1, ROUNDS + 1):
        order = generator(0, number, 0).permutation(len(x))
        batches += [order[i : i + BATCH] for i in range(0, len(x), BATCH)]

    def each():
        yield from ((x[rows], y[rows]) for rows in batches)

    spec = tuple(tf.TensorSpec((None, *a.shape[1:]), "float32") for a in (x, y))
    dataset = tf.data.Dataset.from_generator(each, output_signature=spec)
    return dataset, len(batches) // ROUNDS


def centrally(policy, build, split=0.0):
    """The strengths after each epoch, by the callback, of the same training."""
    task = Task(build, Clients.from_list([data()]), validation_split=split)
    training, held_out = task.data(0)
    model = task.model()
    dataset, steps = same_batches(*training)
    history = model.fit(
        dataset,
        epochs=ROUNDS,
        steps_per_epoch=steps,
        validation_data=held_out,
        verbose=0,
        callbacks=[LayerwiseAdaptiveLambda(policy, every="epoch")],
    ).history
    return {name: history[f"strength/{name}"] for name in ("a", "b")}, model


# The policy, the function that builds a model, and the share that is held out.
POLICIES = {
    "AdaptiveWeightDecay": (lambda: AdaptiveWeightDecay(0.02), build_model(), 0.0),
    "GradientRatio": (lambda: GradientRatio(0.1), build_model(L1), 0.0),
    "Scheduled": (lambda: Scheduled(lambda e: 0.1 / (1 + e)), build_model(), 0.0),
    "TargetSparsity": (lambda: TargetSparsity(0.5), build_model(L1, True), 0.0),
    "by validation": (Overfit, build_model(), 0.3),
    "by the penalty": (PenaltyShare, build_model(), 0.0),
}


@pytest.mark.parametrize(
    "case",
    some(POLICIES, "AdaptiveWeightDecay", "TargetSparsity", "by validation"),
)
def test_one_client_has_the_strengths_of_the_callback(case):
    policy, build, split = case
    expected, model = centrally(policy(), build, split)
    result = run(policy(), build=build, validation_split=split)
    for name, strengths in expected.items():
        got = result.history[f"strengths/{name}"]
        np.testing.assert_allclose(got, strengths, rtol=2e-5, err_msg=name)
        assert len(set(got)) > 1, "the policy did something"
        own = result.model.get_layer(name).kernel.regularizer.strength
        assert own == got[-1]
    assert list(result.strengths.values()) == [
        result.history[f"strengths/{name}"][-1] for name in ("a", "b")
    ]
    for mine, theirs in zip(
        result.model.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_gradient_norms_are_root_mean_squares_over_the_clients():
    clients = [data(20, seed=1), data(60, seed=2)]
    record = Record("gradient_norm", "penalty_gradient_norm", "norm", "penalty")
    result = run(record, clients, rounds=1, batch_size=None)
    assert result.history["loss"]
    task = Task(build_model(), Clients.from_list(clients))
    squares = {"a": 0.0, "b": 0.0}
    for client, share in ((0, 0.25), (1, 0.75)):
        # The step of plain gradient descent, without the penalty's part of it.
        model = task.model()
        start = [np.asarray(model.get_layer(n).kernel) for n in "ab"]
        model.train_on_batch(*clients[client])
        for name, before in zip("ab", start, strict=True):
            layer = model.get_layer(name)
            step = (before - np.asarray(layer.kernel)) / 0.1
            step -= 2 * layer.kernel.regularizer.strength * before
            squares[name] += share * np.sum(step**2)
    (state,) = record.states
    for name, before in zip("ab", start, strict=True):
        unit, strength = state.units[name], {"a": 0.01, "b": 0.02}[name]
        assert unit.gradient_norm == pytest.approx(squares[name] ** 0.5, rel=1e-4)
        norm = np.linalg.norm(before)
        assert unit.norm == pytest.approx(norm, rel=1e-5)
        assert unit.penalty_gradient_norm == pytest.approx(2 * strength * norm)


def test_zeros_and_norms_are_those_of_the_aggregate():
    model = build_model()()
    record = Record("sparsity", "norm")
    strategy = adaptive(record)
    strategy.bind(model)
    arrays = sent(model)
    strategy.configure_train(1, arrays, ConfigRecord(), grid())
    replies = []
    for client, examples in ((0, 10), (1, 30)):
        trained = {key: a.numpy().copy() for key, a in arrays.items()}
        for i, key in enumerate(trained):
            if key.endswith("kernel"):
                trained[key][:] = 0.0
                trained[key].flat[: client + 1 + i] = client + 1.0
        replies.append(reply(trained, client, examples, loss=float(client)))
    _, metrics = strategy.aggregate_train(1, replies)
    (state,) = record.states
    # (1·10 + 2·30)/40 where both have a number, 2·30/40 where one has.
    unit = state.units["a"]
    assert (unit.size, unit.sparsity) == (12, 10 / 12)
    assert unit.norm == pytest.approx(np.hypot(1.75, 1.5))
    assert state.logs == {"loss": 0.75} == dict(metrics)
    assert (state.epoch, state.step) == (1, 1)


def test_layers_that_share_a_penalty_get_strengths_of_their_own():
    shared = L2(0.1)
    result = run(
        Scheduled({"a": 0.2, "b": 0.3}),
        build=build_model(lambda strength: shared),
        rounds=2,
    )
    assert [r.report for r in result.history if r.number] == [
        {"strengths": {"a": 0.2, "b": 0.3}}
    ] * 2
    assert result.model.get_layer("a").kernel.regularizer.strength == 0.2


def test_ratios_within_a_unit_and_bounds_hold():
    class Tenfold(Policy):
        def update(self, state):
            return {name: 10 * unit.strength for name, unit in state.units.items()}

    strategy = adaptive(Tenfold(), granularity="model", max_strength=1.0)
    result = run(strategy, rounds=4)
    assert result.history["strengths/model"] == [0.1, 0.5, 0.5, 0.5]
    assert list(result.strengths.values()) == [0.5, 1.0]


def test_every_few_rounds():
    strategy = adaptive(Scheduled(lambda e: 1.0 + e), every=2)
    result = run(strategy, rounds=5)
    assert result.history["strengths/a"] == [1.0, 3.0, 3.0, 5.0, 5.0]


def test_a_client_that_is_picked_late_has_the_strengths(monkeypatch):
    told = []
    original = Trainer.train

    def train(self, arrays, client, server_round, **settings):
        told.append((server_round, client, [*settings["strengths"].values()]))
        return original(self, arrays, client, server_round, **settings)

    monkeypatch.setattr(Trainer, "train", train)
    half = FedAvg(**{**EVERYBODY, "fraction_train": 0.5})
    strategy = AdaptiveStrength(half, Scheduled(lambda epoch: 2.0**epoch))
    run(strategy, [data(), data()], rounds=5, seed=1)
    assert {client for _, client, _ in told} == {0, 1}
    assert [told[i][2] for i in range(5)] == [[2.0**i] * 2 for i in range(5)]


def test_clients_evaluate_with_the_strengths_they_trained_with():
    class Double(Policy):
        def update(self, state):
            return {name: 2 * unit.strength for name, unit in state.units.items()}

    losses = []
    for policy in (Double(), Record()):
        result = run(policy, validation_split=0.3, rounds=1)
        (evaluated,) = (r.evaluate for r in result.history if r.number)
        losses.append((evaluated["loss"], evaluated["data_loss"]))
    assert losses[0] == losses[1]
    assert losses[0][0] > losses[0][1]


def test_steps_are_traced_once(monkeypatch):
    traced = []
    original = Trainer._tracing

    def tracing(self, training, data):
        traced.append(training)
        return original(self, training, data)

    monkeypatch.setattr(Trainer, "_tracing", tracing)
    clients = [data(20), data(33), data(41)]
    run(AdaptiveWeightDecay(0.02), clients, rounds=3, validation_split=0.2)
    assert sorted(traced) == [False, True]


def test_the_arrays_are_those_of_the_wrapped_strategy():
    model = build_model()()
    strategy = adaptive(Record("norm"))
    strategy.bind(model)
    arrays = sent(model)
    strategy.configure_train(1, arrays, ConfigRecord(), grid())
    ones = {key: np.ones_like(a.numpy()) for key, a in arrays.items()}
    got, _ = strategy.aggregate_train(1, [reply(ones)])
    assert all(np.all(a == 1) for a in as_arrays(got))
    assert list(got) == records.weight_keys(model)
