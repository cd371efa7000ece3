"""`Hypergradient` leaves models as they are, whatever they are made of."""

import keras
import numpy as np
import pytest
from keras import layers

from kerasreg.callbacks import Hypergradient, LayerwiseAdaptiveLambda
from kerasreg.callbacks.policies.implicit import Implicit
from kerasreg.layers import BayesianDense
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, Prior
from tests.models import data, fit, model


def units_of(built, *names):
    kept = {}
    for layer in built._flatten_layers(include_self=False):
        penalized = [w for w in layer.weights if w.regularizer is not None]
        if penalized and layer.name in names:
            kept[layer.name] = penalized
    return kept


def policy(pair=None, **arguments):
    pair = data() if pair is None else pair
    return Hypergradient(pair, pair, **{"terms": 5, **arguments})


def measure(built, units, **arguments):
    found = policy(**arguments).measure(built, units)
    return {name: each["hypergradient"] for name, each in found.items()}


def compiled(inputs, outputs, loss="mse", **arguments):
    built = keras.Model(inputs, outputs)
    built.compile("sgd", loss, **{"jit_compile": False, **arguments})
    return built


class TestGraph:
    def test_one_trace(self):
        """New strengths, weights, batches, settings: one graph, and their numbers."""
        built = model(L2(0.01))
        units = units_of(built, "hidden")
        (kernel,) = units["hidden"]
        implicit = Implicit.of(built, units)
        one = policy(batch_size=8)
        before = one.measure(built, units)
        kernel.regularizer.strength = 0.02
        again = policy(batch_size=8).measure(built, units)
        first = policy(batch_size=8, mode="first_order").measure(built, units)
        one.measure(built, units)
        assert implicit.traces == 1
        assert Implicit.of(built, units) is implicit
        values = [each["hidden"]["hypergradient"] for each in (before, again, first)]
        assert len(set(values)) == 3
        kernel.regularizer.strength = 0.01
        assert policy(batch_size=8).measure(built, units) == before

    def test_a_new_penalty_is_seen(self):
        built = model(L2(0.01))
        units = units_of(built, "hidden")
        before = measure(built, units)
        units["hidden"][0].regularizer = L2(0.02)
        after = measure(built, units)
        assert before != after

    def test_xla(self):
        found = []
        for jit_compile in (False, True):
            built = model(L1(0.01), jit_compile=jit_compile)
            units = units_of(built, "hidden")
            units["hidden"][0].assign(np.round(units["hidden"][0].numpy(), 1))
            found.append(measure(built, units)["hidden"])
            assert np.any(units["hidden"][0].numpy() == 0)
        assert found[0] == pytest.approx(found[1], rel=1e-4)

    def test_strengths_of_a_unit(self):
        """Two weights of different strength: both are multiplied."""
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        dense = layers.Dense(
            1, kernel_regularizer=L2(0.3), bias_regularizer=L2(0.1), name="dense"
        )
        built = compiled(inputs, dense(inputs))
        dense.bias.assign([0.5])
        together = measure(built, {"dense": [dense.kernel, dense.bias]})
        apart = measure(built, {"k": [dense.kernel], "b": [dense.bias]})
        assert together["dense"] == pytest.approx(sum(apart.values()), rel=1e-5)
        assert abs(apart["b"]) > 1e-6


class TestNothingChanges:
    def make(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        x = layers.Dense(8, kernel_regularizer=L2(0.01), name="hidden")(inputs)
        x = layers.BatchNormalization()(x)
        x = layers.Dropout(0.5)(layers.Activation("tanh")(x))
        return compiled(
            inputs, layers.Dense(1, activity_regularizer="l2")(x), metrics=["mae"]
        )

    def test_state(self):
        """Weights, statistics, seeds, penalties, metrics, global random numbers."""
        built = self.make()
        built.fit(*data(), verbose=0)
        units = units_of(built, "hidden")
        names = [v.path for v in built.variables]
        before = [v.numpy() for v in built.variables]
        penalty, metrics = units["hidden"][0].regularizer, built.get_metrics_result()
        keras.utils.set_random_seed(5)
        expected = keras.random.normal((3,)).numpy()
        keras.utils.set_random_seed(5)
        measure(built, units, batch_size=8)
        np.testing.assert_array_equal(keras.random.normal((3,)), expected)
        for name, old, now in zip(names, before, built.variables, strict=True):
            np.testing.assert_array_equal(old, now.numpy(), err_msg=name)
        assert units["hidden"][0].regularizer is penalty
        assert penalty.strength == pytest.approx(0.01)
        assert built.get_metrics_result() == metrics

    def test_inference_mode(self):
        """Dropout is off, so the same number comes out each time."""
        built = self.make()
        units = units_of(built, "hidden")
        assert measure(built, units) == measure(built, units)

    def test_validation_is_without_penalties(self):
        """One on activities is not in it either."""
        values = []
        for strength in (0.0, 10.0):
            keras.utils.set_random_seed(0)
            inputs = keras.Input((6,))
            hidden = layers.Dense(4, kernel_regularizer=L2(0.1), name="hidden")(inputs)
            output = layers.Dense(
                1, activity_regularizer=keras.regularizers.L2(strength)
            )
            built = compiled(inputs, output(hidden))
            units = units_of(built, "hidden")
            values.append(measure(built, units, mode="first_order")["hidden"])
        assert values[0] == pytest.approx(values[1], rel=1e-5)


class TestPrecision:
    @pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"])
    def test_mixed(self, mixed):
        """Computed in float32: the number of the float32 model."""
        found = []
        for policy_name in ("float32", mixed):
            keras.config.set_dtype_policy(policy_name)
            built = model(L2(0.01))
            hidden = built.get_layer("hidden")
            found.append(measure(built, {"hidden": [hidden.kernel]})["hidden"])
            assert hidden.dtype_policy.name == policy_name
        assert found[0] == pytest.approx(found[1], rel=1e-4)
        outputs = built.get_layer("hidden")(data()[0])
        assert outputs.dtype == mixed.removeprefix("mixed_")

    def test_float32_is_enough(self):
        found = []
        for dtype in ("float32", "float64"):
            keras.config.set_floatx(dtype)
            keras.config.set_dtype_policy(dtype)
            try:
                keras.utils.set_random_seed(1)
                hidden = layers.Dense(4, "tanh", kernel_regularizer=L2(0.05))
                built = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(1)])
                built.compile("sgd", "mse")
                built.set_weights([_fixed(w.shape) for w in built.weights])
                found.append(measure(built, {"hidden": [hidden.kernel]})["hidden"])
            finally:
                keras.config.set_floatx("float32")
        assert found[0] == pytest.approx(found[1], rel=1e-4)


def _fixed(shape):
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


class TestModels:
    def test_frozen(self):
        """Its penalty is not in the loss, and it does not move."""
        built = model(L2(0.01))
        built.get_layer("hidden").trainable = False
        built.compile("sgd", "mse")
        assert measure(built, units_of(built, "hidden")) == {"hidden": 0.0}

    def test_several_inputs_and_outputs(self):
        one, two = keras.Input((3,), name="one"), keras.Input((3,), name="two")
        joined = layers.Concatenate()([one, two])
        dense = layers.Dense(2, "tanh", kernel_regularizer=L2(0.1), name="dense")
        hidden = dense(joined)
        outputs = {"a": layers.Dense(1, name="a")(hidden), "b": hidden}
        built = keras.Model({"one": one, "two": two}, outputs)
        built.compile("sgd", {"a": "mse", "b": "mae"}, jit_compile=False)
        x, y = data()
        targets = {"a": y, "b": np.tile(y, 2)}
        pair = {"one": x[:, :3], "two": x[:, 3:]}, targets
        found = measure(built, units_of(built, "dense"), pair=pair, batch_size=16)
        assert np.isfinite(found["dense"])
        assert found["dense"] != 0

    def test_sample_weights(self):
        """A sample of weight 2 is two samples."""
        built = model(L2(0.05))
        x, y = data()
        twice = np.r_[x, x[:8]], np.r_[y, y[:8]]
        weight = np.r_[np.full(8, 2.0), np.ones(24)] * 32 / 40
        units = units_of(built, "hidden")
        assert measure(built, units, pair=(x, y, weight))["hidden"] == pytest.approx(
            measure(built, units, pair=twice)["hidden"], rel=1e-4
        )

    def test_convolutions_embeddings_recurrent(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((12,), dtype="int32")
        embedding = layers.Embedding(5, 4, embeddings_regularizer=L2(0.01), name="e")
        convolution = layers.Conv1D(4, 3, kernel_regularizer=L1(0.01), name="c")
        recurrent = layers.SimpleRNN(3, recurrent_regularizer=L2(0.01), name="r")
        x = layers.MaxPooling1D(2)(convolution(embedding(inputs)))
        built = compiled(
            inputs,
            layers.Dense(3, "softmax")(recurrent(x)),
            "sparse_categorical_crossentropy",
        )
        units = {
            "e": [embedding.embeddings],
            "c": [convolution.kernel],
            "r": [recurrent.cell.recurrent_kernel],
        }
        rng = np.random.default_rng(0)
        pair = rng.integers(0, 5, (20, 12)), rng.integers(0, 3, 20)
        found = measure(built, units, pair=pair)
        assert all(np.isfinite(v) and v != 0 for v in found.values())

    def test_penalty_without_a_map(self):
        built = model(Prior("StudentT", 0.01))
        assert measure(built, units_of(built, "hidden"))["hidden"] != 0

    def test_learned_noise(self):
        """A divergence sits on one weight and acts on the mean, which counts."""
        inputs = keras.Input((6,))
        layer = BayesianDense(1, num_examples=32, name="dense")
        built = compiled(inputs, layer(inputs))
        layer.set_weights([np.ones_like(w) * 0.5 for w in layer.get_weights()])
        units = {"dense": [w for w in layer.weights if w.regularizer is not None]}
        assert measure(built, units)["dense"] != 0

    def test_shared_penalty(self):
        """One object for two units: either's strength is its strength."""
        penalty = L2(0.05)
        kernels = [
            layers.Dense(4, "tanh", kernel_regularizer=penalty),
            layers.Dense(1, kernel_regularizer=penalty),
        ]
        built = keras.Sequential([keras.Input((6,)), *kernels])
        built.compile("sgd", "mse", jit_compile=False)
        first, second = (layer.kernel for layer in kernels)
        apart = measure(built, {"first": [first], "second": [second]})
        both = measure(built, {"both": [first, second]})
        assert apart["first"] == apart["second"]
        assert both["both"] == pytest.approx(apart["first"], rel=1e-6)


def test_in_fit():
    """Too strong a penalty falls, after the burn-in, at every tenth step."""
    built = model(L1(0.3), Proximal(keras.optimizers.Adam(0.02)))
    adaptive = LayerwiseAdaptiveLambda(policy(burn_in=20, learning_rate=0.2))
    history = fit(built, epochs=10, callbacks=[adaptive]).history
    strengths = history["strength/hidden"]
    assert strengths[3] == pytest.approx(0.3)  # 16 steps
    assert strengths[-1] < 0.25
