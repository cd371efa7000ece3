import keras
import numpy as np

from kerasreg.adversarial.scores import class_guesses, logit_ratio, margin
from tests.adversarial import models


def test_margin_and_ratio_by_hand():
    scores = keras.ops.convert_to_tensor([[3.0, 1.0, 0.0, -1.0], [3.0, 1.0, 0.0, -1.0]])
    y, loss = keras.ops.convert_to_tensor([0, 2]), models.logits_loss()
    np.testing.assert_allclose(margin(y, scores, loss), [-2, 3])
    np.testing.assert_allclose(logit_ratio(y, scores, loss), [-2 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(
        logit_ratio(y, 1000 * scores, loss), [-2 / 3, 1], rtol=1e-6
    )
    soft = "sparse_categorical_crossentropy"
    found = margin(y, keras.ops.softmax(scores), keras.losses.get(soft))
    np.testing.assert_allclose(found, [-2, 3], rtol=1e-5)


def test_half_precision_and_large_logits():
    """What is 10⁹ apart is infinite in float16."""
    scores = keras.ops.convert_to_tensor([[3.0, 1.0], [-2e4, 4e4]], "float16")
    found = margin(keras.ops.convert_to_tensor([0, 1]), scores, models.logits_loss())
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, [-2, -6e4], rtol=1e-3)


def test_nan_is_no_class():
    scores = keras.ops.convert_to_tensor([[np.nan, 1.0], [0.0, 1.0]])
    assert class_guesses(scores, models.logits_loss()).numpy().tolist() == [-1, 1]


def test_a_sigmoid_that_is_1_has_a_margin():
    """Keras keeps its logits, where float32 has no slope left."""
    y, loss = keras.ops.convert_to_tensor([1]), keras.losses.binary_crossentropy
    y_pred = keras.activations.sigmoid(keras.ops.convert_to_tensor([[40.0]]))
    np.testing.assert_allclose(margin(y, y_pred, loss), [-40])
