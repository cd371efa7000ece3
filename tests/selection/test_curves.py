import keras
import numpy as np
import pytest

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1
from kerasreg.selection.curves import DataLoss, penalties

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype("float32")
Y = RNG.normal(size=(50, 1)).astype("float32")


def _model(penalty=None, metrics=(), **kwargs):
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense(1, kernel_regularizer=penalty, **kwargs)
    model = keras.Sequential([keras.Input((4,)), dense])
    optimizer = keras.optimizers.SGD(0.05)
    model.compile(Proximal(optimizer), "mse", metrics=list(metrics))
    return model


def _fit(model, batch_size=20, callbacks=(), **kwargs):
    first = DataLoss(len(X), batch_size)
    return model.fit(
        X,
        Y,
        batch_size=batch_size,
        epochs=2,
        validation_data=(X, Y),
        callbacks=[first, *callbacks],
        verbose=0,
        **kwargs,
    ).history


# The metric is Keras's own mean over the same batches. 7 batches, the last of 2.
@pytest.mark.parametrize("batch_size", [8, 20, 50])
def test_it_is_exact_for_few_batches(batch_size):
    logs = _fit(_model(L1(0.3), ["mse"]), batch_size)
    np.testing.assert_allclose(logs["data_loss"], logs["mse"], rtol=1e-5)
    np.testing.assert_allclose(logs["val_data_loss"], logs["val_mse"], rtol=1e-5)


def test_it_is_close_for_many_batches():
    logs = _fit(_model(L1(0.3), ["mse"]), batch_size=1)
    np.testing.assert_allclose(logs["data_loss"], logs["mse"], rtol=0.1)
    np.testing.assert_allclose(logs["val_data_loss"], logs["val_mse"], rtol=1e-5)


def test_strengths_may_change_between_epochs():
    model = _model(L1(0.3), ["mse"])
    penalty = model.layers[0].kernel_regularizer

    class Schedule(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            penalty.strength = 0.1 * (epoch + 1)

        def on_epoch_end(self, epoch, logs=None):
            penalty.strength = 100.0

    logs = _fit(model, callbacks=[Schedule()])
    np.testing.assert_allclose(logs["data_loss"], logs["mse"], rtol=1e-5)
    np.testing.assert_allclose(logs["val_data_loss"], logs["val_mse"], rtol=1e-5)


def test_callbacks_behind_it_can_monitor_it():
    stop = keras.callbacks.EarlyStopping("val_data_loss", mode="min", min_delta=1e9)
    assert len(_fit(_model(L1(0.3)), callbacks=[stop])["val_data_loss"]) == 2
    assert stop.stopped_epoch == 1


def test_a_metric_of_that_name_stays():
    metric = keras.metrics.MeanAbsoluteError(name="data_loss")
    with_, without = (
        _fit(_model(L1(0.3), [m])) for m in (metric, keras.metrics.MeanAbsoluteError())
    )
    assert with_["data_loss"] == without["mean_absolute_error"]


def test_sparse_validation_points_are_not_filled_in():
    assert len(_fit(_model(L1(0.3)), validation_freq=2)["val_data_loss"]) == 1


def test_penalties_of_frozen_layers_are_not_in_the_loss():
    model = _model(keras.regularizers.L2(0.5))
    kernel = model.layers[0].kernel.numpy()
    assert penalties(model) == pytest.approx(0.5 * np.sum(kernel**2))
    model.layers[0].trainable = False
    assert penalties(model) == 0.0


def test_activity_penalties_stay_in():
    logs = _fit(_model(activity_regularizer=L1(0.3)))
    assert logs["data_loss"] == logs["loss"]
