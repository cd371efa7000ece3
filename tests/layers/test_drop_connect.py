"""DropConnect layers: the law of their masks, their gradients and their averages."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasreg.layers import (
    DropConnectConv1D,
    DropConnectConv2D,
    DropConnectConv3D,
    DropConnectDense,
    sampling,
    to_deterministic,
)
from kerasreg.optimizers import Proximal
from kerasreg.regularizers import L1
from tests.exhaustive import exhaustive, some

LAYERS = {1: DropConnectConv1D, 2: DropConnectConv2D, 3: DropConnectConv3D}
PLAIN = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
# One rate that has a way of its own to draw, and one that has not.
rates = pytest.mark.parametrize("rate", some([0.5, 0.2, 0.3, 0.9, 0.37], "0.5", "0.3"))
WORST = 5.4  # standard errors, for a test at 1e-7: below 1e-6 a case
CALLS = 3000


def rng():
    return np.random.default_rng(0)


def normal(*shape):
    return rng().normal(size=shape).astype("float32")


def ones_layer(units, rate, **arguments):
    """Its outputs for one-hot inputs are its masks."""
    return DropConnectDense(
        units, rate, use_bias=False, kernel_initializer="ones", **arguments
    )


def masks_of(layer, batch, features):
    """The masks of a call on `batch` examples: (batch, features, units)."""
    return layer(
        np.tile(np.eye(features, dtype="float32"), (batch, 1, 1)), training=True
    )


def many_masks(layer, calls=CALLS, batch=8, features=3):
    """The masks of many calls: (calls, batch, features, units)."""
    masks_of(layer, batch, features)

    @tf.function
    def draw():
        return tf.map_fn(
            lambda _: masks_of(layer, batch, features),
            tf.range(calls),
            fn_output_signature="float32",
        )

    drawn = draw().numpy()
    assert set(np.unique(drawn)) == {0.0, 1.0}
    return drawn


# The law of the masks ---------------------------------------------------------

# Entries (example, input, unit) of masks, in pairs that have to be independent.
WITHIN = [((0, 0, 0), (0, 0, 1)), ((3, 0, 0), (3, 1, 0)), ((7, 2, 1), (7, 1, 0))]
BETWEEN = [
    ((0, 0, 0), (1, 0, 0)),  # the same weight
    ((0, 2, 1), (7, 2, 1)),
    ((2, 1, 0), (3, 1, 1)),
    ((4, 0, 1), (5, 2, 1)),
    ((6, 2, 0), (1, 0, 1)),
]


@rates
@pytest.mark.parametrize("mask", ["example", "batch"])
def test_pairs_of_entries_are_independent(mask, rate):
    """Each pair is counted over calls, which are independent: χ² of 3 degrees."""
    drawn = many_masks(ones_layer(2, rate, mask=mask, seed=1))
    keep = np.array([rate, 1 - rate])
    expected = len(drawn) * np.outer(keep, keep)
    for a, b in WITHIN + (BETWEEN if mask == "example" else []):
        first, second = drawn[:, *a].astype(int), drawn[:, *b].astype(int)
        observed = np.histogram2d(first, second, bins=2, range=[[0, 1]] * 2)[0]
        statistic = ((observed - expected) ** 2 / expected).sum()
        assert statistic < 35.2, (a, b)  # 1e-7 at 3 degrees of freedom
    if mask == "batch":
        assert np.all(drawn == drawn[:, :1])


@rates
@pytest.mark.parametrize("batch", [3, 20])
def test_all_entries_are_uncorrelated(rate, batch):
    """Sums over a batch have the variance of independent masks, whatever is summed."""
    drawn = many_masks(ones_layer(2, rate, seed=2), batch=batch) - (1 - rate)
    variance = rate * (1 - rate)
    examples, inputs, units = batch, 3, 2
    sums = [
        (drawn.sum(axis=1), examples),
        (drawn.sum(axis=2), inputs),
        (drawn.sum(axis=3), units),
        (drawn.sum(axis=(1, 2, 3)), examples * inputs * units),
        (drawn[:, ::2].sum(axis=1) - drawn[:, 1::2].sum(axis=1), examples),
    ]
    for total, entries in sums:
        z = (total / np.sqrt(entries * variance)).reshape(len(total), -1)
        error = z.std(axis=0) / np.sqrt(len(z))
        assert np.all(np.abs(z.mean(axis=0)) < WORST * error)
        square = z**2
        error = square.std(axis=0) / np.sqrt(len(z))
        assert np.all(np.abs(square.mean(axis=0) - 1) < WORST * error)


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.37])
def test_the_masks_of_a_batch_are_all_different(rate):
    drawn = masks_of(ones_layer(30, rate, seed=1), 64, 40).numpy().reshape(64, -1)
    assert len(np.unique(drawn, axis=0)) == 64
    share = drawn.mean()
    assert abs(share - (1 - rate)) < 0.02


@rates
@pytest.mark.parametrize("mask", ["example", "batch"])
def test_moments_of_the_outputs(mask, rate):
    """Mean (1−rate)·xW, variance rate·(1−rate)·x²W², no covariance of examples."""
    x, w = normal(6, 5), normal(5, 3)
    x[1] = x[0]
    layer = DropConnectDense(3, rate, mask=mask, seed=3, bias_initializer="ones")
    layer.build(x.shape)
    layer.kernel.assign(w)

    @tf.function
    def draw():
        return tf.map_fn(
            lambda _: layer(x, training=True),
            tf.range(CALLS),
            fn_output_signature="float32",
        )

    drawn = draw().numpy() - 1.0
    error = drawn.std(axis=0) / np.sqrt(CALLS)
    mean = (1 - rate) * x @ w
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < WORST * error)
    squares = (drawn - mean) ** 2
    variance = rate * (1 - rate) * x**2 @ w**2
    error = squares.std(axis=0) / np.sqrt(CALLS)
    assert np.all(np.abs(squares.mean(axis=0) - variance) < WORST * error)
    if mask == "example":
        products = np.prod(drawn[:, :2] - mean[:2], axis=1)
        error = products.std(axis=0) / np.sqrt(CALLS)
        assert np.all(np.abs(products.mean(axis=0)) < WORST * error)


# What a layer computes with its masks -----------------------------------------


def rewound(layer, state, call):
    """What `call` returns with the layer's seeds as they were."""
    layer.seed_generator.state.assign(state)
    return call()


@pytest.mark.parametrize("mask", ["example", "batch"])
@rates
@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (13, 4), (6, 2, 4)])
def test_outputs_and_gradients_are_those_of_the_masks(shape, rate, mask):
    x, w, direction = normal(*shape), normal(4, 3), normal(*shape[:-1], 3)
    layer = ones_layer(3, rate, mask=mask, seed=5)
    state = layer.seed_generator.state.numpy()
    m = rewound(layer, state, lambda: masks_of(layer, shape[0], 4)).numpy()
    layer.kernel.assign(w)
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = rewound(layer, state, lambda: layer(inputs, training=True))
        loss = tf.reduce_sum(outputs * direction)
    by_x, by_w = tape.gradient(loss, [inputs, layer.kernel.value])
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        outputs, np.einsum("b...i,bij->b...j", x, w * m), **close
    )
    expected = np.einsum("b...j,bij->b...i", direction, w * m)
    np.testing.assert_allclose(by_x, expected, **close)
    x, direction = x.reshape(shape[0], -1, 4), direction.reshape(shape[0], -1, 3)
    expected = np.einsum("bti,btj,bij->ij", x, direction, m)
    np.testing.assert_allclose(by_w, expected, **close)


def conv_masks(rank, filters, window, rate, channels, batch, groups=1, **arguments):
    """The masks that a convolution of this seed draws: (batch, *window, in, out)."""
    layer = LAYERS[rank](
        filters,
        window,
        rate,
        groups=groups,
        use_bias=False,
        kernel_initializer="ones",
        **arguments,
    )
    state = layer.seed_generator.state.numpy()
    size = [2 * window - 1] * rank
    found = np.zeros((batch, *[window] * rank, channels // groups, filters))
    for channel in range(channels):
        x = np.zeros((batch, *size, channels), "float32")
        x[:, *[window - 1] * rank, channel] = 1.0
        seen = rewound(layer, state, lambda x=x: layer(x, training=True)).numpy()
        seen = np.flip(seen, axis=range(1, rank + 1))
        width = filters // groups
        group, inner = divmod(channel, channels // groups)
        mine = slice(group * width, (group + 1) * width)
        found[..., inner, mine] = seen[..., mine]
        assert set(np.unique(seen)) <= {0.0, 1.0}
    return found


GEOMETRIES = {
    "1D": (1, {}),
    "1D causal, dilated": (1, {"padding": "causal", "dilation_rate": 2}),
    "1D groups": (1, {"groups": 2}),
    "2D same, strides": (2, {"padding": "same", "strides": 2}),
    "2D dilated": (2, {"dilation_rate": (1, 2)}),
    "2D groups, same": (2, {"groups": 2, "padding": "same"}),
    "3D": (3, {"padding": "same"}),
    "3D strides": (3, {"strides": (1, 2, 1)}),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("rate", "mask"),
    [
        (0.5, "example"),
        pytest.param(0.3, "example", marks=exhaustive),
        pytest.param(0.8, "example", marks=exhaustive),
        (0.3, "batch"),
    ],
)
def test_convolutions_are_those_of_the_masked_kernels(geometry, rate, mask):
    """Each example is plain Keras's convolution with its own masked kernel."""
    rank, arguments = GEOMETRIES[geometry]
    batch, channels, filters, window = 3, 4, 2, 2
    own = {"mask": mask, "seed": 4}
    groups = arguments.get("groups", 1)
    found = conv_masks(rank, filters, window, rate, channels, batch, groups, **own)
    x, w = normal(batch, *[5] * rank, channels), normal(*found.shape[1:])
    layer = LAYERS[rank](filters, window, rate, use_bias=False, **arguments, **own)
    layer.build(x.shape)
    layer.kernel.assign(w)
    outputs = layer(x, training=True)
    plain = PLAIN[rank](filters, window, use_bias=False, **arguments)
    plain.build(x.shape)
    for i in range(batch):
        plain.kernel.assign(w * found[i])
        np.testing.assert_allclose(outputs[i], plain(x[i : i + 1])[0], atol=1e-5)
    share = found.mean()
    assert abs(share - (1 - rate)) < WORST * 0.5 / np.sqrt(found[0].size)


@pytest.mark.parametrize(
    ("rate", "mask"), [(0.5, "example"), (0.25, "example"), (0.4, "batch")]
)
def test_channels_first(rate, mask):
    """Under XLA, for TensorFlow has no such convolution on a CPU otherwise."""
    x = normal(4, 3, 6, 6)
    results = []
    for data_format in ("channels_first", "channels_last"):
        layer = DropConnectConv2D(
            2, 3, rate, mask=mask, activation="relu", data_format=data_format, seed=6
        )
        last = data_format == "channels_last"
        inputs = np.moveaxis(x, 1, -1) if last else x
        assert layer.compute_output_shape(inputs.shape) == (
            (4, 4, 4, 2) if last else (4, 2, 4, 4)
        )
        layer.build(inputs.shape)
        layer.kernel.assign(normal(3, 3, 3, 2))
        layer.bias.assign([0.1, -0.2])
        for training in (False, True):
            call = tf.function(layer, jit_compile=True)
            outputs = call(inputs, training=training).numpy()
            results.append(np.moveaxis(outputs, -1, 1) if last else outputs)
    for first, last in zip(results[:2], results[2:], strict=True):
        np.testing.assert_allclose(first, last, atol=1e-5)


@pytest.mark.parametrize("mask", some(["example", "batch"], "example"))
@pytest.mark.parametrize("geometry", [None, *GEOMETRIES])
def test_rate_zero_is_the_plain_layer(geometry, mask):
    if geometry is None:
        made = [DropConnectDense(4, 0.0, mask=mask), keras.layers.Dense(4)]
        x = normal(5, 3)
    else:
        rank, arguments = GEOMETRIES[geometry]
        layer = LAYERS[rank](4, 2, 0.0, mask=mask, **arguments)
        made, x = [layer, PLAIN[rank](4, 2, **arguments)], normal(3, *[5] * rank, 4)
    for layer in made:
        layer.build(x.shape)
    layer, plain = made
    layer.set_weights(plain.get_weights())
    for training in (False, True):
        np.testing.assert_array_equal(layer(x, training=training), plain(x))


@pytest.mark.parametrize("rate", [1e-9, 1e-20, 0.999999])
def test_extreme_rates(rate):
    layer = ones_layer(4, rate)
    drawn = masks_of(layer, 5, 6)
    np.testing.assert_array_equal(drawn, float(rate < 0.5))
    assert np.all(np.isfinite(layer(normal(5, 6))))


@pytest.mark.parametrize("mask", ["example", "batch"])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.37])
def test_the_same_masks_under_xla(rate, mask):
    x, layer = normal(7, 5), DropConnectDense(6, rate, mask=mask, seed=8)
    layer.build(x.shape)
    state = layer.seed_generator.state.numpy()
    eager, compiled = (
        rewound(layer, state, lambda call=call: call(x, training=True))
        for call in (layer, tf.function(layer, jit_compile=True))
    )
    np.testing.assert_allclose(eager, compiled, atol=1e-5)


def test_fit_under_xla_with_a_smaller_last_batch():
    model = keras.Sequential([keras.Input((4,)), DropConnectDense(3, 0.25)])
    model.compile("sgd", "mse", jit_compile=True)
    history = model.fit(normal(11, 4), normal(11, 3), batch_size=4, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.95])
def test_no_tensor_is_as_large_as_batch_times_weights(rate):
    layer = DropConnectDense(40, rate)
    layer.build((None, 50))
    inputs = tf.Variable(tf.ones((256, 50)))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs, training=True))
        return tape.gradient(loss, layer.kernel.value)

    graph = step.get_concrete_function().graph
    sizes = [
        t.shape.num_elements() or 0 for op in graph.get_operations() for t in op.outputs
    ]
    assert max(sizes) < 20 * 40 * 50 < 256 * 40 * 50


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_masks_in_other_dtypes(policy):
    for rate in (0.5, 0.3):
        drawn = masks_of(ones_layer(9, rate, dtype=policy), 6, 5)
        assert set(np.unique(drawn.numpy().astype("float32"))) == {0.0, 1.0}


# Inference --------------------------------------------------------------------


def sampled_mean(x, w, v, rate, draws=20000):
    """The mean output of x → relu(x W) V over independent masks, in NumPy."""
    random = np.random.default_rng(1)
    total = 0.0
    for _ in range(draws // 200):
        keep = [random.random((200, *m.shape), "float32") >= rate for m in (w, v)]
        hidden = np.maximum(x @ (w * keep[0]), 0.0)
        total = total + (hidden @ (v * keep[1])).sum(axis=0)
    return total / draws


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_the_average_of_a_relu_net(rate):
    random = rng()
    x = random.normal(size=(20, 40)).astype("float32")
    w = random.normal(size=(40, 60)).astype("float32") / np.sqrt(40)
    v = random.normal(size=(60, 3)).astype("float32") / 20 + 0.03
    expected = sampled_mean(x, w, v, rate)
    errors = {}
    for inference in ("gaussian", "mean"):
        model = keras.Sequential(
            [
                keras.Input((40,)),
                DropConnectDense(60, rate, activation="relu", inference=inference),
                DropConnectDense(3, rate, inference=inference),
            ]
        )
        model.set_weights([w, np.zeros(60), v, np.zeros(3)])
        errors[inference] = np.abs(model(x) - expected).mean()
    assert errors["gaussian"] < 0.005
    assert errors["mean"] > 0.05


@pytest.mark.parametrize(
    ("rank", "activation"), [(0, "relu"), (0, "tanh"), (0, "softmax"), (2, "relu")]
)
def test_the_average_is_that_of_normal_variables(rank, activation):
    arguments = {
        "activation": activation,
        "bias_initializer": "random_normal",
        "draws": 64,
    }
    if rank:
        layer, x = (
            LAYERS[rank](6, 3, 0.4, padding="same", **arguments),
            normal(3, 4, 4, 2),
        )
        plain = PLAIN[rank](6, 3, padding="same", use_bias=False)
    else:
        layer, x = DropConnectDense(6, 0.4, **arguments), normal(30, 7)
        plain = keras.layers.Dense(6, use_bias=False)
    for each in (layer, plain):
        each.build(x.shape)
    w = normal(*layer.kernel.shape)
    layer.kernel.assign(w)
    plain.kernel.assign(0.6 * w)
    mean = plain(x).numpy() + layer.bias.numpy()
    plain.kernel.assign(0.24 * w**2)
    deviation = np.sqrt(plain(x**2))
    random = np.random.default_rng(2)
    function = keras.activations.get(activation)
    draws = 4000
    expected = sum(
        function(mean + deviation * random.normal(size=mean.shape)).numpy()
        for _ in range(draws)
    )
    error = np.abs(layer(x) - expected / draws).mean()
    assert error < 0.02
    assert error < 0.2 * np.abs(function(mean) - expected / draws).mean()


def test_more_draws_are_closer():
    x, errors = normal(50, 9), []
    for draws in (1, 4, 16, 64, 1024):
        layer = DropConnectDense(20, activation="relu", draws=draws)
        layer.build(x.shape)
        layer.kernel.assign(normal(9, 20))
        errors.append(layer(x).numpy())
    errors = [np.abs(e - errors[-1]).mean() for e in errors[:-1]]
    assert all(b < 0.5 * a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.005


@pytest.mark.parametrize("activation", [None, "linear"])
def test_a_linear_activation_has_the_mean(activation):
    x = normal(5, 4)
    layer = DropConnectDense(3, 0.2, activation=activation, draws=10**6)
    np.testing.assert_array_equal(layer(x), layer.to_plain()(x))


def test_to_plain_is_the_mean_network():
    x = normal(6, 5, 5, 2)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            DropConnectConv2D(3, 2, 0.3, activation="relu", inference="mean"),
            keras.layers.Flatten(),
            DropConnectDense(4, 0.7, activation="tanh", inference="mean"),
        ]
    )
    plain = to_deterministic(model)
    np.testing.assert_array_equal(plain(x), model(x))
    np.testing.assert_array_equal(
        plain.layers[-1].kernel, np.float32(1 - 0.7) * model.layers[-1].kernel.numpy()
    )


def test_low_rank_adaptation():
    x, layer = normal(5, 4), DropConnectDense(3, 0.3)
    layer(x)
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(normal(2, 3))
    np.testing.assert_allclose(layer.to_plain()(x), layer(x), atol=1e-6)
    assert np.any(layer(x, training=True) != layer(x))


def test_never_noisy_at_inference(tmp_path):
    inner = keras.Sequential(
        [keras.Input((4,)), DropConnectDense(5, 0.3, activation="relu")]
    )
    inputs = keras.Input((3, 4))
    outputs = keras.layers.TimeDistributed(inner)(inputs)
    outputs = DropConnectConv1D(2, 2, activation="tanh")(outputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x, y = normal(6, 3, 4), normal(6, 2, 2)
    model.fit(x, y, verbose=0)
    quiet = model.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), quiet)
    np.testing.assert_array_equal(model(x), model(x, training=False))
    loss = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(float(np.mean((quiet - y) ** 2)), rel=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), quiet)
    with sampling():
        draws = [loaded(x).numpy() for _ in range(2)]
    assert not np.array_equal(*draws)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize("what", ["inputs", "kernel"])
def test_zeros_have_finite_gradients(what, rate, training):
    layer = DropConnectDense(4, rate, activation="relu", bias_initializer="ones")
    layer.build((5, 3))
    x = tf.Variable(normal(5, 3))
    (x if what == "inputs" else layer.kernel.value).assign(
        tf.zeros((5, 3) if what == "inputs" else (3, 4))
    )
    with tf.GradientTape() as tape:
        outputs = layer(x, training=training)
        loss = tf.reduce_sum(outputs**2)
    np.testing.assert_array_equal(outputs, 1.0)
    for gradient in tape.gradient(loss, [x, layer.kernel.value]):
        assert np.all(np.isfinite(gradient))


def test_gradients_of_the_average_under_xla():
    x = tf.constant(normal(5, 3))
    layer = DropConnectDense(4, activation="tanh")
    layer(x)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, x)

    compiled = tf.function(gradient, jit_compile=True)
    np.testing.assert_allclose(gradient(x), compiled(x), atol=1e-5)


# Together with the rest -------------------------------------------------------


@pytest.mark.parametrize("mask", ["example", "batch"])
def test_penalties_make_exact_zeros(mask):
    x = normal(200, 6)
    layer = DropConnectDense(1, 0.1, mask=mask, kernel_regularizer=L1(1.5), seed=1)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(Proximal(keras.optimizers.SGD(0.01)), "mse", jit_compile=False)
    model.fit(x, 3 * (x[:, :1] - x[:, 1:2]), epochs=30, batch_size=40, verbose=0)
    kernel = layer.kernel.numpy().ravel()
    assert np.count_nonzero(kernel[2:] == 0) >= 3
    assert kernel[0] > 1 > -1 > kernel[1]


# Arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": -0.1}, ValueError, "`rate`. Expected a number in [0, 1)"),
        ({"rate": 1}, ValueError, "`rate`. Expected a number in [0, 1)"),
        ({"rate": 1.5}, ValueError, "`rate`. Expected a number in [0, 1)"),
        (
            {"rate": float("nan")},
            ValueError,
            "`rate`. Expected a number in [0, 1)",
        ),
        ({"rate": "half"}, TypeError, "`rate`. Expected a number in [0, 1)"),
        ({"rate": None}, TypeError, "`rate`. Expected a number in [0, 1)"),
        ({"mask": "unit"}, ValueError, "`mask`. Expected 'example' or 'batch'"),
        ({"mask": None}, ValueError, "`mask`. Expected 'example' or 'batch'"),
        (
            {"inference": "sample"},
            ValueError,
            "`inference`. Expected 'gaussian' or 'mean'",
        ),
        ({"draws": 0}, ValueError, "`draws`. Expected a positive integer"),
        ({"draws": 1.5}, TypeError, "`draws`. Expected a positive integer"),
        ({"draws": True}, TypeError, "`draws`. Expected a positive integer"),
    ],
)
@pytest.mark.parametrize("make", [DropConnectDense, DropConnectConv2D])
def test_wrong_arguments(make, arguments, error, message):
    name, value = next(iter(arguments.items()))
    with pytest.raises(error) as caught:
        make(3, **arguments) if make is DropConnectDense else make(3, 2, **arguments)
    expected = f"Invalid value for argument {message}. Received: {name}={value!r}"
    assert str(caught.value) == expected


def test_positional_arguments():
    assert DropConnectDense(3, 0.25).rate == 0.25
    layer = DropConnectConv1D(
        3, 2, 0.25, mask="batch", inference="mean", draws=8, seed=1
    )
    own = ("rate", "mask", "inference", "draws", "seed")
    assert [layer.get_config()[name] for name in own] == [0.25, "batch", "mean", 8, 1]
