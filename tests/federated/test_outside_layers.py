"""Layers from outside of `build_model`, such as a pretrained backbone."""

import keras
import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

import federated
from federated.clients import Clients
from federated.strategies import Personalized
from federated.task import Task
from kerasreg.regularizers import L2
from tests.federated.models import linear_data, split


def built_around(layer):
    def build_model():
        head = keras.layers.Dense(1, name="head")
        model = keras.Sequential([keras.Input((3,)), layer, head])
        model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse", metrics=["mae"])
        return model

    return build_model


@pytest.fixture
def backbone():
    layer = keras.layers.Dense(4, "tanh", name="backbone")
    layer.build((None, 3))
    return layer


def run(build_model, strategy=None):
    data = split(linear_data(), 2)
    return federated.simulate(build_model, data, strategy, 2, L2(0.01), verbose=0)


def test_each_model_has_weights_of_its_own_that_begin_with_those_outside(backbone):
    before = backbone.get_weights()
    task = Task(built_around(backbone), Clients.from_list(split(linear_data(), 2)))
    models = task.model(), task.model()
    assert not {id(w) for w in models[0].weights} & {id(w) for w in models[1].weights}
    for model in models:
        np.testing.assert_array_equal(model.get_weights()[0], before[0])
        assert type(model.optimizer) is keras.optimizers.SGD
    first, second = (run(built_around(backbone)) for _ in range(2))
    for a, b in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = first.model.get_weights(), second.model.get_weights()
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(weights[0][0], before[0])
    assert list(first.strengths.values()) == [0.01, 0.01]


def test_personal_models_do_not_change_one_another(backbone):
    result = run(built_around(backbone), Personalized(FedAvg(), ["backbone"]))
    shared = result.model.get_weights()
    one = result.personal_model(0)
    own = one.get_weights()
    other = result.personal_model(1)
    assert not np.array_equal(own[0], other.get_weights()[0])
    for model, expected in ((one, own), (result.model, shared)):
        for a, b in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_layers_that_cannot_be_copied_are_refused():
    class Local(keras.layers.Dense):
        def __init__(self, units, must):
            super().__init__(units)

    layer = Local(4, must=True)
    layer.build((None, 3))
    with pytest.raises(ValueError) as error:
        run(built_around(layer))
    assert str(error.value).startswith(
        "Invalid result of `build_model`. It has layers that were made outside of it, "
        "and cannot be copied as Keras saves and loads it. Expected a function that "
        "makes all layers anew, such as by keras.models.clone_model. Received: "
    )
