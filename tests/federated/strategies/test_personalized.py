import keras
import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAdam, FedAvg

import federated
from federated import records
from federated.clients import Clients
from federated.strategies import Personalized
from federated.task import Task
from federated.trainer import Trainer
from kerasreg.regularizers import L2
from tests.federated.models import split
from tests.federated.replies import as_arrays, grid, reply, sent

EVERYBODY = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


def build_model():
    layers = [
        keras.layers.Dense(3, "tanh", name="body"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dense(1, name="head"),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def data(rows=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)).astype("float32")
    return x, np.sum(x, axis=1, keepdims=True)


def opposites():
    """Two clients of which one has the negative labels of the other.

    A model for both can do no better than 0, with the loss `NO_BETTER`.
    """
    x, y = data()
    return [(x, y), (x, -y)]


NO_BETTER = float(np.mean(data()[1] ** 2))


def run(strategy, clients=None, rounds=3, **settings):
    clients = split(data(), 3) if clients is None else clients
    return federated.simulate(
        build_model, clients, strategy, rounds, verbose=0, **settings
    )


def weights_of(model, layer):
    return model.get_layer(layer).get_weights()


def differ(a, b):
    return any(np.any(x != y) for x, y in zip(a, b, strict=True))


def test_nothing_of_the_kept_layers_is_in_what_the_clients_send(monkeypatch):
    replies = []
    original = FedAvg.aggregate_train

    def aggregate(self, server_round, received):
        replies.extend(received)
        return original(self, server_round, received)

    monkeypatch.setattr(FedAvg, "aggregate_train", aggregate)
    start = Task(build_model, Clients.from_list(split(data(), 3))).model()
    run(Personalized(FedAvg(**EVERYBODY), ["head", "norm"]))
    assert len(replies) == 9
    for each in replies:
        got = as_arrays(each.content[records.ARRAYS])
        for weight, initial, array in zip(
            start.weights, start.get_weights(), got, strict=True
        ):
            kept = "/body/" not in weight.path
            assert np.array_equal(initial, array) == kept, weight.path


def test_a_kept_layer_goes_on_where_the_client_left_it():
    x, y = data()
    result = run(Personalized(FedAvg(**EVERYBODY), ["*"]), [(x, y)], 3, batch_size=None)
    trainer = Trainer(Task(build_model, Clients.from_list([(x, y)]), batch_size=None))
    arrays = dict(zip(trainer.keys, trainer.model.get_weights(), strict=True))
    for number in range(1, 4):
        weights, _, _ = trainer.train(arrays, 0, number)
        arrays = dict(zip(trainer.keys, weights, strict=True))
    kept = result.personal_model(0).get_weights()
    for mine, theirs in zip(kept, arrays.values(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_the_final_model_has_the_initial_values_of_the_kept_layers():
    strategy = Personalized(FedAdam(**EVERYBODY), ["head"])
    result = run(strategy)
    start = Task(build_model, Clients.from_list(split(data(), 3))).model()
    assert not differ(weights_of(result.model, "head"), weights_of(start, "head"))
    assert differ(weights_of(result.model, "body"), weights_of(start, "body"))


def test_a_personal_model_is_the_shared_layers_with_the_clients_own():
    strategy = Personalized(FedAvg(**EVERYBODY), ["head"])
    result = run(strategy, opposites(), 20, penalties={"body": L2(1e-4)})
    first, second = (result.personal_model(k) for k in (0, 1))
    shared = weights_of(result.model, "body")
    assert not differ(weights_of(first, "body"), shared)
    assert differ(weights_of(first, "head"), weights_of(second, "head"))
    for client, model in enumerate((first, second)):
        loss = model.evaluate(*opposites()[client], verbose=0)
        assert loss < NO_BETTER / 2
    assert first.get_layer("body").kernel.regularizer.strength == 1e-4


def test_clients_evaluate_with_their_own_layers():
    strategy = Personalized(FedAvg(**EVERYBODY), ["head"])
    result = run(strategy, opposites(), 20, validation_split=0.2)
    assert result.history["val_loss"][-1] < NO_BETTER / 2


def test_a_client_that_is_not_picked_keeps_what_it_has():
    half = dict(EVERYBODY, fraction_train=0.5)
    result = run(Personalized(FedAvg(**half), ["head"]), opposites(), 4, seed=1)
    picked = [list(r.clients) for r in result.history if r.number]
    assert [0] in picked
    assert [1] in picked
    assert all(len(p) == 1 for p in picked)
    assert sorted(result.personal) == [0, 1]


def test_a_resumed_run_has_the_clients_layers(tmp_path):
    def once(rounds, **settings):
        strategy = Personalized(FedAvg(**EVERYBODY), ["head"])
        return run(strategy, rounds=rounds, **settings)

    whole = once(3)
    once(2, checkpoint=tmp_path)
    resumed = once(3, checkpoint=tmp_path, resume=True)
    for client in range(3):
        mine, theirs = (
            r.personal_model(client).get_weights() for r in (whole, resumed)
        )
        assert not differ(mine, theirs)


def test_noise_of_the_wrapped_strategy_does_not_reach_the_kept_layers():
    class Noisy(FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            for key, array in arrays.items():
                arrays[key] = records.Array(array.numpy() + 1.0)
            return arrays, metrics

    model = build_model()
    strategy = Personalized(Noisy(**EVERYBODY), ["head", "*/gamma"])
    strategy.bind(model)
    arrays = sent(model)
    strategy.configure_train(1, arrays, ConfigRecord(), grid())
    got, _ = strategy.aggregate_train(1, [reply(records.read_arrays(arrays))])
    unchanged = [
        "/".join(weight.path.split("/")[-2:])
        for weight, a, b in zip(
            model.weights, as_arrays(arrays), as_arrays(got), strict=True
        )
        if np.array_equal(a, b)
    ]
    assert unchanged == ["norm/gamma", "head/kernel", "head/bias"]


def test_patterns_that_name_nothing_are_refused():
    strategy = Personalized(FedAvg(), ["heads"])
    with pytest.raises(ValueError) as error:
        strategy.bind(build_model())
    assert str(error.value) == (
        "Invalid value for argument `layers`. Expected patterns of names of layers "
        "that have weights, of ['body', 'norm', 'head']. Received: 'heads'"
    )


@pytest.mark.parametrize(
    ("layers", "kind", "message"),
    [
        (
            "head",
            TypeError,
            "Expected a list of glob patterns of names of layers. "
            "Received: layers='head'",
        ),
        ([], ValueError, "Expected one pattern or more. Received: layers=[]"),
    ],
)
def test_invalid_layers_are_refused(layers, kind, message):
    with pytest.raises(kind) as error:
        Personalized(FedAvg(), layers)
    assert str(error.value) == f"Invalid value for argument `layers`. {message}"


def test_a_client_without_weights_of_its_own_has_no_personal_model():
    result = run(FedAvg(**EVERYBODY), rounds=1)
    with pytest.raises(ValueError) as error:
        result.personal_model(0)
    assert str(error.value) == (
        "Invalid value for argument `client`. Expected one that has trained under "
        "`Personalized`, of []. Received: client=0"
    )
