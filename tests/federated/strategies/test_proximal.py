"""ServerProximal and FederatedMirrorDescent: zeros of the global model."""

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

import federated
from federated.strategies import (
    FederatedMirrorDescent,
    Robust,
    ServerProximal,
    Wrapper,
)
from kerasreg.regularizers import L1, regularize
from tests.exhaustive import some
from tests.federated.strategies import problems
from tests.federated.strategies.problems import PENALTIES, averaging, build, proximal

ONE_STEP = {"batch_size": None, "epochs": 1, "verbose": 0}
WRAPPERS = [ServerProximal, FederatedMirrorDescent]
RATE = 0.15  # of a stable step on the pooled problem


class Restart(Wrapper):
    """Begins at given weights instead of the model's."""

    def __init__(self, strategy, weights):
        super().__init__(strategy)
        self.weights = weights

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 1:
            arrays = federated.records.write_arrays(arrays, self.weights)
        return super().configure_train(server_round, arrays, config, grid)


@pytest.mark.parametrize("penalty", some(PENALTIES, "L1", "GroupLasso"))
def test_its_fixed_point_is_the_pooled_optimum(penalty):
    outputs, ours, theirs = penalty
    parts = problems.clients(4, outputs=outputs)
    optimum = problems.solution(theirs(), parts)
    strategy = Restart(ServerProximal(averaging()), optimum)
    result = federated.simulate(
        build(RATE, outputs=outputs), parts, strategy, 3, ours(), **ONE_STEP
    )
    for mine, expected in zip(result.model.get_weights(), optimum, strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-6)
    # It is no fixed point of a map with another step.
    strategy = Restart(ServerProximal(averaging(), step=2 * RATE), optimum)
    result = federated.simulate(
        build(RATE, outputs=outputs), parts, strategy, 3, ours(), **ONE_STEP
    )
    assert np.abs(result.model.get_weights()[0] - optimum[0]).max() > 1e-2


def test_it_gets_there():
    parts = problems.clients(3)
    strategy = ServerProximal(averaging())
    result = federated.simulate(build(RATE), parts, strategy, 60, L1(0.4), **ONE_STEP)
    optimum = problems.solution(PENALTIES["L1"][2](), parts)
    mine = result.model.get_weights()
    assert problems.support(mine[0]) == problems.support(optimum[0])
    for weight, expected in zip(mine, optimum, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4)
    report = result.history.rounds[-1].report
    assert report == {"proximal_step": pytest.approx(RATE), "zeros": 0.8}


def test_mirror_descent_of_one_client_pulls_twice():
    parts = [problems.pooled(problems.clients())]
    optimum = problems.solution(PENALTIES["L1"][2](), parts)
    strategy = Restart(FederatedMirrorDescent(averaging()), optimum)
    result = federated.simulate(build(RATE), parts, strategy, 3, L1(0.2), **ONE_STEP)
    for mine, expected in zip(result.model.get_weights(), optimum, strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-6)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_global_model_has_exact_zeros_with_local_steps(wrapper):
    result = federated.simulate(
        build(0.02),
        problems.clients(),
        wrapper(averaging()),
        12,
        L1(0.4),
        batch_size=10,
        epochs=3,
        verbose=0,
    )
    kernel = result.model.layers[0].kernel.numpy()
    assert problems.support(kernel) == [[1]] * 4 + [[0]] * 16


def test_the_server_s_rate_is_part_of_the_step():
    parts = problems.clients(3)
    optimum = problems.solution(PENALTIES["L1"][2](), parts)
    strategy = ServerProximal(averaging(), server_learning_rate=0.5)
    result = federated.simulate(
        build(RATE), parts, Restart(strategy, optimum), 3, L1(0.4), **ONE_STEP
    )
    assert strategy.report()["proximal_step"] == pytest.approx(RATE / 2)
    for mine, expected in zip(result.model.get_weights(), optimum, strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-6)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: Robust(ServerProximal(inner)),
        lambda inner: ServerProximal(Robust(inner)),
        lambda inner: flower.DifferentialPrivacyServerSideFixedClipping(
            ServerProximal(inner), 0.0, 1e9, 3
        ),
    ],
)
def test_it_nests(around):
    mine, expected = (
        federated.simulate(
            build(0.05, optimizer=proximal),
            problems.clients(3),
            strategy,
            2,
            L1(0.4),
            **ONE_STEP,
        ).model.get_weights()
        for strategy in (around(averaging()), ServerProximal(averaging()))
    )
    for weight, array in zip(mine, expected, strict=True):
        np.testing.assert_allclose(weight, array, atol=1e-6)


def test_weights_that_are_not_trained_are_left_alone():
    def build_model():
        model = build(RATE)()
        model.layers[0].set_weights([np.full((20, 1), 0.01), np.zeros(1)])
        regularize(model, {"kernel": L1(0.4), "bias": L1(0.1)})
        model.layers[0].kernel.trainable = False
        return model

    result = federated.simulate(
        build_model,
        problems.clients(2),
        ServerProximal(averaging()),
        2,
        batch_size=None,
        verbose=0,
    )
    np.testing.assert_array_equal(
        result.model.layers[0].kernel, np.full((20, 1), 0.01, "float32")
    )


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_arguments(wrapper):
    for argument in ("step", "server_learning_rate"):
        with pytest.raises(ValueError) as caught:
            wrapper(averaging(), **{argument: 0.0})
        assert str(caught.value) == (
            f"Invalid value for argument `{argument}`. Expected a finite number "
            f"greater than 0. Received: {argument}=0.0"
        )
    with pytest.raises(TypeError, match=r"Received: FedYogi$"):
        wrapper(flower.FedYogi())
    with pytest.raises(ValueError, match="has none"):
        federated.simulate(
            build(), problems.clients(2), wrapper(averaging()), 1, verbose=0
        )
