import keras
import numpy as np
import pytest

from kerasreg.regularizers import L1, regularize
from kerasreg.selection.measure import data_loss


def _model(strength=None, activity=None):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, "relu", activity_regularizer=activity),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    if strength is not None:
        regularize(model, L1(strength))
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2500, 4)).astype("float32"), rng.normal(size=2500)


def test_without_penalty_it_is_evaluate(data):
    assert data_loss(_model(), *data) == pytest.approx(
        _model().evaluate(*data, verbose=0), rel=1e-5
    )


def test_penalties_are_left_out_exactly_however_large(data):
    plain = data_loss(_model(), *data)
    model = _model(1e8)
    before = [w.regularizer for w in model.weights]
    assert data_loss(model, *data) == plain
    assert [w.regularizer for w in model.weights] == before
    assert model.evaluate(*data, verbose=0) > 1e7


def test_penalties_of_keras_and_of_activities_are_left_out(data):
    plain = data_loss(_model(), *data)
    assert data_loss(_model(activity="l2"), *data) == pytest.approx(plain, rel=1e-5)
    model = _model(1.0, activity=L1(0.1))
    model.fit(*data, epochs=1, verbose=0)  # Leaves symbolic losses behind.
    bare = _model()
    bare.set_weights(model.get_weights())
    assert data_loss(model, *data) == pytest.approx(data_loss(bare, *data), rel=1e-5)


def test_penalties_are_back_after_an_error(data):
    model = _model(1.0)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        data_loss(model, data[0][:, :2], data[1])
    assert model.weights[0].regularizer is not None
