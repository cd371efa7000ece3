import keras
import numpy as np

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, penalties_of
from kerasreg.selection.recipe import recipes

X = np.ones((4, 3), "float32")


def _build(optimizer="adam", loss="mse", dtype=None):
    layers = [keras.Input((3,)), keras.layers.Dense(1, dtype=dtype)]
    model = keras.Sequential(layers)
    model.compile(optimizer, loss, metrics=["mae"], run_eagerly=True)
    return model


def _made(build, candidate):
    return recipes(build, {"a": candidate})["a"].make(0, X)


def test_the_optimizer_keeps_its_settings():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    model = _made(
        lambda: _build(keras.optimizers.Adam(schedule, beta_1=0.5, clipnorm=2.0)),
        L1(0.1),
    )
    inner = model.optimizer.inner_optimizer
    assert isinstance(model.optimizer, Proximal)
    assert (inner.beta_1, inner.clipnorm) == (0.5, 2.0)
    assert inner.get_config()["learning_rate"]["config"]["decay_steps"] == 100
    assert model.run_eagerly
    assert set(model.evaluate(X, X[:, :1], verbose=0, return_dict=True)) == {
        "loss",
        "mae",
    }


def test_a_proximal_optimizer_stays():
    made = []

    def build():
        made.append(Proximal("adam"))
        return _build(made[-1])

    assert _made(build, L1(0.1)).optimizer is made[0]


def test_models_of_their_own_are_wrapped_too():
    def build():
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(1, kernel_regularizer=L1(0.1))]
        )
        model.compile("adam", "mse")
        return model

    assert isinstance(_made(_build, build).optimizer, Proximal)


def test_regularizers_of_keras_become_penalties():
    model = _made(_build, keras.regularizers.L1(0.1))
    assert [type(penalty) for penalty in penalties_of(model).values()] == [L1]
    assert isinstance(model.optimizer, Proximal)


def test_loss_scaling_stays_outside():
    keras.config.set_dtype_policy("mixed_float16")
    model = _made(_build, L1(0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(model.optimizer.inner_optimizer, Proximal)


def test_losses_that_cannot_be_saved():
    loss = lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1)  # noqa: E731
    model = _made(lambda: _build(loss=loss), L1(0.1))
    assert isinstance(model.optimizer, Proximal)
    assert model.loss is loss


def test_initial_weights_are_those_of_the_seed():
    weights = [
        r.make(7, X).get_weights()[0] for r in recipes(_build, {"a": L1(1)}).values()
    ]
    np.testing.assert_array_equal(*weights)
