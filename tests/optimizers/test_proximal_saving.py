"""`Proximal` saved, restored and resumed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, MCP, Anchored, ElasticNet
from tests.optimizers.networks import assert_same_weights, build, data, fitted


@pytest.mark.parametrize("name", ["momentum", "adam", "nadam"])
@pytest.mark.parametrize("saved", ["model", "weights"])
def test_resumed_training_is_bit_equal(tmp_path, name, saved):
    def optimizer():
        return {
            "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
            "adam": lambda: keras.optimizers.Adam(0.05),
            "nadam": lambda: keras.optimizers.Nadam(0.05),
        }[name]()

    def more(model):
        model.fit(*data(), epochs=3, batch_size=8, shuffle=False, verbose=0)

    model = build(ElasticNet(0.01, 0.01))
    fitted(model, Proximal(optimizer()))
    model.layers[1].kernel_regularizer.strength = 0.123
    if saved == "model":
        model.save(tmp_path / "model.keras")
        resumed = keras.models.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        resumed = build(ElasticNet(0.01, 0.01))
        resumed.compile(Proximal(optimizer()), loss="mse")
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(tmp_path / "model.weights.h5")
    assert resumed.layers[1].kernel.regularizer.strength == 0.123
    more(model)
    more(resumed)
    assert_same_weights(model, resumed)
    assert (model.get_weights()[0] == 0).any()


def assert_resumes(folder, make, *callbacks):
    """A fit that was cut short and one that goes on from its backup are one fit."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = build(make())
        optimizer = Proximal(keras.optimizers.SGD(0.1, momentum=0.9))
        fitted(model, optimizer, epochs=4, fit={"callbacks": callbacks})
        return model

    def backup():
        return keras.callbacks.BackupAndRestore(folder / "backup")

    whole = run(*callbacks)
    with pytest.raises(KeyboardInterrupt):
        run(backup(), Stop(), *callbacks)
    assert_same_weights(whole, run(backup(), *callbacks))


def test_backup_and_restore_resumes(tmp_path):
    assert_resumes(tmp_path, lambda: L1(0.05))


@pytest.mark.parametrize("inner", [lambda: None, lambda: L1(0.05)])
def test_backup_and_restore_resumes_an_anchored(tmp_path, inner):
    """With the anchor of its start, not the weights it was restored to."""

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.layers[1].kernel.regularizer.mu = 0.7

    assert_resumes(tmp_path, lambda: Anchored(inner(), mu=0.1), Change())


def restored(folder, model, penalty, **options):
    """A new model with `penalty`, after loading the weights file of `model`."""
    model.save_weights(folder / "model.weights.h5")
    other = build(penalty)
    other.compile(Proximal("adam"), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "model.weights.h5", **options)
    return other


@pytest.mark.parametrize(
    ("penalty", "kind"),
    [
        (L2(0.2), "L2"),
        (MCP(0.2), "MCP"),
        (Anchored(L1(0.2)), "Anchored of L1"),
        (ElasticNet(0.1, 0.1), "ElasticNet"),
    ],
)
def test_a_strength_is_not_restored_to_another_kind_of_penalty(tmp_path, penalty, kind):
    model = build(L1(0.05))
    fitted(model, Proximal("adam"))
    with pytest.warns(UserWarning, match="is not restored") as record:
        other = restored(tmp_path, model, penalty)
    (message,) = [str(w.message) for w in record if "restored" in str(w.message)]
    assert message == (
        "The strength that was saved for L1 on a weight of shape (6, 5) is not "
        f"restored: hidden/kernel has {kind} on a weight of shape (6, 5)."
    )
    assert penalty.strength == 0.2
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations)


def test_files_without_kinds_are_still_restored(tmp_path, monkeypatch):
    def save(self, store):
        store["strength_0"] = 0.123

    monkeypatch.setattr(Proximal, "save_own_variables", save)
    model = build(Anchored(L1(0.05), mu=0.3))
    fitted(model, Proximal("adam"))
    other = restored(tmp_path, model, Anchored(L1(0.2), mu=0.4))
    assert other.layers[1].kernel.regularizer.strength == 0.123
    assert other.layers[1].kernel.regularizer.mu == 0.4


def test_a_penalty_without_a_ratio_keeps_its_zero(tmp_path):
    for wrap in (lambda penalty: penalty, Anchored):
        model = build(wrap(ElasticNet(0.1, 0.1)))
        fitted(model, Proximal("adam"))
        other = restored(tmp_path, model, wrap(ElasticNet(0.0, 0.0)))
        assert other.layers[1].kernel.regularizer.strength == 0.0


def test_a_penalty_may_save_more_than_its_strength(tmp_path):
    class Counted(L1):
        count = 0

        def save_own_variables(self, store):
            super().save_own_variables(store)
            store["count"] = self.count

        def load_own_variables(self, store):
            super().load_own_variables(store)
            self.count = int(store["count"])

    model = build(Counted(0.05))
    fitted(model, Proximal("adam"))
    model.layers[1].kernel.regularizer.count = 3
    other = restored(tmp_path, model, Counted(0.1))
    assert other.layers[1].kernel.regularizer.count == 3
    assert other.layers[1].kernel.regularizer.strength == 0.05


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_legacy_file_keeps_iterations_and_rate(tmp_path, name):
    model = build(L1(0.05))
    model.compile(Proximal(name), loss=keras.losses.MeanSquaredError())
    model.fit(*data(), batch_size=8, verbose=0)
    model.optimizer.learning_rate = 0.007
    model.layers[1].kernel.regularizer.strength = 0.123
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert int(loaded.optimizer.iterations) == 4
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.007)
    assert loaded.layers[1].kernel.regularizer.strength == 0.123
    with pytest.raises(ValueError, match="Unknown variable"):  # as any optimizer
        loaded.fit(*data(), verbose=0)


def test_set_weights_sets_all_of_the_state():
    optimizers = [Proximal(keras.optimizers.SGD(0.1, momentum=0.9)) for _ in range(2)]
    models = [build(L1(0.05)) for _ in optimizers]
    fitted(models[0], optimizers[0])
    optimizers[1].build(models[1].trainable_variables)
    optimizers[1].set_weights([v.numpy() for v in optimizers[0].variables])
    for mine, theirs in zip(*(o.variables for o in optimizers), strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_an_exported_model_needs_no_penalty(tmp_path):
    model = build(L1(0.1))
    model.layers[1].activity_regularizer = L1(0.1)
    fitted(model, Proximal("sgd"), epochs=1)
    model.export(tmp_path / "saved_model", verbose=False)
    x, _ = data()
    served = tf.saved_model.load(tmp_path / "saved_model")
    np.testing.assert_allclose(served.serve(x), model.predict(x, verbose=0), rtol=1e-5)
