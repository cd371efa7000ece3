"""Hypergradients against closed forms, and finite differences of solved problems."""

import keras
import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from sklearn.linear_model import Lasso

from kerasreg.callbacks import Hypergradient, State, Unit
from kerasreg.callbacks.policies.implicit import Implicit, _conjugate_gradients
from kerasreg.optimizers import solve
from kerasreg.regularizers import (
    L1,
    L2,
    MCP,
    SCAD,
    Anchored,
    ElasticNet,
    GroupLasso,
    Prior,
    SparseGroupLasso,
)
from tests.exhaustive import some

N, P = 60, 8
MANY = 3000


@pytest.fixture(autouse=True)
def _double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


def problem(outputs=1, noise=2.0, seed=2):
    """Training and validation data of one linear truth."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * N, P)) * np.linspace(0.8, 1.25, P)
    w = rng.normal(size=(P, outputs)) * (np.arange(P) < 4)[:, None]
    y = x @ w + noise * rng.normal(size=(2 * N, outputs))
    return (x[:N], y[:N]), (x[N:], y[N:])


def linear(penalty, outputs=1):
    dense = keras.layers.Dense(outputs, kernel_regularizer=penalty)
    model = keras.Sequential([keras.Input((P,)), dense])
    model.compile(loss="mse")
    return model, dense


class Ridge:
    """mean((Y − Xw − b)²) + s·‖w‖² and its validation loss, in closed form."""

    def __init__(self):
        self.train, self.validation = problem()
        self.a, self.v = (
            np.c_[x, np.ones(N)] for x, _ in (self.train, self.validation)
        )
        self.shrunk = np.diag([1.0] * P + [0.0])

    def weights(self, s):
        gram = self.a.T @ self.a / N + s * self.shrunk
        return np.linalg.solve(gram, self.a.T @ self.train[1] / N)

    def loss(self, s):
        return np.mean((self.v @ self.weights(s) - self.validation[1]) ** 2)

    def slope(self, s):
        """d loss / d log s, from dw/ds = −(A'A/n + s·D)⁻¹ D w."""
        w = self.weights(s)
        gram = self.a.T @ self.a / N + s * self.shrunk
        moved = -np.linalg.solve(gram, self.shrunk @ w)
        return s * (self._residual(w).T @ self.v @ moved).item() * 2 / N

    def first_order(self, s):
        """What T1-T2 takes for it, up to a factor."""
        w = self.weights(s)
        return (self._residual(w).T @ self.v @ self.shrunk @ w).item()

    def _residual(self, w):
        return self.v @ w - self.validation[1]

    def best(self):
        found = minimize_scalar(
            lambda log: self.loss(np.exp(log)),
            bounds=(-6, 3),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return np.exp(found.x)

    def follow(self, updates=150, **arguments):
        """The strength that the policy settles at, with exact solutions between."""
        penalty = L2(0.5)
        model, dense = linear(penalty)
        policy = Hypergradient(self.train, self.validation, burn_in=0, **arguments)
        for _ in range(updates):
            w = self.weights(penalty.strength)
            dense.set_weights([w[:-1], w[-1]])
            extra = policy.measure(model, {"dense": [dense.kernel]})["dense"]
            unit = Unit(penalty.strength, extra=extra)
            penalty.strength = policy.update(State({"dense": unit}))["dense"]
        return penalty.strength


class TestRidge:
    def test_closed_form(self):
        ridge, penalty = Ridge(), L2(0.3)
        model, dense = linear(penalty)
        w = ridge.weights(penalty.strength)
        dense.set_weights([w[:-1], w[-1]])
        implicit = Implicit(model, {"dense": [dense.kernel]})
        found = implicit(*_pairs(ridge), MANY)
        assert found.terms == MANY
        assert found.values["dense"] == pytest.approx(
            ridge.slope(penalty.strength), rel=1e-6
        )

    def test_conjugate_gradients(self):
        """As many products as there are unknowns are exact; fewer are not."""
        ridge, penalty = Ridge(), L2(0.3)
        model, dense = linear(penalty)
        w = ridge.weights(penalty.strength)
        dense.set_weights([w[:-1], w[-1]])
        implicit = Implicit(model, {"dense": [dense.kernel]})
        found = implicit(*_pairs(ridge), P + 1, conjugate=True).values["dense"]
        exact = ridge.slope(penalty.strength)
        assert found == pytest.approx(exact, rel=1e-7)
        few = implicit(*_pairs(ridge), 2, conjugate=True).values["dense"]
        assert few != pytest.approx(exact, rel=1e-7)
        again = Hypergradient(
            ridge.train, ridge.validation, mode="conjugate_gradient", burn_in=0
        ).measure(model, {"dense": [dense.kernel]})
        assert again["dense"]["hypergradient"] == pytest.approx(exact, rel=1e-6)

    def test_reaches_the_best_strength(self):
        """Within 2 % at 20 terms."""
        ridge = Ridge()
        best = ridge.best()
        assert 0.1 < best < 0.3  # inside, and not where it begins
        assert ridge.follow() == pytest.approx(best, rel=0.02)

    def test_more_terms_are_better(self):
        """Where the hypergradient vanishes comes nearer the best strength."""
        ridge, penalty = Ridge(), L2(1.0)
        model, dense = linear(penalty)
        implicit = Implicit(model, {"dense": [dense.kernel]})

        def slope(log, terms):
            penalty.strength = np.exp(log)
            w = ridge.weights(np.exp(log))
            dense.set_weights([w[:-1], w[-1]])
            return implicit(*_pairs(ridge), terms).values["dense"]

        roots = [np.exp(brentq(slope, -4, 0, (terms,))) for terms in (3, 10, 50)]
        errors = np.abs(np.array(roots) / ridge.best() - 1)
        assert errors[0] > 4 * errors[1] > 16 * errors[2]
        assert errors[2] < 1e-5

    def test_first_order_is_biased(self):
        """It reaches the root of its own condition, not the best strength."""
        ridge = Ridge()
        root = np.exp(brentq(lambda log: ridge.first_order(np.exp(log)), -6, 3))
        assert abs(root / ridge.best() - 1) > 0.05
        assert ridge.follow(mode="first_order") == pytest.approx(root, rel=1e-3)

    def test_step_of_the_series(self):
        """By default one over the largest eigenvalue, or hardly longer."""
        ridge, penalty = Ridge(), L2(0.3)
        model, dense = linear(penalty)
        hessian = 2 * (ridge.a.T @ ridge.a / N + penalty.strength * ridge.shrunk)
        longest = 1 / np.linalg.eigvalsh(hessian)[-1]
        implicit = Implicit(model, {"dense": [dense.kernel]})
        assert longest * 0.999 < implicit(*_pairs(ridge), 1).step < longest * 1.2
        assert implicit(*_pairs(ridge), 1, 0.01).step == 0.01

    def test_solved_by_solve(self):
        ridge, penalty = Ridge(), L2(0.3)
        model, dense = linear(penalty)
        policy = Hypergradient(ridge.train, ridge.validation, burn_in=0)
        for _ in range(60):
            solve(model, *ridge.train, tol=1e-8)
            extra = policy.measure(model, {"dense": [dense.kernel]})["dense"]
            unit = Unit(penalty.strength, extra=extra)
            penalty.strength = policy.update(State({"dense": unit}))["dense"]
        assert penalty.strength == pytest.approx(ridge.best(), rel=0.03)


def test_conjugate_gradients_end_at_a_direction_that_bends_down():
    matrix = keras.ops.convert_to_tensor(np.diag([4.0, 1.0, -2.0]))
    right = [keras.ops.convert_to_tensor(np.array([1.0, 1.0, 0.1]))]
    found, used = _conjugate_gradients(
        lambda vector: [keras.ops.matmul(matrix, vector[0])], right, 20
    )
    assert 0 < int(used) < 3
    assert float(keras.ops.sum(found[0] * right[0])) > 0


def _pairs(ridge):
    return (*ridge.train, None), (*ridge.validation, None)


class TestLasso:
    """scikit-learn's solutions, whose path is linear between knots."""

    def at(self, strength):
        train, validation = problem()
        lasso = Lasso(strength / 2, tol=1e-14, max_iter=100_000).fit(*train)
        loss = np.mean((lasso.predict(validation[0]) - validation[1][:, 0]) ** 2)
        return lasso.coef_[:, None], np.atleast_1d(lasso.intercept_), loss

    @pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
    def test_support(self, strength):
        penalty = L1(strength)
        model, dense = linear(penalty)
        before, bias, lower = self.at(strength * np.exp(-1e-5))
        after, _, upper = self.at(strength * np.exp(1e-5))
        w, bias, _ = self.at(penalty.strength)
        for other in (before, after):  # no knot in between
            np.testing.assert_array_equal(other == 0, w == 0)
        assert 0 < np.count_nonzero(w) < P
        dense.set_weights([w, bias])
        train, validation = ((*pair, None) for pair in problem())
        found = Implicit(model, {"dense": [dense.kernel]})(train, validation, MANY)
        assert found.values["dense"] == pytest.approx((upper - lower) / 2e-5, rel=1e-4)

    def test_nothing_left(self):
        model, dense = linear(L1(100.0))
        dense.set_weights([np.zeros((P, 1)), np.zeros(1)])
        found = Hypergradient(*problem()).measure(model, {"dense": [dense.kernel]})
        assert found == {"dense": {"hypergradient": 0.0}}


PENALTIES = {
    "group": lambda: GroupLasso(0.15, axis="input"),
    "sparse group": lambda: SparseGroupLasso(0.05, 0.1),
    "elastic net": lambda: ElasticNet(0.1, 0.05),
    "MCP": lambda: MCP(0.3, 8.0),
    "SCAD": lambda: SCAD(0.3, 8.0),
    "anchored": lambda: Anchored(L1(0.15), 0.2, np.ones((P, 2))),
    "anchored alone": lambda: Anchored(None, 0.4, np.ones((P, 2))),
    "Laplace": lambda: Prior("Laplace", 0.1),
    "Student": lambda: Prior("StudentT", 0.1),
}


def _strengths(penalties, factor):
    for penalty in penalties:
        penalty.strength = penalty.strength * factor
    return penalties[0].strength


def differences(model, penalties, train, validation, width=1e-3):
    """d validation loss / d log strength, by solving on both sides."""
    found = []
    for factor in (np.exp(width), np.exp(-2 * width), np.exp(width)):
        strength = _strengths(penalties, factor)
        solve(model, *train, tol=1e-13, max_steps=20_000)
        loss = np.mean((model(validation[0]).numpy() - validation[1]) ** 2)
        found.append((loss, np.log(strength)))
    (upper, high), (lower, low), _ = found
    return (upper - lower) / (high - low)


@pytest.mark.filterwarnings("ignore:`solve` cannot reach")
@pytest.mark.parametrize(
    "name", some(list(PENALTIES), "group", "elastic net", "MCP", "anchored", "Student")
)
def test_penalties(name):
    """On a problem with zeros that the strength holds, and others that it moves."""
    penalty = PENALTIES[name]()
    model, dense = linear(penalty, outputs=2)
    train, validation = problem(outputs=2, noise=0.5)
    expected = differences(model, [penalty], train, validation)
    implicit = Implicit(model, {"dense": [dense.kernel]})
    found = implicit((*train, None), (*validation, None), 1000)
    assert found.values["dense"] == pytest.approx(expected, rel=2e-3)
    zeros = np.count_nonzero(dense.kernel.numpy() == 0)
    assert (zeros > 0) == (name not in ("anchored alone", "Student"))


def test_zero_in_a_group_that_is_not_zero():
    """It moves with its group: no kink there."""
    penalty = GroupLasso(0.1)
    model, dense = linear(penalty, outputs=2)
    kernel = np.ones((P, 2))
    kernel[0, 0] = kernel[1] = 0.0
    dense.set_weights([kernel, np.zeros(2)])
    implicit = Implicit(model, {"dense": [dense.kernel]})
    free = [f.numpy() for f in implicit._free(implicit.objective.weights())]
    np.testing.assert_array_equal(free[0], np.arange(P)[:, None] != [1, 1])
    np.testing.assert_array_equal(free[1], [1, 1])


def test_zeros_of_weights_that_are_in_no_unit():
    """They stay at zero as well."""
    model, dense = linear(L1(0.1))
    dense.set_weights([np.eye(P)[:, :1], np.zeros(1)])
    implicit = Implicit(model, {})
    free = [f.numpy() for f in implicit._free(implicit.objective.weights())]
    np.testing.assert_array_equal(free[0], np.eye(P)[:, :1])


class TestNetwork:
    def make(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(80, 3))
        y = 2 * np.tanh(x[:, :1] - x[:, 1:2]) + 0.5 * rng.normal(size=(80, 1))
        keras.utils.set_random_seed(0)
        penalties = [L2(0.06), L2(0.04)]
        layers = [
            keras.layers.Dense(3, "tanh", kernel_regularizer=penalties[0]),
            keras.layers.Dense(1, kernel_regularizer=penalties[1]),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(loss="mse")
        solve(model, x[:40], y[:40], tol=1e-13, max_steps=20_000)
        kernels = [layer.kernel for layer in layers]
        return model, kernels, penalties, (x[:40], y[:40]), (x[40:], y[40:])

    @pytest.mark.filterwarnings("ignore:`solve` cannot reach")
    def test_finite_differences(self):
        """Of each layer's strength, and of both as one unit."""
        model, kernels, penalties, train, validation = self.make()
        data = [(*train, None), (*validation, None)]
        layers = {"hidden": kernels[:1], "out": kernels[1:]}
        expected = [
            differences(model, [penalty], train, validation) for penalty in penalties
        ]
        found = list(Implicit.of(model, layers)(*data, 2000).values.values())
        np.testing.assert_allclose(found, expected, rtol=3e-3)
        # Ten products do what hundreds of the series do on so uneven a Hessian.
        few = Implicit.of(model, layers)(*data, 10, conjugate=True).values.values()
        np.testing.assert_allclose(list(few), expected, rtol=3e-3)
        both = Implicit.of(model, {"model": kernels})(*data, 2000).values["model"]
        assert both == pytest.approx(
            differences(model, penalties, train, validation), rel=3e-3
        )
        assert both == pytest.approx(sum(found), rel=1e-5)
