import re

import keras
import numpy as np
import pytest

from kerasreg.adversarial.losses import check_classes, divergences, example_losses

BINARY = keras.losses.BinaryCrossentropy
SPARSE = keras.losses.SparseCategoricalCrossentropy


def model(loss, **arguments):
    """Any model that is compiled with it."""
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    net.compile("sgd", loss, **arguments)
    return net


def logit(p):
    return np.log(p) - np.log1p(-p)


def my_crossentropy(y, y_pred):
    """Of classes, with an axis for each example, as no loss of Keras's."""
    return -keras.ops.log(keras.ops.take_along_axis(y_pred, keras.ops.cast(y, int), 1))


P = np.array([[0.5, 0.5], [0.8, 0.2]])
Q = np.array([[0.9, 0.1], [0.8, 0.2]])
# KL(P‖Q) by hand: ½·ln(½/0.9) + ½·ln(½/0.1) = ½·ln(25/9) = ln(5/3).
KL = [np.log(5 / 3), 0.0]


@pytest.mark.parametrize(
    ("loss", "p", "q", "expected"),
    [
        ("categorical_crossentropy", P, Q, KL),
        ("sparse_categorical_crossentropy", P, Q, KL),
        (SPARSE(from_logits=True), np.log(P) + 3, np.log(Q) - 1, KL),
        (SPARSE(from_logits=True, name="mine"), np.log(P), np.log(Q), KL),
        ("binary_crossentropy", P[:, :1], Q[:, :1], KL),
        (BINARY(from_logits=True), logit(P[:, :1]), logit(Q[:, :1]), KL),
        # Two outputs of yes and no: the mean of theirs, which are equal here.
        ("binary_crossentropy", P, Q, KL),
        ("mse", P, Q, [0.16, 0.0]),
        ("mae", P, Q, [0.16, 0.0]),
        (keras.losses.CategoricalGeneralizedCrossEntropy(), P, Q, KL),
        (my_crossentropy, P, Q, [0.16, 0.0]),
    ],
)
def test_divergence_by_hand(loss, p, q, expected):
    p, q = (keras.ops.convert_to_tensor(a, "float32") for a in (p, q))
    found = divergences(model(loss), p, q)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    weighted = divergences(model(loss), p, q, sample_weight=np.array([[3.0], [1.0]]))
    np.testing.assert_allclose(weighted, 3 * np.array(expected), rtol=1e-5, atol=1e-6)


def test_divergence_of_saturated_predictions_is_finite():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    for loss, predictions in (
        ("categorical_crossentropy", sure),
        ("binary_crossentropy", sure[:, :1]),
        (SPARSE(from_logits=True), 1e4 * sure),
        (BINARY(from_logits=True), 1e4 * (2 * sure[:, :1] - 1)),
    ):
        p = keras.ops.convert_to_tensor(predictions)
        found = divergences(model(loss), p, p[::-1])
        assert np.all(np.isfinite(found))
        assert np.min(found) > 5


def test_divergence_of_steps_in_time():
    """Weights of each step, as Keras's losses take them."""
    p, q = (keras.ops.convert_to_tensor(a[None], "float32") for a in (P, Q))
    net = model("sparse_categorical_crossentropy")
    np.testing.assert_allclose(divergences(net, p, q), [KL[0] / 2], rtol=1e-5)
    weights = np.array([[0.5, 9.0]])
    found = divergences(net, p, q, sample_weight=weights)
    np.testing.assert_allclose(found, [KL[0] / 4], rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "y", "p"),
    [
        ("mse", np.array([[0.3, 1.0], [0.0, 2.0]]), P),
        ("mse", np.array([0.3, 1.0]), P[:, :1]),
        (keras.losses.Huber(0.2), np.array([[0.3, 1.0], [0.0, 2.0]]), P),
        ("sparse_categorical_crossentropy", np.array([1, 0]), P),
        ("sparse_categorical_crossentropy", np.array([[1], [0]]), P),
        (SPARSE(from_logits=True, ignore_class=0), np.array([1, 1]), P),
        ("categorical_crossentropy", np.array([[0, 1], [1, 0]]), P),
        ("binary_crossentropy", np.array([1, 0]), P[:, :1]),
        (BINARY(from_logits=True, label_smoothing=0.1), np.array([[1], [0]]), P[:, :1]),
        ("sparse_categorical_crossentropy", np.array([[1, 0], [0, 0]]), [P, Q]),
        (SPARSE(ignore_class=0), np.array([[1, 0], [1, 1]]), [P, Q]),
        (my_crossentropy, np.array([[1], [0]]), P),
    ],
)
def test_losses_of_examples_are_what_keras_averages(loss, y, p):
    net, p = model(loss), np.asarray(p, "float32")
    found = example_losses(net, y, keras.ops.convert_to_tensor(p))
    assert found.shape == (2,)
    for i in range(2):
        expected = net.compute_loss(y=y[i : i + 1], y_pred=p[i : i + 1])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)


def test_masked_places_do_not_count():
    """As in Keras: the mean is over the others."""
    net = model("sparse_categorical_crossentropy")
    p, q = (keras.ops.convert_to_tensor(a[None], "float32") for a in (P[::-1], P))
    y, mask = np.array([[1, 1]]), keras.ops.convert_to_tensor([[False, True]])
    p._keras_mask = mask
    expected = net.compute_loss(y=y, y_pred=p)
    np.testing.assert_allclose(example_losses(net, y, p), [expected], rtol=1e-5)
    np.testing.assert_allclose(expected, np.log(2), rtol=1e-5)
    by_hand = 0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)
    np.testing.assert_allclose(divergences(net, p, q), [by_hand], rtol=1e-5)


def test_classes_along_another_axis():
    loss = keras.losses.CategoricalCrossentropy(axis=1)
    p, q = (keras.ops.convert_to_tensor(a.T[None], "float32") for a in (P, Q))
    net = model(loss)
    np.testing.assert_allclose(divergences(net, p, q), [KL[0] / 2], rtol=1e-5)
    y = np.eye(2)[None]
    expected = net.compute_loss(y=y, y_pred=p)
    np.testing.assert_allclose(example_losses(net, y, p), [expected], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_full(dtype):
    p = keras.ops.convert_to_tensor([[1.0], [0.0]], dtype)
    net = model("binary_crossentropy")
    found = divergences(net, p, p[::-1])
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, [np.log(1e7)] * 2, rtol=0.02)
    assert np.all(np.isfinite(example_losses(net, np.array([0, 1]), p)))


def test_predictions_of_one_axis():
    p = keras.ops.convert_to_tensor([1.0, 3.0])
    found = example_losses(model("mse"), np.array([0.0, 1.0]), p)
    np.testing.assert_allclose(found, [1.0, 4.0])
    np.testing.assert_allclose(divergences(model("mse"), p, p[::-1]), [4.0, 4.0])


@pytest.mark.parametrize(
    ("losses", "weights", "y"),
    [
        ({"p": "mse", "q": "mae"}, {"q": 3.0, "p": 0.5}, ["p", "q"]),
        (["mse", "mae"], [0.5, 3.0], {"q": "q", "p": "p"}),
        (["mse", None], None, ["p"]),
    ],
)
def test_outputs_in_a_list_have_the_names_of_their_layers(losses, weights, y):
    inputs = keras.Input((2,))
    net = keras.Model(inputs, [keras.layers.Dense(1, name=n)(inputs) for n in "pq"])
    net.compile("sgd", losses, loss_weights=weights)
    targets = {"p": np.ones((1, 1)), "q": np.full((1, 1), 3.0)}
    y = keras.tree.map_structure(targets.get, y)
    y_pred = [keras.ops.zeros((1, 1)), keras.ops.ones((1, 1))]
    expected = net.compute_loss(y=y, y_pred=y_pred)
    np.testing.assert_allclose(example_losses(net, y, y_pred), [expected], rtol=1e-6)


def test_one_output_with_a_loss_in_a_list_or_dict():
    inputs = keras.Input((2,))
    net = keras.Model(inputs, keras.layers.Dense(1, name="p")(inputs))
    y, y_pred = np.ones((1, 1)), keras.ops.zeros((1, 1))
    for loss in (["mse"], {"p": "mse"}):
        net.compile("sgd", loss)
        assert float(example_losses(net, y, y_pred)[0]) == 1.0
    with pytest.raises(ValueError, match="Expected an entry for each of the model's 1"):
        example_losses(net, y, y_pred, ["mse", "mse"])


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (
            SPARSE(),
            [0, 2],
            "classes, integers from 0 to 1, for the loss 'sparse_categorical_"
            "crossentropy'. Received: 1 others, such as 2",
        ),
        (SPARSE(), [0.5, 1], "Received: 1 others, such as 0.5"),
        (
            "binary_crossentropy",
            [[-1.0, 1.0], [-1.0, 0.0]],
            "targets from 0 to 1, for the loss 'binary_crossentropy'. Received: 2 "
            "others, such as -1",
        ),
    ],
)
def test_labels_that_are_none(loss, y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_classes(model(loss), keras.ops.convert_to_tensor(y))
    check_classes(model(SPARSE(ignore_class=-1)), keras.ops.convert_to_tensor([-1, 1]))


def test_a_structure_of_outputs():
    inputs = keras.Input((2,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in "pq"}
    net = keras.Model(inputs, outputs)
    y = {"p": np.ones((1, 1)), "q": np.full((1, 1), 3.0)}
    y_pred = {name: keras.ops.zeros((1, 1)) for name in "pq"}
    for losses, weights, expected in (
        ("mse", None, 1 + 9),
        ({"p": "mse", "q": "mae"}, {"p": 0.5, "q": 2.0}, 0.5 + 6),
    ):
        net.compile("sgd", losses, loss_weights=weights)
        assert float(example_losses(net, y, y_pred)[0]) == pytest.approx(expected)
        assert float(net.compute_loss(y=y, y_pred=y_pred)) == pytest.approx(expected)
        shifted = {"p": y_pred["p"] + 1, "q": y_pred["q"]}
        found = float(divergences(net, y_pred, shifted)[0])
        assert found == pytest.approx(1 if weights is None else 0.5)
