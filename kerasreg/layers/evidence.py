"""What layers with a KL divergence share: its strength, the number of examples."""

import keras

from kerasreg.regularizers.divergence import Divergence


class Evidence(keras.layers.Layer):
    """Base of layers that add `kl_strength · KL / num_examples` to the loss.

    The layer puts `self.divergence` on the variable of its noise in `build`.
    """

    def _set_divergence(self, function, num_examples, kl_strength):
        self.divergence = Divergence(function, num_examples, kl_strength)

    @property
    def num_examples(self):
        """The number of training examples. Setting it reaches a running `fit`."""
        return self.divergence.num_examples

    @num_examples.setter
    def num_examples(self, value):
        self.divergence.num_examples = value

    @property
    def kl_strength(self):
        """The divergence's strength of the moment. It may be set, during `fit` too."""
        return self.divergence.strength

    @kl_strength.setter
    def kl_strength(self, value):
        self.divergence.strength = value

    def _evidence_config(self):
        """Arguments of the divergence, with the *current* strength."""
        return {
            "num_examples": self.num_examples,
            "kl_strength": self.kl_strength,
        }
