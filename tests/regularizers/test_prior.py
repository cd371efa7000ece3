"""Prior: its densities, divergences and hierarchical form, by integration."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from kerasreg.regularizers import Prior

SCIPY = {
    "Normal": (
        Prior("Normal", loc=0.3, params={"scale": 0.7}),
        stats.norm(0.3, 0.7).logpdf,
    ),
    "Laplace": (
        Prior("Laplace", loc=0.3, params={"scale": 0.7}),
        stats.laplace(0.3, 0.7).logpdf,
    ),
    "StudentT": (
        Prior("StudentT", df=4.0, loc=0.3, params={"scale": 0.7}),
        stats.t(4.0, 0.3, 0.7).logpdf,
    ),
    "Cauchy": (
        Prior("Cauchy", loc=0.3, params={"scale": 0.7}),
        stats.cauchy(0.3, 0.7).logpdf,
    ),
    "SpikeAndSlab": (
        Prior("SpikeAndSlab", pi=0.3, sigma1=1.5, sigma2=0.1),
        lambda w: np.log(
            0.3 * stats.norm(0, 1.5).pdf(w) + 0.7 * stats.norm(0, 0.1).pdf(w)
        ),
    ),
}
W = np.array([[-3.0, -0.3, 0.0], [1e-3, 0.3, 4.0]], "float32")
every_prior = pytest.mark.parametrize("name", SCIPY)


@every_prior
def test_the_density_is_scipys(name):
    prior, expected = SCIPY[name]
    assert float(prior.log_prob(tf.constant(W))) == pytest.approx(
        expected(W.astype("float64")).sum(), rel=1e-5
    )


@every_prior
def test_the_density_is_tfps_without_tfp_being_used(name, monkeypatch):
    tfp = pytest.importorskip("tensorflow_probability")
    prior, _ = SCIPY[name]
    ours = float(prior.log_prob(tf.constant(W)))
    made = prior.distribution
    assert isinstance(made, tfp.distributions.Distribution)
    assert ours == pytest.approx(float(np.sum(made.log_prob(W))), rel=1e-5)
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_probability", None)
    again = Prior.from_config(prior.get_config())
    assert float(again.log_prob(tf.constant(W))) == ours
    with pytest.raises(ImportError, match=r"kerasreg\[bayes\]"):
        Prior("Logistic")


@every_prior
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_of_weights_and_parameters(name, jit_compile):
    """Against differences of the density, in a graph and under XLA."""
    prior = Prior.from_config({**SCIPY[name][0].get_config(), "trainable": True})
    parameters = prior.add_parameters(keras.layers.Layer(), "kernel")
    assert {v.name for v in parameters.values()} == {
        f"kernel_prior_{key}" for key in parameters
    }
    sources = [tf.Variable(W), *(v.value for v in parameters.values())]

    @tf.function(jit_compile=jit_compile)
    def gradient():
        with tf.GradientTape() as tape:
            value = prior.log_prob(tf.convert_to_tensor(sources[0]), parameters)
        return value, tape.gradient(value, sources)

    value, gradients = gradient()
    assert float(value) == pytest.approx(
        float(SCIPY[name][0].log_prob(tf.constant(W))), rel=1e-5
    )
    for key, got in zip(parameters, gradients[1:], strict=True):
        start, values = float(parameters[key].value), []
        for nudge in (1e-2, -1e-2):
            parameters[key].assign(start + nudge)
            values.append(float(gradient()[0]))
        parameters[key].assign(start)
        assert float(got) == pytest.approx((values[0] - values[1]) / 2e-2, rel=1e-2)
    assert np.all(np.isfinite(gradients[0]))


@pytest.mark.parametrize("name", ["Normal", "Laplace"])
@pytest.mark.parametrize("mean", [0.0, 0.3, -2.0, 5.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.2, 3.0])
def test_the_divergence_is_the_integral(name, mean, deviation):
    prior, log_density = SCIPY[name]
    q = stats.norm(mean, deviation)
    ends = (mean - 12 * deviation, mean + 12 * deviation)
    kink = [0.3] if ends[0] < 0.3 < ends[1] else None
    expected, _ = integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - log_density(x)), *ends, points=kink
    )
    got = prior.kl_from_normal(
        tf.fill((2, 3), mean), tf.fill((2, 3), np.float32(math.log(deviation)))
    )
    assert float(got) == pytest.approx(6 * expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["Normal", "Laplace"])
def test_the_divergence_is_finite_at_extremes(name):
    mean = tf.Variable([0.0, 0.0, 0.0, 1.0, -1e4, 1e-20])
    log_scale = tf.Variable([-100.0, -200.0, 5.0, -100.0, -30.0, -50.0])
    prior = Prior(name)
    with tf.GradientTape() as tape:
        value = prior.kl_from_normal(mean, log_scale)
    assert value.dtype == "float32"
    gradients = tape.gradient(value, [mean, log_scale])
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(each)) for each in gradients)


@pytest.mark.parametrize("name", ["StudentT", "Cauchy", "SpikeAndSlab"])
def test_no_closed_divergence(name):
    assert Prior(name).kl_from_normal(W, W) is None


def test_a_divergence_that_tfp_knows():
    pytest.importorskip("tensorflow_probability")
    covariance = np.array([[1.0, 0.4], [0.4, 0.5]])
    prior = Prior(
        "MultivariateNormalTriL",
        loc=[0.0, 1.0],
        scale_tril=np.linalg.cholesky(covariance).tolist(),
    )
    mean, deviation = np.array([[0.3, -0.2]]), np.array([[0.5, 0.8]])
    rng = np.random.default_rng(0)
    draws = mean + deviation * rng.normal(size=(200_000, 2))
    ratio = stats.norm(mean, deviation).logpdf(draws).sum(
        1
    ) - stats.multivariate_normal([0.0, 1.0], covariance).logpdf(draws)
    got = float(prior.kl_from_normal(mean, np.log(deviation)))
    # Five standard errors: wrong once in a million seeds.
    assert abs(got - ratio.mean()) < 5 * ratio.std() / math.sqrt(len(draws))


@pytest.mark.parametrize("loc", [0.0, 0.5])
def test_hierarchical_normal_is_the_integral_over_the_variance(loc):
    a, b = 2.5, 0.7
    prior = Prior("Normal", loc=loc, hyperprior={"concentration": a, "rate": b})
    w = W.ravel().astype("float64")

    def integrand(v):
        joint = stats.norm(loc, math.sqrt(v)).logpdf(w).sum()
        return math.exp(joint + stats.invgamma(a, scale=b).logpdf(v) + 10)

    integral, _ = integrate.quad(integrand, 1e-6, np.inf, epsabs=0, limit=200)
    assert float(prior.log_prob(tf.constant(W))) == pytest.approx(
        math.log(integral) - 10, rel=1e-5
    )
    assert not prior.has_prox
    assert prior.kl_from_normal(W, W) is None


def test_horseshoe_against_the_integral_over_the_local_scale():
    """TFP's density is an approximation: its log is within 0.01 here."""
    pytest.importorskip("tensorflow_probability")
    prior = Prior("Horseshoe", params={"scale": 0.8})
    worst = 0.0
    for w in (1e-3, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0):

        def integrand(angle, w=w):  # local scale tan(angle), half-Cauchy
            return stats.norm(0, 0.8 * math.tan(angle)).pdf(w) * 2 / math.pi

        exact, _ = integrate.quad(
            integrand,
            1e-9,
            math.pi / 2,
            points=[w / 0.8 / 10, w / 0.8][: int(w < 1) * 2] or None,
            limit=400,
        )
        got = float(prior.log_prob(tf.constant([w])))
        worst = max(worst, abs(got - math.log(exact)))
    assert worst < 0.01, worst
