"""`solve` certifies linear models, and says so where it only estimates."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from kerasreg.optimizers import solve
from kerasreg.regularizers import L1, L2, ElasticNet, GroupLasso
from tests.optimizers.problems import CONVEX, K, N, features, linear, net, targets


@pytest.mark.parametrize(
    "case",
    [
        "lasso",
        "sparse group lasso",
        "logistic",
        "multinomial, groups",
        "sample weights",
        "no bias",
        "bias penalized",
        "weak elastic net",
    ],
)
def test_certificate_bounds_the_distance_to_the_minimum(case):
    penalty, loss, units, _ = CONVEX.get(case, CONVEX["logistic"])
    dense, weight = {}, None
    if case == "sample weights":
        weight = np.random.default_rng(5).uniform(0, 2, N).astype("float32")
        weight[:5] = 0
    elif case == "no bias":
        dense = {"use_bias": False}
    elif case == "bias penalized":
        dense = {"bias_regularizer": L1(0.01)}
    elif case == "weak elastic net":
        penalty = ElasticNet(0.02, 1e-5)
    x, y = features(), targets(loss, units)
    model = linear(penalty, loss, units, **dense)
    start = model.get_weights()
    best = solve(model, x, y, sample_weight=weight, tol=1e-10)
    assert best.certificate == "duality gap"
    assert -1e-12 <= best.gap <= 1e-7
    for steps in (1, 5, 25):
        model.set_weights(start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            early = solve(model, x, y, sample_weight=weight, tol=1e-10, max_steps=steps)
        distance = early.objective - best.objective * (1 - max(best.gap, 0))
        assert early.gap * early.objective >= distance * (1 - 1e-9) - 1e-12
        evaluated = model.evaluate(x, y, sample_weight=weight, verbose=0)
        if weight is None:  # `evaluate` averages weighted batches in its own way
            assert early.objective == pytest.approx(evaluated, rel=1e-5)


def test_other_models_say_that_theirs_is_an_estimate():
    x, y = features(), targets("mse", 1)
    models = [
        linear(None),
        linear(L1(0.0)),
        linear(keras.regularizers.L2(0.1)),
        linear(L1(0.1), activity_regularizer="l2"),
        net(L1(0.05), None),
    ]
    for model in models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solution = solve(model, x, y, max_steps=20)
        assert solution.certificate == "fixed-point residual"


def test_a_loss_that_is_not_what_it_seems_is_not_certified():
    x, y = features(), 2 * targets("categorical_crossentropy", K)
    model = linear(L1(0.02), "categorical_crossentropy", K)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Targets that are no distribution.
        solution = solve(model, x, y, max_steps=50)
    assert solution.certificate == "fixed-point residual"
    assert solution.objective == pytest.approx(model.evaluate(x, y, verbose=0), 1e-5)


def test_fixed_features_before_the_layer_are_part_of_a_linear_model():
    x, y = features().reshape(N, 5, 6), targets("mse", 1)
    inputs = keras.Input((5, 6))
    hidden = layers.Dropout(0.5)(layers.Flatten()(inputs))
    outputs = layers.Activation("linear")(
        layers.Dense(1, kernel_regularizer=L1(0.2))(hidden)
    )
    model = keras.Model(inputs, outputs)
    model.compile(loss=keras.losses.MeanSquaredError())
    assert solve(model, x, y).certificate == "duality gap"
    flat = linear(L1(0.2))
    solve(flat, features(), y)
    np.testing.assert_allclose(model.get_weights()[0], flat.get_weights()[0], atol=1e-3)


def test_logits_and_probabilities_have_one_solution():
    x, y = features(), targets("binary_crossentropy", 1)
    one = linear(L1(0.02), "binary_crossentropy")
    other = linear(L1(0.02))
    other.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    found = [solve(model, x, y) for model in (one, other)]
    assert {s.certificate for s in found} == {"duality gap"}
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-6)


@pytest.mark.parametrize(
    "penalty", [L1(0.0), L2(0.0), ElasticNet(0.1, 0.1), GroupLasso(0.1, -1)], ids=repr
)
def test_a_penalty_of_strength_zero_on_the_bias_is_none(penalty):
    x, y = features() + 1.0, targets("mse", 1)
    model, plain = linear(L1(0.2), bias_regularizer=penalty), linear(L1(0.2))
    penalty.strength = 0.0
    found = [solve(m, x, y) for m in (model, plain)]
    assert [s.certificate for s in found] == ["duality gap"] * 2
    assert all(s.converged for s in found)
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-6)
    for mine, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3)


def test_the_strength_of_a_bias_penalty_is_live_through_zero():
    x, y = features(), targets("mse", 1)
    penalty = L1(0.0)
    model = linear(L1(0.2), bias_regularizer=penalty)
    biases = []
    for strength in (0.0, 10.0, 0.0):
        penalty.strength = strength
        assert solve(model, x, y).converged
        biases.append(float(model.layers[0].bias.numpy()[0]))
    assert biases[1] == 0.0
    assert biases[0] == pytest.approx(biases[2], rel=1e-3)
    assert abs(biases[0]) > 0.1
