"""`Polish`: mini-batch training that ends at the solution, with its zeros."""

import warnings

import keras
import numpy as np
import pytest
from sklearn import linear_model

from kerasreg.callbacks import Polish
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1
from tests.exhaustive import some

N, P = 80, 120


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, P))
    y = x[:, :8] @ rng.normal(size=(8, 1)) + 0.3 * rng.normal(size=(N, 1))
    return x.astype("float32"), y.astype("float32")


def trained(optimizer, callbacks, epochs=15, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((P,)), keras.layers.Dense(1, kernel_regularizer=L1(0.2))]
    )
    model.compile(optimizer, loss="mse", **compile_arguments)
    history = model.fit(
        *data(), epochs=epochs, batch_size=16, verbose=0, callbacks=callbacks
    )
    return model, history


def support():
    x, y = (a.astype("float64") for a in data())
    peer = linear_model.Lasso(alpha=0.1, tol=1e-12, max_iter=10**6).fit(x, y[:, 0])
    return peer.coef_ != 0


OPTIMIZERS = {
    "proximal Adam": lambda: Proximal(keras.optimizers.Adam(0.02)),
    "proximal SGD": lambda: Proximal(keras.optimizers.SGD(0.01)),
    "Adam": lambda: keras.optimizers.Adam(0.02),
    "averaged": lambda: Proximal(keras.optimizers.Adam(0.02, use_ema=True)),
}


@pytest.mark.parametrize(
    "optimizer", some(list(OPTIMIZERS), "proximal Adam", "averaged")
)
def test_leaves_the_exact_support(optimizer):
    rough, _ = trained(OPTIMIZERS[optimizer](), [])
    polish = Polish(*data())
    model, history = trained(OPTIMIZERS[optimizer](), [polish])
    assert polish.solution.converged
    assert polish.solution.certificate == "duality gap"
    np.testing.assert_array_equal(model.get_weights()[0][:, 0] != 0, support())
    assert not np.array_equal(rough.get_weights()[0][:, 0] != 0, support())
    x, y = data()
    final = model.evaluate(x, y, batch_size=N, verbose=0)
    assert final < rough.evaluate(x, y, batch_size=N, verbose=0)
    assert polish.solution.objective == pytest.approx(final, rel=1e-5)
    assert len(history.history["loss"]) == 15


def test_sample_weights_and_limits_are_handed_on():
    x, y = data()
    weight = np.zeros(N, "float32")
    weight[:40] = 2.0
    polish = Polish(x, y, sample_weight=weight, tol=1e-5, max_steps=2000)
    weighted, _ = trained("adam", [polish], epochs=1)
    half, _ = trained("adam", [Polish(x[:40], y[:40], tol=1e-5)], epochs=1)
    np.testing.assert_allclose(
        weighted.get_weights()[0], half.get_weights()[0], atol=1e-2
    )
    with pytest.warns(UserWarning, match="used all 2 steps"):
        trained("adam", [Polish(x, y, max_steps=2)], epochs=1)


def test_each_fit_has_its_own_solution(capsys):
    polish = Polish(*data(), verbose=1)
    assert polish.solution is None
    model, _ = trained("adam", [polish], epochs=1)
    first = polish.solution
    assert capsys.readouterr().out.strip() == repr(first)
    model.layers[0].kernel.regularizer.strength = 0.4
    model.fit(*data(), verbose=0, callbacks=[polish])
    assert polish.solution.objective > first.objective


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tol": -1.0}, ValueError, "`tol`. Expected a finite number greater than 0"),
        ({"max_steps": 0}, ValueError, "`max_steps`. Expected a positive integer"),
        ({"max_steps": "all"}, TypeError, "Received: max_steps='all'"),
    ],
)
def test_bad_arguments_are_named_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        Polish(*data(), **arguments)


def test_bad_data_is_named_when_training_ends():
    x, y = data()
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match="Expected the same positive number of samples"),
    ):
        trained("adam", [Polish(x, y[:3])], epochs=1)
