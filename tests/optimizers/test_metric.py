"""Every supported optimizer settles at the solution of the stated problem."""

import keras
import numpy as np
import pytest
import sklearn.linear_model
import tensorflow as tf

from kerasreg.optimizers import Proximal
from kerasreg.optimizers.metric import metric_of
from kerasreg.regularizers import MCP, SCAD, ElasticNet, GroupLasso, SparseGroupLasso

STEPS = 4000
cosine = keras.optimizers.schedules.CosineDecay
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.015),
    "momentum": lambda: keras.optimizers.SGD(0.003, momentum=0.9),
    "momentum_decay": lambda: keras.optimizers.SGD(
        cosine(0.003, STEPS, alpha=1e-3), momentum=0.9
    ),
    "nesterov": lambda: keras.optimizers.SGD(
        cosine(0.003, STEPS, alpha=1e-3), momentum=0.9, nesterov=True
    ),
    "rmsprop": lambda: keras.optimizers.RMSprop(cosine(0.01, STEPS, alpha=1e-3)),
    "rmsprop_momentum": lambda: keras.optimizers.RMSprop(
        cosine(0.003, STEPS, alpha=1e-3), momentum=0.9
    ),
    "rmsprop_centered": lambda: keras.optimizers.RMSprop(
        cosine(0.01, STEPS, alpha=1e-3), centered=True, epsilon=1e-3
    ),
    "rmsprop_centered_momentum": lambda: keras.optimizers.RMSprop(
        cosine(0.003, STEPS, alpha=1e-3), centered=True, momentum=0.9, epsilon=1e-3
    ),
    "adam": lambda: keras.optimizers.Adam(cosine(0.05, STEPS, alpha=1e-3)),
    "amsgrad": lambda: keras.optimizers.Adam(
        cosine(0.05, STEPS, alpha=1e-3), amsgrad=True
    ),
    "adamw": lambda: keras.optimizers.AdamW(
        cosine(0.05, STEPS, alpha=1e-3), weight_decay=0.0
    ),
    "nadam": lambda: keras.optimizers.Nadam(cosine(0.05, STEPS, alpha=1e-3)),
    "adamax": lambda: keras.optimizers.Adamax(cosine(0.05, STEPS, alpha=1e-3)),
    "adagrad": lambda: keras.optimizers.Adagrad(1.0),
}


def badly_scaled(classes=None):
    """100 examples of 20 features whose scales span a factor of 25."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 20)) * np.logspace(-0.7, 0.7, 20)
    w = np.zeros(20)
    w[[0, 3, 7, 12, 19]] = [3, -2, 1.5, 1, -0.5]
    y = x @ w + 0.3 * rng.normal(size=100) + 1.0
    if classes:
        y = np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1]))
        return x.astype("float32"), y
    return x.astype("float32"), y.astype("float32")[:, None]


def train(optimizer, penalty, x, y, units=1, loss="mse", steps=STEPS):
    """Full-batch training of one linear layer; returns kernel and bias."""
    keras.utils.set_random_seed(1)
    layer = keras.layers.Dense(units, kernel_regularizer=penalty)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(Proximal(optimizer), loss=loss, steps_per_execution=200)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False)
    return [weight.astype("float64") for weight in model.get_weights()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reaches_the_elastic_net_of_scikit_learn(name):
    x, y = badly_scaled()
    alpha, ratio = 0.05, 0.9
    best = sklearn.linear_model.ElasticNet(
        alpha=alpha, l1_ratio=ratio, tol=1e-12, max_iter=10**6
    ).fit(x.astype("float64"), y[:, 0].astype("float64"))
    l1, l2 = 2 * alpha * ratio, alpha * (1 - ratio)

    def objective(kernel, bias):
        error = np.mean((x.astype("float64") @ kernel + bias - y[:, 0]) ** 2)
        return error + l1 * np.abs(kernel).sum() + l2 * np.square(kernel).sum()

    kernel, bias = train(OPTIMIZERS[name](), ElasticNet(l1, l2), x, y)
    optimum = objective(best.coef_, best.intercept_)
    assert 0 < (best.coef_ == 0).sum() < 20
    assert (objective(kernel[:, 0], bias[0]) - optimum) / optimum < 1e-4
    np.testing.assert_array_equal(kernel[:, 0] == 0, best.coef_ == 0)


@pytest.mark.parametrize("name", ["momentum", "adam", "adagrad"])
def test_reaches_the_multinomial_logistic_regression_of_scikit_learn(name):
    x, y = badly_scaled(classes=3)
    c, ratio, n = 0.1, 0.7, len(x)
    best = sklearn.linear_model.LogisticRegression(
        l1_ratio=ratio, C=c, solver="saga", tol=1e-9, max_iter=10**5
    ).fit(x.astype("float64"), y)
    l1, l2 = ratio / (c * n), (1 - ratio) / (2 * c * n)

    def objective(kernel, bias):
        logits = x.astype("float64") @ kernel + bias
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        penalty = l1 * np.abs(kernel).sum() + l2 * np.square(kernel).sum()
        return penalty - logits[np.arange(n), y].mean()

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    kernel, bias = train(OPTIMIZERS[name](), ElasticNet(l1, l2), x, y, 3, loss)
    optimum = objective(best.coef_.T, best.intercept_)
    assert (objective(kernel, bias) - optimum) / optimum < 1e-4
    np.testing.assert_array_equal(kernel == 0, best.coef_.T == 0)


def gradient(kernel, bias, x, y):
    """Gradient of the mean squared error over all examples and outputs."""
    residual = x.astype("float64") @ kernel + bias - y
    return 2 * x.astype("float64").T @ residual / residual.size


def targets(x):
    rng = np.random.default_rng(1)
    w = np.zeros((20, 3))
    w[[2, 5, 11, 17]] = rng.normal(size=(4, 3))
    return (x @ w + 0.3 * rng.normal(size=(100, 3))).astype("float32")


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop_momentum", "adagrad"])
@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_group_solutions_satisfy_the_optimality_conditions(name, l1):
    x, _ = badly_scaled()
    y = targets(x)
    penalty = SparseGroupLasso(l1, 0.1) if l1 else GroupLasso(0.1)
    kernel, bias = train(OPTIMIZERS[name](), penalty, x, y, 3)
    slope, lam = gradient(kernel, bias, x, y), 0.1 * np.sqrt(3)
    zero = (kernel == 0).all(1)
    assert 4 <= zero.sum() <= 18
    soft = np.sign(slope) * np.maximum(np.abs(slope) - l1, 0)
    assert (np.linalg.norm(soft[zero], axis=1) <= lam * (1 + 1e-3)).all()
    active, g = kernel[~zero], slope[~zero]
    pull = g + lam * active / np.linalg.norm(active, axis=1, keepdims=True)
    on = active != 0
    np.testing.assert_allclose((pull + l1 * np.sign(active))[on], 0, atol=2e-3)
    assert (np.abs(pull[~on]) <= l1 + 2e-3).all()


@pytest.mark.parametrize("name", ["momentum", "adam", "adagrad"])
@pytest.mark.parametrize("penalty", [MCP, SCAD])
def test_concave_solutions_are_stationary(name, penalty):
    x, y = badly_scaled()
    lam, gamma = 0.1, 4.0
    kernel, bias = train(OPTIMIZERS[name](), penalty(lam, gamma), x, y)
    slope, size = gradient(kernel, bias, x, y), np.abs(kernel)
    if penalty is MCP:
        tilt = np.maximum(lam - size / gamma, 0)
    else:
        tilt = np.clip((gamma * lam - size) / (gamma - 1), 0, lam)
    zero = kernel == 0
    assert 5 <= zero.sum() <= 18
    assert (np.abs(slope[zero]) <= lam * (1 + 1e-3)).all()
    np.testing.assert_allclose((slope + tilt * np.sign(kernel))[~zero], 0, atol=2e-3)


class Halved(keras.optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate / 2)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adadelta(),
        keras.optimizers.Adafactor(),
        keras.optimizers.Ftrl(),
        keras.optimizers.Lamb(),
        keras.optimizers.Lion(),
        keras.optimizers.Muon(),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        Halved(),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_refuses_an_optimizer_of_unknown_metric(optimizer):
    with pytest.raises(ValueError) as error:
        metric_of(optimizer)
    assert str(error.value) == (
        "Invalid value for argument `optimizer`. Expected an optimizer whose step "
        "for each weight is known: SGD, RMSprop, Adam, AdamW, Nadam, Adamax, "
        f"Adagrad. Received: optimizer={type(optimizer).__name__}"
    )
