from concurrent import futures

import keras
import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

import federated
from kerasreg.regularizers import L2
from tests.federated.models import build_linear, linear_data, split


def test_one_client_with_all_the_data_is_central_training():
    x, y = linear_data()
    result = federated.simulate(
        build_linear(), [(x, y)], rounds=5, batch_size=None, verbose=0
    )
    model = build_linear()()
    model.set_weights(_initial())
    model.fit(x, y, batch_size=len(x), epochs=5, verbose=0)
    for mine, theirs in zip(
        result.model.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def _initial():
    from federated.seeds import seeded

    with seeded(0):
        return build_linear()().get_weights()


def test_one_full_batch_step_of_many_clients_is_the_step_of_the_pooled_gradient():
    x, y = linear_data()
    together = federated.simulate(
        build_linear(), [(x, y)], rounds=3, batch_size=None, verbose=0
    )
    apart = federated.simulate(
        build_linear(), split((x, y), 7), rounds=3, batch_size=None, verbose=0
    )
    for a, b in zip(
        together.model.get_weights(), apart.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_metrics_begin_anew_at_each_client_and_round():
    x, y = linear_data()

    def build_model():
        model = build_linear(learning_rate=1e-9)()
        model.compile(model.optimizer, "mse", metrics=["mse"])
        return model

    result = federated.simulate(
        build_model, split((x, y), 2), rounds=2, validation_split=0.5, verbose=0
    )
    for last in result.history.rounds[1:]:
        for metrics in last.clients.values():
            np.testing.assert_allclose(metrics["mse"], metrics["loss"], rtol=1e-5)
            np.testing.assert_allclose(
                metrics["val_mse"], metrics["val_loss"], rtol=1e-5
            )


def same(a, b):
    weights = a.model.get_weights(), b.model.get_weights()
    return all(np.array_equal(x, y) for x, y in zip(*weights, strict=True))


def test_the_seed_decides_everything():
    def run(seed):
        return federated.simulate(
            build_linear(), split(linear_data(), 3), rounds=2, seed=seed, verbose=0
        )

    first = run(0)
    keras.utils.set_random_seed(99)
    assert same(first, run(0))
    assert not same(first, run(1))


def test_the_result_is_a_model_to_go_on_with_and_a_history():
    x, y = linear_data()
    result = federated.simulate(
        build_linear(),
        split((x, y), 3),
        rounds=2,
        penalties=L2(0.01),
        evaluate=(x, y),
        validation_split=0.25,
        verbose=0,
    )
    loss = result.model.evaluate(x, y, verbose=0)
    assert result.history["server_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert len(result.history["server_loss"]) == 3  # with the model before the first
    assert len(result.history["val_loss"]) == 2
    assert result.strengths == {"sequential/dense/kernel": 0.01}
    assert result.bytes_sent == sum(
        r.bytes_down + r.bytes_up for r in result.history.rounds
    )
    frame = result.history.to_frame(clients=True)
    assert len(frame) == 2 * 3
    result.model.fit(x, y, epochs=1, verbose=0)


def test_the_server_can_evaluate_by_a_function():
    result = federated.simulate(
        build_linear(),
        [linear_data()],
        rounds=2,
        evaluate=lambda model: {"norm": np.linalg.norm(model.get_weights()[0])},
        verbose=0,
    )
    expected = np.linalg.norm(result.model.get_weights()[0])
    assert result.history["server_norm"][-1] == pytest.approx(expected)
    with pytest.raises(TypeError) as error:
        federated.simulate(
            build_linear(), [linear_data()], evaluate=lambda model: 0.5, verbose=0
        )
    assert str(error.value) == (
        "Invalid result of `evaluate`. Expected a dict from names to numbers. "
        "Received: 0.5"
    )


def test_the_server_evaluates_by_weighted_examples():
    x, y = linear_data()
    first = (np.arange(len(x)) < 20).astype("float32")
    data = (x, y), (x, y, first)
    whole, part = (
        federated.simulate(build_linear(0.0), [(x, y)], rounds=1, evaluate=e, verbose=0)
        for e in data
    )
    predicted = whole.model.predict(x, verbose=0)
    squares = np.square(predicted - y).ravel()
    assert whole.history["server_loss"][-1] == pytest.approx(squares.mean(), rel=1e-4)
    expected = np.mean(squares * first)  # as Keras divides by all examples
    assert part.history["server_loss"][-1] == pytest.approx(expected, rel=1e-4)


def test_flowers_log_and_the_bar_are_silent_unless_asked_for(capfd):
    clients = split(linear_data(), 2)
    federated.simulate(build_linear(), clients, rounds=1, verbose=0)
    assert "".join(capfd.readouterr()) == ""
    federated.simulate(build_linear(), clients, rounds=1, verbose=1)
    text = "".join(capfd.readouterr())
    assert "1/1" in text
    assert "loss" in text
    assert "aggregate_train" not in text


DATA = split(linear_data(), 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"build_model": 3},
            TypeError,
            "Invalid value for argument `build_model`. Expected a function without "
            "arguments that returns a compiled keras.Model. Received: build_model=3",
        ),
        (
            {"build_model": lambda: 3},
            TypeError,
            "Invalid result of `build_model`. Expected a keras.Model. Received: 3",
        ),
        (
            {
                "build_model": lambda: keras.Sequential(
                    [keras.layers.Dense(1)], name="net"
                )
            },
            ValueError,
            "Invalid result of `build_model`. Expected a model that is compiled. "
            "Received: 'net'",
        ),
        (
            {"strategy": "FedAvg"},
            TypeError,
            "Invalid value for argument `strategy`. Expected a "
            "flwr.serverapp.strategy.Strategy, such as FedAvg(). "
            "Received: strategy='FedAvg'",
        ),
        (
            {"strategy": FedAvg(min_available_nodes=5)},
            ValueError,
            "Invalid value for argument `strategy`. Expected one that is content with "
            "2 client(s): lower its min_available_nodes. "
            "Received: FedAvg(min_available_nodes=5)",
        ),
        (
            {"strategy": FedAvg(fraction_train=1.5)},
            ValueError,
            "Invalid value for argument `strategy`. Expected one that asks a share of "
            "the clients in [0, 1]. Received: FedAvg(fraction_train=1.5)",
        ),
        (
            {"min_clients": 3},
            ValueError,
            "Invalid value for argument `min_clients`. Expected at most the number of "
            "clients, 2. Received: min_clients=3",
        ),
        (
            {"rounds": 0},
            ValueError,
            "Invalid value for argument `rounds`. Expected a positive integer. "
            "Received: rounds=0",
        ),
        (
            {"workers": 0},
            ValueError,
            "Invalid value for argument `workers`. Expected a positive integer. "
            "Received: workers=0",
        ),
        (
            {"timeout": 0},
            ValueError,
            "Invalid value for argument `timeout`. Expected a finite number greater "
            "than 0. Received: timeout=0",
        ),
        (
            {"seed": -1},
            ValueError,
            "Invalid value for argument `seed`. Expected a non-negative integer. "
            "Received: seed=-1",
        ),
        (
            {"validation_split": 1.0},
            ValueError,
            "Invalid value for argument `validation_split`. Expected a number in "
            "[0, 1). Received: validation_split=1.0",
        ),
    ],
)
def test_arguments_that_make_no_simulation(arguments, error, message):
    arguments = {"build_model": build_linear(), "clients": DATA, **arguments}
    with pytest.raises(error) as raised:
        federated.simulate(**arguments, verbose=0)
    assert str(raised.value) == message


def test_an_error_of_the_users_own_in_building_the_model_comes_as_it_is():
    def build_model():
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        federated.simulate(build_model, DATA, verbose=0)


def test_simulations_in_threads_do_not_disturb_one_another():
    clients = split(linear_data(120), 12)

    def run(seed):
        strategy = FedAvg(fraction_train=0.3)
        return federated.simulate(
            build_linear(), clients, strategy, 4, seed=seed, verbose=0
        )

    expected = [run(seed) for seed in (1, 2)]
    with futures.ThreadPoolExecutor(2) as threads:
        for a, b in zip(expected, threads.map(run, (1, 2)), strict=True):
            assert same(a, b)
