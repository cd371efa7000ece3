import re

import keras
import numpy as np
import pytest

from kerasreg.adversarial import perturbed


def test_one_within_another():
    layer, x, one = keras.layers.Dense(1), np.zeros((1, 2)), np.ones((1, 1))
    layer.build(x.shape)
    with perturbed(layer, one):
        with perturbed(layer, 3 * one):
            assert float(layer(x)[0, 0]) == 4
        assert float(layer(x)[0, 0]) == 1
    assert float(layer(x)[0, 0]) == 0
    assert "call" not in vars(layer)


def test_a_name_is_no_layer():
    message = "Expected a layer, such as model.get_layer(name). Received: layer='words'"
    with pytest.raises(TypeError, match=re.escape(message)), perturbed("words", 1.0):
        pass
