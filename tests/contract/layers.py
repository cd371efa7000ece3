"""What every layer must pass by itself: calls, noise, losses, copies."""

import copy
import json
import pickle

import keras
import numpy as np
import tensorflow as tf

from kerasreg.layers import sampling
from kerasreg.regularizers import L1
from kerasreg.regularizers.divergence import Divergence
from tests.cases import Case


def inputs_of(case: Case, rows: int | None = None):
    shape = case.shape if rows is None else (rows, *case.shape[1:])
    rng = np.random.default_rng(0)
    if "integers" in case.labels:  # as floats, which such layers take, too
        return rng.integers(10, size=shape).astype("float32")
    return rng.normal(size=shape).astype("float32")


def built(case: Case, **arguments):
    """The layer, built, with weights that are all different and not zero."""
    keras.utils.set_random_seed(1)
    layer = case.make(**arguments)
    layer(inputs_of(case))
    rng = np.random.default_rng(2)
    for w in layer.trainable_weights:
        w.assign_add(rng.uniform(0.02, 0.1, size=w.shape))
    return layer


def divergences(layer):
    """The KL divergences that a layer carries."""
    found = [w.regularizer for w in layer.trainable_weights]
    return [r for r in found if isinstance(r, Divergence)]


def config_of(layer):
    """The config as JSON gives it back."""
    return json.loads(json.dumps(layer.get_config()))


def numbers(tensors):
    return [np.asarray(keras.ops.convert_to_numpy(t)) for t in tensors]


def assert_same(first, second):
    """Two lists of arrays, bit for bit."""
    for a, b in zip(numbers(first), numbers(second), strict=True):
        np.testing.assert_array_equal(a, b)


# Configuration ----------------------------------------------------------------


def check_config_round_trip(case: Case):
    """The config is plain JSON, holds the current KL strength, and makes the same."""
    layer = built(case, seed=5, name="mine", trainable=False)
    assert (layer.name, layer.trainable) == ("mine", False)
    layer.trainable = True
    for kl in divergences(layer):
        kl.strength = 0.375
    config = config_of(layer)
    assert config["seed"] == 5
    assert ("kl_strength" in config) == bool(divergences(layer))
    assert config.get("kl_strength", 0.375) == 0.375
    again = type(layer).from_config(config)
    assert config_of(again) == config
    again(inputs_of(case))
    assert [kl.strength for kl in divergences(again)] == [
        kl.strength for kl in divergences(layer)
    ]
    assert config_of(again) == config


def check_registered(case: Case):
    """Keras finds the class by its name in the package."""
    registered = keras.saving.get_registered_name(case.public)
    assert registered == f"kerasreg>{case}"
    assert keras.saving.get_registered_object(registered) is case.public
    layer = case.make()
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is case.public
    assert config_of(again) == config_of(layer)


def check_shapes(case: Case):
    """Symbolic, computed and eager shapes agree; batch and space may be unknown."""
    x = inputs_of(case)
    eager = tuple(built(case)(x).shape)
    assert tuple(case.make().compute_output_shape(x.shape)) == eager
    inside = [None] * (len(x.shape) - 2)
    for shape in (x.shape[1:], (*inside, x.shape[-1])):
        layer = case.make()
        symbolic = keras.Input(shape)
        output = layer(symbolic)
        assert output.shape[0] is None
        assert layer.compute_output_shape(symbolic.shape) == output.shape
        model = keras.Model(symbolic, output)
        for training in (False, True):
            assert tuple(model(x, training=training).shape) == eager
    assert tuple(layer(x[:1], training=True).shape) == (1, *eager[1:])


def check_dtype_policy(case: Case, policy):
    """Outputs in the compute dtype; weights, noise statistics and losses in float32."""
    keras.config.set_dtype_policy(policy)
    layer = built(case)
    keras.config.set_dtype_policy("float32")
    x = inputs_of(case)
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True)
        losses = layer.losses
        total = tf.add_n([tf.reduce_mean(tf.square(tf.cast(outputs, "float32")))])
        total += sum(losses)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    assert layer.compute_dtype == policy.removeprefix("mixed_")
    for tensor in (*losses, *layer.trainable_weights):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
    gradients = tape.gradient(total, [w.value for w in layer.trainable_weights])
    assert all(np.all(np.isfinite(g)) for g in [total, *numbers(gradients)])
    quiet = layer(x)
    wide = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    if not isinstance(layer, keras.layers.Wrapper):
        wide(x)
        wide.set_weights(layer.get_weights())
        np.testing.assert_allclose(
            numbers([quiet])[0].astype("float32"), wide(x), atol=0.05, rtol=0.05
        )
    named = case.make(dtype=policy)
    assert named.dtype_policy.name == policy
    named(x, training=True)
    assert type(named).from_config(named.get_config()).dtype_policy.name == policy


# Noise ------------------------------------------------------------------------


def check_eager_graph_xla(case: Case):
    """The same outputs and noise eagerly, in a graph of any batch size, and by XLA."""
    layer = built(case)
    x = inputs_of(case)
    before = numbers(layer.variables)

    def both(x):
        return layer(x, training=False), layer(x, training=True)

    results = [both(x)]
    spec = [tf.TensorSpec((None, *x.shape[1:]), "float32")]
    for options in ({"input_signature": spec}, {"jit_compile": True}):
        for variable, value in zip(layer.variables, before, strict=True):
            variable.assign(value)
        results.append(tf.function(both, **options)(x))
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def check_noise(case: Case):
    """Noise in training and under `sampling()`, each time another; else none."""
    layer = built(case)
    x = inputs_of(case)
    quiet = layer(x)
    for arguments in ({}, {"training": False}):
        assert_same([layer(x, **arguments)], [quiet])
    with sampling():
        asked = [layer(x), layer(x, training=False)]
    noisy = [layer(x, training=True), layer(x, training=True), *asked]
    for i, first in enumerate(noisy):
        assert np.all(np.isfinite(first))
        for second in (quiet, *noisy[:i]):
            assert not np.array_equal(first, second)
    assert_same([layer(x)], [quiet])


def check_seed(case: Case):
    """One seed is one sequence of noise; without one, Keras's global seed decides."""
    x = inputs_of(case)
    draws = []
    for seed in (5, 5, None, None):
        layer = built(case, seed=seed)  # sets the global seed
        draws.append([layer(x, training=True), layer(x, training=True)])
    assert_same(draws[0], draws[1])
    assert_same(draws[2], draws[3])
    assert not np.array_equal(draws[0][0], draws[2][0])


def check_one_example(case: Case):
    """A batch of one is the first row of a larger batch; its noise is finite."""
    layer = built(case)
    x = inputs_of(case)
    np.testing.assert_allclose(layer(x[:1]), layer(x)[:1], rtol=1e-5, atol=1e-6)
    first, second = (layer(x[:1], training=True) for _ in range(2))
    assert np.all(np.isfinite(first))
    assert np.all(np.isfinite(second))


# Weights, gradients and losses ------------------------------------------------


def _gradients(layer, x):
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True)
        total = tf.reduce_sum(tf.square(outputs)) + tf.reduce_sum(outputs)
        total += sum(layer.losses)
    assert np.all(np.isfinite(outputs))
    assert np.isfinite(total)
    return tape.gradient(total, [w.value for w in layer.trainable_weights])


def check_gradients(case: Case):
    """Each trainable weight gets a finite gradient that is not all zero."""
    layer = built(case)
    gradients = _gradients(layer, inputs_of(case))
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        value = keras.ops.convert_to_numpy(gradient)
        assert np.all(np.isfinite(value)), weight.path
        assert np.any(value), weight.path


def check_zeros(case: Case):
    """Zero inputs and zero weights give finite outputs, losses and gradients."""
    layer = built(case)
    zeros = np.zeros(case.shape, "float32")
    for _ in range(2):
        for gradient in _gradients(layer, zeros):
            assert gradient is None or np.all(np.isfinite(numbers([gradient])))
        for w in layer.trainable_weights:
            if w.name in ("kernel", "bias"):
                w.assign(keras.ops.zeros_like(w))


def check_losses_once(case: Case):
    """However often it is called, a layer counts its KL and its penalty once."""
    x = inputs_of(case)
    layer = built(case)
    once = numbers(layer.losses)
    assert len(once) >= len(divergences(layer))
    assert np.all(np.isfinite(once))
    shared = [keras.Input(case.shape[1:]) for _ in range(2)]
    model = keras.Model(shared, [layer(i) for i in shared])
    model([x, x], training=True)
    assert_same(model.losses, once)
    penalized = _penalized(layer, L1(0.25))
    if penalized is None:
        return
    for _ in range(2):
        penalized(x, training=True)
    penalized.set_weights(layer.get_weights())
    inner = getattr(penalized, "layer", penalized)
    kernel = getattr(inner, "cell", inner).kernel
    np.testing.assert_allclose(
        sum(numbers(penalized.losses)),
        0.25 * np.abs(numbers([kernel])[0]).sum() + sum(once),
        rtol=1e-5,
    )


def _penalized(layer, penalty):
    """A layer like it with a penalty on its kernel, or on the one inside it."""
    config = config_of(layer)
    own = config["layer"]["config"] if "layer" in config else config
    if "kernel_regularizer" not in own:
        return None
    own["kernel_regularizer"] = keras.regularizers.serialize(penalty)
    made = type(layer).from_config(config)
    assert config_of(made) == config
    return made


def check_frozen(case: Case):
    """A frozen layer adds nothing to the loss, and has it again when it thaws."""
    layer = built(case)
    count = len(layer.losses)
    layer.trainable = False
    layer(inputs_of(case), training=True)
    assert layer.losses == []
    assert layer.trainable_weights == []
    layer.trainable = True
    assert len(layer.losses) == count


def check_weights(case: Case):
    """`get_weights` and `set_weights` carry the layer from one to another."""
    first, second = built(case), case.make()
    x = inputs_of(case)
    second(x)
    second.set_weights(first.get_weights())
    assert_same(first.get_weights(), second.get_weights())
    assert_same([first(x)], [second(x)])
    assert len({w.path for w in first.weights}) == len(first.weights)


def check_copies(case: Case):
    """`deepcopy` and `pickle` copy the layer with its weights, as Keras's layers."""
    layer = built(case)
    x = inputs_of(case)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied) is type(layer)
        assert config_of(copied) == config_of(layer)
        assert_same([copied(x)], [layer(x)])
        assert_same(copied.losses, layer.losses)
        assert not {id(w) for w in copied.weights} & {id(w) for w in layer.weights}


def check_plain(case: Case):
    """`to_plain` makes a Keras layer of the same name that predicts the same."""
    layer = _mean_network(built(case))
    x = inputs_of(case)
    plain = layer.to_plain()
    assert not keras.saving.get_registered_name(type(plain)).startswith("kerasreg>")
    assert type(plain).__module__.startswith("keras.")
    assert plain.name == layer.name
    np.testing.assert_allclose(plain(x), layer(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain(x), plain(x, training=False))
    for w in plain.trainable_weights:
        w.assign(keras.ops.zeros_like(w))
    assert all(np.any(w) for w in layer.get_weights())


def _mean_network(layer):
    """The same layer; with the mean weights where it averages over noise."""
    config = layer.get_config()
    if config.get("inference", "mean") == "mean":
        return layer
    mean = type(layer).from_config({**config, "inference": "mean"})
    mean.build_from_config(layer.get_build_config())
    mean.set_weights(layer.get_weights())
    return mean
