"""`solve`: its solutions are solutions, and what it refuses."""

import keras
import numpy as np
import pytest
from sklearn import linear_model

from kerasreg.optimizers import solve
from kerasreg.regularizers import L1, L2, MCP, SCAD, ElasticNet
from tests.optimizers.problems import (
    CONVEX,
    K,
    N,
    P,
    assert_subgradient,
    features,
    kernel_and_bias,
    linear,
    slope,
    targets,
)

# Optimality.


@pytest.mark.parametrize("case", CONVEX)
def test_convex_solutions_satisfy_their_optimality_conditions(case):
    penalty, loss, units, parts = CONVEX[case]
    x, y = features(), targets(loss, units)
    model = linear(penalty, loss, units)
    solution = solve(model, x, y)
    assert solution.certificate == "duality gap"
    assert solution.converged
    assert -1e-12 <= solution.gap <= 1e-6
    gradient, of_bias = slope(model, x, y, loss)
    kernel, _ = kernel_and_bias(model)
    assert_subgradient(kernel, -gradient, **parts)
    np.testing.assert_allclose(of_bias, 0.0, atol=1e-4)
    assert 0 < (kernel == 0).mean() < 1
    evaluated = model.evaluate(x, y, verbose=0)
    assert solution.objective == pytest.approx(evaluated, rel=1e-5)


def test_elastic_net_optimality():
    x, y = features(), targets("mse", 1)
    model = linear(ElasticNet(0.1, 0.05))
    solve(model, x, y)
    kernel, _ = kernel_and_bias(model)
    gradient, _ = slope(model, x, y, "mse")
    assert_subgradient(kernel, -gradient - 2 * 0.05 * kernel, l1=0.1)


def test_ridge_has_its_closed_form():
    x, y = features(), targets("mse", 1)
    model = linear(L2(0.1), use_bias=False)
    assert solve(model, x, y).certificate == "duality gap"
    x, y = x.astype("float64"), y.astype("float64")
    exact = np.linalg.solve(x.T @ x / N + 0.1 * np.eye(P), x.T @ y / N)
    np.testing.assert_allclose(model.get_weights()[0], exact, atol=1e-4)


@pytest.mark.parametrize("penalty", [MCP(0.3, 3.0), SCAD(0.3, 3.7)], ids=repr)
def test_concave_penalties_reach_a_stationary_point(penalty):
    x, y = features(), targets("mse", 1)
    model = linear(penalty)
    model.layers[0].kernel.assign(np.zeros((P, 1)))
    solution = solve(model, x, y)
    assert solution.certificate == "fixed-point residual"
    assert solution.converged
    kernel, _ = kernel_and_bias(model)
    gradient, _ = slope(model, x, y, "mse")
    size, lam, gamma = np.abs(kernel), 0.3, penalty.gamma
    if isinstance(penalty, MCP):
        pull = np.maximum(lam - size / gamma, 0)
    else:
        pull = np.clip((gamma * lam - size) / (gamma - 1), 0, lam)
    alive = kernel != 0
    np.testing.assert_allclose(
        -gradient[alive], (pull * np.sign(kernel))[alive], atol=1e-3
    )
    assert np.all(np.abs(gradient)[~alive] <= lam + 1e-3)
    assert 4 <= alive.sum() <= 10


# Agreement with scikit-learn.


def relative_gap(model, x, y, alpha, ratio, peer):
    """How far the Keras model's objective is above scikit-learn's, in its terms."""

    def objective(w, b):
        r = y[:, 0].astype("float64") - x.astype("float64") @ w - b
        penalty = ratio * np.abs(w).sum() + (1 - ratio) / 2 * (w @ w)
        return r @ r / (2 * len(y)) + alpha * penalty

    kernel, bias = kernel_and_bias(model)
    best = objective(peer.coef_, peer.intercept_)
    return objective(kernel[:, 0], float(bias[0])) / best - 1


@pytest.mark.parametrize("scale", [None, np.geomspace(0.01, 100, P)], ids=["", "rough"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_agrees_with_scikit_learn(ratio, scale):
    x, y, alpha = features(scale), targets("mse", 1), 0.1
    peer = linear_model.ElasticNet(
        alpha=alpha, l1_ratio=ratio, tol=1e-14, max_iter=10**6
    ).fit(x.astype("float64"), y[:, 0].astype("float64"))
    model = linear(ElasticNet.from_ratio(2 * alpha, ratio))
    assert solve(model, x, y).converged
    assert relative_gap(model, x, y, alpha, ratio, peer) <= 1e-6
    support = model.get_weights()[0][:, 0] != 0
    np.testing.assert_array_equal(support, peer.coef_ != 0)


def test_more_features_than_samples():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 200)).astype("float32")
    y = (x[:, :5] @ rng.normal(size=(5, 1))).astype("float32")
    peer = linear_model.Lasso(alpha=0.1, tol=1e-14, max_iter=10**6)
    peer.fit(x.astype("float64"), y[:, 0].astype("float64"))
    model = linear(L1(0.2), inputs=200)
    assert solve(model, x, y).converged
    assert relative_gap(model, x, y, 0.1, 1.0, peer) <= 1e-6
    support = model.get_weights()[0][:, 0] != 0
    np.testing.assert_array_equal(support, peer.coef_ != 0)


@pytest.mark.parametrize("units", [1, K])
def test_agrees_with_scikit_learn_on_classes(units):
    loss = "binary_crossentropy" if units == 1 else "sparse_categorical_crossentropy"
    x, y, l1, l2 = features(), targets(loss, units), 0.02, 0.005
    peer = linear_model.LogisticRegression(
        C=1 / (N * (l1 + 2 * l2)),
        l1_ratio=l1 / (l1 + 2 * l2),
        solver="saga",
        tol=1e-9,
        max_iter=10**5,
    ).fit(x.astype("float64"), np.ravel(y))
    model = linear(ElasticNet(l1, l2), loss, units)
    solution = solve(model, x, y)
    assert solution.converged
    kernel, _ = kernel_and_bias(model)
    np.testing.assert_array_equal(kernel.T != 0, peer.coef_ != 0)
    np.testing.assert_allclose(kernel.T, peer.coef_, atol=2e-3)
    model.layers[0].kernel.assign(peer.coef_.T)
    model.layers[0].bias.assign(peer.intercept_)
    assert solution.objective <= model.evaluate(x, y, verbose=0) * (1 + 1e-6)


# What it refuses.


def test_max_steps_gives_a_warning():
    with pytest.warns(UserWarning, match="used all 2 steps before it reached tol"):
        solution = solve(linear(L1(0.2)), features(), targets("mse", 1), max_steps=2)
    assert (solution.steps, solution.reason) == (2, "max_steps")
    assert not solution.converged


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tol": 0}, ValueError, "`tol`. Expected a finite number greater than 0"),
        ({"tol": float("nan")}, ValueError, "Received: tol=nan"),
        ({"tol": "small"}, TypeError, "Received: tol='small'"),
        ({"max_steps": 0}, ValueError, "Expected a positive integer. Received: max"),
        ({"max_steps": 1.5}, TypeError, "Received: max_steps=1.5"),
        ({"x": np.zeros((3, P))}, ValueError, "Expected the same positive number of"),
        ({"y": np.zeros((0, 1))}, ValueError, "Expected the same positive number of"),
        ({"sample_weight": np.ones(3)}, ValueError, "Expected the same positive"),
        ({"x": "data"}, TypeError, "`x`. Expected numeric arrays"),
        ({"y": None}, TypeError, "`y`. Expected numeric arrays"),
        ({"x": np.full((N, P), np.nan)}, ValueError, r"infinite values in \['x'\]"),
        ({"y": np.full((N, 1), np.inf)}, ValueError, r"infinite values in \['y'\]"),
        ({"model": keras.Sequential()}, ValueError, "Expected a compiled model"),
        ({"model": "model"}, TypeError, "Received: model='model'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"model": linear(L1(0.2)), "x": features(), "y": targets("mse", 1)}
    model = arguments["model"]
    before = model.get_weights()
    with pytest.raises(error, match=message):
        solve(**{**arguments, **change})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_models_it_cannot_solve():
    x, y = features(), targets("mse", 1)
    model = linear(L1(0.2))
    model.trainable = False
    with pytest.raises(ValueError, match="Expected a model with trainable weights"):
        solve(model, x, y)
    model = linear(L1(0.2), kernel_constraint="non_neg")
    with pytest.raises(ValueError, match="Expected weights without constraints"):
        solve(model, x, y)
