"""What layers with a KL divergence share: its strength, the number of examples."""

import keras

from kerasreg.regularizers.base import check_number
from kerasreg.regularizers.divergence import Divergence


class Evidence(keras.layers.Layer):
    """Base of layers that add `kl_strength · KL / num_examples` to the loss.

    The layer makes a divergence for each of its weights with noise, and puts it on
    the variable of that noise in `build`.
    """

    def _set_divergence(self, *functions, num_examples, kl_strength):
        divergences = [Divergence(f, num_examples, kl_strength) for f in functions]
        self.divergences = tuple(divergences)

    @property
    def divergence(self):
        """The divergence of the layer, or of the first of its weights."""
        return self.divergences[0]

    @property
    def num_examples(self):
        """The number of training examples. Setting it reaches a running `fit`."""
        return self.divergence.num_examples

    @num_examples.setter
    def num_examples(self, value):
        for divergence in self.divergences:
            divergence.num_examples = value

    @property
    def kl_strength(self):
        """The divergence's strength of the moment. It may be set, during `fit` too."""
        return self.divergence.strength

    @kl_strength.setter
    def kl_strength(self, value):
        for divergence in self.divergences:
            divergence.strength = value

    def _evidence_config(self):
        """Arguments of the divergence, with the *current* strength."""
        return {
            "num_examples": self.num_examples,
            "kl_strength": self.kl_strength,
        }


def set_num_examples(model, num_examples):
    """Tell all layers with a KL divergence how many training examples there are.

    Their divergences are divided by it, because the data loss is a mean. It reaches a
    running `fit`.

    Args:
        model: `keras.Model` or `keras.Layer`, built or not.
        num_examples: Positive number, the length of the training set.

    Returns:
        The names of the layers that were told.

    Raises:
        ValueError: If `num_examples` is not positive, or no layer has a divergence.
        TypeError: If it is no number, or `model` no model or layer.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianDense, set_num_examples
    >>> model = keras.Sequential([BayesianDense(4, name="a"), keras.layers.Dense(1)])
    >>> set_num_examples(model, 1000)
    ['a']
    >>> model.layers[0].num_examples
    1000
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `model`. Expected a keras.Model or "
            f"keras.Layer. Received: model={model!r}"
        )
    check_number("num_examples", num_examples, above=0.0)
    layers = [x for x in model._flatten_layers() if isinstance(x, Evidence)]
    if not layers:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with a KL divergence "
            "(a Bayesian layer, say), which has been given its layers. Received: "
            f"model={model!r}"
        )
    for layer in layers:
        layer.num_examples = num_examples
    return [layer.name for layer in layers]
