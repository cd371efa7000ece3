"""`prune_by_snr`: the right weights, exact zeros without noise, finite divergences."""

import keras
import numpy as np
import pytest
from keras import layers as L

from kerasreg.layers import (
    BayesianConv1D,
    BayesianDense,
    BayesianEmbedding,
    BayesianLSTM,
    bayesianize,
    prune_by_snr,
    sampling,
    to_deterministic,
)
from kerasreg.regularizers import Prior

X = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
WORDS = np.array([[1, 2, 0, 0], [3, 4, 5, 0], [6, 0, 0, 0]])
N = 100  # examples


def model_of(*layers):
    return keras.Sequential([keras.Input((5,)), *layers], name="net")


def scatter(model):
    """Other standard deviations for each weight."""
    rng = np.random.default_rng(1)
    for w in model.weights:
        if "log_scale" in w.path:
            w.assign(rng.normal(-2.0, 1.0, size=w.shape))
    return model


def ratios(layer):
    posterior = layer.kernel_posterior
    return abs(posterior.mean().numpy()) / posterior.stddev().numpy()


def test_the_lowest_ratios_of_all_layers():
    model = scatter(
        model_of(
            BayesianDense(40, num_examples=N, name="a"),
            L.BatchNormalization(),
            keras.Sequential([BayesianDense(30, num_examples=N, name="b")], name="m"),
        )
    )
    a, b = model.layers[0], model.layers[2].layers[0]
    before = [ratios(a), ratios(b)]
    kernels = [a.kernel.numpy(), b.kernel.numpy()]
    shares = prune_by_snr(model, 0.6)
    threshold = np.quantile(np.concatenate([r.ravel() for r in before]), 0.6)
    for layer, ratio, kernel in zip((a, b), before, kernels, strict=True):
        expected = np.where(ratio < threshold, 0.0, kernel)
        np.testing.assert_array_equal(layer.kernel, expected)
        assert shares[layer.kernel.path] == pytest.approx(np.mean(ratio < threshold))
    assert list(shares) == [a.kernel.path, b.kernel.path]
    assert shares[a.kernel.path] != shares[b.kernel.path]  # one order for both
    zeros = np.sum(a.kernel == 0) + np.sum(b.kernel == 0)
    assert zeros == round(0.6 * (5 * 40 + 40 * 30))


def test_samples_have_the_zeros():
    layer = BayesianDense(64, num_examples=N, initial_scale=0.5)
    model = model_of(layer)
    prune_by_snr(model, 0.75)
    pruned = layer.kernel.numpy() == 0
    assert pruned.mean() == 0.75
    kernel = layer.draw_weights()[0].numpy()
    np.testing.assert_array_equal(kernel == 0, pruned)
    assert np.all(layer.kernel_posterior.stddev().numpy()[pruned] == 0)


@pytest.mark.parametrize(
    "estimator", ["flipout", "reparameterization", "local_reparameterization"]
)
def test_pruned_rows_are_dead_in_every_estimator(estimator):
    """Inputs whose weights are all pruned have no influence left, noise included."""
    layer = BayesianDense(4, num_examples=N, estimator=estimator, seed=1)
    model = model_of(layer)
    kernel = np.ones((5, 4))
    kernel[:2] = 1e-3
    layer.kernel.assign(kernel)
    prune_by_snr(model, 0.4)
    inputs = np.zeros((3, 5), "float32")
    inputs[:, :2] = 1e6
    with sampling():
        np.testing.assert_allclose(layer(inputs), 0.0, atol=1e-6)


def test_the_zeros_reach_the_plain_model():
    model = scatter(model_of(BayesianDense(40, num_examples=N), L.Dense(2)))
    prune_by_snr(model, 0.9)
    plain = to_deterministic(model)
    assert np.mean(plain.layers[0].kernel.numpy() == 0) == pytest.approx(0.9)
    np.testing.assert_array_equal(plain(X), model(X))


def test_other_layers():
    words = keras.Input((4,), dtype="int32")
    x = BayesianEmbedding(9, 5, num_examples=N, name="table")(words)
    shared = BayesianConv1D(5, 2, padding="same", num_examples=N, name="conv")
    x = shared(shared(x))  # counts once
    x = BayesianLSTM(3, num_examples=N, bayesian_bias=True, name="lstm")(x)
    model = scatter(keras.Model(words, x))
    bias = model.layers[-1].cell.bias.numpy()
    shares = prune_by_snr(model, 0.5)
    assert list(shares) == [
        "table/embeddings",
        "conv/kernel",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
    ]
    sizes = [9 * 5, 2 * 5 * 5, 5 * 12, 3 * 12]
    zeros = np.dot(list(shares.values()), sizes)
    assert zeros == pytest.approx(round(0.5 * sum(sizes)))
    np.testing.assert_array_equal(model.layers[-1].cell.bias, bias)
    kernel, recurrent, _ = model.layers[-1].draw_weights()
    path = "lstm/lstm_cell/"
    assert np.mean(kernel == 0) == pytest.approx(shares[path + "kernel"])
    assert np.mean(recurrent == 0) == pytest.approx(shares[path + "recurrent_kernel"])
    assert np.all(np.isfinite(model(WORDS)))


def test_twice_is_once_and_more_goes_on():
    model = scatter(model_of(BayesianDense(40, num_examples=N)))
    prune_by_snr(model, 0.5)
    kernel = model.layers[0].kernel.numpy()
    for fraction in (0.5, 0.2, 0.0):  # nothing comes back either
        (share,) = prune_by_snr(model, fraction).values()
        assert share == 0.5
        np.testing.assert_array_equal(model.layers[0].kernel, kernel)
    (share,) = prune_by_snr(model, 0.75).values()
    assert share == 0.75
    assert np.all(model.layers[0].kernel.numpy()[kernel == 0] == 0)


def test_ties_and_zeros():
    """The stated share is pruned, whichever of equal weights that takes."""
    layer = BayesianDense(20, num_examples=N, kernel_initializer="ones")
    model = model_of(layer)
    assert list(prune_by_snr(model, 0.25).values()) == [0.25]
    layer = BayesianDense(20, num_examples=N, kernel_initializer="zeros")
    model = model_of(layer)
    assert list(prune_by_snr(model, 0.25).values()) == [1.0]
    assert np.mean(layer.kernel_posterior.stddev() == 0) == 0.25


PRIORS = {
    "Normal": Prior("Normal"),
    "Laplace": Prior("Laplace"),
    "StudentT": Prior("StudentT"),
    "SpikeAndSlab": Prior("SpikeAndSlab"),
    "learned": Prior("Normal", trainable=["scale"]),
    "infinite at zero": Prior("Horseshoe", params={"scale": 1.0}),
    "zero at zero": Prior("DoublesidedMaxwell", loc=0.0, params={"scale": 1.0}),
    "hierarchical": Prior("Normal", hyperprior={"concentration": 1.0, "rate": 1.0}),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_loss_and_gradient_stay_finite(prior):
    import tensorflow as tf

    layer = BayesianDense(40, num_examples=N, prior=prior)
    model = model_of(layer)
    for fraction in (0.9, 0.999):
        prune_by_snr(model, fraction)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(X, training=True) ** 2) + sum(model.losses)
        gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(g)) for g in gradients)


def test_a_trained_net_keeps_its_accuracy(tmp_path):
    """Two of twenty inputs matter: nine tenths of the weights can go."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 20)).astype("float32")
    label = (x[:, 0] > x[:, 1]).astype("float32")
    model = keras.Sequential([keras.Input((20,)), L.Dense(30, "tanh"), L.Dense(1)])
    model.compile(
        keras.optimizers.Adam(0.02), keras.losses.BinaryCrossentropy(from_logits=True)
    )
    model.fit(x, label, epochs=5, verbose=0)
    model = bayesianize(model, len(x), prior=Prior("Normal", params={"scale": 0.3}))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    accuracy = keras.metrics.BinaryAccuracy(threshold=0.0)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=[accuracy])
    model.fit(x, label, epochs=40, batch_size=100, verbose=0)
    before = model.evaluate(x, label, verbose=0)[1]
    prune_by_snr(model, 0.9)
    assert before > 0.95
    assert model.evaluate(x, label, verbose=0)[1] > before - 0.02
    pruned = model.layers[0].kernel.numpy() == 0
    assert pruned[2:].mean() > 0.9 > pruned[:2].mean() + 0.2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.layers[0].kernel == 0, pruned)
    np.testing.assert_array_equal(
        loaded.layers[0].draw_weights()[0].numpy() == 0, pruned
    )


def test_half_precision():
    layer = BayesianDense(40, num_examples=N, dtype="mixed_float16")
    model = scatter(model_of(layer))
    prune_by_snr(model, 0.9)
    assert np.mean(layer.draw_weights()[0] == 0) >= 0.9
    assert np.isfinite(sum(model.losses))


@pytest.mark.parametrize("fraction", [1.0, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError) as caught:
        prune_by_snr(model_of(BayesianDense(2)), fraction)
    assert str(caught.value) == (
        "Invalid value for argument `fraction`. Expected a number in [0, 1). "
        f"Received: fraction={fraction!r}"
    )


@pytest.mark.parametrize("fraction", ["0.5", True, None])
def test_fractions_that_are_no_numbers(fraction):
    with pytest.raises(TypeError) as caught:
        prune_by_snr(model_of(BayesianDense(2)), fraction)
    assert str(caught.value) == (
        "Invalid value for argument `fraction`. Expected a number in [0, 1). "
        f"Received: fraction={fraction!r}"
    )


def test_models_without_posteriors():
    model = model_of(L.Dense(2))
    with pytest.raises(ValueError) as caught:
        prune_by_snr(model, 0.5)
    assert str(caught.value) == (
        "Invalid value for argument `model`. Expected a model with Bayesian layers "
        f"(`bayesianize` makes one). Received: model={model!r}"
    )
    with pytest.raises(ValueError, match="Expected a built model"):
        prune_by_snr(keras.Sequential([BayesianDense(2)]), 0.5)
