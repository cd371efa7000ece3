"""`Proximal` on embeddings, recurrent layers, attention, separable convolutions."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasreg.optimizers import Proximal
from tests.optimizers.architectures import ARCHITECTURES, ROWS, build, penalized


def trained(name, wrap, jit_compile, steps=1, rate=0.3):
    model, x, y = build(name)
    penalties = {v.path.partition("/")[2]: v.regularizer for v in penalized(model)}
    optimizer = keras.optimizers.SGD(rate)
    if wrap:
        optimizer = Proximal(optimizer)
    else:  # the data loss alone
        for variable in penalized(model):
            variable.regularizer = None
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
    options = {"batch_size": ROWS, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, epochs=steps, **options)
    return model, penalties, history.history["loss"]


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [(name, False) for name in ARCHITECTURES] + [("lstm", True), ("separable", True)],
)
def test_a_step_is_that_of_the_data_loss_and_the_map(name, jit_compile):
    model, penalties, _ = trained(name, True, jit_compile)
    plain, _, _ = trained(name, False, jit_compile)
    pairs = zip(model.trainable_variables, plain.trainable_variables, strict=True)
    for mine, theirs in pairs:
        expected = theirs.numpy()
        if mine.regularizer is not None:
            step = ops.convert_to_tensor(0.3)
            expected = mine.regularizer.prox(ops.convert_to_tensor(theirs), step)
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-6)
    assert len(penalties) == len(penalized(model))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_lowers_the_loss_and_leaves_zeros(name):
    model, _, losses = trained(name, True, False, steps=40, rate=0.05)
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()
    assert any((w.numpy() == 0).any() for w in penalized(model))
