"""Which weights share a strength, and their names."""

import keras
import pytest

from kerasreg.callbacks.units import units_of
from kerasreg.layers import ConcreteDropout
from kerasreg.regularizers import L1, L2, penalties_of


def model(*layers, shape=(5,)):
    return keras.Sequential([keras.Input(shape), *layers])


def names(units):
    return {unit: [w.name for w in weights] for unit, weights in units.items()}


def test_granularities():
    built = model(
        keras.layers.Dense(
            3, kernel_regularizer=L1(), bias_regularizer=L2(), name="hidden"
        ),
        keras.layers.Dense(1, kernel_regularizer=L1(), name="out"),
    )
    assert names(units_of(built)) == {"hidden": ["kernel", "bias"], "out": ["kernel"]}
    assert list(units_of(built, "weight")) == [
        "hidden/kernel",
        "hidden/bias",
        "out/kernel",
    ]
    assert names(units_of(built, "model")) == {"model": ["kernel", "bias", "kernel"]}


def test_pattern():
    built = model(
        keras.layers.Dense(3, kernel_regularizer=L1(), name="block_1"),
        keras.layers.Dense(3, kernel_regularizer=L1(), name="block_2"),
        keras.layers.Dense(1, kernel_regularizer=L1(), name="out"),
    )
    assert list(units_of(built, pattern="block_*")) == ["block_1", "block_2"]
    assert list(units_of(built, "weight", "*/kernel")) == [
        "block_1/kernel",
        "block_2/kernel",
        "out/kernel",
    ]
    paths = [weight.path for weight in built.trainable_weights if weight.regularizer]
    with pytest.raises(ValueError) as error:
        units_of(built, pattern="blok_*")
    assert str(error.value) == (
        "Invalid value for argument `pattern`. Expected a pattern of the name of a "
        f"weight or layer with a penalty, which are {paths}. "
        "Received: pattern='blok_*'"
    )


def test_layers_of_one_name_have_their_path():
    def block(name):
        return model(keras.layers.Dense(5, kernel_regularizer=L2(), name="dense"))

    first, second = block("a"), block("b")
    first.name, second.name = "a", "b"
    built = model(first, second)
    units = units_of(built)
    assert len(units) == 2
    assert all(name.endswith("/dense") for name in units)


def test_recurrent_layers_have_their_own_name():
    lstm = keras.layers.LSTM(
        2, kernel_regularizer=L2(), recurrent_regularizer=L2(), name="memory"
    )
    built = model(lstm, shape=(4, 5))
    assert names(units_of(built)) == {"memory": ["kernel", "recurrent_kernel"]}
    assert list(units_of(built, "weight")) == [
        "memory/kernel",
        "memory/recurrent_kernel",
    ]


def test_stacked_cells():
    cells = [keras.layers.GRUCell(2, kernel_regularizer=L2()) for _ in range(2)]
    built = model(keras.layers.RNN(cells, name="stack"), shape=(4, 5))
    units = units_of(built, "weight")
    assert len(units) == 2
    assert len(units_of(built)["stack"]) == 2


def test_one_penalty_on_several_weights_is_copied():
    shared = L1(0.25)
    built = model(
        keras.layers.Dense(3, kernel_regularizer=shared, bias_regularizer=shared),
        keras.layers.Dense(1, kernel_regularizer=shared),
    )
    built.compile("sgd", "mse")
    units_of(built, "weight")
    penalties = list(penalties_of(built).values())
    assert len({id(penalty) for penalty in penalties}) == 3
    assert [penalty.strength for penalty in penalties] == [0.25] * 3
    penalties[0].strength, penalties[2].strength = 0.5, 0.75
    copy = keras.models.clone_model(built)
    assert [p.strength for p in penalties_of(copy).values()] == [0.5, 0.25, 0.75]


def test_a_layer_called_twice_is_one_unit():
    layer = keras.layers.Dense(5, kernel_regularizer=L1(), name="twice")
    inputs = keras.Input((5,))
    built = keras.Model(inputs, layer(layer(inputs)))
    assert names(units_of(built)) == {"twice": ["kernel"]}


def test_divergences_are_units():
    layer = ConcreteDropout(
        keras.layers.Dense(2, name="inner"), num_examples=10, name="noisy"
    )
    (name,) = units_of(model(layer))
    assert name == "noisy"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda layer: setattr(layer, "trainable", False),
            "those of ['{path}'], all of which are frozen",
        ),
        (
            lambda layer: setattr(
                layer.kernel, "regularizer", keras.regularizers.L2(0.1)
            ),
            "regularizers of Keras on ['{path}'], which have no strength to set: use "
            "kerasreg.regularizers, or `as_penalty`",
        ),
        (
            lambda layer: setattr(layer.kernel, "regularizer", None),
            "none (see kerasreg.regularizers.regularize)",
        ),
    ],
    ids=["frozen", "Keras", "none"],
)
def test_no_penalty(change, reason):
    layer = keras.layers.Dense(3, kernel_regularizer=L1())
    built = model(layer)
    change(layer)
    with pytest.raises(ValueError) as error:
        units_of(built)
    assert str(error.value) == (
        f"The model {built.name!r} has no penalty whose strength could be set. "
        "Expected a kerasreg.regularizers.Penalty on a trainable weight. "
        f"Received: {reason.format(path=layer.kernel.path)}."
    )


def test_granularity_is_checked():
    with pytest.raises(ValueError) as error:
        units_of(model(keras.layers.Dense(1, kernel_regularizer=L1())), "unit")
    assert str(error.value) == (
        "Invalid value for argument `granularity`. Expected one of "
        "('layer', 'weight', 'model'). Received: granularity='unit'"
    )
