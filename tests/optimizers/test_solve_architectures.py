"""`solve` on embeddings, recurrent layers, attention and separable convolutions."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerasreg.optimizers import solve
from kerasreg.regularizers import L1
from tests.optimizers.architectures import ARCHITECTURES, TOKENS, build, penalized


def quietly(model, x, y, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`solve`")
        return solve(model, x, y, **options)


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [(name, False) for name in ARCHITECTURES] + [("lstm", True), ("separable", True)],
)
def test_lowers_the_objective_and_leaves_all_else_alone(name, jit_compile):
    model, x, y = build(name)
    model.compile(loss="mse", jit_compile=jit_compile)
    state = [v.numpy() for v in model.non_trainable_variables]
    first = quietly(model, x, y, max_steps=1)
    last = quietly(model, x, y, max_steps=150)
    assert last.objective < 0.7 * first.objective
    assert any((w.numpy() == 0).any() for w in penalized(model))
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    evaluated = model.evaluate(x, y, batch_size=len(x), verbose=0)
    assert last.objective == pytest.approx(evaluated, rel=1e-5)


def test_rows_of_an_embedding_that_no_sample_looks_up():
    """Zero under a penalty, which is the minimum; without one they are left alone."""
    for penalty in (L1(0.01), None):
        table = layers.Embedding(TOKENS, 3, embeddings_regularizer=penalty)
        model = keras.Sequential([keras.Input((5,)), table, layers.Flatten()])
        model.add(layers.Dense(1))
        model.compile(loss="mse")
        _, x, y = build("embedding")
        before = table.embeddings.numpy()
        quietly(model, x, y, max_steps=300)
        after = table.embeddings.numpy()
        assert not np.array_equal(after[:8], before[:8])
        expected = before[8:] if penalty is None else 0.0
        np.testing.assert_array_equal(after[8:], expected)


def test_an_embedding_that_is_used_twice_has_one_penalty():
    inputs = keras.Input((5,))
    table = layers.Embedding(TOKENS, 3, embeddings_regularizer=L1(0.02))
    mean = layers.GlobalAveragePooling1D()
    both = layers.Concatenate()([mean(table(inputs)), mean(table(inputs + 1))])
    model = keras.Model(inputs, layers.Dense(1)(both))
    model.compile(loss="mse")
    _, x, y = build("embedding")
    solution = quietly(model, x, y, max_steps=100)
    size = float(ops.sum(ops.abs(table.embeddings)))
    data = float(np.mean((model.predict(x, verbose=0) - y) ** 2))
    assert solution.objective == pytest.approx(data + 0.02 * size, rel=1e-5)
    assert (table.embeddings.numpy() == 0).any()


def test_a_convex_embedding_reaches_its_optimality_conditions():
    """One number a token, summed: a lasso on counts, with the table as weights."""
    keras.utils.set_random_seed(0)
    table = layers.Embedding(TOKENS, 1, embeddings_regularizer=L1(0.2))
    pool = layers.Lambda(lambda z: ops.sum(z, 1), output_shape=(1,))
    model = keras.Sequential([keras.Input((5,)), table, pool])
    model.compile(loss="mse")
    _, x, _ = build("embedding")
    counts = (x[:, :, None] == np.arange(TOKENS)).sum(1)
    y = counts[:, 1:2] - 0.5 * counts[:, 2:3] + 0.1 * counts[:, 3:4]
    assert solve(model, x, y).converged
    w = table.embeddings.numpy()
    pull = -2 * counts.T @ (counts @ w - y) / len(x)
    np.testing.assert_allclose(pull[w != 0], 0.2 * np.sign(w[w != 0]), atol=2e-3)
    assert np.all(np.abs(pull[w == 0]) <= 0.2 + 2e-3)
    assert 0 < (w != 0).sum() < 7
