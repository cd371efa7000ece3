"""`Proximal` inside Keras: what it sees, what it reports, what it leaves behind."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, ElasticNet, GroupLasso, Penalty, regularize
from tests.optimizers.networks import assert_same_weights, build, data, fitted

# What the inner optimizer sees.


class Step(keras.Model):
    """Keras's documented custom train step, without `scale_loss`."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class StepWithoutPenalties(keras.Model):
    """A custom train step whose loss leaves `model.losses` out."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(y - self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


WAYS = {
    "graph": {},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "custom step": {"cls": Step},
    "custom step, jit": {"cls": Step, "jit_compile": True},
    "custom step, eager": {"cls": Step, "run_eagerly": True},
    "penalties left out": {"cls": StepWithoutPenalties},
    "penalties left out, eager": {"cls": StepWithoutPenalties, "run_eagerly": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("penalty", [ElasticNet(0.7, 0.4), GroupLasso(1.5)])
def test_the_inner_optimizer_sees_the_data_gradient_alone(way, penalty):
    """One step of SGD is the plain step without a penalty, then the map."""
    arguments = dict(WAYS[way])
    cls = arguments.pop("cls", keras.Model)
    plain, model = build(), build(penalty, cls)
    rate = keras.optimizers.SGD(0.3)
    fitted(plain, keras.optimizers.SGD(0.3), epochs=1, batch_size=32)
    fitted(model, Proximal(rate), epochs=1, batch_size=32, **arguments)
    kernel, *rest = plain.get_weights()
    expected = ops.convert_to_numpy(penalty.prox(ops.convert_to_tensor(kernel), 0.3))
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=2e-7)
    for mine, theirs in zip(model.get_weights()[1:], rest, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-7)
    assert (model.get_weights()[0] == 0).any()


@pytest.mark.parametrize("way", ["graph", "custom step", "eager"])
def test_the_state_of_adam_is_that_of_the_data_gradient(way):
    arguments = dict(WAYS[way])
    model = build(L1(5.0), arguments.pop("cls", keras.Model))
    plain, inner = build(), keras.optimizers.Adam()
    fitted(plain, keras.optimizers.Adam(), epochs=1, batch_size=32)
    fitted(model, Proximal(inner), epochs=1, batch_size=32, **arguments)
    for mine, theirs in zip(inner.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=2e-7)


def test_a_weight_that_only_its_penalty_touches_is_still_mapped():
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.Dense(1)
            self.idle = self.add_weight(shape=(3,), initializer="ones", name="idle")
            self.idle.regularizer = L1(1.0)

        def call(self, x):
            return self.used(x)

    model = Idle()
    fitted(model, Proximal(keras.optimizers.SGD(0.3)), epochs=1, batch_size=32)
    np.testing.assert_allclose(model.idle.numpy(), 0.7, rtol=1e-6)


def test_regularizers_without_a_map_stay_in_the_loss():
    class Ridge(Penalty):
        def value(self, w):
            return self.lam * ops.sum(ops.square(w))

        def get_config(self):
            return {"strength": self.strength}

    for penalty in (Ridge(0.3), keras.regularizers.L2(0.3)):
        model, plain = build(penalty), build(keras.regularizers.L2(0.3))
        fitted(plain, "sgd")
        fitted(model, Proximal("sgd"))
        assert_same_weights(model, plain, rtol=1e-5)


def test_a_plain_optimizer_after_proximal_has_the_penalty_again():
    penalty = ElasticNet(0.05, 0.02)
    optimizer = Proximal("sgd")  # stays alive: nothing may hang on its death
    model = build(penalty)
    fitted(model, optimizer)
    start = model.get_weights()
    plain = build(keras.regularizers.L1L2(0.05, 0.02))
    plain.set_weights(start)
    fitted(model, keras.optimizers.SGD(0.1))
    fitted(plain, keras.optimizers.SGD(0.1))
    assert_same_weights(model, plain, rtol=1e-5, atol=1e-7)
    assert optimizer.built


def test_two_optimizers_must_be_told_their_weights():
    class Two(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
                loss = self.optimizer.scale_loss(loss)
            first, second = self.layers[1].weights, self.layers[2].weights
            g1, g2 = (lambda g: (g[:2], g[2:]))(tape.gradient(loss, first + second))
            self.optimizer.apply(g1, first)
            self.second.apply(g2, second)
            return {"loss": loss}

    def two(build_first):
        model = build(L1(0.1), Two)
        model.layers[2].kernel.regularizer = L1(0.1)
        model.second = keras.optimizers.SGD()
        optimizer = Proximal("sgd")
        if build_first:
            optimizer.build(model.layers[1].weights)
        fitted(model, optimizer, epochs=1, batch_size=32)
        return model

    with pytest.raises(ValueError, match=r"the loss .* also has penalties on.*out/ker"):
        two(build_first=False)
    plain = build(cls=Two)
    plain.layers[2].kernel.regularizer = keras.regularizers.L1(0.1)
    plain.second = keras.optimizers.SGD()
    fitted(plain, "sgd", epochs=1, batch_size=32)
    for mine, theirs in zip(
        two(build_first=True).layers[2].get_weights(),
        plain.layers[2].get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


# What is reported.


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_reported_loss_counts_each_penalty_once(jit_compile):
    model = build(ElasticNet(0.2, 0.1))
    regularize(model, {"out": L2(0.3)})
    x, y = data()
    mse = float(np.mean((model.predict(x, verbose=0) - y) ** 2))
    first, second = model.layers[1].kernel.numpy(), model.layers[2].kernel.numpy()
    penalty = 0.2 * np.abs(first).sum() + 0.1 * (first**2).sum()
    penalty += 0.3 * (second**2).sum()
    history = fitted(
        model, Proximal("sgd"), epochs=1, batch_size=32, jit_compile=jit_compile
    )
    np.testing.assert_allclose(history.history["loss"][0], mse + penalty, rtol=1e-5)
    total = model.evaluate(x, y, verbose=0)
    mse = float(np.mean((model.predict(x, verbose=0) - y) ** 2))
    penalties = float(sum(model.losses))
    assert len(model.losses) == 2
    np.testing.assert_allclose(total, mse + penalties, rtol=1e-5)


def test_one_trace_for_all_epochs_and_strengths():
    traces = []

    class Counted(L1):
        def value(self, w):
            traces.append(1)
            return super().value(w)

    penalty = Counted(0.01)
    model = build(penalty)
    fitted(model, Proximal("adam"), epochs=1)
    first = len(traces)  # two: TensorFlow traces a function that makes variables twice
    penalty.strength = 10.0
    model.fit(*data(), epochs=3, batch_size=8, verbose=0)
    assert len(traces) == first <= 2
    assert (model.get_weights()[0] == 0).mean() > 0.5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_strength_reaches_a_running_fit(jit_compile):
    penalty = L1(0.0)
    change = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(
            penalty, "strength", 100.0 * (epoch == 1)
        )
    )
    model, kernels = build(penalty), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kernels.append(model.get_weights()[0])
    )
    fitted(
        model,
        Proximal("sgd"),
        fit={"callbacks": [note, change]},
        jit_compile=jit_compile,
    )
    assert [(kernel == 0).all() for kernel in kernels] == [False, False, True]


# Arguments and warnings.


def test_takes_names_configs_and_optimizers():
    assert isinstance(Proximal("adam").inner_optimizer, keras.optimizers.Adam)
    config = keras.optimizers.serialize(keras.optimizers.SGD(0.5))
    assert float(Proximal(config).learning_rate) == 0.5
    inner = keras.optimizers.Nadam()
    assert Proximal(inner).inner_optimizer is inner


@pytest.mark.parametrize("bad", [None, 3, keras.optimizers.Adam, ["adam"]])
def test_refuses_what_is_no_optimizer(bad):
    with pytest.raises(TypeError) as error:
        Proximal(bad)
    assert str(error.value) == (
        "Invalid value for argument `optimizer`. Expected a Keras optimizer, its "
        f"name or its config. Received: optimizer={bad!r}"
    )


def test_refuses_itself():
    with pytest.raises(ValueError, match="Received: optimizer=Proximal"):
        Proximal(Proximal("adam"))


def test_batch_normalization_after_a_penalized_kernel_warns_once():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="first", kernel_regularizer=L2(0.1)),
            keras.layers.BatchNormalization(name="bn_first"),
            keras.layers.Dense(4, name="second", kernel_regularizer=L2(0.1)),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(1, name="third", kernel_regularizer=L2(0.1)),
        ]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(model, Proximal("sgd"), epochs=2)
    found = [str(w.message) for w in caught if "batch normalization" in str(w.message)]
    assert len(found) == 1
    assert "first/kernel (before bn_first)']" in found[0]
    assert "second" not in found[0]


# Its own bounds.


def test_the_inner_optimizer_alone_is_as_it_was():
    plain, model = build(), build()
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    Proximal(inner)
    fitted(plain, keras.optimizers.SGD(0.1, momentum=0.9))
    regularize(model, {"hidden": L1(0.0)})
    fitted(model, inner)
    assert_same_weights(model, plain, atol=1e-6)
    penalized = build(L1(0.3))
    inner = keras.optimizers.SGD(0.1)
    Proximal(inner)
    fitted(penalized, inner)
    assert not (penalized.get_weights()[0] == 0).any()


def test_a_look_at_the_penalty_gradient_leaves_no_mark():
    """An eager loop without the penalties in its loss, but with `scale_loss`."""

    def looped(look):
        model = build(L1(0.5))
        optimizer = Proximal(keras.optimizers.SGD(0.1))
        optimizer.build(model.trainable_variables)
        x, y = data()
        for _ in range(3):
            if look:
                with tf.GradientTape() as tape:
                    penalty = sum(model.losses)
                tape.gradient(penalty, model.trainable_variables[0])
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(ops.mean(ops.square(y - model(x))))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        return model

    assert_same_weights(looped(False), looped(True))


def test_a_penalty_in_add_loss_trains_through_its_gradient():
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.penalty = L1(0.3)
            self.w = self.add_weight(shape=(shape[-1], 1), name="w")

        def call(self, x):
            self.add_loss(self.penalty(self.w))
            return x @ self.w

    models = []
    for wrap in (Proximal, lambda optimizer: optimizer):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), Own()])
        fitted(model, wrap(keras.optimizers.SGD(0.1)))
        models.append(model)
    assert_same_weights(*models, atol=1e-6)


def test_two_claims_at_once():
    """Both losses are scaled before either optimizer applies."""
    models = [build(L1(0.1)), build(L1(0.1))]
    optimizers = [Proximal(keras.optimizers.SGD(0.1)) for _ in models]
    x, y = data()
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)
    with tf.GradientTape(persistent=True) as tape:
        losses = [
            optimizer.scale_loss(ops.mean((y - model(x)) ** 2) + sum(model.losses))
            for model, optimizer in zip(models, optimizers, strict=True)
        ]
    pairs = list(zip(losses, models, optimizers, strict=True))
    gradients = [tape.gradient(loss, m.trainable_variables) for loss, m, _ in pairs]
    for gradient, (_, model, optimizer) in zip(gradients, pairs, strict=True):
        optimizer.apply(gradient, model.trainable_variables)
    assert_same_weights(*models)
