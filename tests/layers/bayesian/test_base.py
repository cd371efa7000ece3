"""What Bayesian layers share: divergences, priors, arguments, saving."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.callbacks import KLWarmup
from kerasreg.layers import (
    BayesianConv1D,
    BayesianDense,
    ConcreteDropout,
    prune_by_snr,
    set_num_examples,
    to_deterministic,
)
from kerasreg.regularizers import L1, Prior, penalties_of

SPIKE = {"pi": 0.5, "sigma1": 1.0, "sigma2": 0.1}


def built(prior=None, **arguments):
    layer = BayesianDense(3, prior=prior, **{"num_examples": 10, **arguments})
    layer.build((None, 4))
    rng = np.random.default_rng(0)
    layer.kernel.assign(rng.normal(size=(4, 3)))
    layer.trainable_weights[-1].assign(rng.uniform(-2, -0.5, size=(4, 3)))
    return layer


def test_divergence_of_the_kernel_is_that_of_tfp():
    import tensorflow_probability as tfp

    prior = Prior("Normal", params={"loc": 0.2, "scale": 0.7})
    layer = built(prior, kl_strength=0.5)
    kl = layer.kernel_posterior.kl_divergence(tfp.distributions.Normal(0.2, 0.7))
    (loss,) = layer.losses
    np.testing.assert_allclose(loss, 0.5 * tf.reduce_sum(kl) / 10, rtol=1e-5)


@pytest.mark.parametrize(
    "prior",
    [
        Prior("SpikeAndSlab", **SPIKE),
        Prior("StudentT", df=4.0),
        Prior("Normal", hyperprior={"concentration": 2.0, "rate": 0.5}),
    ],
    ids=["spike", "student", "hierarchical"],
)
def test_monte_carlo_divergence_is_unbiased(prior):
    """Of 4000 draws, the mean is within 5 standard errors of an independent one."""
    layer = built(prior, num_examples=1.0)
    posterior = layer.kernel_posterior
    draw = tf.function(lambda: layer.losses[0])
    drawn = np.array([draw() for _ in range(4000)])
    w = posterior.sample(8000, seed=1)
    log_q = tf.reduce_sum(posterior.log_prob(w), axis=(1, 2)).numpy()
    log_p = np.array(tf.function(lambda: tf.map_fn(prior.log_prob, w))())
    exact = log_q - log_p
    error = np.hypot(drawn.std() / np.sqrt(4000), exact.std() / np.sqrt(8000))
    assert abs(drawn.mean() - exact.mean()) < 5 * error


def test_more_draws_make_the_divergence_less_noisy():
    spread = []
    for kl_samples in (1, 16):
        layer = built(Prior("StudentT", df=4.0), kl_samples=kl_samples)
        draw = tf.function(lambda layer=layer: layer.losses[0])
        spread.append(np.var([draw() for _ in range(1000)]))
    # A ratio of two variances of 1000 draws: 16 within a factor of 1.4 (5 errors).
    assert 16 / 1.4 < spread[0] / spread[1] < 16 * 1.4


def test_a_bayesian_bias_has_its_own_divergence_and_prior():
    layer = BayesianDense(
        3, num_examples=10, bayesian_bias=True, bias_prior="Laplace", name="d"
    )
    layer.build((None, 4))
    assert list(penalties_of(layer)) == ["d/kernel_log_scale", "d/bias_log_scale"]
    layer.num_examples = 20
    layer.kl_strength = 0.5
    assert [(d.num_examples, d.strength) for d in layer.divergences] == [(20, 0.5)] * 2
    assert layer.bias_posterior.batch_shape == (3,)
    again = BayesianDense.from_config(layer.get_config())
    assert again.bias_prior.get_config()["distribution"] == "Laplace"
    assert again.prior.get_config()["distribution"] == "Normal"
    assert BayesianDense(3).bias_posterior is None


def test_half_precision_is_finite_on_a_large_kernel():
    layer = BayesianDense(2000, num_examples=1, dtype="mixed_float16")
    x = np.ones((2, 2000), "float32")
    for estimator in ("flipout", "reparameterization", "local_reparameterization"):
        layer.estimator = estimator
        with tf.GradientTape() as tape:
            outputs = layer(x, training=True)
            total = tf.reduce_mean(tf.cast(outputs, "float32")) + layer.losses[0]
        assert outputs.dtype == tf.float16
        gradients = tape.gradient(total, [w.value for w in layer.trainable_weights])
        for value in (outputs, total, *gradients):
            assert np.all(np.isfinite(value))
    assert layer.losses[0].dtype == tf.float32
    assert float(layer.losses[0]) > 65504


def test_a_penalty_on_the_means_counts_beside_the_divergence():
    layer = built(kernel_regularizer=L1(0.25))
    values = sorted(float(x) for x in layer.losses)
    assert len(values) == 2
    expected = 0.25 * np.abs(layer.kernel.numpy()).sum()
    assert any(np.isclose(value, expected) for value in values)


def test_warmup_and_plain_model():
    layer = BayesianConv1D(2, 2, num_examples=32, name="c")
    model = keras.Sequential(
        [keras.Input((5, 3)), layer, keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(32, 5, 3)).astype("float32")
    history = model.fit(
        x, x[:, 0, :1], epochs=3, verbose=0, callbacks=[KLWarmup(0, 2)]
    ).history
    assert history["kl_factor"] == [0.0, 0.5, 1.0]
    plain = to_deterministic(model)
    assert type(plain.get_layer("c")) is keras.layers.Conv1D
    np.testing.assert_allclose(plain.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


def test_set_num_examples():
    inner = keras.Sequential([BayesianDense(2, name="a")])
    wrapped = ConcreteDropout(keras.layers.Dense(2), name="b")
    model = keras.Sequential([keras.Input((3,)), inner, wrapped, BayesianDense(1)])
    told = set_num_examples(model, 50)
    assert told[:2] == ["a", "b"]
    assert len(told) == 3
    assert all(p.num_examples == 50 for p in penalties_of(model).values())
    for wrong, error in ((0, ValueError), (-1, ValueError), ("5", TypeError)):
        with pytest.raises(error, match="Invalid value for argument `num_examples`"):
            set_num_examples(model, wrong)
    with pytest.raises(ValueError, match="Expected a model with a KL divergence"):
        set_num_examples(keras.Sequential([keras.layers.Dense(1)]), 5)
    with pytest.raises(TypeError, match=r"Expected a keras\.Model or keras\.Layer"):
        set_num_examples("model", 5)


def test_num_examples_has_to_be_given():
    layer = BayesianDense(1, name="head")
    layer.build((None, 2))
    with pytest.raises(ValueError) as caught:
        sum(layer.losses)
    assert str(caught.value) == (
        "The layer `head` needs the number of training examples, by which its KL "
        "divergence is divided. Expected its argument `num_examples`, or "
        "`layer.num_examples = len(x)` later. Received: num_examples=None"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            {"estimator": "dropout"},
            ValueError,
            "Invalid value for argument `estimator`. Expected one of ('flipout', "
            "'reparameterization', 'local_reparameterization'). Received: "
            "estimator='dropout'",
        ),
        (
            {"initial_scale": 0.0},
            ValueError,
            "Invalid value for argument `initial_scale`. Expected a finite number "
            "greater than 0. Received: initial_scale=0.0",
        ),
        (
            {"num_examples": -3},
            ValueError,
            "Invalid value for argument `num_examples`. Expected a finite number "
            "greater than 0. Received: num_examples=-3",
        ),
        (
            {"kl_samples": 0},
            ValueError,
            "Invalid value for argument `kl_samples`. Expected a positive integer. "
            "Received: kl_samples=0",
        ),
        (
            {"bias_prior": "Laplace"},
            ValueError,
            "Invalid value for argument `bias_prior`. Expected None unless "
            "`bayesian_bias=True`. Received: bias_prior='Laplace'",
        ),
        (
            {"bayesian_bias": True, "use_bias": False},
            ValueError,
            "Invalid value for argument `bayesian_bias`. Expected False in a layer "
            "without bias. Received: bayesian_bias=True",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(arguments, error, sentence):
    with pytest.raises(error) as caught:
        BayesianDense(2, **arguments)
    assert str(caught.value) == sentence


def test_bad_priors():
    with pytest.raises(ValueError, match="Expected a prior with `scale=1`"):
        BayesianDense(2, prior=Prior("Normal", 0.1))
    with pytest.raises(ValueError, match="Laplace"):
        BayesianDense(2, prior="Laplaze")
    with pytest.raises(ValueError, match=r"the nearest are \['Normal'\]"):
        BayesianDense(2, prior="Gaussian")
    with pytest.raises(TypeError) as caught:
        BayesianDense(2, prior=3.0)
    assert str(caught.value) == (
        "Invalid value for argument `prior`. Expected a kerasreg.regularizers.Prior, "
        "the name of a distribution or a tfp.distributions object. Received: prior=3.0"
    )
    layer = BayesianDense(2, prior=Prior("Normal", loc=[0.0] * 3), num_examples=1)
    layer.build((None, 4))
    with pytest.raises(ValueError, match="does not fit the weight"):
        sum(layer.losses)
    with pytest.raises(NotImplementedError, match="has no low-rank adaptation"):
        layer.enable_lora(2)


def test_loads_in_a_process_that_imports_only_kerasreg(tmp_path):
    import tensorflow_probability as tfp

    priors = [
        None,
        "Laplace",
        Prior("SpikeAndSlab", **SPIKE),
        Prior("StudentT", df=4.0, trainable=["scale"]),
        Prior("Horseshoe", params={"scale": 0.5}),
        Prior("Normal", hyperprior={"concentration": 2.0, "rate": 0.5}),
        tfp.distributions.MultivariateNormalDiag(scale_diag=[1.0, 2.0]),
    ]
    layers = [BayesianDense(2, prior=p, num_examples=9) for p in priors]
    model = keras.Sequential([keras.Input((2,)), *layers])
    path = tmp_path / "model.keras"
    model.save(path)
    program = (
        "import sys, kerasreg, keras\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "print(float(keras.ops.sum(model(keras.ops.ones((1, 2))))))\n"
        "assert len(model.losses) == 7\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        float(done.stdout), float(keras.ops.sum(model(np.ones((1, 2))))), rtol=1e-5
    )


def test_the_strength_of_a_prior_means_nothing_here(tmp_path):
    """Set later on the prior, it changes no loss, and a saved model still loads."""
    prior = Prior("Normal")
    layer = BayesianDense(1, prior=prior, num_examples=1)
    model = keras.Sequential([keras.Input((2,)), layer])
    before = float(model.losses[0])
    prior.strength = 0.5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [float(m.losses[0]) for m in (model, loaded)] == [before] * 2


def test_divergences_of_tfp_are_finite_without_noise():
    params = {"loc": [0.0] * 3, "scale_diag": [1.0] * 3}
    for prior in (
        Prior("MultivariateNormalDiag", params=params),
        Prior("Gumbel", params={"loc": 0.0, "scale": 1.0}),
    ):
        layer = built(prior)
        prune_by_snr(layer, 0.5)
        with tf.GradientTape() as tape:
            (loss,) = layer.losses
        gradients = tape.gradient(loss, [w.value for w in layer.trainable_weights[::2]])
        for value in (loss, *gradients):
            assert np.all(np.isfinite(value))
