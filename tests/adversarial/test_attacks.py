import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD, VAT, Noise, RandomSearch
from kerasreg.adversarial.losses import example_losses
from tests.adversarial import models

norms = pytest.mark.parametrize("norm", ["inf", 2, 1])
DUAL = {"inf": 1, 2: 2, 1: np.inf}
KERNEL = np.array([[1.0], [-2.0], [0.5], [0.0]])


def change(attack, model, x, y=None, **arguments):
    return np.asarray(attack(model, x, y, **arguments)) - x


@norms
def test_fgsm_and_pgd_solve_a_linear_problem(norm):
    """|w·x - y| rises by eps times the dual norm of w, and by no more."""
    model = models.linear(KERNEL, activation=None)
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    y = np.asarray(model(x)) + np.where(np.arange(20) % 2, 1.0, -1.0)[:, None]
    for attack, rtol in ((FGSM(0.3, norm), 1e-5), (PGD(0.3, norm, steps=20), 2e-2)):
        moved = x + change(attack, model, x, y)
        error = np.abs(np.asarray(model(moved)) - y)[:, 0]
        best = 1.0 + 0.3 * np.linalg.norm(KERNEL, DUAL[norm])
        np.testing.assert_allclose(error, best, rtol)


def test_scale_is_a_ball_in_scaled_features():
    model = models.linear([[1.0], [1.0]])
    x, y, scale = np.zeros((1, 2)), -np.ones((1, 1)), [1.0, 3.0]
    by_inf = change(FGSM(0.1, scale=scale), model, x, y)
    np.testing.assert_allclose(by_inf, [[0.1, 0.3]], rtol=1e-5)
    # max δ₁ + δ₂ with δ₁² + (δ₂/3)² = eps²: δ is proportional to (1, 9).
    by_two = change(FGSM(0.1, 2, scale=scale), model, x, y)
    np.testing.assert_allclose(by_two, 0.1 * np.array([[1, 9]]) / 10**0.5, rtol=1e-5)
    by_one = change(FGSM(0.1, 1, scale=scale), model, x, y)
    np.testing.assert_allclose(by_one, [[0.0, 0.3]], atol=1e-6)


def test_l1_goes_round_bounds():
    """At its bound the steepest coordinate gives way to the next one."""
    model = models.linear([[3.0], [2.0], [1.0]])
    x, y = np.array([[0.9, 0.5, 0.5]]), np.array([[-9.0]])
    moved = change(PGD(0.8, 1, steps=40, bounds=(0, 1)), model, x, y)
    np.testing.assert_allclose(moved, [[0.1, 0.5, 0.2]], atol=0.02)


@norms
def test_the_best_of_several_restarts(norm):
    """The loss never falls with more restarts, and rises somewhere."""
    model = models.classifier()
    (x, y), _ = models.digits()
    x, y = x[:60], y[:60]
    losses = []
    for restarts in (1, 4):
        attack = PGD(0.5, norm, steps=1, step=0.01, restarts=restarts)
        y_pred = model(attack(model, x, y, seed=3))
        losses.append(np.asarray(example_losses(model, y, y_pred)))
    assert np.all(losses[1] >= losses[0] - 1e-5)
    assert np.mean(losses[1] > losses[0] + 1e-5) > 0.3


def test_order_of_strength():
    """Noise < random search, FGSM < PGD; all beaten examples count."""
    model = models.trained()
    x, y = models.digits()[1]
    attacks = [
        Noise(0.15, bounds=(0, 1)),
        FGSM(0.15, bounds=(0, 1)),
        PGD(0.15, bounds=(0, 1)),
    ]
    accuracy = [model.evaluate(a(model, x, y), y, verbose=0)[1] for a in attacks]
    assert accuracy[0] > accuracy[1] + 0.3
    assert accuracy[1] > accuracy[2]
    search = RandomSearch(0.15, bounds=(0, 1), steps=200)
    found = model.evaluate(search(model, x, y), y, verbose=0)[1]
    assert found < accuracy[0] - 0.3


@pytest.mark.parametrize("scale", [None, [2.0, 1.0, 0.5, 1.0]])
def test_vat_finds_the_first_eigenvector(scale):
    """D(δ) is quadratic for a linear model: its Hessian is known."""
    kernel = np.array([[2.0, 0.1], [0.3, -1.0], [0.0, 0.5], [1.0, 1.0]])
    model = models.linear(kernel)
    s = np.ones(4) if scale is None else np.array(scale)
    _, vectors = np.linalg.eigh((s[:, None] * kernel) @ (s[:, None] * kernel).T)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")
    attack = VAT(0.5, scale=scale, iterations=20, probe=0.1)
    moved = change(attack, model, x) / s
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.5, rtol=1e-4)
    cosine = np.abs(moved @ vectors[:, -1]) / 0.5
    np.testing.assert_allclose(cosine, 1.0, atol=1e-3)


def test_vat_of_probabilities_follows_the_fisher_metric():
    """For a sigmoid the divergence changes along the kernel alone."""
    for loss, activation in (
        ("binary_crossentropy", "sigmoid"),
        (keras.losses.BinaryCrossentropy(from_logits=True), None),
    ):
        model = models.linear([[3.0], [4.0]], loss=loss, activation=activation)
        moved = change(VAT(1.0), model, np.array([[0.1, 0.0], [0.0, -0.1]]))
        np.testing.assert_allclose(np.abs(moved), [[0.6, 0.8]] * 2, rtol=1e-3)


def test_rs_fgsm_is_in_the_ball_and_differs_by_seed():
    model, (x, y) = models.trained(), models.digits()[1]
    attack = FGSM(0.1, random_start=True)
    a, b = (change(attack, model, x, y, seed=s) for s in (0, 1))
    assert np.abs(a).max() <= 0.1 + 1e-6
    # A step of 1.25 eps from a uniform point ends inside the ball in 3 cases of 8.
    assert abs(np.mean(np.abs(a) < 0.0999) - 0.375) < 0.05
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("norm", ["inf", 2, 1])
def test_rs_fgsm_holds_its_result_to_the_bounds_not_its_start(norm):
    """Clipped before the step, an entry at a bound would end at 0 or at eps."""
    model, at_bound = models.linear(np.ones((4, 1))), np.zeros((2000, 4))
    attack = FGSM(0.2, norm, random_start=True, bounds=(0, 1))
    moved = change(attack, model, at_bound, at_bound[:, :1] - 9)
    assert moved.min() >= 0
    norms = np.linalg.norm(moved, {"inf": np.inf}.get(norm, norm), axis=1)
    assert norms.max() < 0.2 + 1e-6
    if norm == "inf":  # uniform in -0.2 to 0.2, plus 0.25, at most 0.2
        assert abs(np.mean(moved < 0.1999) - 0.375) < 0.02
        assert abs(np.mean(moved < 0.125) - 0.1875) < 0.02


def test_one_hot_and_sparse_labels_and_probabilities_give_one_attack():
    (x, y), moved = models.digits()[1], []
    for last in (None, "softmax"):
        model = models.trained(last=last)
        moved.append(np.asarray(FGSM(0.1)(model, x, y)))
        moved.append(np.asarray(FGSM(0.1)(model, x, y[:, None])))
        loss = keras.losses.CategoricalCrossentropy(from_logits=last is None)
        model.compile(loss=loss)
        moved.append(np.asarray(FGSM(0.1)(model, x, np.eye(10)[y])))
        moved.append(np.asarray(FGSM(0.1, loss=loss)(model, x, np.eye(10)[y])))
    for other in moved[1:]:
        assert np.mean(np.abs(other - moved[0]) > 1e-6) < 1e-3


def test_penalties_do_not_matter_and_sizes_may_change():
    model, (x, y) = models.trained(), models.digits()[1]
    attack = FGSM(0.1)
    for rows in (40, 7, 1):
        part = np.asarray(attack(model, x[:rows], y[:rows]))
        np.testing.assert_array_equal(part, np.asarray(attack(model, x, y))[:rows])


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = models.trained()
    keras.config.set_dtype_policy("float32")
    x, y = models.digits()[1]
    reference = np.asarray(FGSM(0.1)(models.trained(), x, y))
    moved = np.asarray(FGSM(0.1)(model, x, y))
    assert moved.dtype == "float32"
    assert np.mean(np.abs(moved - reference) > 1e-3) < 0.05


def test_sure_predictions_in_half_precision_are_attacked():
    """Their slopes are below what float16 has."""
    keras.config.set_dtype_policy("mixed_float16")
    model = models.trained(factor=3.0)
    keras.config.set_dtype_policy("float32")
    (x, y), _ = models.digits()
    x, y = x[:400], y[:400]
    for attack in (FGSM(0.1), VAT(0.1)):
        moved = np.any(change(attack, model, x, y) != 0, axis=1)
        assert np.mean(moved) > 0.95


@norms
def test_a_slope_that_is_not_finite_is_none(norm):
    model = models.linear([[1.0], [1.0]], activation=keras.ops.sqrt)
    x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.ones((2, 1))
    moved = change(PGD(0.1, norm, steps=2, random_start=False), model, x, y - 2)
    np.testing.assert_array_equal(moved[0], 0)
    assert np.all(np.isfinite(moved))
    assert np.any(moved[1] != 0)


def test_random_search_begins_elsewhere_in_each_input():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    both = keras.layers.Concatenate()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(both))
    model.compile("sgd", "mse")
    zeros = np.zeros((3, 4))
    a, b = RandomSearch(0.1, steps=1)(model, [zeros, zeros], np.zeros((3, 1)))
    assert np.all(np.abs(a - b) > 1e-6)
