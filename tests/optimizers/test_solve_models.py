"""`solve` on models that are not convex, what it leaves as it is, and its one graph."""

import importlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn import linear_model

from kerasreg.optimizers import Solution, solve
from kerasreg.regularizers import L1, L2, MCP, Anchored, GroupLasso, Penalty, regularize
from tests.optimizers.problems import N, P, features, linear, net, targets


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
