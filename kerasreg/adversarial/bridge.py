"""Outside judges: the same classifier for other libraries of attacks."""

import keras

from kerasreg.adversarial.scores import class_loss, class_scores
from kerasreg.extras import require


def as_art_classifier(model, bounds=None):
    """Wrap a classifier for the Adversarial Robustness Toolbox.

    Args:
        model: A functional or sequential `keras.Model` with one output of classes,
            compiled with a cross-entropy. Probabilities are handed on as their logs; of
            a single output two classes are made.
        bounds: Pair of the least and greatest value of an input, or `None`.

    Returns:
        An `art.estimators.classification.TensorFlowV2Classifier`, for the attacks of
        `art.attacks.evasion`. It returns logits and takes class numbers or one-hot
        rows.

    Raises:
        ImportError: If the extra `adversarial` is not installed.
        ValueError: If the model is no classifier.

    Example (not run here):

        from art.attacks.evasion import AutoProjectedGradientDescent

        judge = as_art_classifier(model, bounds=(0.0, 1.0))
        x_adv = AutoProjectedGradientDescent(judge, eps=0.3).generate(x, y)
    """
    estimators = require("art.estimators.classification", "adversarial")
    scores = _scorer(model)
    return estimators.TensorFlowV2Classifier(
        lambda x, training=False: scores(x),
        nb_classes=max(model.output_shape[-1], 2),
        input_shape=model.input_shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=bounds,
    )


def as_foolbox_model(model, bounds):
    """Wrap a classifier for foolbox.

    Args:
        model: As for `as_art_classifier`.
        bounds: Pair of the least and greatest value of an input.

    Returns:
        A `foolbox.TensorFlowModel`, which returns logits.

    Raises:
        ImportError: If the extra `adversarial` is not installed.
        ValueError: If the model is no classifier.
    """
    foolbox = require("foolbox", "adversarial")
    return foolbox.TensorFlowModel(_scorer(model), bounds=bounds)


def _scorer(model):
    """Logits of all classes, in a graph: the others' attacks run eagerly."""
    # tensorflow: Keras has no public call that makes a graph of a function.
    import tensorflow as tf

    loss = class_loss(model)
    return tf.function(
        lambda x: class_scores(model(x, training=False), loss),
        autograph=False,
        reduce_retracing=True,
    )
