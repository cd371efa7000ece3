"""The KL divergence of a noisy layer, as a penalty on its noise parameter."""

import keras
from keras import ops

from kerasreg.regularizers.base import Penalty, check_number, shortest


class Divergence(Penalty):
    """What a layer with learned noise adds to the loss: strength · KL / num_examples.

    A `KLWarmup` multiplies it by `factor` while its `fit` runs. That is apart from
    the strength, so that warm-up and strength (set by hand, or tuned) do not
    overwrite one another, and a model saved in mid-warm-up has its strength.

    It sits on the weight that holds the layer's noise (`log_sigma2`, `log_alpha`),
    which is how Keras counts it once, in float32, however often the layer is
    called, and not at all while the layer is frozen. The layer makes it anew when it
    is loaded and keeps its strength, so it has no config of its own.

    Args:
        function: Callable from that weight, as a tensor, to the KL in nats.
        num_examples: How many training examples there are: the data loss is their
            mean, so the KL is divided by their number. `None`: to be set later.
        strength: Non-negative number, 1 for the evidence lower bound.

    Raises:
        ValueError: If a number is out of range; at the first loss, if there is no
            `num_examples`.
        TypeError: If one is not a number.
    """

    def __init__(self, function, num_examples=None, strength=1.0):
        super().__init__(strength)
        self._function = function
        self._share = keras.Variable(
            0.0, dtype="float32", trainable=False, autocast=False, name="share"
        )
        self._factor = keras.Variable(
            1.0,
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="factor",
        )
        self._num_examples = None
        self.num_examples = num_examples

    @property
    def num_examples(self):
        """The number of training examples. Setting it reaches a running `fit`."""
        return self._num_examples

    @num_examples.setter
    def num_examples(self, value):
        if value is not None:
            self._share.assign(1.0 / check_number("num_examples", value, above=0.0))
        self._num_examples = value

    @property
    def factor(self):
        """The factor of a running `KLWarmup`, a float; 1 otherwise. Never saved."""
        return shortest(self._factor.numpy())

    @factor.setter
    def factor(self, value):
        self._factor.assign(check_number("factor", value))

    def value(self, w):
        """Factor · strength · KL / num_examples."""
        if self._num_examples is None:
            owner = getattr(self._function, "__self__", None)
            name = f"`{owner.name}`" if owner is not None else "with a KL divergence"
            raise ValueError(
                f"The layer {name} needs the number of training examples, by which its "
                "KL divergence is divided. Expected its argument `num_examples`, or "
                "`layer.num_examples = len(x)` later. Received: num_examples=None"
            )
        kl = ops.cast(self._function(w), "float32")
        share = ops.reshape(self._factor, ()) * ops.reshape(self._share, ())
        # Keras adds it to losses of its default dtype.
        wide = keras.config.floatx() == "float64"
        return ops.cast(self.lam * share * kl, "float64" if wide else "float32")

    def get_config(self):
        """The numbers; the function belongs to the layer."""
        return {"num_examples": self.num_examples, "strength": self.strength}

    def _copied(self, *_):
        raise TypeError(
            "The KL divergence of a layer cannot be copied or pickled by itself: "
            "copy the layer (`type(layer).from_config(layer.get_config())`)."
        )

    __reduce__ = __copy__ = __deepcopy__ = _copied
