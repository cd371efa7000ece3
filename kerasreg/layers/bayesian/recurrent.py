"""Bayesian LSTM and GRU layers."""

import keras
from keras import ops

from kerasreg import random
from kerasreg.layers.bayesian.base import OWN, Bayesian
from kerasreg.layers.bayesian.turned_cells import Turned, TurnedGRUCell, TurnedLSTMCell
from kerasreg.layers.masks import fair_bits, signs
from kerasreg.layers.noise import drawn, noisy
from kerasreg.layers.substitution import Substitution


class _BayesianRecurrent(Bayesian):
    """A posterior on the weights of the cell of an LSTM or GRU layer.

    The means are the cell's own weights, the log scales belong to the layer: a draw is
    made before the loop over the time steps and holds in all of them.
    """

    _bayesian_weights = ("kernel", "recurrent_kernel")
    _estimators = ("flipout", "reparameterization")
    _plain: type[keras.layers.Layer]
    _turned: type

    def __init__(self, *args, seed=None, **kwargs):
        own = seed
        if seed is not None:  # `Bidirectional` gives one seed to two layers
            own = seed + 2 * bool(kwargs.get("go_backwards"))
            kwargs["dropout_seed"] = own + 1
        super().__init__(*args, seed=own, **kwargs)
        self.seed = seed

    def _check_estimator(self, estimator):
        if estimator == "local_reparameterization":
            raise ValueError(
                "Invalid value for argument `estimator`. Expected one of "
                f"{self._estimators}: local reparameterization would draw other noise "
                "at each time step, which is no distribution over weights. Received: "
                f"estimator={estimator!r}"
            )
        return super()._check_estimator(estimator)

    def build(self, sequences_shape, initial_state_shape=None):
        """Make the cell's weights and the log scales of their entries.

        Args:
            sequences_shape: Shape of the inputs: batch, time steps, features.
            initial_state_shape: Shapes of the initial state, which have no influence.
        """
        super().build(sequences_shape, initial_state_shape)
        cell = self.cell
        self._build_posteriors(cell.kernel, cell.recurrent_kernel, cell.bias)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The loop over the time steps, with one draw of the weights for all."""
        weights = drawn(self)
        if weights is None and noisy(training):
            if self.estimator == "flipout":
                return self._flipout(sequences, initial_state, mask, training)
            weights = self.draw_weights()
        if weights is None:
            return super().inner_loop(sequences, initial_state, mask, training)
        means = [posterior.mean for posterior in self._posteriors.values()]
        with Substitution(list(zip(means, weights, strict=True)), self):
            return super().inner_loop(sequences, initial_state, mask, training)

    def _flipout(self, sequences, initial_state, mask, training):
        """The loop with one draw for the batch, turned by the signs of each example."""
        if self.use_cudnn is True:
            raise ValueError(
                "Invalid value for argument `use_cudnn`. Expected 'auto' or False with "
                "`estimator='flipout'`, whose weights differ between examples. "
                "Received: use_cudnn=True"
            )
        step = self._turned(self.cell, *self._turned_weights(sequences), training)
        loop = keras.layers.RNN(
            step,
            return_sequences=self.return_sequences,
            go_backwards=self.go_backwards,
            unroll=self.unroll,
            zero_output_for_mask=self.zero_output_for_mask,
            name=self.name,
        )
        mask = mask[0] if keras.tree.is_nested(mask) else mask
        return loop.inner_loop(sequences, initial_state, mask, training)

    def _turned_weights(self, sequences):
        """The kernel and the recurrent kernel as `Turned`, with their biases."""
        dtype, cell = self.compute_dtype, self.cell
        means = [ops.cast(cell.kernel, dtype), ops.cast(cell.recurrent_kernel, dtype)]
        noises = [ops.cast(p.perturbation(), dtype) for p in self._posteriors.values()]
        sizes = [size for mean in means for size in mean.shape]
        seed = random.next_seed(self.seed_generator)
        bits = fair_bits((ops.shape(sequences)[0], sum(sizes)), seed)
        ends = [sum(sizes[:k]) for k in range(1, 4)]
        turns = ops.split(signs(bits, dtype), ends, axis=1)
        rows, columns = turns[::2], turns[1::2]
        biases = [None, None]
        if self.use_bias:
            # A GRU with `reset_after` has two, in the rows of one weight.
            own = ops.unstack(ops.reshape(ops.cast(cell.bias, dtype), (-1, sizes[1])))
            biases[: len(own)] = own
        if self.bayesian_bias:
            noise = ops.unstack(ops.reshape(noises[2], (-1, sizes[1])))
            for k, drawn_noise in enumerate(noise):
                biases[k] = biases[k] + drawn_noise * columns[k]
        return [
            Turned(means[k], noises[k], rows[k], columns[k], biases[k]) for k in (0, 1)
        ]

    @property
    def recurrent_kernel_posterior(self):
        """The posterior of the recurrent kernel, a `tfp.distributions.Normal`."""
        return self._posteriors["recurrent_kernel"].distribution()

    def to_plain(self):
        """The plain Keras layer of the mean weights, which predicts the same.

        Returns:
            A built `keras.layers.LSTM` or `GRU` with the name of this layer, which is
            not changed.
        """
        left_out = [name for name in OWN if name != "seed"]
        config = {k: v for k, v in self.get_config().items() if k not in left_out}
        plain = self._plain.from_config(config)
        plain.use_cudnn = self.use_cudnn
        plain.build_from_config(self.get_build_config())
        plain.cell.set_weights(self.cell.get_weights())
        return plain


class _DropoutSeed(keras.layers.Layer):
    """Hands a seed to the dropout of the Keras layer: `seed` is that of the weights."""

    def __init__(self, *args, dropout_seed=None, **kwargs):
        super().__init__(*args, seed=dropout_seed, **kwargs)


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianLSTM(_BayesianRecurrent, _DropoutSeed, keras.layers.LSTM):
    """An LSTM with a distribution over its weights.

    Each entry of the kernel and of the recurrent kernel is Normal(μ, σ²) with learned μ
    and σ. What is added to the loss, and at which scale, says `BayesianDense`.

    The weights are drawn once a call, before the first time step, and are the same in
    all steps: noise that changed from step to step would not be that of a distribution
    over weights. In training they are drawn by an `estimator`:

    * `"flipout"`: one draw `σ·ε` of each weight for the batch, turned by random signs
      of each example, which are the same at all time steps: each example has weights of
      its own, whose gradients are uncorrelated with those of another, at the price of
      two more products a step. Default. It has no cuDNN kernel on a GPU;
    * `"reparameterization"`: one draw of the weights for the batch.

    There is no `"local_reparameterization"`, which would draw each step by itself.

    At inference the weights are μ. Dropout, `dropout=` and `recurrent_dropout=`, is
    Keras's own: on in training, off under `sampling()`.

    Args:
        *args: Positional arguments of `keras.layers.LSTM`: `units`, `activation`, ...
        prior: Prior of both kernels; `None`: a standard Normal.
        estimator: `"flipout"` or `"reparameterization"`.
        num_examples: Positive number of training examples (sequences).
        initial_scale: Positive number, where all σ start.
        bayesian_bias: Whether the bias has a posterior as well.
        bias_prior: Prior of the bias; by default that of the kernels.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one; of dropout, too.
        **kwargs: Other arguments of `keras.layers.LSTM`. Initializers, penalties and
            constraints are those of μ.

    Call arguments:
        sequences: Tensor of shape `(batch, steps, features)`.
        initial_state: List of tensors, the states to start from.
        mask: Boolean tensor of shape `(batch, steps)`.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.LSTM` returns.

    Raises:
        ValueError: As `BayesianDense`; with `use_cudnn=True` and `"flipout"`, in
            training.
        TypeError: As `BayesianDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianLSTM
    >>> layer = BayesianLSTM(8, num_examples=25000, return_sequences=True)
    >>> x = keras.random.normal((2, 5, 3))
    >>> layer(x, training=True).shape
    TensorShape([2, 5, 8])
    >>> layer.recurrent_kernel_posterior.batch_shape
    TensorShape([8, 32])

    Reference: Fortunato, Blundell & Vinyals 2017, "Bayesian recurrent neural networks"
    (arXiv 1704.02798), section 3; Wen et al. 2018, "Flipout" (arXiv 1803.04386),
    section 3.
    """

    _plain, _turned = keras.layers.LSTM, TurnedLSTMCell


@keras.saving.register_keras_serializable(package="kerasreg")
class BayesianGRU(_BayesianRecurrent, _DropoutSeed, keras.layers.GRU):
    """A GRU with a distribution over its weights.

    As `BayesianLSTM`, which says how the weights are drawn, with the equations of
    `keras.layers.GRU`.

    Args:
        *args: Positional arguments of `keras.layers.GRU`: `units`, `activation`, ...
        prior: Prior of both kernels; `None`: a standard Normal.
        estimator: `"flipout"` or `"reparameterization"`.
        num_examples: Positive number of training examples (sequences).
        initial_scale: Positive number, where all σ start.
        bayesian_bias: Whether the bias has a posterior as well.
        bias_prior: Prior of the bias; by default that of the kernels.
        kl_samples: Positive integer, the draws for a divergence without closed form.
        kl_strength: Non-negative factor on the divergence.
        seed: Integer, or `None` for a random one; of dropout, too.
        **kwargs: Other arguments of `keras.layers.GRU`. Initializers, penalties and
            constraints are those of μ.

    Call arguments:
        sequences: Tensor of shape `(batch, steps, features)`.
        initial_state: List of tensors, the states to start from.
        mask: Boolean tensor of shape `(batch, steps)`.
        training: Whether to draw. `kerasreg.layers.sampling()` also turns it on.

    Returns:
        What `keras.layers.GRU` returns.

    Raises:
        ValueError: As `BayesianLSTM`.
        TypeError: As `BayesianDense`.

    Example:

    >>> import keras
    >>> from kerasreg.layers import BayesianGRU
    >>> layer = BayesianGRU(8, num_examples=25000)
    >>> layer(keras.random.normal((2, 5, 3)), training=True).shape
    TensorShape([2, 8])
    >>> layer.kernel_posterior.batch_shape
    TensorShape([3, 24])

    Reference: Fortunato, Blundell & Vinyals 2017, "Bayesian recurrent neural networks"
    (arXiv 1704.02798), section 3; Wen et al. 2018, "Flipout" (arXiv 1803.04386),
    section 3.
    """

    _plain, _turned = keras.layers.GRU, TurnedGRUCell
