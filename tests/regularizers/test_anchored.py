"""Anchored: the pull towards given weights, and where they come from."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import optimize

from kerasreg.regularizers import (
    L1,
    L2,
    Anchored,
    ElasticNet,
    GroupLasso,
    penalties_of,
    regularize,
)
from tests import models
from tests.optimality import assert_minimizes, group_minimum


def anchor_of(penalty):
    return penalty._anchor.numpy()


# Value and map ----------------------------------------------------------------


def test_the_value_is_fedprox():
    """Li et al. 2020, eq. 2: h(w) + mu/2·‖w − w₀‖²."""
    rng = np.random.default_rng(0)
    w, w0 = rng.normal(size=(2, 4, 3))
    distance = 0.3 / 2 * np.linalg.norm(w - w0) ** 2
    assert float(Anchored(None, 0.3, w0)(w)) == pytest.approx(distance, rel=1e-6)
    both = Anchored(ElasticNet(0.1, 0.2), 0.3, w0)
    inner = 0.1 * np.abs(w).sum() + 0.2 * np.square(w).sum()
    assert float(both(w)) == pytest.approx(distance + inner, rel=1e-6)
    assert float(Anchored(None, 0.3, w0)(w0.astype("float32"))) == 0.0
    tensor = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = Anchored(None, 0.3, w0)(tensor)
    np.testing.assert_allclose(
        tape.gradient(value, tensor), 0.3 * (w - w0), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("inner", [None, L1(0.6), L2(0.4), ElasticNet(0.6, 0.4)])
@pytest.mark.parametrize("mu", [0.0, 0.7, 50.0])
@pytest.mark.parametrize("anchor", [-1.5, 0.0, 0.4])
def test_the_map_is_the_minimum_of_the_value(inner, mu, anchor):
    v, step = np.meshgrid(np.linspace(-4, 4, 33), np.geomspace(1e-6, 1e4, 11))
    penalty = Anchored(inner, mu, np.full(v.shape, anchor))
    l1, l2 = (0.0, 0.0) if inner is None else (inner.l1, inner.l2)
    best = np.asarray(
        penalty.prox(ops.convert_to_tensor(v), ops.convert_to_tensor(step))
    )
    # Bring in the pull by completing the square: its minimum lies elsewhere.
    a32 = np.float64(np.float32(anchor))

    def derivative(u):
        return (u - v) / step + mu * (u - a32) + 2 * l2 * u

    zero = best == 0
    slope = derivative(best)
    scale = 1 / step + mu + 1
    assert np.all(np.abs(slope)[zero] <= l1 + 1e-6 * scale[zero])
    assert np.all(
        np.abs(slope + l1 * np.sign(best))[~zero]
        <= 2e-6 * (scale * (np.abs(v) + 2))[~zero]
    )
    if anchor == 0.0:  # then it is a penalty of |u| alone
        assert_minimizes(
            best,
            v,
            step,
            lambda size: l1 * size + (l2 + mu / 2) * size**2,
            rtol=1e-5,
        )
    if l1 and anchor == 0.0:
        assert np.any(zero)
    for row in (0, 5, 10):
        one = Anchored(inner, mu, np.full(33, anchor)).prox(
            ops.convert_to_tensor(v[row]), float(step[row, 0])
        )
        np.testing.assert_allclose(one, best[row], rtol=1e-5, atol=1e-7)


def test_the_map_with_a_group_lasso_inside():
    rng = np.random.default_rng(1)
    v, w0 = rng.normal(size=(2, 6, 3))
    step = rng.uniform(0.1, 5, size=(6, 3))
    penalty = Anchored(GroupLasso(0.4, "input"), 0.8, w0)
    u = np.asarray(penalty.prox(ops.convert_to_tensor(v), ops.convert_to_tensor(step)))
    for i in range(6):

        def objective(each, i=i):
            pull = 0.4 * np.sum((each - w0[i]) ** 2)
            distance = np.sum((each - v[i]) ** 2 / (2 * step[i]))
            return pull + distance + 0.4 * np.sqrt(3) * np.linalg.norm(each)

        best = min(
            (
                optimize.minimize(objective, start, tol=1e-12).fun
                for start in (v[i], w0[i], 1e-3 * v[i])
            ),
        )
        assert objective(u[i]) <= min(best, objective(np.zeros(3))) + 1e-7
    # And exactly, by the same square completed: one group lasso elsewhere.
    shorter = step / (1 + 0.8 * step)
    middle = (v + 0.8 * step * w0) / (1 + 0.8 * step)
    for i in range(6):
        np.testing.assert_allclose(
            u[i],
            group_minimum(middle[i], shorter[i], 0.4 * np.sqrt(3)),
            rtol=1e-5,
            atol=1e-7,
        )


def test_without_an_anchor_the_map_is_the_inner_one():
    w = ops.array([0.5, -2.0])
    np.testing.assert_array_equal(Anchored(L1(1.0), 0.5).prox(w, 1.0), [0.0, -1.0])
    np.testing.assert_array_equal(Anchored(None, 0.5).prox(w, 1.0), w)
    assert Anchored(None).has_prox
    assert Anchored(L1(1.0)).has_prox


# Strength and mu --------------------------------------------------------------


def test_the_strength_is_the_inner_ones_and_mu_is_apart():
    penalty = Anchored(L1(0.1), mu=0.2)
    penalty.strength = 0.5
    assert (penalty.strength, penalty.penalty.l1, penalty.mu) == (0.5, 0.5, 0.2)
    penalty.mu = 0.01
    assert (penalty.strength, penalty.mu) == (0.5, 0.01)
    alone = Anchored(mu=0.2)
    alone.strength = 0.4
    assert (alone.strength, alone.mu) == (0.4, 0.4)
    alone.mu = 0.0
    assert alone.strength == 0.0


def test_its_arguments_are_checked():
    for mu in (-1.0, float("nan"), float("inf")):
        sentence = (
            "Invalid value for argument `mu`. Expected a non-negative finite number. "
            f"Received: mu={mu!r}"
        )
        with pytest.raises(ValueError) as error:
            Anchored(L1(0.1), mu=mu)
        assert str(error.value) == sentence
        with pytest.raises(ValueError) as error:
            Anchored(L1(0.1)).mu = mu
        assert str(error.value) == sentence
    with pytest.raises(TypeError, match=r"argument `mu`.*Received: mu='a'"):
        Anchored(L1(0.1), mu="a")
    with pytest.raises(TypeError) as error:
        Anchored("l1")
    assert str(error.value) == (
        "Invalid value for argument `penalty`. Expected a "
        "kerasreg.regularizers.Penalty or None. Received: penalty='l1'"
    )


def test_another_shape_than_the_anchors():
    penalty = Anchored(L1(0.1), anchor=np.zeros((2, 3)))
    sentence = (
        "Invalid weight for Anchored. Expected the anchor's shape (2, 3). "
        "Received: shape=(3, 2)"
    )
    other = keras.Variable(np.zeros((3, 2), "float32"))
    for use in (penalty, penalty.anchor, penalty.attach):
        with pytest.raises(ValueError) as error:
            use(other)
        assert str(error.value) == sentence
    # Attaching is refused before anything is changed.
    model = models.model()
    with pytest.raises(ValueError, match="the anchor's shape"):
        regularize(model, {"out": L1(0.1), "hidden": penalty})
    assert penalties_of(model) == {}


# Where the anchor comes from --------------------------------------------------


def test_regularize_takes_each_weight_as_its_anchor():
    model = models.model()
    attached = regularize(model, Anchored(L2(0.0), mu=2.0))
    assert len(attached) == 2
    assert [float(loss) for loss in model.losses] == [0.0, 0.0]
    for path, kernel in (
        ("hidden/kernel", model.layers[1].kernel),
        ("out/kernel", model.layers[2].kernel),
    ):
        np.testing.assert_array_equal(anchor_of(attached[path]), kernel)
        kernel.assign_add(ops.ones(kernel.shape))
    sizes = [models.FEATURES * models.UNITS, models.UNITS]
    np.testing.assert_allclose(model.losses, sizes, rtol=1e-6)


def test_a_given_anchor_stays():
    model = models.model()
    given = np.full((models.FEATURES, models.UNITS), 0.5)
    attached = regularize(model, {"hidden": Anchored(mu=1.0, anchor=given)})
    np.testing.assert_array_equal(anchor_of(attached["hidden/kernel"]), given)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_first_use_inside_a_traced_fit_takes_the_first_weights(jit_compile):
    penalty = Anchored(mu=1.0)
    model = models.model(
        penalty, keras.optimizers.SGD(0.1), models.TracedModel, jit_compile=jit_compile
    )
    kernel = model.layers[1].kernel
    start = kernel.numpy()
    models.fit(model, epochs=2)
    assert model.traces == 1
    assert np.any(kernel.numpy() != start)
    np.testing.assert_array_equal(anchor_of(penalty), start)
    pull = np.sum((kernel.numpy() - start) ** 2) / 2
    assert float(model.losses[0]) == pytest.approx(pull, rel=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_running_fit_sees_a_new_anchor(jit_compile):
    penalty = Anchored(mu=1.0)
    model = models.model(
        penalty, keras.optimizers.SGD(0.0), models.TracedModel, jit_compile=jit_compile
    )
    kernel = model.layers[1].kernel.numpy()

    class Move(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            penalty.anchor(kernel + epoch)
            penalty.mu = 1.0 if epoch < 3 else 0.5

    loss = models.fit(model, epochs=4, callbacks=[Move()]).history["loss"]
    assert model.traces == 1
    half = kernel.size / 2
    np.testing.assert_allclose(
        np.subtract(loss, loss[0]), [0, half, 4 * half, 4.5 * half], rtol=1e-4
    )


def test_anchor_and_mu_are_saved_with_the_model(tmp_path):
    model = models.model(Anchored(L1(0.01), mu=1.0), keras.optimizers.SGD(0.1))
    start = model.layers[1].kernel.numpy()
    models.fit(model)
    (penalty,) = penalties_of(model).values()
    penalty.mu, penalty.strength = 0.3, 0.02
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    (again,) = penalties_of(loaded).values()
    assert (again.mu, again.strength) == (0.3, 0.02)
    np.testing.assert_array_equal(anchor_of(again), start)
    np.testing.assert_allclose(loaded.losses, model.losses, rtol=1e-6)
    # The anchor is no weight of the model.
    assert len(model.get_weights()) == 4


def test_each_device_reads_one_anchor(two_cpus):
    with two_cpus.scope():
        model = models.model(Anchored(mu=1.0), keras.optimizers.SGD(0.1))
    start = model.layers[1].kernel.numpy()
    models.fit(model)
    (penalty,) = penalties_of(model).values()
    np.testing.assert_array_equal(anchor_of(penalty), start)


def test_what_it_saves_is_what_it_loads():
    """Also where one anchored penalty is inside another."""

    def make(mu, strength):
        inner = Anchored(L1(strength), 2 * mu, np.full(3, mu))
        return Anchored(inner, mu, np.full(3, -mu))

    penalty, other, store = make(0.3, 0.7), make(0.1, 0.2), {}
    penalty.save_own_variables(store)
    assert store.keys() == {"strength", "mu", "anchor", "inner_mu", "inner_anchor"}
    other.load_own_variables(store)
    assert other.get_config() == penalty.get_config()
    other.load_own_variables({})
    assert other.get_config() == penalty.get_config()
