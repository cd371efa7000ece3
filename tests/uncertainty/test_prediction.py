"""Parts of the uncertainty, of samples that are known."""

import keras
import numpy as np
import pytest

from kerasreg import layers
from kerasreg.uncertainty import Prediction, predict

K = keras.layers
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
NOISE = ["log_variance", "variance", "std"]


class Head(K.Layer):
    """Means x plus Normal noise of deviation 0.5; spreads as they are asked for."""

    def __init__(self, spread, two):
        super().__init__()
        self.spread, self.two = spread, two
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x, training=None):
        mean = x
        if layers.noisy(training):
            shape = keras.ops.shape(x)
            mean = x + 0.5 * keras.random.normal(shape, seed=self.seed_generator)
        variance = 0.09 + 0.0 * x
        of = {
            "log_variance": keras.ops.log,
            "std": keras.ops.sqrt,
            "variance": lambda v: v,
        }
        spread = of[self.spread](variance)
        if self.two:
            return mean, spread
        return keras.ops.concatenate([mean, spread], axis=-1)


def _head(spread, two=False):
    inputs = K.Input((4,))
    return keras.Model(inputs, Head(spread, two)(inputs))


@pytest.mark.parametrize("spread", NOISE)
@pytest.mark.parametrize("two", [False, True])
def test_normal_head(spread, two):
    p = predict(_head(spread, two), X, samples=2000, seed=1, spread=spread)
    assert p.mean.shape == X.shape
    assert p.likelihood == "normal"
    np.testing.assert_allclose(p.aleatoric, 0.09, rtol=1e-5)
    np.testing.assert_allclose(p.epistemic, 0.25, rtol=5 * np.sqrt(2 / 2000))
    np.testing.assert_allclose(p.total_uncertainty, p.aleatoric + p.epistemic)


def test_log_density_of_a_normal_head():
    """Noise on the mean and in targets add up: Normal(x, 0.25 + 0.09)."""
    p = predict(_head("std"), X, samples=20000, seed=1, spread="std", keep_samples=True)
    y = X + 0.3
    exact = -0.5 * (0.3**2 / 0.34 + np.log(2 * np.pi * 0.34))
    # The density of one sample deviates by less than 1 of its mean: 5 errors.
    np.testing.assert_allclose(p.log_prob(y), exact, atol=5 / np.sqrt(20000))


def test_known_noise():
    model = keras.Sequential([K.Input((4,)), K.GaussianDropout(0.2)])
    p = predict(model, X, samples=50, noise_variance=0.5)
    np.testing.assert_array_equal(p.aleatoric, 0.5)
    np.testing.assert_allclose(p.epistemic, p.var)


def test_ignorance_and_noise_of_classes():
    """Certain samples that disagree: all is epistemic. Even ones: all is aleatoric."""
    inputs = K.Input((1,))
    # Kept at rate 1/2 the two logits are 100 and 0, dropped they are 0 and 100.
    kernel = np.array([[100.0, -100.0]])
    dense = K.Dense(2)
    model = keras.Model(inputs, dense(K.Dropout(0.5)(inputs)))
    dense.set_weights([kernel, np.array([-100.0, 100.0])])
    p = predict(
        model, np.ones((1, 1)), samples=4000, likelihood="categorical",
        from_logits=True,
    )  # fmt: skip
    np.testing.assert_allclose(p.aleatoric, 0.0, atol=1e-6)
    np.testing.assert_allclose(p.mutual_information, np.log(2), atol=0.01)
    even = predict(
        keras.Sequential([K.Input((3,)), K.Dropout(0.5)]), np.zeros((2, 3)), samples=5,
        likelihood="categorical", from_logits=True,
    )  # fmt: skip
    np.testing.assert_allclose(even.expected_entropy, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(even.mutual_information, 0.0, atol=1e-6)


def test_bernoulli_is_categorical_of_two():
    model = keras.Sequential([K.Input((4,)), K.Dropout(0.5), K.Dense(1, "sigmoid")])
    p = predict(model, X, samples=20, seed=1, keep_samples=True)
    assert p.likelihood == "bernoulli"
    both = np.concatenate([p.samples, 1 - p.samples], axis=-1)
    mean = both.mean(0)
    total = -(mean * np.log(mean)).sum(-1, keepdims=True)
    part = -(both * np.log(both)).sum(-1, keepdims=True).mean(0)
    np.testing.assert_allclose(p.predictive_entropy, total, rtol=1e-4)
    np.testing.assert_allclose(p.expected_entropy, part, rtol=1e-4)
    y = np.array([[0], [1], [1], [0], [1], [0]])
    density = np.where(y, p.mean, 1 - p.mean)
    np.testing.assert_allclose(p.log_prob(y), np.log(density), rtol=1e-5)


def test_likelihood_after_the_last_activation():
    def found(*last):
        model = keras.Sequential([K.Input((4,)), K.Dropout(0.5), *last])
        return predict(model, X, samples=1).likelihood

    assert found(K.Dense(3, "softmax")) == "categorical"
    assert found(K.Dense(3), K.Softmax()) == "categorical"
    assert found(K.Dense(3), K.Activation("sigmoid")) == "bernoulli"
    assert found(K.Dense(3)) is None
    assert found(K.Reshape((4, 1)), K.GRU(3, activation="sigmoid")) is None


def test_quantiles():
    samples = np.arange(101.0)[:, None, None] * np.ones((1, 2, 3))
    stats = {"mean": samples.mean(0), "m2": samples.var(0) * 101}
    p = Prediction(stats | {"mean samples": samples}, 101)
    np.testing.assert_allclose(p.quantile(0.25), np.full((2, 3), 25.0))
    np.testing.assert_allclose(p.quantile([0.0, 1.0])[:, 0, 0], [0.0, 100.0])
    low, high = p.interval(0.9)
    np.testing.assert_allclose([low[0, 0], high[0, 0]], [5.0, 95.0])
    np.testing.assert_allclose(p.std, np.arange(101.0).std())


def test_a_wrong_entropy_is_not_hidden():
    """Rounding is; more is not."""
    total = np.log(2.0)
    stats = {"mean": np.full((1, 2), 0.5), "m2": np.zeros((1, 2))}
    for entropy, expected in ((total + 1e-6, total), (total + 1e-3, total + 1e-3)):
        own = stats | {"entropy": np.array([entropy])}
        p = Prediction(own, 3, "categorical")
        np.testing.assert_allclose(p.aleatoric, expected, rtol=1e-12)


def _small(kind):
    samples = np.full((3, 2, 4), 0.25)
    stats = {"mean": samples[0], "m2": samples[0] * 0, "entropy": samples[0, :, 0]}
    return Prediction(stats | {"mean samples": samples}, 3, kind)


SAID = {
    "q": (
        lambda: _small(None).quantile(1.5),
        "Invalid value for argument `q`. Expected numbers in [0, 1]. Received: q=1.5",
    ),
    "level": (
        lambda: _small(None).interval(1.0),
        "Invalid value for argument `level`. Expected a number in (0, 1). "
        "Received: level=1.0",
    ),
    "y": (
        lambda: _small("categorical").log_prob(np.zeros((2, 4))),
        "Invalid value for argument `y`. Expected the shape (2,). "
        "Received: shape=(2, 4)",
    ),
    "likelihood": (
        lambda: _small(None).aleatoric,
        "This needs to know what the outputs are. Give `predict` the argument "
        '`likelihood`: "categorical", "bernoulli" or "normal".',
    ),
    "entropy": (
        lambda: _small("normal").predictive_entropy,
        'Entropies need `likelihood="categorical"` or "bernoulli". Received: '
        "likelihood='normal'",
    ),
    "samples": (
        lambda: Prediction({"mean": X, "m2": X}, 3).samples,
        "The samples were not kept. Give `keep_samples=True` to `predict` for "
        "`samples`, `quantile`, `interval` and `log_prob`.",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_refused(name):
    call, message = SAID[name]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_an_interval_for_new_targets_holds_its_share():
    """Of 20,000 targets drawn with the function, 90 % to within 5 standard errors."""
    layer = layers.BayesianDense(1, num_examples=1, initial_scale=0.3)
    model = keras.Sequential([keras.Input((2,)), layer])
    x = np.array([[1.0, 2.0]], "float32")
    new = {"samples": 4000, "noise_variance": 0.25, "seed": 0}
    prediction = predict(model, x, **new, keep_samples=True)
    low, high = prediction.interval(0.9, noise=True)
    rng = np.random.default_rng(0)
    function = model.predict(x, verbose=0) + 0.3 * np.sqrt(5) * rng.normal(size=20000)
    y = function + 0.5 * rng.normal(size=20000)
    share = np.mean((low < y) & (y < high))
    assert abs(share - 0.9) < 5 * np.sqrt(0.09 / 20000 + 0.09 / 4000)
    inner, outer = prediction.interval(0.9)
    assert np.mean((inner < y) & (y < outer)) < 0.87
    # It needs no samples.
    again = predict(model, x, **new).interval(0.9, noise=True)
    np.testing.assert_allclose(again, (low, high), rtol=1e-5)
    with pytest.raises(ValueError) as caught:
        predict(model, x, samples=2).interval(0.9, noise=True)
    assert str(caught.value) == (
        "Invalid value for argument `noise`. Expected False unless the likelihood is "
        '"normal": give `predict` the argument `noise_variance` or `spread`. '
        "Received: noise=True"
    )


def _classes(units, likelihood):
    model = keras.Sequential([keras.Input((4,)), K.Dropout(0.5), K.Dense(units)])
    arguments = {"samples": 3, "likelihood": likelihood, "from_logits": True}
    return predict(model, X[:2], **arguments, keep_samples=True)


@pytest.mark.parametrize(
    ("units", "likelihood", "y", "last", "span"),
    [
        (3, "categorical", [-1, 0], 2, "-1 to 0"),
        (3, "categorical", [0, 3], 2, "0 to 3"),
        (3, "categorical", [1.7, 0], 2, "0.0 to 1.7"),
        (1, "bernoulli", [[2], [-1]], 1, "-1 to 2"),
    ],
)
def test_targets_that_are_no_class(units, likelihood, y, last, span):
    with pytest.raises(ValueError) as caught:
        _classes(units, likelihood).log_prob(np.array(y))
    assert str(caught.value) == (
        f"Invalid value for argument `y`. Expected integers from 0 to {last}. "
        f"Received: values from {span}"
    )


def test_noise_free_targets_and_numbers_of_numpy():
    model = keras.Sequential([keras.Input((4,)), K.Dropout(0.5)])
    arguments = {"samples": np.int64(3), "keep_samples": True}
    sure = predict(model, X, noise_variance=np.float32(0.0), **arguments)
    assert np.all(sure.log_prob(X + 10.0) < -1e9)
    assert not np.any(np.isnan(sure.log_prob(X)))


def test_means_and_spreads_by_name_have_no_order():
    x = keras.Input((4,))
    h = K.Dropout(0.5)(x)
    model = keras.Model(x, {"mean": K.Dense(1)(h), "log_variance": K.Dense(1)(h)})
    with pytest.raises(ValueError) as caught:
        predict(model, X, samples=2, spread="log_variance")
    assert str(caught.value) == (
        "Invalid value for argument `spread`. Expected a model whose outputs are a "
        "list, the means first. Received: a dict of ['log_variance', 'mean'], which "
        "has no order"
    )


@pytest.mark.parametrize(("axis", "likelihood"), [(1, None), (2, "categorical")])
def test_classes_lie_along_the_last_axis(axis, likelihood):
    layer = K.Softmax(axis=axis)
    model = keras.Sequential([keras.Input((3, 2)), K.Dropout(0.5), layer])
    x = np.ones((1, 3, 2), "float32")
    assert predict(model, x, samples=2).likelihood == likelihood
