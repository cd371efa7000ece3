"""Models of all kinds train at one client as they do in `fit`."""

import keras
import numpy as np
import pytest

import federated
from federated.seeds import seeded
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, penalties_of, regularize
from tests.federated.models import build_linear, linear_data, split


def fit(build_model, data, epochs, penalties=None):
    """The central model: the same start, all examples in each batch."""
    with seeded(0):
        model = build_model()
    if penalties is not None:
        regularize(model, penalties)
    *xy, weights = (*data, None)[:3]
    size = len(keras.tree.flatten(data)[0])
    model.fit(*xy, sample_weight=weights, batch_size=size, epochs=epochs, verbose=0)
    return model


def check_same_as_fit(build_model, data, penalties=None, rounds=3, rtol=1e-4):
    """One client with all the data, one step a round, is full-batch training."""
    result = federated.simulate(
        build_model,
        [data],
        rounds=rounds,
        batch_size=None,
        penalties=penalties,
        verbose=0,
    )
    model = fit(build_model, data, rounds, penalties)
    for mine, theirs in zip(
        result.model.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=rtol / 100)
    return result


def dense(optimizer=None, **settings):
    def build_model():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer() if optimizer else "sgd", "mse", **settings)
        return model

    return build_model


def test_a_penalty_in_the_loss():
    check_same_as_fit(dense(), linear_data(), penalties=L2(0.3))


def test_a_proximal_penalty_reaches_the_same_exact_zeros():
    def optimizer():
        return Proximal(keras.optimizers.SGD(0.1))

    result = check_same_as_fit(
        dense(optimizer), linear_data(), penalties=L1(0.7), rounds=40
    )
    kernel = result.model.get_weights()[0]
    assert 0 < np.sum(kernel == 0) < 3


def test_compiled_by_xla():
    check_same_as_fit(dense(jit_compile=True), linear_data(), penalties=L2(0.1))


def test_run_eagerly():
    seen = []

    class Model(keras.Sequential):
        def train_step(self, data):
            seen.append(data[0].numpy())  # not possible in a traced function
            return super().train_step(data)

    def build_model():
        model = Model([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    check_same_as_fit(build_model, linear_data(12))
    assert len(seen) == 3 + 1 + 3  # rounds, the step that makes variables, and `fit`


def test_a_train_step_of_ones_own():
    class Model(keras.Sequential):
        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = keras.ops.mean(keras.ops.abs(self(x, training=True) - y))
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(grads, self.trainable_variables)
            return {"my_loss": loss, "errors": keras.ops.abs(y)}

    def build_model():
        model = Model([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd")
        return model

    x, y = linear_data()
    result = check_same_as_fit(build_model, (x, y))
    model = fit(build_model, (x, y), 2)
    expected = np.abs(model.predict(x, verbose=0) - y).mean()
    assert result.history["my_loss"][-1] == pytest.approx(expected, rel=1e-4)
    assert "errors" not in result.history.rounds[1].train  # no number


def test_named_inputs_and_outputs_and_sample_weights():
    x, y = linear_data()

    def build_model():
        a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
        joint = keras.layers.Concatenate()([a, b])
        outputs = {name: keras.layers.Dense(1, name=name)(joint) for name in ("p", "q")}
        model = keras.Model({"a": a, "b": b}, outputs)
        model.compile("sgd", {"p": "mse", "q": "mae"})
        return model

    inputs = {"a": x[:, :2], "b": x[:, 2:]}
    check_same_as_fit(build_model, (inputs, {"p": y, "q": -y}))
    weights = np.linspace(0, 2, len(x)).astype("float32")
    check_same_as_fit(dense(), (x, y, weights))


def test_layers_used_twice():
    def build_model():
        inputs = keras.Input((3,))
        shared = keras.layers.Dense(3, kernel_regularizer=L2(0.1))
        outputs = keras.layers.Dense(1)(shared(shared(inputs)))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        return model

    check_same_as_fit(build_model, linear_data())


def test_statistics_of_batch_normalization_are_averaged():
    def build_model():
        layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    x, y = linear_data(60)
    check_same_as_fit(build_model, (x, y))
    clients = [(x[:20], y[:20]), (x[20:], y[20:])]
    result = federated.simulate(
        build_model, clients, rounds=1, batch_size=None, verbose=0
    )
    _, _, mean, variance, *_ = result.model.get_weights()
    np.testing.assert_allclose(mean, 0.01 * x.mean(0), rtol=1e-3, atol=1e-6)
    within = (20 * x[:20].var(0) + 40 * x[20:].var(0)) / 60
    np.testing.assert_allclose(variance, 0.99 + 0.01 * within, rtol=1e-4)


def test_mixed_precision_as_it_is_set_globally():
    keras.config.set_dtype_policy("mixed_float16")
    built = []

    def build_model():
        built.append(dense()())
        return built[-1]

    result = federated.simulate(
        build_model, split(linear_data(), 2), rounds=3, batch_size=None, verbose=0
    )
    assert all(m.layers[0].compute_dtype == "float16" for m in built)
    assert type(result.model.optimizer).__name__ == "LossScaleOptimizer"
    assert all(w.dtype == "float32" for w in result.model.get_weights())
    assert result.history["loss"][-1] < 0.95 * result.history["loss"][0]


def test_half_precision_of_the_weights_themselves():
    keras.config.set_dtype_policy("bfloat16")
    result = federated.simulate(
        dense(), split(linear_data(), 2), rounds=3, batch_size=None, verbose=0
    )
    assert all(w.dtype == "bfloat16" for w in result.model.get_weights())
    assert result.history["loss"][-1] < 0.95 * result.history["loss"][0]


def test_floats_are_of_keras_precision_whatever_the_data_have():
    x, y = linear_data()
    check_same_as_fit(dense(), (x.astype("float64"), y.astype("float64")))


def test_names_do_not_depend_on_what_was_built_before():
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(1), keras.layers.Dense(1)])
    result = federated.simulate(
        build_linear(),
        [linear_data()],
        penalties={"dense": L2(0.1)},
        rounds=1,
        verbose=0,
    )
    assert result.strengths == {"sequential/dense/kernel": 0.1}
    assert list(penalties_of(result.model)) == list(result.strengths)


def test_one_simulation_does_not_show_in_the_next():
    data = split(linear_data(), 2)

    def run(build_model):
        return federated.simulate(build_model, data, rounds=2, verbose=0).model

    first = [run(build_linear(rate)).get_weights() for rate in (0.1, 0.01)]
    second = [run(build_linear(rate)).get_weights() for rate in (0.01, 0.1)]
    for a, b in zip(first[0] + first[1], second[1] + second[0], strict=True):
        np.testing.assert_array_equal(a, b)
