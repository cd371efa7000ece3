"""`Evidence` and the models it is given: what it takes, refuses, and leaves alone."""

import keras
import numpy as np
import pytest

from kerasreg.callbacks import Evidence, LayerwiseAdaptiveLambda
from kerasreg.regularizers import L1, L2, Anchored, ElasticNet, Prior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")


def net(hidden=None, penalty=None, loss="mse", activation="linear", **compiled):
    """A small network whose kernels are penalized."""
    penalty = penalty or L2
    layers = [keras.layers.Dense(5, "tanh", kernel_regularizer=penalty(0.01))]
    if hidden is not None:
        layers.append(hidden)
    head = keras.layers.Dense(1, activation, kernel_regularizer=penalty(0.01))
    model = keras.Sequential([keras.Input((6,)), *layers, head], name="net")
    model.compile(loss=loss, **compiled)
    return model


def units_of(model):
    penalized = [v for v in model.trainable_variables if v.regularizer]
    return {v.path: [v] for v in penalized}


def measure(model, x=X, y=Y, **arguments):
    units = units_of(model)
    policy = Evidence(x, y, **arguments)
    policy.check(model, units)
    return policy.measure(model, units)


@pytest.mark.parametrize("curvature", ["full", "kronecker"])
def test_leaves_the_model_alone(curvature):
    """Weights, moving statistics and seeds stay, and it measures inference."""
    noisy = keras.Sequential(
        [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1)]
    )
    model = net(noisy)
    before = [v.numpy() for v in model.variables]
    call = model.layers[0].call
    first = measure(model, curvature=curvature)
    assert first == measure(model, curvature=curvature)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert model.layers[0].call == call
    assert model.layers[0].activation is keras.activations.tanh


@pytest.mark.parametrize("curvature", ["full", "kronecker"])
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtypes(dtype, curvature):
    """Mixed precision measures the same up to its rounding."""
    reference = net()
    keras.config.set_dtype_policy(dtype)
    model = net()
    model.set_weights(reference.get_weights())
    expected = measure(reference, curvature=curvature)
    found = measure(model, curvature=curvature)
    rtol = {"mixed_float16": 0.01, "mixed_bfloat16": 0.05, "float64": 1e-4}[dtype]
    for one, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(
            list(one.values()), list(other.values()), rtol=rtol, atol=1e-6
        )


def test_compiled_by_xla():
    keras.utils.set_random_seed(0)
    expected = list(measure(net(jit_compile=False)).values())
    keras.utils.set_random_seed(0)
    assert list(measure(net(jit_compile=True)).values()) == expected


def sequences(*layers):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), *layers])
    model.compile(loss="binary_crossentropy")
    x = RNG.integers(0, 7, (10, 4))
    return model, x, (x[:, :1] > 3).astype("float32")


def test_embedding_and_recurrent_layers():
    """Full curvature takes any layer; words that never occur are not determined."""
    penalty = {"recurrent_regularizer": L2(0.01), "kernel_regularizer": L2(0.01)}
    model, x, y = sequences(
        keras.layers.Embedding(9, 3, embeddings_regularizer=L2(0.01), name="words"),
        keras.layers.SimpleRNN(3, unroll=True, **penalty),
        keras.layers.Dense(1, "sigmoid"),
    )
    extra = measure(model, x, y)
    assert len(extra) == 3
    assert all(0 < e["gamma"] < 30 for e in extra.values())
    model.layers[0].embeddings.assign(0.1 * np.ones((9, 3)))
    (gamma, *_) = (e["gamma"] for e in measure(model, x, y, curvature="block").values())
    assert gamma <= 7 * 3


def test_features_of_a_last_layer_are_fixed():
    """Weights of other layers are not integrated out, trainable or not."""
    model = net()
    unit = {"head": [model.layers[-1].kernel]}
    policy = Evidence(X, Y)
    expected = policy.measure(model, unit)
    model.layers[0].trainable = False
    assert Evidence(X, Y).measure(model, unit) == expected
    features = np.asarray(model.layers[0](X), "float64")
    values = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    gamma = np.sum(values / (values + 0.01 * len(X)))
    assert expected["head"]["gamma"] == pytest.approx(gamma, rel=1e-5)


def test_zero_weights_and_strengths():
    """Sparse weights, all weights 0, and a strength of 0 give finite numbers."""
    model = net()
    for weight in model.trainable_variables[::2]:
        weight.assign(np.where(RNG.uniform(size=weight.shape) < 0.5, 0.0, 1.0))
    policy = Evidence(X, Y)
    for share in (1.0, 0.0):
        for weight in model.trainable_variables[::2]:
            weight.assign(share * weight)
        model.layers[0].kernel.regularizer.strength = 0.0
        extra = policy.measure(model, units_of(model))
        numbers = [list(e.values()) for e in extra.values()]
        assert np.all(np.isfinite(numbers))


def test_in_fit():
    """With the callback on noisy data it raises a strength that is too small."""
    y = Y + RNG.normal(size=Y.shape).astype("float32")
    optimizer = keras.optimizers.Adam(0.05)
    model = net(jit_compile=False, optimizer=optimizer)
    for layer in model.layers:
        layer.kernel.regularizer.strength = 1e-6
    adaptive = LayerwiseAdaptiveLambda(Evidence(X, y, burn_in=6))
    history = model.fit(X, y, epochs=9, verbose=0, callbacks=[adaptive]).history
    for name in adaptive.strengths:
        strengths = history[f"strength/{name}"]
        assert strengths[:5] == pytest.approx(np.full(5, 1e-6))
        assert np.all(np.diff(strengths[4:]) > 0)
    assert adaptive.policy.noise_variance > 0.1


def raised(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_arguments():
    choices = "('full', 'block', 'kronecker')"
    assert raised(ValueError, lambda: Evidence(X, Y, curvature="diagonal")) == (
        "Invalid value for argument `curvature`. A diagonal does not know that weights "
        "are correlated, counts too many of them as determined by the data, and "
        "strengths run away: worse than no penalty. Expected one of "
        f"{choices}. Received: curvature='diagonal'"
    )
    assert raised(ValueError, lambda: Evidence(X, Y, curvature="exact")) == (
        "Invalid value for argument `curvature`. Expected one of "
        f"{choices}. Received: curvature='exact'"
    )
    assert raised(ValueError, lambda: Evidence(X, Y, damping=1.5)) == (
        "Invalid value for argument `damping`. Expected a number in [0, 1]. "
        "Received: damping=1.5"
    )
    assert raised(ValueError, lambda: Evidence(X, Y, burn_in=-1)) == (
        "Invalid value for argument `burn_in`. Expected a non-negative finite number. "
        "Received: burn_in=-1"
    )
    assert raised(TypeError, lambda: Evidence(X, Y, ascent=1)) == (
        "Invalid value for argument `ascent`. Expected a bool. Received: ascent=1"
    )
    for name in ("batch_size", "max_weights"):
        assert raised(ValueError, lambda n=name: Evidence(X, Y, **{n: 0})) == (
            f"Invalid value for argument `{name}`. Expected a positive integer. "
            f"Received: {name}=0"
        )
    for weight in (-np.ones(24), np.zeros(24), np.full(24, np.nan)):
        assert raised(ValueError, lambda w=weight: Evidence(X, Y, sample_weight=w)) == (
            "Invalid value for argument `sample_weight`. Expected one non-negative "
            "finite number a sample, not all 0. Received: an array of shape (24,)"
        )
    assert "the same positive number of samples" in raised(
        ValueError, lambda: Evidence(X, Y[:5])
    )


@pytest.mark.parametrize(
    "penalty",
    [
        L1(0.1),
        ElasticNet(0.1, 0.1),
        ElasticNet(0.0, 0.0),
        Anchored(L2(0.1), mu=0.1),
        Prior("Laplace", 0.1),
        Prior("Normal", 0.1, hyperprior={"concentration": 1.0, "rate": 1.0}),
    ],
    ids=str,
)
def test_penalties_that_are_no_gaussian(penalty):
    model = net(penalty=lambda strength: penalty)
    path = model.layers[0].kernel.path
    assert raised(ValueError, lambda: measure(model)) == (
        "`Evidence` needs quadratic penalties: its Laplace approximation of the "
        "posterior takes each for a Gaussian prior. Expected L2, ElasticNet with l1=0, "
        "Anchored with one of `mu` and an L2, or Prior('Normal'). "
        f"Received: {penalty!r} on {path}"
    )


@pytest.mark.parametrize(
    ("loss", "received"),
    [
        ("mae", "loss='mae' with {}"),
        (
            keras.losses.MeanSquaredError(reduction="sum"),
            "loss=<LossFunctionWrapper(<function mean_squared_error",
        ),
    ],
    ids=["mae", "sum"],
)
def test_losses_that_are_no_likelihood(loss, received):
    message = raised(ValueError, lambda: measure(net(loss=loss)))
    assert message.startswith(
        "`Evidence` needs a loss that is the mean of a negative log likelihood. "
        "Expected mean squared error, or binary, categorical or sparse categorical "
        "crossentropy over the last axis, without ignored classes. "
        f"Received: {received}"
    )


def test_several_outputs_are_refused():
    inputs = keras.Input((6,))
    heads = [keras.layers.Dense(1, kernel_regularizer=L2())(inputs) for _ in range(2)]
    model = keras.Model(inputs, heads)
    model.compile(loss=["mse", "mse"])
    assert raised(ValueError, lambda: measure(model)) == (
        "`Evidence` needs a model of one output and one loss, without loss weights. "
        "Received: 2 output(s), 2 loss(es)"
    )
    model = net(loss_weights=[2.0])
    assert raised(ValueError, lambda: measure(model)) == (
        "`Evidence` needs a model of one output and one loss, without loss weights. "
        "Received: 1 output(s), 1 loss(es) with weights"
    )


def test_outputs_without_an_axis_are_refused():
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(1, kernel_regularizer=L2())(inputs)[:, 0]
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse")
    assert raised(ValueError, lambda: measure(model)) == (
        "`Evidence` needs a model of one output, with an axis of its own beside that "
        "of the samples, and no mask. Received: [(32,)]"
    )


@pytest.mark.parametrize("curvature", ["full", "block"])
def test_too_many_weights(curvature):
    size = {"full": 6 * 5 + 5 + 5 + 1, "block": 6 * 5 + 5}[curvature]
    arguments = {"curvature": curvature, "max_weights": size - 1}
    assert raised(ValueError, lambda: measure(net(), **arguments)) == (
        f'curvature="{curvature}" makes a square matrix of as many rows as there are '
        f"weights. Expected at most max_weights={size - 1}. For larger models use "
        f'curvature="kronecker". Received: {size} weights'
    )
    measure(net(), curvature=curvature, max_weights=size)


def test_layers_without_a_kronecker_product():
    expected = (
        'curvature="kronecker" knows the weights of keras.layers.Dense and of Conv2D, '
        "with one group and channels last. Expected penalties on these only, or "
        'curvature="full" or "block". Received: {} of {}'
    )
    settings = {"kernel_regularizer": L2(0.01)}
    for layer, name in (
        (keras.layers.LSTM(3, **settings), "LSTM"),
        (keras.layers.TimeDistributed(keras.layers.Dense(3, **settings)), None),
        (keras.layers.Conv1D(3, 2, **settings), "Conv1D"),
    ):
        model = keras.Sequential([keras.Input((4, 2)), layer, keras.layers.Flatten()])
        model.compile(loss="mse")
        x = RNG.normal(size=(5, 4, 2))
        y = np.zeros_like(model(x))
        (path,) = units_of(model)
        message = raised(
            ValueError,
            lambda m=model, x=x, y=y: measure(m, x, y, curvature="kronecker"),
        )
        assert message == expected.format(path, name or "TimeDistributed")


def test_kronecker_needs_one_scale_and_one_call():
    scale = np.ones((6, 1)).tolist()
    prior = Prior("Normal", 0.1, params={"scale": scale})
    layer = keras.layers.Dense(1, kernel_regularizer=prior)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(loss="mse")
    measure(model)
    assert raised(ValueError, lambda: measure(model, curvature="kronecker")) == (
        'curvature="kronecker" needs one prior scale for all of a weight. '
        f"Received: {prior!r} on {layer.kernel.path}"
    )
    inputs = keras.Input((6,))
    twice = keras.layers.Dense(6, kernel_regularizer=L2(), name="twice")
    model = keras.Model(inputs, twice(twice(inputs)))
    model.compile(loss="mse")
    assert raised(ValueError, lambda: measure(model, X, X, curvature="kronecker")) == (
        'curvature="kronecker" needs layers that are called once. '
        "Received: twice, called 2 times"
    )
    measure(model, X, X)
