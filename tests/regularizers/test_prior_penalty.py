"""Prior as a penalty: L1 and L2, saving of every kind, bad input."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import Lasso

from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1, L2, Prior, as_penalty, penalties_of, regularize
from tests.cases import Case
from tests.contract import regularizers as contract

KINDS = {
    "Normal": lambda: Prior("Normal", 0.02, loc=0.1, params={"scale": 2.0}),
    "StudentT": lambda: Prior("StudentT", 0.02, df=4.0),
    "Cauchy": lambda: Prior("Cauchy", 0.02),
    "SpikeAndSlab": lambda: Prior("SpikeAndSlab", 0.02, pi=0.4, sigma2=0.1),
    "hierarchical": lambda: Prior(
        "Normal", 0.02, hyperprior={"concentration": 2.0, "rate": 1.0}
    ),
    "Logistic": lambda: Prior("Logistic", 0.02, loc=0.0, params={"scale": 1.0}),
    "multivariate": lambda: Prior(
        "MultivariateNormalDiag", 0.02, loc=[0.0] * 4, scale_diag=[1.0, 2.0, 1.0, 0.9]
    ),
    "instance": lambda: Prior(_tfd().Normal(0.0, [1.0, 2.0, 1.5, 0.9]), 0.02),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _tfd():
    return pytest.importorskip("tensorflow_probability").distributions


def _case(kind):
    return Case("kerasreg.regularizers.Prior", "regularizer", Prior, KINDS[kind])


@every_kind
@pytest.mark.parametrize(
    "check",
    [
        contract.check_config_round_trip,
        contract.check_identifiers,
        contract.check_strength,
        contract.check_copies,
        contract.check_eager_and_traced,
        contract.check_gradient_at_zero,
    ],
    ids=lambda check: check.__name__,
)
def test_contract(kind, check):
    check(_case(kind))


def _model(penalty):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, kernel_regularizer=penalty)]
    )
    model.compile("sgd", "mse")
    return model


def test_models_load_where_only_kerasreg_is_imported(tmp_path):
    _tfd()
    expected = []
    for kind, make in KINDS.items():
        model = _model(make())
        model.save(tmp_path / f"{kind}.keras")
        expected.append(float(sum(model.losses)))
    program = (
        "import sys, keras, kerasreg\n"
        "for path in sys.argv[1:]:\n"
        "    print(float(sum(keras.saving.load_model(path).losses)))\n"
    )
    paths = [str(tmp_path / f"{kind}.keras") for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.split()]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@every_kind
def test_mixed_precision(kind):
    keras.config.set_dtype_policy("mixed_float16")
    model = _model(KINDS[kind]())
    history = model.fit(np.ones((8, 3)), np.ones((8, 4)), verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


def test_as_penalty_and_regularize():
    prior = KINDS["Normal"]()
    assert as_penalty(prior) is prior
    model = _model(None)
    regularize(model, {"*": prior})
    (attached,) = penalties_of(model).values()
    assert attached.get_config() == prior.get_config()


@pytest.mark.parametrize(
    ("prior", "penalty"),
    [
        (Prior("Normal", 0.3, params={"scale": 0.5}), L2(0.3 / (2 * 0.5**2))),
        (Prior("Laplace", 0.3, params={"scale": 0.5}), L1(0.3 / 0.5)),
    ],
)
def test_normal_is_l2_and_laplace_is_l1(prior, penalty):
    w = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    zero = np.zeros_like(w)
    assert float(prior(w) - prior(zero)) == pytest.approx(float(penalty(w)), rel=1e-5)
    for step in (0.4, np.abs(w) + 0.1):
        mapped = prior.prox(tf.constant(w), step)
        np.testing.assert_allclose(
            mapped, penalty.prox(tf.constant(w), step), rtol=1e-6
        )
    assert prior.has_prox


def test_only_normal_and_laplace_have_a_map():
    assert [kind for kind in KINDS if KINDS[kind]().has_prox] == ["Normal", "instance"]
    with pytest.raises(NotImplementedError):
        KINDS["Cauchy"]().prox(tf.zeros(3), 1.0)


def test_laplace_finds_the_support_of_the_lasso():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 8)).astype("float32")
    y = x @ np.array([2.0, -1.0, 0, 0, 0, 0, 0, 0.5]) + rng.normal(size=100)
    lasso = Lasso(alpha=0.2, fit_intercept=False).fit(x, y)
    # 1/N of a Laplace: scikit-learn halves the mean square, Keras does not.
    prior = Prior("Laplace", 1 / 100, params={"scale": 1 / (100 * 2 * 0.2)})
    layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=prior)
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.fit(x, y[:, None], batch_size=100, epochs=200, verbose=0)
    w = layer.kernel.numpy()[:, 0]
    np.testing.assert_array_equal(w == 0, lasso.coef_ == 0)
    assert 0 < (w == 0).sum() < 8
    np.testing.assert_allclose(w, lasso.coef_, atol=1e-4)


def test_scale_is_the_strength():
    for prior in (Prior("Normal", 0.2), Prior("Normal", scale=0.2)):
        assert prior.strength == 0.2
        assert prior.get_config()["params"] == {"loc": 0.0, "scale": 1.0}
    one = Prior("StudentT", 0.2, df=5.0, params={"scale": 2.0})
    assert one.get_config()["params"] == {"df": 5.0, "loc": 0.0, "scale": 2.0}


def test_trainable_parameters_are_for_bayesian_layers():
    prior = Prior("Normal", params={"scale": 0.25}, trainable=["scale"])
    with pytest.raises(ValueError) as caught:
        prior(tf.ones(3))
    assert str(caught.value) == (
        "A prior with trainable parameters is no penalty of a plain weight: its "
        "density grows without bound as its scale shrinks. Use it in a Bayesian "
        'layer, or give a `hyperprior={"concentration": ..., "rate": ...}`. '
        "Received: trainable=['scale']"
    )
    (variable,) = prior.add_parameters(keras.layers.Layer(), "kernel").values()
    assert variable.dtype == "float32"
    assert float(
        prior.kl_from_normal(tf.zeros(3), tf.zeros(3), {"scale": variable})
    ) == pytest.approx(
        float(
            Prior("Normal", params={"scale": 0.25}).kl_from_normal(
                tf.zeros(3), tf.zeros(3)
            )
        ),
        rel=1e-6,
    )
    assert Prior("Normal").add_parameters(keras.layers.Layer(), "kernel") == {}
    _tfd()
    foreign = Prior("Logistic", loc=0.0, params={"scale": 0.5}, trainable=["scale"])
    learned = foreign.add_parameters(keras.layers.Layer(), "kernel")
    got = foreign.log_prob(tf.ones(3), learned)
    assert float(got) == pytest.approx(float(foreign.log_prob(tf.ones(3))), rel=1e-5)


def _message(**arguments):
    with pytest.raises(ValueError) as caught:
        Prior(**{"distribution": "Normal", **arguments})
    return str(caught.value)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), [1.0, 0.0], "wide"])
def test_bad_parameters(bad):
    assert _message(params={"scale": bad}) == (
        "Invalid value for the prior's parameter `scale`. Expected finite numbers "
        f"greater than 0. Received: scale={bad!r}"
    )


def test_bad_arguments():
    assert _message(df=3.0) == (
        "Invalid parameters of the prior 'Normal'. Expected some of "
        "['loc', 'scale']. Received: ['df']"
    )
    assert _message(loc=0.0, params={"loc": 1.0}) == (
        "Invalid value for argument `params`. Expected each parameter once. "
        "Received: ['loc'] both in `params` and by keyword"
    )
    assert _message(hyperprior={"rate": 1.0}) == (
        "Invalid value for argument `hyperprior`. Expected a dict of 'concentration' "
        "and 'rate'. Received: hyperprior={'rate': 1.0}"
    )
    assert _message(trainable=["df"]) == (
        "Invalid value for argument `trainable`. Expected names among "
        "['loc', 'scale']. Received: trainable=['df']"
    )


def test_names_and_supports():
    _tfd()
    message = _message(distribution="Normall")
    assert message == (
        "Invalid value for argument `distribution`. Expected the name of a "
        "distribution; the nearest are ['Normal', 'LogNormal']. "
        "Received: distribution='Normall'"
    )
    for name in ("Poisson", "Exponential"):
        assert _message(distribution=name, rate=1.0) == (
            "Invalid value for argument `distribution`. Expected a continuous "
            f"distribution over the reals. Received: distribution={name!r}"
        )
    assert "Argument `scale` must be positive" in _message(
        distribution="Logistic", loc=0.0, params={"scale": -1.0}
    )


@pytest.mark.parametrize(
    ("prior", "event", "batch"),
    [
        (Prior("Normal", loc=[0.0] * 3), (), (3,)),
        (KINDS["multivariate"], (4,), ()),
    ],
    ids=["batch", "event"],
)
def test_a_weight_that_does_not_fit(prior, event, batch):
    prior = prior if isinstance(prior, Prior) else prior()
    with pytest.raises(ValueError) as caught:
        prior(tf.ones((4, 5)))
    name = prior.get_config()["distribution"]
    assert str(caught.value) == (
        f"The prior {name!r} does not fit the weight. Expected event shape {event} "
        f"as its last axes and batch shape {batch} to broadcast to the others. "
        "Received: a weight of shape (4, 5)"
    )


def test_an_instance_of_other_than_numbers_works_and_is_not_saved():
    tfd = _tfd()
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.3, 0.7]), tfd.Normal(0.0, [1.5, 0.1])
    )
    w = tf.constant([0.3, -2.0])
    ours = Prior("SpikeAndSlab", pi=0.3, sigma1=1.5, sigma2=0.1)
    assert float(Prior(mixture)(w)) == pytest.approx(float(ours(w)), rel=1e-5)
    assert "MixtureSameFamily" in repr(Prior(mixture))
    with pytest.raises(ValueError) as caught:
        Prior(mixture).get_config()
    assert str(caught.value) == (
        "The prior 'MixtureSameFamily' cannot be saved: its parameters are not plain "
        "numbers or arrays. Give a distribution by name and parameters."
    )
