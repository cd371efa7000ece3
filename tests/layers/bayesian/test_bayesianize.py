"""`bayesianize`: the same predictions, means and structure; what changes and what not.

How layers are chosen, and what is refused, is in `test_bayesianize_choice.py`.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from kerasreg import layers
from kerasreg.layers import bayesianize, sampling, set_num_examples, to_deterministic
from kerasreg.regularizers import L1, Prior, penalties_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype("float32")
STEPS = RNG.normal(size=(3, 4, 5)).astype("float32")
IMAGES = RNG.normal(size=(2, 6, 6, 3)).astype("float32")
WORDS = np.array([[1, 2, 0, 0], [3, 4, 5, 0], [6, 0, 0, 0]])
N = 100  # examples


def shake(model, seed=1):
    """Give all weights other values than those a new model would have."""
    rng = np.random.default_rng(seed)
    for w in model.weights:
        w.assign(w.value + rng.uniform(0.01, 0.3, size=w.shape))
    return model


def branches():
    """Two inputs and outputs, a shared layer, a nested model called twice, masks."""
    words = keras.Input((4,), dtype="int32", name="words")
    steps = keras.Input((4, 5), name="steps")
    table = L.Embedding(9, 5, mask_zero=True, name="table")(words)
    shared = L.Dense(5, activation="tanh", name="shared")
    a, b = shared(table), shared(steps)
    inner = keras.Input((4, 5))
    hidden = L.BatchNormalization(name="norm")(L.Dense(3, name="deep")(inner))
    block = keras.Model(inner, [hidden, inner * 2.0], name="block")
    left, right = block(b)
    again, _ = block(ops.relu(b))
    x = L.Concatenate(name="joined")([left, right, again])
    x = L.Conv1D(4, 3, padding="causal", name="conv")(x)
    x = L.MultiHeadAttention(1, 2, name="attention")(x, x)
    x = L.TimeDistributed(L.Dense(4, name="each"), name="steps_of")(x)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True), name="both")(x)
    gru, state = L.GRU(4, return_state=True, name="gru")(a)
    last = L.LSTM(4, name="lstm")(x, initial_state=[state, state])
    out = L.Dense(1, name="out")(L.Add()([gru, last]))
    return keras.Model(
        {"words": words, "steps": steps}, {"out": out, "mean": ops.mean(x, 1)}
    )


def images():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3), name="image"),
            L.Conv2D(4, 3, activation="relu", padding="same", name="first"),
            L.BatchNormalization(name="norm"),
            L.SeparableConv2D(4, 2, name="separable"),
            L.Reshape((5, 5, 2, 2)),
            L.Conv3D(3, 2, groups=1, use_bias=False, name="volume"),
            L.Flatten(),
            L.Dropout(0.5),
            keras.Sequential([L.Dense(8, "relu"), L.Dense(3, "softmax")], name="head"),
        ],
        name="pictures",
    )


MODELS = {
    "branches": (branches, {"words": WORDS, "steps": STEPS}),
    "images": (images, IMAGES),
}
models = pytest.mark.parametrize(("make", "x"), MODELS.values(), ids=MODELS)


def predict(model, x):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]


def equal(first, second):
    """Two lists of arrays, bit for bit."""
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def draws(model, x, count=2):
    with sampling():
        return [predict(model, x) for _ in range(count)]


def means(model):
    """All weights but those of the noise, by path."""
    return {w.path: w.numpy() for w in model.weights if "log_scale" not in w.path}


@models
def test_the_same_model_with_noise(make, x):
    model = shake(make())
    before, output = means(model), predict(model, x)
    bayesian = bayesianize(model, N)
    equal(predict(bayesian, x), output)
    after = means(bayesian)
    assert after.keys() == before.keys()
    equal(after.values(), before.values())
    equal(means(model).values(), before.values())
    assert not {id(w) for w in bayesian.weights} & {id(w) for w in model.weights}
    assert type(bayesian) is type(model)
    assert bayesian.name == model.name
    assert [layer.name for layer in bayesian.layers] == [y.name for y in model.layers]
    assert not bayesian.compiled
    left = {type(layer) for layer in bayesian._flatten_layers()}
    assert not left & {L.Dense, L.Conv1D, L.Conv2D, L.Conv3D, L.Embedding, L.LSTM}
    assert L.GRU not in left
    one, two = draws(bayesian, x)
    assert all(np.any(a != b) for a, b in zip(one, two, strict=True))
    assert len(bayesian.losses) == sum("log_scale" in w.path for w in bayesian.weights)
    assert all(np.isfinite(loss) for loss in bayesian.losses)


@models
def test_back_to_the_plain_model(make, x):
    model = shake(make())
    plain = to_deterministic(bayesianize(model, N))
    equal(predict(plain, x), predict(model, x))
    assert {p: w.shape for p, w in means(plain).items()} == {
        p: w.shape for p, w in means(model).items()
    }
    kinds = [type(layer) for layer in plain._flatten_layers()]
    assert kinds == [type(layer) for layer in model._flatten_layers()]


@models
def test_save_and_load(make, x, tmp_path):
    model = bayesianize(shake(make()), N, prior="Laplace", initial_scale=0.3)
    shake(model, seed=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    equal(predict(loaded, x), predict(model, x))
    np.testing.assert_allclose(loaded.losses, model.losses, rtol=1e-6)


PLAIN = {
    "Dense": (lambda: L.Dense(3, "tanh"), layers.BayesianDense, STEPS),
    "Conv1D": (lambda: L.Conv1D(4, 2, groups=1), layers.BayesianConv1D, STEPS),
    "Conv2D": (
        lambda: L.Conv2D(3, 2, strides=2, use_bias=False),
        layers.BayesianConv2D,
        IMAGES,
    ),
    "Conv3D": (lambda: L.Conv3D(3, 2), layers.BayesianConv3D, IMAGES[..., None]),
    "Embedding": (lambda: L.Embedding(9, 3), layers.BayesianEmbedding, WORDS),
    "Embedding of weights": (
        lambda: L.Embedding(9, 3, weights=[RNG.normal(size=(9, 3))]),
        layers.BayesianEmbedding,
        WORDS,
    ),
    "LSTM": (
        lambda: L.LSTM(3, go_backwards=True, recurrent_dropout=0.1),
        layers.BayesianLSTM,
        STEPS,
    ),
    "GRU": (
        lambda: L.GRU(3, return_sequences=True, reset_after=False, use_bias=False),
        layers.BayesianGRU,
        STEPS,
    ),
}


@pytest.mark.parametrize(("make", "cls", "x"), PLAIN.values(), ids=PLAIN)
def test_each_kind_of_layer(make, cls, x):
    layer = make()
    layer(x)
    shake(layer)
    bayesian = bayesianize(layer, N, bayesian_bias=True)
    assert type(bayesian) is cls
    assert bayesian.name == layer.name
    equal(predict(bayesian, x), predict(layer, x))
    scales = [w for w in bayesian.weights if "log_scale" in w.path]
    assert len(scales) == len(layer.weights)  # the bias, too, if there is one
    assert len(bayesian.losses) == len(scales)
    equal(predict(to_deterministic(bayesian), x), predict(layer, x))


def test_shared_layers_stay_shared():
    model = branches()
    bayesian = bayesianize(model, N)
    assert len(means(bayesian)) == len(model.weights)
    inputs = keras.Input((5,))
    dense = L.Dense(5, name="d")
    chain = keras.Model(inputs, dense(keras.Sequential([inputs, dense])(inputs)))
    bayesian = bayesianize(chain, N)
    assert len(bayesian.weights) == 3  # kernel, bias and log scales
    assert len(bayesian.losses) == 1
    equal(predict(bayesian, X), predict(chain, X))


def test_stateful_layers_start_anew():
    inputs = keras.Input(batch_shape=(3, 4, 5))
    model = keras.Model(inputs, L.LSTM(3, stateful=True)(inputs))
    first, second = predict(model, STEPS), predict(model, STEPS)
    assert np.any(first[0] != second[0])
    bayesian = bayesianize(model, N)
    equal(predict(bayesian, STEPS), first)
    equal(predict(bayesian, STEPS), second)


def test_flags_and_policies_are_kept():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(4, dtype="mixed_bfloat16", name="half"),
            L.Dense(4, trainable=False, name="frozen"),
            keras.Sequential([L.Dense(3, name="a"), L.Dense(2, name="b")]),
            L.Dense(1, dtype="float32", name="out"),
        ]
    )
    model.layers[2].layers[0].trainable = False
    bayesian = bayesianize(model, N)
    assert [y.trainable for y in bayesian.layers] == [True, False, True, True]
    assert [y.trainable for y in bayesian.layers[2].layers] == [False, True]
    assert bayesian.layers[0].dtype_policy.name == "mixed_bfloat16"
    assert bayesian.layers[0].kernel.dtype == "float32"
    assert len(bayesian.losses) == 3  # of layers that train
    equal(predict(bayesian, X), predict(model, X))
    model.trainable = False
    assert not bayesianize(model, N).trainable_weights


def test_the_prior_replaces_the_regularizer():
    inputs = keras.Input((4, 5))
    x = L.Dense(
        5,
        kernel_regularizer=L1(0.1),
        bias_regularizer=keras.regularizers.L2(0.2),
        kernel_constraint="non_neg",
        name="dense",
    )(inputs)
    x = L.SeparableConv1D(4, 2, depthwise_regularizer=L1(0.3), name="conv")(x)
    x = L.LSTM(2, kernel_regularizer="l2", recurrent_regularizer=L1(0.1), name="l")(x)
    model = keras.Model(inputs, x)
    bayesian = bayesianize(model, N)
    config = bayesian.get_layer("dense").get_config()
    assert config["kernel_regularizer"] is None
    assert config["bias_regularizer"]["config"] == {"l2": 0.2}
    assert config["kernel_constraint"]["class_name"] == "NonNeg"
    strengths = {
        path.rpartition("/")[2]: penalty.strength
        for path, penalty in penalties_of(bayesian).items()
    }
    assert strengths == {
        "kernel_log_scale": 1.0,
        "recurrent_kernel_log_scale": 1.0,
        "depthwise_kernel": 0.3,
    }
    assert len(bayesian.losses) == 5
    config = bayesianize(model, N, bayesian_bias=True).get_layer("dense").get_config()
    assert config["bias_regularizer"] is None


def test_low_rank_adaptations_are_merged():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4, name="d")])
    model.layers[0].enable_lora(2)
    shake(model)
    bayesian = bayesianize(model, N)
    equal(predict(bayesian, X), predict(model, X))
    assert len(bayesian.weights) == 3


def test_a_trained_net_goes_on_learning(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype("float32")
    label = np.argmax(x[:, :3] + 0.3 * rng.normal(size=(200, 3)), axis=1)
    inputs = keras.Input((5,))
    dense = L.Dense(5, "relu")
    h = L.BatchNormalization()(dense(inputs))
    h = L.Add()([h, dense(h)])
    model = keras.Model(inputs, L.Dense(3, "softmax", name="out")(h))
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, label, epochs=10, verbose=0)
    bayesian = bayesianize(model, prior=Prior("Normal", params={"scale": 0.5}))
    equal(predict(bayesian, x), predict(model, x))
    set_num_examples(bayesian, len(x))
    bayesian.compile(
        keras.optimizers.Adam(0.02),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = bayesian.fit(x, label, epochs=20, verbose=0).history
    assert np.mean(history["loss"][-3:]) < 0.8 * history["loss"][0]
    assert history["accuracy"][-1] > 0.8
    scale = bayesian.get_layer("out").kernel_posterior.stddev().numpy()
    assert scale.mean() > 0.05  # the noise has learned, too: it began at 0.02
    bayesian.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    equal(predict(loaded, x), predict(bayesian, x))
    assert loaded.evaluate(x, label, verbose=0) == pytest.approx(
        bayesian.evaluate(x, label, verbose=0), rel=1e-5
    )


def test_a_layer_inside_a_loaded_model(tmp_path):
    """Models that come from a file are like others."""
    model = shake(images())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    equal(predict(bayesianize(loaded, N), IMAGES), predict(model, IMAGES))
