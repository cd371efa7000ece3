"""The posterior of one weight of a layer: independent Normals."""

import math

import keras
import numpy as np
from keras import ops

from kerasreg import random
from kerasreg.extras import require

# Its exponential is 0 in float32: a weight without any noise.
NO_NOISE = -120.0

_NEARLY_ZERO = 1e-6

_ENTROPY = 0.5 * (1.0 + math.log(2.0 * math.pi))


class Posterior:
    """`Normal(mean, exp(log_scale)²)` for each entry of a weight of a Bayesian layer.

    The mean is the weight of the Keras layer itself. The log scale is a variable of its
    own, on which the divergence from the prior sits.

    Args:
        layer: The layer that owns the variables and the `seed_generator`.
        weight: Name of the weight: `"kernel"`, `"bias"`, ...
        prior: `kerasreg.regularizers.Prior`.
        initial_scale: Positive number, the standard deviation to start from.
        kl_samples: Draws of a divergence that has no closed form.
    """

    def __init__(self, layer, weight, prior, initial_scale, kl_samples):
        self.layer, self.weight, self.prior = layer, weight, prior
        self.initial_scale, self.kl_samples = initial_scale, kl_samples

    @property
    def name(self):
        """The layer's name, for messages."""
        return self.layer.name

    def build(self, mean, divergence):
        """Make the log scales, and the prior's parameters that are learned.

        Args:
            mean: The `keras.Variable` of the weight.
            divergence: The `Divergence` that is to sit on the log scales.
        """
        self.mean = mean
        self.log_scale = self.layer.add_weight(
            name=f"{self.weight}_log_scale",
            shape=mean.shape,
            initializer=keras.initializers.Constant(math.log(self.initial_scale)),
            regularizer=divergence,
            dtype="float32",
            autocast=False,
        )
        self.parameters = self.prior.add_parameters(self.layer, self.weight)

    def scale(self):
        """The standard deviations, a float32 tensor."""
        return ops.exp(ops.convert_to_tensor(self.log_scale))

    def variance(self):
        """The variances, a float32 tensor."""
        return ops.exp(2.0 * ops.convert_to_tensor(self.log_scale))

    def perturbation(self):
        """A draw of `scale·ε`, a float32 tensor."""
        seed = random.next_seed(self.layer.seed_generator)
        return self.scale() * random.normal(tuple(self.log_scale.shape), seed)

    def draw(self, dtype):
        """A draw of the weight."""
        mean = ops.cast(ops.convert_to_tensor(self.mean), "float32")
        return ops.cast(mean + self.perturbation(), dtype)

    def kl(self, log_scale):
        """The divergence from the prior in nats: in closed form, else by draws.

        Args:
            log_scale: Float32 tensor.
        """
        mean = ops.cast(ops.convert_to_tensor(self.mean), "float32")
        closed = self.prior.kl_from_normal(mean, log_scale, self.parameters)
        if closed is not None:
            return closed
        scale, shape = ops.exp(log_scale), tuple(self.log_scale.shape)
        total = ops.zeros((), "float32")
        for _ in range(self.kl_samples):
            seed = random.next_seed(self.layer.seed_generator)
            drawn = mean + scale * random.normal(shape, seed)
            # A density can be infinite, or 0, at the exact zero of a pruned weight.
            drawn = ops.where(ops.equal(drawn, 0.0), _NEARLY_ZERO, drawn)
            total = total + self.prior.log_prob(drawn, self.parameters)
        size = int(np.prod(shape))
        return -ops.sum(log_scale) - size * _ENTROPY - total / self.kl_samples

    def distribution(self):
        """The posterior of the moment, a `tfp.distributions.Normal`."""
        tfp = require("tensorflow_probability", "bayes")
        mean = ops.cast(ops.convert_to_tensor(self.mean), "float32")
        return tfp.distributions.Normal(mean, self.scale())
