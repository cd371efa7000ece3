"""AdaptiveStrength over rounds: what it needs, refuses and remembers."""

import warnings

import keras
import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg

import federated
from federated import records
from federated.strategies import (
    AdaptiveStrength,
    BayesianAggregation,
    FederatedDualAveraging,
    Personalized,
    PFedBayes,
    ServerProximal,
)
from federated.strategies.adaptive import _means
from kerasreg.callbacks import (
    Evidence,
    GeneralizationGap,
    Hypergradient,
    Policy,
    Scheduled,
    State,
    TargetSparsity,
    Unit,
)
from kerasreg.layers import BayesianDense
from kerasreg.regularizers import L1, L2
from tests.federated.models import linear_data, split
from tests.federated.replies import grid, reply, sent

EVERYBODY = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


def build_model(penalty=None):
    def build():
        layer = keras.layers.Dense(1, kernel_regularizer=penalty, name="head")
        model = keras.Sequential([keras.Input((8,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    return build


def run(strategy, rounds, penalty, **settings):
    clients = split(linear_data(80, 8), 4)
    return federated.simulate(
        build_model(penalty), clients, strategy, rounds, verbose=0, **settings
    )


def bound(policy, penalty=None, **settings):
    model = build_model(L2(0.1) if penalty is None else penalty)()
    strategy = AdaptiveStrength(FedAvg(**EVERYBODY), policy, **settings)
    strategy.bind(model)
    return strategy, sent(model)


def train(strategy, arrays, number, add=0.0, **metrics):
    strategy.configure_train(number, arrays, ConfigRecord(), grid())
    trained = {key: array.numpy() + add for key, array in arrays.items()}
    return strategy.aggregate_train(number, [reply(trained, **metrics)])


def evaluate(strategy, arrays, number, **metrics):
    strategy.configure_evaluate(number, arrays, ConfigRecord(), grid())
    answer = reply({}, kind="evaluate", **metrics)
    return strategy.aggregate_evaluate(number, [answer])


@pytest.mark.parametrize("inner", [ServerProximal, FederatedDualAveraging])
def test_a_target_of_zeros_is_met_by_a_sparse_strategy_inside(inner):
    policy = TargetSparsity(0.5, largest_step=1.0)
    strategy = AdaptiveStrength(inner(FedAvg(**EVERYBODY)), policy)
    result = run(strategy, 60, L1(0.01), batch_size=None)
    kernel = np.asarray(result.model.get_layer("head").kernel)
    assert np.sum(kernel == 0) == 4


def test_averages_alone_need_clients_that_make_zeros():
    with pytest.raises(ValueError) as error:
        bound(TargetSparsity(0.5), L1(0.01))
    assert str(error.value) == (
        "TargetSparsity needs weights that reach exact zeros. Expected a model "
        "compiled with kerasreg.optimizers.Proximal, and penalties such as L1, whose "
        "proximal map makes them. Received: optimizer=SGD. Or put "
        "FederatedDualAveraging or ServerProximal inside, which keep the zeros that an "
        "average of clients loses."
    )


def test_the_metrics_of_the_clients_evaluation_reach_the_policy():
    numbers = [(1.0, 1.0), (0.8, 1.1), (0.6, 1.3), (0.7, 1.4)]
    by_hand, strength, expected = GeneralizationGap(), 0.1, []
    for training, validation in numbers:
        logs = {"data_loss": training, "val_data_loss": validation}
        logs |= {"loss": training, "val_loss": validation}
        state = State({"head": Unit(strength)}, logs=logs)
        strength = by_hand.update(state).get("head", strength)
        expected.append(strength)
    strategy, arrays = bound(GeneralizationGap())
    got = []
    for number, (training, validation) in enumerate(numbers, 1):
        train(strategy, arrays, number, loss=training, data_loss=training)
        evaluate(strategy, arrays, number, loss=validation, data_loss=validation)
        got.append(strategy.report()["strengths"]["head"])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(set(got)) > 1


def test_a_resumed_run_has_the_same_strengths_and_weights(tmp_path):
    def once(rounds, **settings):
        policy = TargetSparsity(0.5)
        strategy = AdaptiveStrength(ServerProximal(FedAvg(**EVERYBODY)), policy)
        return run(strategy, rounds, L1(0.01), **settings)

    whole = once(8)
    once(5, checkpoint=tmp_path)
    resumed = once(8, checkpoint=tmp_path, resume=True)
    assert resumed.history["strengths/head"] == whole.history["strengths/head"]
    assert len(set(whole.history["strengths/head"])) > 4
    for mine, theirs in zip(
        resumed.model.get_weights(), whole.model.get_weights(), strict=True
    ):
        assert np.array_equal(mine, theirs)


def test_a_second_run_of_the_same_strategy_begins_anew():
    strategy = AdaptiveStrength(
        FedAvg(**EVERYBODY), Scheduled(lambda epoch: 2.0**epoch, relative=True)
    )
    first, second = (run(strategy, 2, L2(s)) for s in (0.1, 0.3))
    assert first.history["strengths/head"] == [0.2, 0.4]
    np.testing.assert_allclose(second.history["strengths/head"], [0.6, 1.2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_leave_the_strengths(value):
    strategy, arrays = bound(Scheduled(lambda epoch: 1.0 + epoch))
    with pytest.warns(UserWarning, match="strengths stay") as caught:
        train(strategy, arrays, 1, add=value)
    (warning,) = caught
    assert str(warning.message) == (
        "A number that Scheduled needs or returned is missing, NaN or infinite: all "
        "strengths stay as they are."
    )
    assert strategy.strengths == {"head": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(strategy, arrays, 2, add=value)
        train(strategy, arrays, 3)
    assert strategy.strengths == {"head": 4.0}


def test_a_round_without_a_model_leaves_the_strengths():
    strategy, arrays = bound(Scheduled(lambda epoch: 1.0 + epoch))
    strategy.configure_train(1, arrays, ConfigRecord(), grid())
    assert strategy.aggregate_train(1, [])[0] is None
    assert strategy.report() == {"strengths": {"head": 1.0}}


@pytest.mark.parametrize(
    "policy",
    [Hypergradient(None, None), Evidence(np.ones((2, 1)), np.ones((2, 1)))],
)
def test_policies_that_need_training_data_are_refused(policy):
    with pytest.raises(ValueError) as error:
        AdaptiveStrength(FedAvg(), policy)
    assert str(error.value) == (
        f"Invalid value for argument `policy`. {type(policy).__name__} differentiates "
        "the loss of the training data, which stay with the clients. Expected one that "
        "works by what can be measured of the model and averaged, such as "
        "TargetSparsity, GeneralizationGap, GradientRatio or Scheduled. "
        f"Received: policy={policy!r}"
    )


def test_a_policy_that_needs_validation_says_so_after_the_first_round():
    strategy = AdaptiveStrength(FedAvg(**EVERYBODY), GeneralizationGap())
    with pytest.raises(ValueError) as error:
        run(strategy, 3, L2(0.1))
    needed = list(GeneralizationGap().needs_logs)
    assert str(error.value) == (
        f"GeneralizationGap needs {needed} in each round. Expected clients that hold "
        "out data, such as `validation_split=0.2` of `simulate`, and a strategy that "
        "has them evaluate. Received: metrics ['data_loss', 'loss']"
    )


def test_a_metric_that_the_model_has_not_is_named():
    class ByAccuracy(Policy):
        needs_logs = ("accuracy",)

    strategy, arrays = bound(ByAccuracy())
    with pytest.raises(ValueError) as error:
        train(strategy, arrays, 1, loss=1.0)
    assert str(error.value) == (
        "ByAccuracy needs the metrics ['accuracy']. Expected a model compiled with "
        "them. Received: metrics ['loss']"
    )
    logs = {"loss": 1.0, "val_loss": 2.0}  # the clients have evaluated
    assert strategy._missing(["val_acuracy"], logs) == (
        "ByAccuracy needs the metrics ['val_acuracy']. Expected a model compiled with "
        "them. Received: metrics ['loss', 'val_loss']"
    )


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (
            {"policy": "sparse"},
            TypeError,
            "`policy`. Expected a kerasreg.callbacks.Policy. Received: policy='sparse'",
        ),
        (
            {"every": 0},
            ValueError,
            "`every`. Expected a positive integer. Received: every=0",
        ),
        (
            {"granularity": "unit"},
            ValueError,
            "`granularity`. Expected one of ('layer', 'weight', 'model'). "
            "Received: granularity='unit'",
        ),
        (
            {"min_strength": 2.0, "max_strength": 1.0},
            ValueError,
            "`min_strength`. Expected a number up to `max_strength`. Received: "
            "min_strength=2.0, max_strength=1.0",
        ),
    ],
)
def test_invalid_arguments_are_refused(settings, kind, message):
    settings = {"policy": Scheduled(1.0), **settings}
    with pytest.raises(kind) as error:
        AdaptiveStrength(FedAvg(), **settings)
    assert str(error.value) == f"Invalid value for argument {message}"


def test_a_divergence_is_warmed_up_over_rounds():
    def build():
        layer = BayesianDense(1, kl_strength=1.0, name="head")
        model = keras.Sequential([keras.Input((8,)), layer])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model

    warm_up = Scheduled(lambda epoch: min(1.0, epoch / 2))
    strategy = AdaptiveStrength(FedAvg(**EVERYBODY), warm_up)
    clients = split(linear_data(80, 8), 2)
    result = federated.simulate(build, clients, strategy, 3, verbose=0)
    added = [r.train["loss"] - r.train["data_loss"] for r in result.history if r.number]
    assert abs(added[0]) < 1e-6
    np.testing.assert_allclose(added[2] / added[1], 2.0, rtol=0.05)
    assert result.model.get_layer("head").kl_strength == 1.0


def test_it_works_around_and_inside_other_wrappers():
    policy = Scheduled(lambda epoch: 0.5**epoch)
    for strategy in (
        AdaptiveStrength(Personalized(FedAvg(**EVERYBODY), ["*/bias"]), policy),
        Personalized(AdaptiveStrength(FedAvg(**EVERYBODY), policy), ["*/bias"]),
    ):
        result = run(strategy, 2, L2(1.0))
        assert result.strengths == {"sequential/head/kernel": 0.25}
        assert result.personal_model(3).get_layer("head").kernel.regularizer.l2 == 0.25


def test_a_reply_with_a_false_record_is_left_out():
    good = reply({"000/a": np.zeros(1)}, examples=3)
    good.content[records.MEASURED] = records.write_measured({"000/a": {"norm": 2.0}})
    bad = reply({"000/a": np.zeros(1)}, examples=1)
    bad.content[records.MEASURED] = ConfigRecord(
        {"keys": ["000/a", "x"], "norm": [9.0]}
    )
    contents = [each.content for each in (good, bad)]
    assert _means(contents, ["000/a"]) == {("000/a", "norm"): 4.0}


@pytest.mark.parametrize(
    "strategy",
    [
        AdaptiveStrength(FedAvg(), Scheduled(1.0)),
        BayesianAggregation(FedAvg()),
        Personalized(FedAvg(), ["head"]),
        PFedBayes(FedAvg()),
    ],
)
def test_a_run_without_the_model_is_refused(strategy):
    arrays = sent(build_model()())
    with pytest.raises(RuntimeError) as error:
        strategy.configure_train(1, arrays, ConfigRecord(), grid())
    assert str(error.value) == (
        f"{type(strategy).__name__} does not know the model. Run it by "
        "federated.simulate or the server app of federated."
    )


def test_what_is_measured_survives_the_record():
    units = {
        "000/a": {"norm": 1.0, "penalty": None},
        "003/b": {"norm": 2.0} | {"penalty": 0.5},
    }
    content = reply({"000/a": np.zeros(1)}).content
    content[records.MEASURED] = records.write_measured(units)
    got = records.read_measured(content)
    assert got["003/b"] == units["003/b"]
    assert got["000/a"]["norm"] == 1.0
    assert np.isnan(got["000/a"]["penalty"])
    assert records.read_measured(reply({}).content) == {}
