"""FedProx: the pull of each client towards the weights that the server sent."""

import keras
import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg, FedProx

import federated
from federated.clients import Clients
from federated.task import Task
from federated.trainer import Trainer
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2
from tests.federated.models import build_linear, linear_data, split

LENIENT = {"min_train_nodes": 1, "min_available_nodes": 1}


def run(strategy, data=None, build_model=None, **settings):
    x, y = linear_data() if data is None else data
    return federated.simulate(
        build_model or build_linear(), split((x, y), 3), strategy, verbose=0, **settings
    ).model.get_weights()


def test_without_pull_it_is_averaging_bit_for_bit():
    averaged = run(FedAvg(**LENIENT), rounds=3)
    pulled = run(FedProx(proximal_mu=0.0, **LENIENT), rounds=3)
    for a, b in zip(averaged, pulled, strict=True):
        np.testing.assert_array_equal(a, b)


def long_run(optimizer, mu, penalties=None):
    """Where a client ends that trains until nothing moves."""
    x, y = linear_data()

    def build_model():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer(), "mse")
        return model

    result = federated.simulate(
        build_model,
        [(x, y)],
        FedProx(proximal_mu=mu, **LENIENT),
        rounds=1,
        penalties=penalties,
        epochs=400,
        batch_size=None,
        verbose=0,
    )
    return x.astype("float64"), y.astype("float64"), result.model.get_weights()


def initial():
    from federated.seeds import seeded

    with seeded(0):
        return build_linear()().get_weights()


def sgd():
    return keras.optimizers.SGD(0.1)


@pytest.mark.parametrize("optimizer", [sgd, lambda: Proximal(sgd())])
def test_a_long_local_run_ends_at_the_minimizer_of_the_anchored_problem(optimizer):
    mu = 0.7
    x, y, trained = long_run(optimizer, mu)
    anchor = np.concatenate([w.reshape(-1, 1) for w in initial()])
    ones = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    # (1/n)·‖Xw − y‖² + (μ/2)·‖w − w₀‖²
    left = 2 / len(x) * ones.T @ ones + mu * np.eye(4)
    solution = np.linalg.solve(left, 2 / len(x) * ones.T @ y + mu * anchor)
    got = np.concatenate([w.reshape(-1, 1) for w in trained])
    np.testing.assert_allclose(got, solution, rtol=1e-4, atol=1e-5)


def test_a_long_local_run_with_a_lasso_meets_the_optimality_conditions():
    mu, l1 = 0.7, 1.5
    x, y, (kernel, bias) = long_run(lambda: Proximal(sgd()), mu, penalties=L1(l1))
    anchor = initial()[0]
    slope = 2 / len(x) * x.T @ (x @ kernel + bias - y) + mu * (kernel - anchor)
    zero = kernel == 0
    assert 0 < zero.sum() < 3
    assert np.all(np.abs(slope[zero]) <= l1)
    np.testing.assert_allclose(slope[~zero], -l1 * np.sign(kernel[~zero]), atol=1e-4)


def test_the_pull_is_part_of_nothing_that_is_measured():
    x, y = linear_data()
    task = Task(
        build_linear(), Clients.from_list([(x, y)]), L2(0.05), 3, batch_size=None
    )
    trainer = Trainer(task)
    arrays = dict(zip(trainer.keys, trainer.model.get_weights(), strict=True))
    first, bias = (np.float64(a) for a in arrays.values())
    fields = ("gradient_norm", "penalty_gradient_norm", "norm", "penalty")
    trainer.train(arrays, 0, 1, mu=2.0, measure=fields)
    (measured,) = trainer.measured.values()

    kernel, squares = first, []
    for _ in range(3):
        error = x @ kernel + bias - y
        slope = 2 * x.T @ error / len(x)
        squares.append([np.sum(slope**2), np.sum(kernel**2)])
        bias = bias - 0.1 * (2 * error.mean(0) + 2.0 * bias)  # from zero
        kernel = kernel - 0.1 * (slope + 0.1 * kernel + 2.0 * (kernel - first))
    gradient, norm = np.sqrt(np.mean(squares, axis=0))
    expected = [gradient, 2 * 0.05 * norm, norm, 0.05 * np.sum(kernel**2)]
    np.testing.assert_allclose([measured[f] for f in fields], expected, rtol=1e-4)
