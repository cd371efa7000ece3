"""The account: epsilon, budget, resuming; and real runs with noise."""

import math

import dp_accounting
import keras
import numpy as np
import pytest
from dp_accounting import pld, rdp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import (
    NeighboringRelation,
    PrivacyConfig,
    RdpAccountant,
    SamplingMethod,
)
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)
from scipy import stats

import federated
from federated.privacy import LocallyPrivate, Private, epsilon_of
from federated.strategies import AdaptiveStrength
from kerasreg.callbacks import GeneralizationGap, Scheduled
from kerasreg.regularizers import L2
from tests.federated.models import build_linear, linear_data, split

ERROR_RATE = 1e-6  # of each statistical test
ADD_OR_REMOVE = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE


def fed_avg(**settings):
    return FedAvg(
        min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1, **settings
    )


def private(z=2.0, **settings):
    return Private(fed_avg(), z, 0.5, delta=1e-3, **settings)


def run(strategy, rounds=3, **settings):
    return federated.simulate(
        build_linear(),
        split(linear_data(), 4),
        strategy,
        rounds=rounds,
        verbose=0,
        **settings,
    )


def same(a, b):
    weights = zip(a.model.get_weights(), b.model.get_weights(), strict=True)
    return all(np.array_equal(x, y) for x, y in weights)


@pytest.mark.parametrize("sample_rate", [None, 0.2])
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_epsilon_is_that_of_dp_accounting(sample_rate, accountant):
    event = dp_accounting.GaussianDpEvent(3.0)
    if sample_rate:
        event = dp_accounting.PoissonSampledDpEvent(sample_rate, event)
    kind = {"rdp": rdp.RdpAccountant, "pld": pld.PLDAccountant}[accountant]
    account = kind(neighboring_relation=ADD_OR_REMOVE)
    for _ in range(4):
        account.compose(event)
    got = epsilon_of(3.0, 4, 1e-5, sample_rate=sample_rate, accountant=accountant)
    np.testing.assert_allclose(got, account.get_epsilon(1e-5), rtol=1e-6)


@pytest.mark.parametrize(("accountant", "slack"), [("pld", 1.0001), ("rdp", 1.2)])
def test_epsilon_bounds_the_exact_one_of_gaussian_noise(accountant, slack):
    # Four rounds are one with half the noise; Balle and Wang 2018, theorem 8.
    epsilon, z = 2.0, 3.0 / math.sqrt(4)
    cdf = stats.norm.cdf
    delta = cdf(0.5 / z - epsilon * z)
    delta -= math.exp(epsilon) * cdf(-0.5 / z - epsilon * z)
    assert (
        0.9999 * epsilon
        < epsilon_of(3.0, 4, delta, accountant=accountant)
        < slack * epsilon
    )


def test_epsilon_grows_with_rounds_and_falls_with_noise_and_sampling():
    by_round = [epsilon_of(2.0, k, 1e-5) for k in range(6)]
    assert by_round[0] == 0
    assert np.all(np.diff(by_round) > 0)
    assert epsilon_of(3.0, 5, 1e-5) < by_round[5]
    sampled = [epsilon_of(2.0, 5, 1e-5, sample_rate=q) for q in (0.1, 0.5, 1.0)]
    assert np.all(np.diff(sampled) > 0)
    np.testing.assert_allclose(sampled[2], by_round[5])


def test_a_run_reports_epsilon_and_ends_within_the_budget():
    by_round = [epsilon_of(2.0, k, 1e-3) for k in range(4)]
    budget = (by_round[2] + by_round[3]) / 2
    result = run(private(seed=0, max_epsilon=budget), rounds=5)
    assert result.history["privacy/epsilon"] == by_round[1:3]
    assert result.privacy == {"epsilon": by_round[2], "delta": 1e-3}
    assert result.stopped == (
        f"Round 3 would bring epsilon from {by_round[2]:.4g} to {by_round[3]:.4g}, "
        f"above max_epsilon={budget:g} at delta=0.001."
    )
    assert same(result, run(private(seed=0), rounds=2))


def test_without_amplification_epsilon_is_that_of_the_client_asked_most_often():
    strategy = Private(fed_avg(fraction_train=0.5), 2.0, 0.5, delta=1e-3)
    result = run(strategy, rounds=6)
    asked = np.zeros(4, int)
    for r in list(result.history)[1:]:
        asked[list(r.clients)] += 1
        assert r.report["privacy"]["epsilon"] == epsilon_of(2.0, asked.max(), 1e-3)
    assert asked.max() < 6


def test_a_resumed_run_goes_on_with_account_and_noise(tmp_path):
    settings = {"seed": 0, "quantile": 0.5}
    whole = run(private(0.3, **settings), rounds=4)
    run(private(0.3, **settings), rounds=2, checkpoint=tmp_path)
    rest = run(private(0.3, **settings), rounds=4, checkpoint=tmp_path, resume=True)
    assert same(whole, rest)
    assert whole.history["privacy/epsilon"] == rest.history["privacy/epsilon"]
    assert whole.history["clipping_norm"] == rest.history["clipping_norm"]
    with pytest.raises(ValueError) as caught:
        run(private(1.0, **settings), rounds=5, checkpoint=tmp_path, resume=True)
    assert str(caught.value) == (
        "The checkpoint's account is of another `noise_multiplier`. Expected: 0.3. "
        "Received: noise_multiplier=1.0"
    )


def test_the_seed_of_a_run_does_not_repeat_the_noise():
    assert not same(run(private(), 1), run(private(), 1))
    assert same(run(private(seed=1), 1), run(private(seed=1), 1))


MOD = LocalDpMod(clipping_norm=0.5, sensitivity=1.0, epsilon=1.0, delta=1e-3)


@pytest.mark.parametrize(
    ("strategy", "mod"),
    [
        (lambda: DifferentialPrivacyServerSideFixedClipping(fed_avg(), 1, 1, 4), None),
        (
            lambda: DifferentialPrivacyClientSideFixedClipping(fed_avg(), 1, 1, 4),
            fixedclipping_mod,
        ),
        (
            lambda: DifferentialPrivacyClientSideAdaptiveClipping(fed_avg(), 0.1, 4),
            adaptiveclipping_mod,
        ),
        (fed_avg, MOD),
    ],
    ids=["server", "client", "adaptive", "local"],
)
def test_flowers_own_wrappers_and_mods_draw_noise_that_no_seed_repeats(strategy, mod):
    mods = (mod,) if mod else ()
    one, other = (run(strategy(), 1, mods=mods) for _ in range(2))
    assert not one.history.rounds[1].errors
    assert not same(one, other)


def test_flowers_own_account_is_reported_and_resumed_and_ends_the_run(tmp_path):
    def accounted(max_epsilon):
        config = PrivacyConfig(
            target_delta=1e-3,
            population_size=4,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
            sampling_method=SamplingMethod.NO_AMPLIFICATION,
            max_epsilon=max_epsilon,
        )
        return DifferentialPrivacyServerSideFixedClipping(
            fed_avg(), 2.0, 0.5, 4, accountant=RdpAccountant(config)
        )

    by_round = [epsilon_of(2.0, k, 1e-3) for k in range(4)]
    budget = (by_round[2] + by_round[3]) / 2
    run(accounted(budget), 1, checkpoint=tmp_path)
    result = run(accounted(budget), 5, checkpoint=tmp_path, resume=True)
    np.testing.assert_allclose(result.history["privacy/epsilon"], by_round[1:3])
    assert result.stopped.startswith("The next private release would exceed")


def test_clipping_at_the_clients_too_changes_nothing():
    at_server = run(private(seed=0), 2)
    at_both = run(private(seed=0), 2, mods=(fixedclipping_mod,))
    weights = zip(
        at_server.model.get_weights(), at_both.model.get_weights(), strict=True
    )
    for a, b in weights:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_local_noise_has_the_scale_that_the_account_assumes():
    strategy = LocallyPrivate(fed_avg(), MOD, delta=1e-3)
    x, y = linear_data(20, 20_000)
    build = build_linear(1e-9, 20_000)
    result = federated.simulate(
        build, [(x, y)], strategy, rounds=1, mods=(MOD,), verbose=0
    )
    start = federated.simulate(build, [(x, y)], rounds=1, verbose=0)  # hardly moves
    noise = result.model.get_weights()[0] - start.model.get_weights()[0]
    # The most that one client can change is twice the clipping norm.
    z = noise.astype("float64").ravel() / (2 * 0.5 * strategy.noise_multiplier)
    low, high = stats.chi2(len(z)).ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2])
    assert low < np.sum(z**2) < high


def test_local_privacy_composes_over_the_rounds_of_a_client():
    z = math.sqrt(2 * math.log(1.25 / 1e-3))  # its sensitivity is 2 · 0.5
    one, two = epsilon_of(z, 1, 1e-3), epsilon_of(z, 2, 1e-3)
    strategy = LocallyPrivate(fed_avg(), MOD, delta=1e-3, max_epsilon=(one + two) / 2)
    result = run(strategy, 3, mods=(MOD,))
    assert len(result.history) == 1
    assert result.stopped
    np.testing.assert_allclose(result.privacy["epsilon"], one)
    half = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=1.0, delta=1e-3)
    assert LocallyPrivate(fed_avg(), half, delta=1e-3).noise_multiplier == z / 2


def test_local_privacy_refuses_a_mod_without_noise():
    mod = LocalDpMod(clipping_norm=0.5, sensitivity=0.0, epsilon=1.0, delta=1e-3)
    with pytest.raises(ValueError) as caught:
        LocallyPrivate(fed_avg(), mod, delta=1e-3)
    assert str(caught.value) == (
        "Invalid value for argument `mod`. Expected positive sensitivity and epsilon, "
        "and a delta between 0 and 1. Received: sensitivity=0.0, epsilon=1.0, "
        "delta=0.001"
    )


def test_local_privacy_refuses_what_the_mod_does_not_clip():
    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), name="scale")

        def call(self, x):
            return self.scale * x

    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.BatchNormalization(name="norm"),
            Scaled(name="scaled"),
        ],
        name="net",
    )
    with pytest.raises(ValueError) as caught:
        LocallyPrivate(fed_avg(), MOD, delta=1e-3).bind(model)
    assert str(caught.value) == (
        "Flower's LocalDpMod clips no scalars, takes no integers, and makes variances "
        "negative. Expected a model without such weights. Received: "
        "['net/norm/moving_variance', 'net/scaled/scale']"
    )
    with pytest.raises(TypeError) as caught:
        LocallyPrivate(fed_avg(), "mod", delta=1e-3)
    assert str(caught.value) == (
        "Invalid value for argument `mod`. Expected a flwr.clientapp.mod.LocalDpMod. "
        "Received: mod='mod'"
    )


@pytest.mark.parametrize("outside", [False, True])
def test_private_inside_and_around_other_wrappers(outside):
    def adaptive(inner):
        return AdaptiveStrength(inner, Scheduled(lambda epoch: 0.1 / (1 + epoch)))

    def noisy(inner):
        return Private(inner, 1e-9, 100.0, delta=1e-3, seed=0)

    inner = adaptive(noisy(fed_avg())) if outside else noisy(adaptive(fed_avg()))
    both = run(inner, penalties=L2(0.1))
    plain = run(adaptive(fed_avg()), penalties=L2(0.1))
    for a, b in zip(both.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert list(both.strengths.values()) == list(plain.strengths.values())
    assert both.privacy["delta"] == 1e-3


def test_a_client_that_fails_does_not_lose_the_round():
    def failing(message, context, call_next):
        if message.metadata.dst_node_id == 1:
            raise OSError("no power")
        return call_next(message, context)

    result = run(private(seed=0), 2, mods=(failing,))
    assert [r.errors for r in list(result.history)[1:]] == [
        {1: "OSError: no power"}
    ] * 2
    assert result.privacy["epsilon"] == epsilon_of(2.0, 2, 1e-3)


def test_the_wrapped_strategy_learns_nothing_from_the_clients_evaluation():
    class Spy(FedAvg):
        seen = []

        def aggregate_evaluate(self, server_round, replies):
            self.seen.extend(replies)
            return super().aggregate_evaluate(server_round, replies)

    spy = Spy()
    result = run(Private(spy, 2.0, 0.5, delta=1e-3), 2, validation_split=0.2)
    assert not spy.seen
    assert len(result.history["val_loss"]) == 2
    mean = np.mean([m["val_loss"] for m in result.history.rounds[2].clients.values()])
    np.testing.assert_allclose(result.history["val_loss"][1], mean)
    gap = AdaptiveStrength(fed_avg(), GeneralizationGap())
    with pytest.raises(ValueError, match="needs"):
        run(
            Private(gap, 2.0, 0.5, delta=1e-3),
            1,
            validation_split=0.2,
            penalties=L2(0.1),
        )
