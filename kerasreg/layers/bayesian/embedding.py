"""Bayesian Embedding layer."""

import keras
from keras import ops

from kerasreg import random
from kerasreg.layers.bayesian.base import OWN, Bayesian
from kerasreg.layers.masks import fair_bits, signs
from kerasreg.layers.noise import drawn, noisy


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianEmbedding(Bayesian, keras.layers.Embedding):
    """An Embedding with a distribution over its table.

    Each entry of the table is Normal(μ, σ²) with learned μ and σ. What is added to the
    loss, and at which scale, says `BayesianDense`. Rare words keep the spread of the
    prior, and so `kerasreg.uncertainty.predict` is unsure of texts made of them.

    In training the vectors are drawn by an `estimator`. All have the same law for each
    single vector, `Normal(μ_i, σ_i²)` for the index i:

    * `"flipout"`: one draw `σ·ε` of the table for the batch, times random signs of each
      example along the output axis: `μ_i + (σ·ε)_i∘r`. Default;
    * `"reparameterization"`: one draw of the table for the batch;
    * `"local_reparameterization"`: a draw of each vector that is looked up, and no draw
      of the table: cheapest, where the table is large. An index that stands at several
      positions of an example has other noise at each: that is right for each position
      and forgets that they share one row of the table.

    At inference the vectors are μ_i.

    Args:
        *args: Positional arguments of `keras.layers.Embedding`: `input_dim`,
            `output_dim`, ...
        prior: Prior of the table; `None`: a standard Normal.
        estimator: `"flipout"`, `"reparameterization"` or `"local_reparameterization"`.
        num_examples: Positive number of training examples.
        initial_scale: Positive number, where all σ start.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one.
        **kwargs: Other arguments of `keras.layers.Embedding`: `mask_zero`, `weights`
            (where μ starts), ... Initializer, penalty and constraint are those of μ.

    Call arguments:
        inputs: Integer tensor of shape `(batch, ...)`.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        A tensor of shape `(batch, ..., output_dim)`.

    Raises:
        ValueError: As `BayesianDense`.
        TypeError: As `BayesianDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianEmbedding
    >>> layer = BayesianEmbedding(1000, 8, num_examples=25000, initial_scale=0.1)
    >>> words = keras.ops.array([[4, 17, 4]])
    >>> layer(words).shape
    TensorShape([1, 3, 8])
    >>> vectors = layer(words, training=True)  # both 4 are the same draw
    >>> bool(keras.ops.all(vectors[0, 0] == vectors[0, 2]))
    True
    >>> round(float(layer.embeddings_posterior.stddev()[4, 0]), 6)
    0.1

    Reference: Blundell et al. 2015, "Weight uncertainty in neural networks" (arXiv
    1505.05424), eq. 2; Wen et al. 2018, "Flipout" (arXiv 1803.04386), section 3.
    """

    _bayesian_weights = ("embeddings",)

    def __init__(self, *args, weights=None, **kwargs):
        super().__init__(*args, **kwargs)
        if weights is not None:
            self.build()
            one = isinstance(weights, list) and len(weights) == 1
            self._embeddings.assign(weights[0] if one else weights)

    def build(self, input_shape=None):
        """Make the table and the log scales of its entries.

        Args:
            input_shape: Shape of the inputs, which has no influence.
        """
        if not self.built:
            super().build(input_shape)
            self._build_posteriors(self._embeddings)

    def call(self, inputs, training=None):
        """The vectors: of the mean table, or of a table drawn from the posterior."""
        inputs = ops.cast(inputs, _index_dtype(inputs))
        tables = drawn(self)
        if tables is None:
            if not noisy(training):
                return super().call(inputs)
            if self.estimator != "reparameterization":
                noise = getattr(self, f"_{self.estimator}")(inputs)
                vectors = ops.cast(super().call(inputs), "float32") + noise
                return ops.cast(vectors, self.compute_dtype)
            tables = self.draw_weights()
        return ops.take(tables[0], inputs, axis=0)

    def _flipout(self, inputs):
        """One draw for the batch, turned by the signs of each example."""
        noise = ops.take(self._posterior_of_table.perturbation(), inputs, axis=0)
        seed = random.next_seed(self.seed_generator)
        bits = fair_bits((ops.shape(inputs)[0], self.output_dim), seed)
        inside = [1] * (len(inputs.shape) - 1)
        shape = (-1, *inside, self.output_dim)
        return noise * ops.reshape(signs(bits, noise.dtype), shape)

    def _local_reparameterization(self, inputs):
        """A draw of each vector."""
        log_scale = ops.convert_to_tensor(self._posterior_of_table.log_scale)
        scale = ops.exp(ops.take(log_scale, inputs, axis=0))
        seed = random.next_seed(self.seed_generator)
        return scale * random.normal((*ops.shape(inputs), self.output_dim), seed)

    @property
    def _posterior_of_table(self):
        return self._posteriors["embeddings"]

    @property
    def embeddings_posterior(self):
        """The posterior of the table, a `tfp.distributions.Normal` of its shape.

        It holds the values of the moment: ask again after training.
        """
        return self._posterior_of_table.distribution()

    @property
    def kernel_posterior(self):
        """None: the table is not called a kernel."""
        raise AttributeError(
            f"`{type(self).__name__}` has no kernel. Its table is distributed as "
            "`embeddings_posterior` says."
        )

    def compute_output_spec(self, inputs, training=None):
        """Shape and dtype of the outputs."""
        return super().compute_output_spec(inputs)

    def to_plain(self):
        """The plain Keras layer of the mean table, which predicts the same.

        Returns:
            A built `keras.layers.Embedding` with the name of this layer, which is not
            changed.
        """
        config = {k: v for k, v in self.get_config().items() if k not in OWN}
        plain = keras.layers.Embedding.from_config(config)
        plain.build()
        plain.set_weights([ops.convert_to_numpy(self._embeddings)])
        return plain


def _index_dtype(inputs):
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return dtype if dtype in ("int32", "int64") else "int32"
