import keras
import numpy as np
import pytest

from kerasreg.adversarial.losses import divergences, example_losses

BINARY = keras.losses.BinaryCrossentropy
SPARSE = keras.losses.SparseCategoricalCrossentropy


def model(loss, **arguments):
    """Any model that is compiled with it."""
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    net.compile("sgd", loss, **arguments)
    return net


def logit(p):
    return np.log(p) - np.log1p(-p)


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
    ],
)
def test_losses_of_examples_are_what_keras_averages(loss, y, p):
    net, p = model(loss), np.asarray(p, "float32")
    found = example_losses(net, y, keras.ops.convert_to_tensor(p))
    assert found.shape == (2,)
    for i in range(2):
        expected = net.compute_loss(y=y[i : i + 1], y_pred=p[i : i + 1])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)


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
