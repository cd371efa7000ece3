"""What `predict` takes and refuses, and what it leaves behind."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg import layers
from kerasreg.uncertainty import predict

K = keras.layers
X = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")


def _dropout(units=2):
    keras.utils.set_random_seed(0)
    return keras.Sequential([K.Input((4,)), K.Dropout(0.5), K.Dense(units)])


def _bayesian():
    keras.utils.set_random_seed(0)
    layer = layers.BayesianDense(2, num_examples=9, initial_scale=0.3)
    return keras.Sequential([K.Input((4,)), K.Dense(4), layer])


def _two():
    """Two inputs and two outputs, by name."""
    keras.utils.set_random_seed(0)
    a, b = K.Input((4,), name="a"), K.Input((4,), name="b")
    x = K.Dropout(0.5)(K.Dense(4)(a))
    one = K.Dense(3, "softmax")(K.Add()([x, b]))
    two = K.Dense(1, "sigmoid")(x)
    return keras.Model({"a": a, "b": b}, {"one": one, "two": two})


def test_dicts_and_several_outputs():
    model = _two()
    x = {"b": X, "a": X + 1.0}
    p = predict(model, x, samples=8, seed=1)
    assert set(p) == {"one", "two"}
    assert (p["one"].likelihood, p["two"].likelihood) == ("categorical", "bernoulli")
    assert p["one"].mean.shape == (10, 3)
    np.testing.assert_allclose(p["one"].mean.sum(-1), 1.0, rtol=1e-5)
    batches = predict(model, tf.data.Dataset.from_tensor_slices(x).batch(10), samples=8,
                      seed=1)  # fmt: skip
    np.testing.assert_allclose(batches["one"].mean, p["one"].mean, rtol=1e-5)


def test_lists_in_the_order_of_the_model():
    a, b = K.Input((4,)), K.Input((2,))
    model = keras.Model([a, b], [K.Dropout(0.5)(a), K.Rescaling(2.0)(b)])
    p = predict(model, [X, X[:, :2]], samples=3)
    np.testing.assert_allclose(p[1].mean, 2 * X[:, :2], rtol=1e-6)
    np.testing.assert_allclose(p[1].var, 0.0, atol=1e-12)
    assert p[0].var.max() > 0.0


@pytest.mark.parametrize("make", [_dropout, _bayesian])
def test_datasets(make):
    """With targets, a last batch that is smaller, and one without rows."""
    model = make()
    pairs = tf.data.Dataset.from_tensor_slices((X, X)).batch(4)
    empty = tf.data.Dataset.from_tensors((X[:0], X[:0]))
    expected = predict(model, X, samples=5, seed=1, batch_size=4).mean
    for dataset in (pairs, pairs.concatenate(empty)):
        got = predict(model, dataset, samples=5, seed=1).mean
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [_dropout, _bayesian])
def test_jit_compile(make):
    model = make()
    p = predict(model, X, samples=5, seed=1, batch_size=4, keep_samples=True)
    jit = predict(
        model, X, samples=5, seed=1, batch_size=4, keep_samples=True, jit_compile=True
    )
    np.testing.assert_allclose(jit.samples, p.samples, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jit.var, p.var, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    model = keras.Sequential(
        [
            K.Input((4,)),
            K.Dense(4, dtype=policy),
            K.Dropout(0.5, dtype=policy),
            layers.BayesianDense(3, "softmax", num_examples=9, dtype=policy),
        ]
    )
    p = predict(model, X, samples=50, seed=1)
    assert p.mean.dtype == p.var.dtype == "float32"
    np.testing.assert_allclose(p.mean.sum(-1), 1.0, atol=0.01)
    assert np.isfinite(p.mutual_information).all()
    assert p.mutual_information.min() > -1e-5


def test_variance_beside_a_large_mean():
    """Sums of squares would lose it: the mean is 1e4 standard deviations."""
    model = keras.Sequential(
        [K.Input((4,)), K.GaussianDropout(0.5), K.Rescaling(1.0, 1e4)]
    )
    p = predict(model, np.ones((5, 4)), samples=2000, seed=1)
    np.testing.assert_allclose(p.var, 1.0, rtol=5 * np.sqrt(2 / 2000) + 1e-3)


def test_fit_is_as_before():
    def trained(between):
        model = _dropout()
        model.compile("sgd", "mse")
        model.fit(X, X[:, :2], epochs=1, verbose=0)
        between(model)
        model.fit(X, X[:, :2], epochs=1, verbose=0)
        return model.get_weights()

    alone = trained(lambda model: None)
    after = trained(lambda model: predict(model, X, samples=2))
    for one, two in zip(alone, after, strict=True):
        np.testing.assert_array_equal(one, two)


def test_traced_once_and_seen_by_new_weights():
    """Any number of inputs, batches, samples and seeds share a graph."""
    calls = []

    class Counting(K.Dense):
        def call(self, inputs, training=None):
            calls.append(1)
            return super().call(inputs)

    model = keras.Sequential([K.Input((4,)), K.Dropout(0.5), Counting(2)])
    predict(model, X, samples=3, batch_size=4)
    traced = len(calls)
    before = predict(model, X[:7], samples=30, batch_size=5, seed=2).mean
    model.layers[-1].kernel.assign(2 * model.layers[-1].kernel)
    after = predict(model, X[:7], samples=30, batch_size=5, seed=2).mean
    np.testing.assert_allclose(after, 2 * before, rtol=1e-4, atol=1e-6)
    assert len(calls) == traced


def test_a_model_is_not_kept_alive():
    model = _bayesian()
    predict(model, X, samples=2)
    reference = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert reference() is None


def test_progress_bar(capsys):
    predict(_dropout(), X, samples=2, batch_size=4, verbose=1)
    assert "3/3" in capsys.readouterr().out
    predict(_dropout(), X, samples=2, batch_size=4)
    assert not capsys.readouterr().out


MODEL = "Invalid value for argument `model`. Expected "
SAID = {
    "samples": (
        {"samples": 0},
        "Invalid value for argument `samples`. Expected a positive integer. "
        "Received: samples=0",
    ),
    "batch_size": (
        {"batch_size": 2.0},
        "Invalid value for argument `batch_size`. Expected a positive integer. "
        "Received: batch_size=2.0",
    ),
    "empty": (
        {"x": X[:0]},
        "Invalid value for argument `x`. Expected at least one input. Received none.",
    ),
    "lengths": (
        {"x": [X, X[:3]]},
        "Invalid value for argument `x`. Expected arrays of the same length. "
        "Received: lengths [3, 10]",
    ),
    "likelihood": (
        {"likelihood": "poisson"},
        'Invalid value for argument `likelihood`. Expected "auto", "categorical", '
        '"bernoulli", "normal" or None. Received: likelihood=\'poisson\'',
    ),
    "spread": (
        {"spread": "scale"},
        'Invalid value for argument `spread`. Expected "log_variance", "variance", '
        "\"std\" or None. Received: spread='scale'",
    ),
    "noise_variance": (
        {"noise_variance": -1.0},
        "Invalid value for argument `noise_variance`. Expected a non-negative number "
        "or None. Received: noise_variance=-1.0",
    ),
    "both": (
        {"noise_variance": 1.0, "spread": "std"},
        'Invalid value for argument `likelihood`. Expected "normal" with one of '
        "`spread` and `noise_variance`, and others with neither. Received: "
        "likelihood='auto', spread='std', noise_variance=1.0",
    ),
    "from_logits": (
        {"from_logits": True},
        "Invalid value for argument `from_logits`. Expected True only for a likelihood "
        "of classes. Received: from_logits=True",
    ),
    "odd": (
        {"spread": "std", "model": lambda: _dropout(3)},
        "Invalid value for argument `spread`. Expected an output whose last axis holds "
        "means and as many spreads, or two outputs. Received: an output of shape "
        "(None, 3)",
    ),
    "nothing samples": (
        {"model": lambda: keras.Sequential([K.Input((4,)), K.Dense(1)], name="plain")},
        MODEL + "a model with noise: a layer of `kerasreg.layers` that has some, or "
        "dropout at a rate above zero. Received: 'plain', in which nothing samples.",
    ),
    "unbuilt": (
        {"model": lambda: keras.Sequential([K.Dropout(0.5)], name="new")},
        MODEL + "a built keras.Model. Received: model=<Sequential name=new, "
        "built=False>",
    ),
    "stateful": (
        {
            "model": lambda: keras.Sequential(
                [
                    K.Input(batch_shape=(10, 4, 1)),
                    K.GRU(2, stateful=True, dropout=0.5, name="gru"),
                ]
            ),
            "x": X[:, :, None],
        },
        MODEL + "no stateful recurrent layer, whose states samples would share. "
        "Received: 'gru'",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_refused(name):
    arguments, message = SAID[name]
    arguments = {"model": _dropout, "x": X, **arguments}
    model = arguments.pop("model")()
    with pytest.raises(TypeError if name == "batch_size" else ValueError) as error:
        predict(model, **arguments)
    assert str(error.value) == message
