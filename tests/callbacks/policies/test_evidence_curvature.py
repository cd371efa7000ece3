"""The curvature that `Evidence` measures, against independent computations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from kerasreg.callbacks import Evidence
from kerasreg.callbacks.policies.curvature import Exact, marginal
from kerasreg.callbacks.policies.kronecker import Kronecker
from kerasreg.callbacks.policies.likelihood import likelihood_of
from kerasreg.regularizers import L2

RNG = np.random.default_rng(0)
K = 3


def losses():
    labels = RNG.integers(0, K, 7)
    logits = {"from_logits": True}
    real, binary = RNG.normal(size=(7, K)), RNG.integers(0, 2, (7, K)).astype(float)
    one_hot = np.eye(K)[labels]
    module = keras.losses
    return {
        "mse": ("mse", "linear", real),
        "binary": ("binary_crossentropy", "sigmoid", binary),
        "binary logits": (module.BinaryCrossentropy(**logits), "linear", binary),
        "categorical": ("categorical_crossentropy", "softmax", one_hot),
        "categorical logits": (
            module.CategoricalCrossentropy(**logits, label_smoothing=0.1),
            "linear",
            one_hot,
        ),
        "sparse": ("sparse_categorical_crossentropy", "softmax", labels),
        "sparse logits": (
            module.SparseCategoricalCrossentropy(**logits),
            "linear",
            labels,
        ),
    }


def compiled(layers, loss="mse", shape=(4,), dtype="float64"):
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
    model.compile(loss=loss)
    return model


def dense(units, activation="linear", **arguments):
    arguments = {"dtype": "float64", "kernel_regularizer": L2(0.01), **arguments}
    return keras.layers.Dense(units, activation=activation, **arguments)


def matrix(model, variables, x, y, weight=None, batch_size=3):
    """The error and the matrix of the weights, and how often it was traced."""
    exact = Exact(model, likelihood_of(model), [{"all": variables}])
    error, found = exact.sums(x, y, weight, batch_size)
    return float(error), found, exact.sums.traces


@pytest.mark.parametrize("name", losses())
def test_hessian_of_a_last_layer(name):
    """Where features are fixed, it is the Hessian of the negative log likelihood."""
    loss, activation, y = losses()[name]
    model = compiled([dense(5, "tanh"), dense(K, activation)], loss)
    x = RNG.normal(size=(7, 4))
    kernel, bias = model.layers[-1].weights
    features = ops.convert_to_tensor(model.layers[0](x))
    function = model.loss if callable(model.loss) else keras.losses.get(model.loss)
    with tf.GradientTape() as outer:
        w = tf.constant(np.concatenate([kernel, bias[None]]).ravel())
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(w)
            whole = tf.reshape(w, (6, K))
            outputs = model.layers[-1].activation(features @ whole[:5] + whole[5])
            per_output = K if name.startswith(("mse", "binary")) else 1
            mean = tf.reduce_mean(tf.cast(function(y, outputs), "float64"))
            energy = 7 * per_output * mean
        gradient = inner.gradient(energy, w)
    hessian = outer.jacobian(gradient, w).numpy()
    error, found, traces = matrix(model, [kernel, bias], x, y)
    # ‖r‖² is twice the negative log likelihood of noise 1.
    expected = hessian / 2 if name == "mse" else hessian
    # Keras's losses are float32 by themselves, and smooth labels are not binary.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert error == pytest.approx(float(energy), rel=1e-6)
    assert traces == 1


def test_deep_network():
    """Σ Jᵀ Λ J with the Jacobian of the logits by finite differences."""
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled([dense(5, "tanh"), dense(K)], logits)
    x, y = RNG.normal(size=(7, 4)), RNG.integers(0, K, 7)
    start = [np.array(w) for w in model.get_weights()]
    columns = []
    for i, w in enumerate(start):
        for j in range(w.size):
            sides = []
            for h in (1e-5, -1e-5):
                moved = [each.copy() for each in start]
                moved[i].flat[j] += h
                model.set_weights(moved)
                sides.append(np.array(model(x)))
            columns.append((sides[0] - sides[1]) / 2e-5)
    model.set_weights(start)
    jacobian = np.stack(columns, -1)
    p = np.array(ops.softmax(model(x)))
    inner = np.einsum("nk,kl->nkl", p, np.eye(K)) - np.einsum("nk,nl->nkl", p, p)
    expected = np.einsum("nkp,nkl,nlq->pq", jacobian, inner, jacobian)
    _, found, _ = matrix(model, model.trainable_variables, x, y)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_marginal():
    """Against the inverse of the whole matrix, flat priors included."""
    root = RNG.normal(size=(20, 6))
    h, prior = root.T @ root, np.array([0.5, 0.0, 2.0, 3.0, 0.0, 10.0])
    gammas, logs, kept = marginal(h, prior)
    sigma = np.linalg.inv(h + np.diag(prior))
    assert kept.tolist() == [0, 2, 3, 5]
    np.testing.assert_allclose(gammas, 1 - prior[kept] * np.diag(sigma)[kept])
    seen = np.linalg.inv(np.linalg.inv(h)[np.ix_(kept, kept)])
    log = np.linalg.slogdet(np.eye(4) + seen / prior[kept])[1]
    assert logs.sum() == pytest.approx(log / 2)


def test_marginal_of_directions_without_data():
    """Flat priors on what the data do not see at all take nothing away."""
    root = RNG.normal(size=(20, 3))
    h = np.zeros((5, 5))
    h[:3, :3] = root.T @ root
    expected = marginal(h[:3, :3], np.ones(3))
    found = marginal(h, np.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(found[0], expected[0])
    nothing = marginal(np.zeros((3, 3)), np.ones(3))
    np.testing.assert_array_equal(nothing[:2], np.zeros((2, 3)))


def determined(model, units, x, y, curvature):
    """Number of determined weights and the log ratio of each unit."""
    policy = Evidence(x, y, curvature=curvature, batch_size=5)
    extra = policy.measure(model, units)
    return np.array([[e["gamma"], e["log_ratio"]] for e in extra.values()])


def each(model):
    return {v.path: [v] for v in model.trainable_variables if v.regularizer}


@pytest.mark.parametrize("bias", [True, False])
def test_kronecker_of_a_linear_model(bias):
    """With squared error it is the exact matrix, the intercept integrated out."""
    model = compiled([dense(K, use_bias=bias)])
    x, y = RNG.normal(size=(12, 4)) + 2.0, RNG.normal(size=(12, K))
    for weight in model.trainable_variables:
        weight.assign(RNG.normal(size=weight.shape))
    found = determined(model, each(model), x, y, "kronecker")
    np.testing.assert_allclose(
        found, determined(model, each(model), x, y, "full"), rtol=1e-8
    )


CONVOLUTIONS = [
    {"padding": "same"},
    {"padding": "valid", "strides": 2},
    {"padding": "same", "dilation_rate": 2},
    {"padding": "valid", "use_bias": False, "kernel_size": (2, 3)},
]


@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
def test_kronecker_of_a_linear_convolution(arguments):
    """Each place is an output of its own: the exact matrix again."""
    settings = {"kernel_size": 3, "kernel_regularizer": L2(0.01), "dtype": "float64"}
    layer = keras.layers.Conv2D(2, **{**settings, **arguments})
    model = compiled([layer], shape=(5, 6, 2))
    x = RNG.normal(size=(6, 5, 6, 2)) + 1.0
    y = np.zeros_like(model(x))
    found = determined(model, each(model), x, y, "kronecker")
    expected = determined(model, each(model), x, y, "full")
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_kronecker_of_one_sample():
    """A Kronecker product is exact for one sample, in any layer."""
    shared = {"use_bias": False, "dtype": "float64", "kernel_regularizer": L2(0.01)}
    conv = keras.layers.Conv2D(3, (4, 5), activation="tanh", **shared)
    layers = [conv, keras.layers.Flatten(), dense(4, "tanh", use_bias=False)]
    loss = "sparse_categorical_crossentropy"
    model = compiled([*layers, dense(K, "softmax", use_bias=False)], loss, (4, 5, 2))
    x, y = RNG.normal(size=(1, 4, 5, 2)), np.array([1])
    found = determined(model, each(model), x, y, "kronecker")
    expected = determined(model, each(model), x, y, "block")
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_kronecker_bias_with_a_penalty():
    """It is a block by itself: exact for a bias alone."""
    model = compiled([dense(K, bias_regularizer=L2(0.02))])
    x, y = RNG.normal(size=(12, 4)), RNG.normal(size=(12, K))
    found = determined(model, each(model), x, y, "kronecker")
    expected = determined(model, each(model), x, y, "block")
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("kind", [Exact, Kronecker])
def test_batches_and_weights(kind):
    """Batches do not matter, and a weight of 2 is a sample twice."""
    model = compiled([dense(4, "tanh"), dense(K)])
    x, y = RNG.normal(size=(7, 4)), RNG.normal(size=(7, K))
    weight = np.array([1.0, 2, 1, 0, 1, 2, 1])
    units = each(model)
    blocks = units if kind is Kronecker else [units]

    def sums(*arguments):
        made = kind(model, likelihood_of(model), blocks)
        found = made.sums(*arguments)
        assert made.sums.traces == 1
        return found

    twice = np.repeat(np.arange(7), weight.astype(int))
    expected = sums(x[twice], y[twice], None, 8)
    for batch_size in (3, 7, 20):
        for a, b in zip(sums(x, y, weight, batch_size), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
