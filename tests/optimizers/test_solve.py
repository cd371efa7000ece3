"""`solve`: its solutions are solutions, its certificate holds, its graph is one."""

import importlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn import linear_model

from kerasreg.optimizers import Solution, solve
from kerasreg.regularizers import (
    L1,
    L2,
    MCP,
    SCAD,
    Anchored,
    ElasticNet,
    GroupLasso,
    Penalty,
    SparseGroupLasso,
    regularize,
)

N, P, K = 120, 30, 3


def features(scale=None, dtype="float32"):
    x = np.random.default_rng(0).normal(size=(N, P))
    x[:, 1] += 0.8 * x[:, 0]
    return (x if scale is None else x * scale).astype(dtype)


def truth(units):
    weights = np.zeros((P, units))
    weights[:6] = np.random.default_rng(1).normal(size=(6, units)) * 2
    return weights


def targets(loss, units, dtype="float32"):
    rng = np.random.default_rng(2)
    z = features(dtype="float64") @ truth(units) + rng.normal(size=(N, units)) + 0.5
    if loss == "mse":
        return z.astype(dtype)
    if loss == "binary_crossentropy":
        return (z > 0).astype(dtype)
    return z.argmax(1) if "sparse" in loss else np.eye(units)[z.argmax(1)]


ACTIVATIONS = {
    "mse": None,
    "binary_crossentropy": "sigmoid",
    "sparse_categorical_crossentropy": "softmax",
    "categorical_crossentropy": "softmax",
}


def linear(penalty, loss="mse", units=1, inputs=P, **dense):
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(units, ACTIVATIONS[loss], kernel_regularizer=penalty, **dense),
        ]
    )
    model.compile(loss=loss)
    return model


def net(penalty, activation="tanh", units=1, loss="mse"):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((P,)),
            layers.Dense(8, activation, kernel_regularizer=penalty, name="hidden"),
            # Without a penalty here the scale could move into this layer for ever.
            layers.Dense(units, kernel_regularizer=L2(0.01), name="out"),
        ]
    )
    model.compile(loss=loss)
    return model


def kernel_and_bias(model):
    kernel, *bias = (w.astype("float64") for w in model.get_weights())
    return kernel, bias[0] if bias else 0.0


def slope(model, x, y, loss, weight=None):
    """The gradient of the data loss in kernel and bias, in NumPy."""
    kernel, bias = kernel_and_bias(model)
    x, y = x.astype("float64"), np.asarray(y, "float64")
    z = x @ kernel + bias
    if loss == "mse":
        u = 2 * (z - y) / z.shape[1]
    elif loss == "binary_crossentropy":
        u = (1 / (1 + np.exp(-z)) - y) / z.shape[1]
    else:
        y = np.eye(z.shape[1])[y.astype(int)] if y.ndim == 1 else y
        p = np.exp(z - z.max(1, keepdims=True))
        u = p / p.sum(1, keepdims=True) - y
    u = u / len(x) if weight is None else u * weight[:, None] / len(x)
    return x.T @ u, u.sum(0)


def assert_subgradient(w, pull, l1=0.0, group=0.0, axis=-1, rtol=2e-3):
    """`pull`, minus the gradient of the rest, is in the subdifferential at `w`."""
    slack = rtol * (l1 + group)
    if not group:
        alive = w != 0
        assert np.all(np.abs(pull - l1 * np.sign(w))[alive] <= slack)
        assert np.all(np.abs(pull)[~alive] <= l1 + slack)
        return
    for row, force in zip(w, pull, strict=True):
        size, bound = np.linalg.norm(row), group * np.sqrt(len(row))
        if size == 0:
            rest = np.sign(force) * np.maximum(np.abs(force) - l1, 0)
            assert np.linalg.norm(rest) <= bound + slack
        else:
            alive = row != 0
            expected = l1 * np.sign(row) + bound * row / size
            assert np.all(np.abs(force - expected)[alive] <= 3 * slack)
            assert np.all(np.abs(force)[~alive] <= l1 + slack)


# Optimality.

CONVEX = {
    "lasso": (L1(0.2), "mse", 1, {"l1": 0.2}),
    "lasso, several outputs": (L1(0.1), "mse", K, {"l1": 0.1}),
    "group lasso": (GroupLasso(0.2), "mse", K, {"group": 0.2}),
    "sparse group lasso": (
        SparseGroupLasso(0.03, 0.05),
        "mse",
        K,
        {"l1": 0.03, "group": 0.05},
    ),
    "logistic": (L1(0.02), "binary_crossentropy", 1, {"l1": 0.02}),
    "multinomial": (L1(0.02), "sparse_categorical_crossentropy", K, {"l1": 0.02}),
    "multinomial, groups": (
        GroupLasso(0.02),
        "categorical_crossentropy",
        K,
        {"group": 0.02},
    ),
}


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


# The certificate.


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


# Models that are not convex, and what stays as it is.


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("penalty", [L1(0.02), MCP(0.1), GroupLasso(0.02)], ids=repr)
def test_objective_of_a_net_falls_at_each_step(activation, penalty):
    x, y = features(), targets("mse", 1)
    model = net(penalty, activation)
    values = [model.evaluate(x, y, verbose=0, batch_size=N)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(15):
            values.append(solve(model, x, y, max_steps=3).objective)
        for _ in range(3):
            solution = solve(model, x, y, max_steps=300)
            values.append(solution.objective)
    assert np.all(np.diff(values) <= 1e-5 * np.array(values[1:]))
    assert values[-1] < 0.5 * values[0]
    assert values[-1] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


def test_a_net_in_float64_reaches_a_small_residual(double):
    x, y = features(dtype="float64"), targets("mse", 1, "float64")
    model = net(L1(0.05))
    solution = solve(model, x, y, tol=1e-4, max_steps=20_000)
    assert solution.converged
    assert (model.layers[0].kernel.numpy() == 0).mean() > 0.5


@pytest.fixture
def double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


def test_float64_goes_further(double):
    x, y = features(dtype="float64"), targets("mse", 1, "float64")
    model = linear(L1(0.2))
    assert model.layers[0].kernel.dtype == "float64", model.dtype_policy
    solution = solve(model, x, y, tol=1e-12)
    assert solution.converged
    peer = linear_model.Lasso(alpha=0.1, tol=1e-15, max_iter=10**6).fit(x, y[:, 0])
    np.testing.assert_allclose(model.get_weights()[0][:, 0], peer.coef_, atol=1e-6)


def test_unreachable_tol_in_float32_stops_and_says_so():
    x, y = features(), targets("mse", 1)
    model = net(L1(0.05), None)
    with pytest.warns(UserWarning, match="cannot reach tol=1e-14 in float32"):
        solution = solve(model, x, y, tol=1e-14, max_steps=100_000)
    assert solution.reason == "precision"
    assert not solution.converged
    assert solution.steps < 20_000
    assert solution.gap < 1e-3


def test_data_without_a_minimum_or_with_nothing_to_find():
    x = features()
    x[:, 0], x[:, 1], x[:, 2] = 0, 1e4, x[:, 2] + 1e3
    y = targets("mse", 1)
    assert solve(linear(L1(0.2)), x, y).converged
    assert solve(linear(L1(0.2)), x, 0 * y).objective <= 1e-9
    model = linear(L1(0.02), "binary_crossentropy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = solve(model, x, np.ones_like(y))  # the bias grows for ever
    assert solution.objective <= 1e-6


def test_frozen_weights_are_left_alone():
    x, y = features(), targets("mse", 1)
    model = net(L1(0.05))
    model.get_layer("hidden").trainable = False
    before = model.get_layer("hidden").get_weights()
    last = model.get_layer("out").get_weights()
    solve(model, x, y)
    for old, new in zip(before, model.get_layer("hidden").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(last[0], model.get_layer("out").get_weights()[0])


def test_inference_mode_and_no_other_state():
    x, y = features(), targets("mse", 1)
    model = keras.Sequential(
        [
            keras.Input((P,)),
            layers.BatchNormalization(scale=False),
            layers.Dropout(0.5),
            layers.Dense(1, kernel_regularizer=L1(0.1)),
        ]
    )
    model.compile(loss="mse")
    fixed = [w.numpy() for w in model.non_trainable_weights]
    first = solve(model, x, y)
    again = solve(model, x, y)
    assert first.converged
    assert again.objective == pytest.approx(first.objective, rel=1e-6)
    for old, new in zip(fixed, model.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(hasattr(loss, "numpy") for loss in model.losses)


def test_penalties_without_a_map_stay_in_the_smooth_part():
    x, y = features(), targets("mse", 1)
    given = [keras.regularizers.L2(0.1), Bowl(0.1), L2(0.1)]
    found = []
    for penalty in given:
        model = linear(penalty)
        assert solve(model, x, y).converged
        found.append(model.get_weights()[0])
    np.testing.assert_allclose(found[0], found[2], atol=2e-4)
    np.testing.assert_allclose(found[1], found[2], atol=2e-4)


class Bowl(Penalty):
    def value(self, w):
        return self.lam * keras.ops.sum(keras.ops.square(w))

    def get_config(self):
        return {"strength": self.strength}


def test_penalties_on_activities_stay_in_the_smooth_part():
    x, y = features(), targets("mse", 1)
    model = linear(L1(0.1), activity_regularizer=L2(0.5))
    solution = solve(model, x, y)
    assert solution.converged
    plain = linear(L1(0.1))
    solve(plain, x, y)
    assert np.abs(model.get_weights()[0]).sum() < np.abs(plain.get_weights()[0]).sum()
    evaluated = model.evaluate(x, y, batch_size=N, verbose=0)
    assert solution.objective == pytest.approx(evaluated, rel=1e-5)


def test_penalties_with_a_map_of_their_own():
    class Box(Bowl):
        def prox(self, w, step):
            return w / (1 + 2 * step * self.lam)

    x, y = features(), targets("mse", 1)
    one, other = linear(Box(0.1)), linear(L2(0.1))
    for model in (one, other):
        assert solve(model, x, y).converged
    np.testing.assert_allclose(*(m.get_weights()[0] for m in (one, other)), atol=2e-4)


def test_anchored_starts_from_its_anchor():
    x, y = features(), targets("mse", 1)
    model = linear(Anchored(L1(0.1), mu=1e4))
    before = model.get_weights()[0]
    solve(model, x, y)
    np.testing.assert_allclose(model.get_weights()[0], before, atol=1e-2)


def test_keras_l1_gets_a_warning():
    model = linear(keras.regularizers.L1(0.1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solve(model, features(), targets("mse", 1), max_steps=10)
    assert any("no proximal map and no gradient at 0" in str(w.message) for w in caught)


def test_several_inputs_and_outputs():
    x, y = features(), targets("mse", 1)
    first, second = keras.Input((10,)), keras.Input((P - 10,))
    both = layers.Concatenate()([first, second])
    outputs = {
        "value": layers.Dense(1, kernel_regularizer=L1(0.1), name="value")(both),
        "sign": layers.Dense(1, "sigmoid", kernel_regularizer=L1(0.01), name="sign")(
            both
        ),
    }
    model = keras.Model([first, second], outputs)
    model.compile(loss={"value": "mse", "sign": "binary_crossentropy"})
    data = [x[:, :10], x[:, 10:]], {"value": y, "sign": (y > 0).astype("float32")}
    solution = solve(model, *data)
    assert solution.converged
    alone = linear(L1(0.1))
    solve(alone, x, y)
    np.testing.assert_allclose(
        model.get_layer("value").kernel.numpy(), alone.get_weights()[0], atol=5e-3
    )
    evaluated = model.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert solution.objective == pytest.approx(evaluated, rel=1e-5)


def test_custom_loss_and_subclassed_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1, kernel_regularizer=L1(0.02))

        def call(self, x):
            return self.dense(x)

    def huber(y_true, y_pred):
        return keras.losses.huber(y_true, y_pred)

    model = Model()
    model.compile(loss=huber)
    solution = solve(model, features(), targets("mse", 1))
    assert solution.certificate == "fixed-point residual"
    assert solution.converged
    assert (model.dense.kernel.numpy() == 0).any()


# One graph.


def traces(model):
    return model.__dict__[module._CACHE].traces


module = importlib.import_module("kerasreg.optimizers.solve")


@pytest.mark.parametrize("make", [linear, net])
def test_strengths_are_live_and_nothing_is_traced_again(make):
    x, y = features(), targets("mse", 1)
    model = make(L1(5.0))
    penalty = model.layers[0].kernel.regularizer
    zeros = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for strength in (50.0, 0.2, 0.05):
            penalty.strength = strength
            solve(model, x, y, tol=1e-5, max_steps=500)
            zeros.append(int((model.layers[0].kernel.numpy() == 0).sum()))
        solve(model, x + 1, y, max_steps=7)
    assert traces(model) == 1
    assert zeros[0] == model.layers[0].kernel.numpy().size
    assert zeros[0] > zeros[1] > zeros[2]


def test_changes_of_the_model_take_effect():
    x, y = features(), targets("mse", 1)
    model = linear(L1(0.2))
    solve(model, x, y)
    regularize(model, L2(1e-4))
    solve(model, x, y)
    assert (model.get_weights()[0] != 0).all()
    model.compile(loss="mae")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = solve(model, x, y, max_steps=5)
    assert solution.objective == pytest.approx(model.evaluate(x, y, verbose=0), 1e-5)


def test_jit_compile_of_the_model_is_followed():
    x, y = features(), targets("mse", 1)
    model = linear(L1(0.2))
    model.compile(loss="mse", jit_compile=True)
    assert solve(model, x, y).converged


def test_tensors_and_lists_are_taken_and_the_model_still_saves(tmp_path):
    x, y = features(), targets("mse", 1)
    model = linear(L1(0.2))
    solution = solve(model, tf.constant(x), y[:, 0].tolist(), verbose=1)
    assert solution.converged
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras")
    model.fit(x, y, verbose=0)


def test_prints_what_it_reached(capsys):
    solve(linear(L1(0.2)), features(), targets("mse", 1), verbose=1)
    out = capsys.readouterr().out
    assert out.startswith("Solution(objective=")
    assert "duality gap" in out
    assert "converged" in out


def test_solution_reads_well():
    solution = Solution(0.25, 3.21e-7, "duality gap", 57, True, "tol")
    assert repr(solution) == (
        "Solution(objective=0.25, duality gap 3.2e-07 of it, 57 steps, converged)"
    )


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
