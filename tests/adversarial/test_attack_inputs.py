"""Several inputs and outputs, text, and what is not accepted."""

import json
import re

import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD, Noise, perturbed
from tests.adversarial import models


def two_inputs(as_dict=True):
    keras.utils.set_random_seed(0)
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    c = keras.Input((1,), dtype="int32", name="c")
    flat = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(c))
    out = keras.layers.Dense(1)(keras.layers.Concatenate()([a, b, flat]))
    inputs = {"b": b, "a": a, "c": c} if as_dict else [a, b, c]
    model = keras.Model(inputs, out)
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = {"a": rng.random((5, 3)), "b": rng.random((5, 2)), "c": np.ones((5, 1), int)}
    return model, x if as_dict else list(x.values()), np.zeros((5, 1))


@pytest.mark.parametrize("as_dict", [True, False])
def test_every_real_input_has_a_ball_of_its_own(as_dict):
    model, x, y = two_inputs(as_dict)
    a, b, c = ("a", "b", "c") if as_dict else (0, 1, 2)
    mask = {"a": [True, False, True]} if as_dict else [[True, False, True], None, None]
    scale = {"b": 2.0} if as_dict else [1.0, 2.0, None]
    moved = PGD(0.1, mask=mask, scale=scale)(model, x, y)
    assert type(moved) is type(x)
    change = np.abs(moved[a] - x[a])
    np.testing.assert_allclose(change[:, [0, 2]], 0.1, rtol=1e-4)
    np.testing.assert_allclose(change[:, 1], 0.0, atol=1e-6)
    np.testing.assert_allclose(np.abs(moved[b] - x[b]), 0.2, rtol=1e-4)
    np.testing.assert_array_equal(moved[c], x[c])


def test_bounds_for_each_input():
    model, x, y = two_inputs()
    attack = Noise(5.0, bounds={"a": (0.0, 1.0), "b": (-1.0, 2.0)})
    moved = {name: np.asarray(value) for name, value in attack(model, x, y).items()}
    assert 0 <= moved["a"].min() < moved["a"].max() <= 1
    assert moved["b"].min() < 0
    with pytest.raises(ValueError, match="outside of them"):
        attack(model, {**x, "a": x["a"] + 1}, y)


@pytest.mark.parametrize(
    "bounds",
    [
        (0.0, 1.0),
        (np.zeros(3), 2.0),
        {"a": (0.0, 1.0), "b": (np.zeros(3), np.ones(3))},
        [(0.0, 1.0), (0.0, 2.0), None],
    ],
)
def test_bounds_survive_json(bounds):
    attack = Noise(0.1, bounds=bounds)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    for other in (
        keras.saving.deserialize_keras_object(config),
        Noise.from_config(json.loads(json.dumps(attack.get_config()))),
    ):
        assert repr(other) == repr(attack)
        assert type(other.bounds) is type(attack.bounds)


def test_outputs_are_weighted_as_their_losses_are():
    inputs = keras.Input((2,))
    outputs = {
        name: keras.layers.Dense(1, use_bias=False, name=name)(inputs) for name in "pq"
    }
    model = keras.Model(inputs, outputs)
    model.set_weights([np.array([[1.0], [0.0]]), np.array([[-0.5], [1.0]])])
    x, y = np.zeros((1, 2)), {"p": -np.ones((1, 1)), "q": -np.ones((1, 1))}
    for weights, signs in (({"p": 1, "q": 1}, [1, 1]), ({"p": 0.1, "q": 1}, [-1, 1])):
        model.compile("sgd", "mse", loss_weights=weights)
        moved = np.asarray(FGSM(0.1)(model, x, y))
        np.testing.assert_allclose(moved, [0.1 * np.array(signs)], rtol=1e-5)


def text_model():
    keras.utils.set_random_seed(0)
    words = keras.layers.Embedding(20, 4, name="words")
    model = keras.Sequential(
        [words, keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(1, "sigmoid")]
    )
    model.compile("sgd", "binary_crossentropy")
    x = np.random.default_rng(0).integers(0, 20, (6, 7))
    model(x)
    return model, words, x, np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("norm", ["inf", 2, 1])
def test_text_through_its_embedding(norm):
    model, words, x, y = text_model()
    before = model.evaluate(x, y, verbose=0)
    ways = ("embedding", "words", words) if norm == 2 else ("embedding",) * 3
    attacks = {on: PGD(0.5, norm, on=on) for on in ways}
    deltas = [np.asarray(attacks[on](model, x, y)) for on in ways]
    np.testing.assert_array_equal(deltas[0], deltas[1])
    np.testing.assert_array_equal(deltas[0], deltas[2])
    assert deltas[0].shape == (6, 7, 4)
    order = np.inf if norm == "inf" else norm
    size = np.linalg.norm(deltas[0].reshape(6, -1), order, axis=1)
    np.testing.assert_allclose(size, 0.5, rtol=1e-2)
    with perturbed(words, deltas[0]):
        y_pred = model(x)
    loss = np.mean(keras.losses.binary_crossentropy(y[:, None], y_pred))
    assert loss > before + 0.003
    assert "call" not in vars(words)
    assert model.evaluate(x, y, verbose=0) == before


def test_text_of_any_length():
    model, _, x, y = text_model()
    attack = PGD(0.5, 1, on="embedding", steps=2)
    for length in (7, 5, 3):
        assert attack(model, x[:, :length], y).shape == (6, length, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"eps": -1.0},
            ValueError,
            "Invalid value for argument `eps`. Expected a non-negative finite number. "
            "Received: eps=-1.0",
        ),
        (
            {"norm": 3},
            ValueError,
            'Invalid value for argument `norm`. Expected "inf", 2 or 1. Received: '
            "norm=3",
        ),
        (
            {"bounds": (1.0, 0.0)},
            ValueError,
            "Invalid value for argument `bounds`. Expected a pair of the least and the "
            "greatest value of an input, the least below the greatest everywhere "
            "(-np.inf or np.inf for none). Received: bounds=(1.0, 0.0)",
        ),
        (
            {"scale": 0.0},
            ValueError,
            "Invalid value for argument `scale`. Expected positive numbers. Received: "
            "scale=0.0",
        ),
        (
            {"step": 0.0},
            ValueError,
            "Invalid value for argument `step`. Expected a finite number greater than "
            "0. Received: step=0.0",
        ),
        (
            {"restarts": 0},
            ValueError,
            "Invalid value for argument `restarts`. Expected a positive integer. "
            "Received: restarts=0",
        ),
        (
            {"restarts": 2, "random_start": False},
            ValueError,
            "Invalid value for argument `restarts`. Expected 1 for random_start=False: "
            "all would be the same. Received: restarts=2",
        ),
        (
            {"random_start": "no"},
            TypeError,
            "Invalid value for argument `random_start`. Expected True or False. "
            "Received: random_start='no'",
        ),
        (
            {"on": 3},
            TypeError,
            "Invalid value for argument `on`. Expected a layer, its name or "
            '"embedding". Received: on=3',
        ),
        (
            {"loss": "foo"},
            ValueError,
            "Invalid value for argument `loss`. Expected a Keras loss, its name or a "
            "function. Received: loss='foo'",
        ),
        (
            {"epsilon": 3},
            TypeError,
            "PGD takes the arguments ['eps', 'norm', 'steps', 'step', 'restarts', "
            "'random_start', 'bounds', 'scale', 'mask', 'on', 'loss']. Received: "
            "epsilon",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        PGD(**{"eps": 0.1, **arguments})
    assert str(caught.value) == message


def test_a_model_with_no_embedding_or_two():
    model = models.linear([[1.0]])
    with pytest.raises(ValueError, match=re.escape("of whose layers [] are")):
        PGD(0.1, on="embedding")(model, np.ones((1, 1)), np.ones((1, 1)))


def test_bad_data():
    model, (x, y) = models.trained(), models.digits()[1]
    for attack, inputs, targets, message in (
        (
            FGSM(0.1),
            x,
            None,
            "FGSM raises the loss of given targets. Expected `y`. Received: y=None",
        ),
        (
            FGSM(0.1),
            x,
            np.eye(10)[y],
            "Invalid value for argument `y`. Expected the index of a class for each "
            "example, of shape (200,), as the sparse loss takes it. Received: y of "
            "shape (200, 10)",
        ),
        (
            FGSM(0.1, bounds=(0.0, 0.5)),
            x,
            y,
            "Invalid value for argument `x`. Expected inputs within the bounds (0.0, "
            "0.5). Received: one that is 0.5 outside of them",
        ),
        (
            FGSM(0.1, loss=keras.losses.CategoricalCrossentropy(from_logits=True)),
            x,
            y,
            "Invalid value for argument `y`. Expected targets of the shape of the "
            "predictions, (200, 10) (one-hot rows, for classes). Received: y of shape "
            "(200,)",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            attack(model, inputs, targets)
        assert str(caught.value) == message


def test_nothing_to_differentiate_by():
    model, _, x, y = text_model()
    with pytest.raises(TypeError) as caught:
        FGSM(0.1)(model, x, y)
    assert str(caught.value) == (
        "Invalid value for argument `x`. Expected an input of floating-point numbers, "
        "by which the loss can be differentiated: cast pixels or a table by "
        'x.astype("float32"); for text give the attack `on="embedding"`, or a layer. '
        "Received: dtypes ['int64']"
    )
    with pytest.raises(TypeError, match=re.escape("through which no gradient comes")):
        FGSM(0.1)(model, x.astype("float32"), y)
    with pytest.raises(ValueError) as caught:
        FGSM(0.1, on="sentence")(model, x, y)
    assert str(caught.value) == (
        "Invalid value for argument `on`. Expected the name of one layer. Received: "
        f"on='sentence', which 0 layers of {model.name!r} are"
    )


def test_a_model_without_a_loss():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="Expected a loss, or a model compiled"):
        FGSM(0.1)(model, np.zeros((1, 2)), np.zeros((1, 1)))
    assert FGSM(0.1, loss="mse")(model, np.zeros((1, 2)), np.ones((1, 1))).shape
