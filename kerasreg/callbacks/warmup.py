"""A callback that lets the KL divergences of a model come in slowly."""

import math

import keras

from kerasreg.regularizers import penalties_of
from kerasreg.regularizers.base import check_count, check_number
from kerasreg.regularizers.divergence import Divergence

SCHEDULES = ("linear", "sigmoid", "cyclical")

# The logistic function from -_STEEPNESS to +_STEEPNESS is what "sigmoid" stretches.
_STEEPNESS = 6.0


class KLWarmup(keras.callbacks.Callback):
    """Raise the KL terms of a model from little to full while `fit` runs.

    A layer with learned noise adds `kl_strength · KL / num_examples` to the loss. At
    full strength from the first step, the KL often wins before there is anything
    worth keeping: sparse variational dropout prunes what has not learned yet,
    latent codes collapse to the prior. This callback multiplies all of these terms
    by a factor that goes from `initial` (before epoch `start`) to `final` (from epoch
    `end` on). With r = (epoch − start)/(end − start), between them

    * `"linear"`: `initial + (final − initial)·r`;
    * `"sigmoid"`: the same of the logistic curve from −6 to 6, stretched so that it
      starts at 0 and ends at 1;
    * `"cyclical"`: `cycles` times over, linear in the first `ratio` of a cycle,
      then `final` for the rest of it (Fu et al. 2019).

    The factor depends on the epoch alone. To resume, give `fit` the callback again,
    with the same arguments, and `initial_epoch` (`keras.callbacks.BackupAndRestore`
    sets that itself): training goes on as if it had not stopped (but for the noise:
    Keras saves no random seeds). The layers' own `kl_strength` is another number,
    which the callback never changes: a layer with `kl_strength=0.5` ends at 0.5, a
    strength that is tuned stays what it was set to, and a model saved in mid-warm-up
    has its full strength. When `fit` ends, the factor is 1 again, for
    `evaluate` and for a `fit` without the callback. Only if an exception ends it
    (Ctrl-C too), Keras does not tell callbacks, and the factor stays as it was: fit
    with the callback again, or give it `divergence.factor = 1` for each layer's
    `divergence`. The model has to be built: give it an Input, or call it once.

    It is logged as `kl_factor` at the end of each epoch, and what the divergences of
    that moment add to the loss, as multiplied, as `kl`. As with Keras's
    LearningRateScheduler, callbacks after this one in the list see it, and the
    history: put CSVLogger or TensorBoard behind it. The loss, and `val_loss`, contain
    the KL as multiplied: while the factor rises they may, too, so let EarlyStopping
    watch something else, or start after `end`.

    Args:
        start: Non-negative number, in epochs counted from 0; may be fractional.
        end: Number greater than `start`, in epochs.
        schedule: `"linear"`, `"sigmoid"` or `"cyclical"`.
        initial: Non-negative number, the factor before `start`.
        final: Non-negative number, the factor from `end` on.
        cycles: Positive integer, for `"cyclical"`.
        ratio: Number in (0, 1], the rising part of a cycle, for `"cyclical"`.
        every: When the factor is set: `"epoch"`, or `"batch"`, where batch i of n
            counts as i/n epochs. With `steps_per_execution` steps compiled into one,
            it is set before each such group of steps.

    Raises:
        ValueError: If an argument is out of range; when `fit` begins, if the model
            has no KL term, or the steps an epoch are unknown with `every="batch"`.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.callbacks import KLWarmup
    >>> from kerasreg.layers import ConcreteDropout
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 5), seed=0)
    >>> layer = ConcreteDropout(keras.layers.Dense(1), num_examples=64)
    >>> model = keras.Sequential([keras.Input((5,)), layer])
    >>> model.compile("adam", "binary_crossentropy")
    >>> warmup = KLWarmup(1, 5)
    >>> history = model.fit(x, x[:, :1] > 0, epochs=7, verbose=0, callbacks=[warmup])
    >>> history.history["kl_factor"]
    [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> warmup.factor(2.5)
    0.375

    Reference: Bowman et al. 2016, "Generating sentences from a continuous space",
    section 3.1; Sønderby et al. 2016, "Ladder variational autoencoders", section
    2.3; Fu et al. 2019, "Cyclical annealing schedule: a simple approach to mitigating
    KL vanishing", eq. 6-7.
    """

    def __init__(
        self,
        start,
        end,
        *,
        schedule="linear",
        initial=0.0,
        final=1.0,
        cycles=4,
        ratio=0.5,
        every="epoch",
    ):
        super().__init__()
        self.start = check_number("start", start)
        self.end = check_number("end", end)
        if not self.start < self.end:
            raise ValueError(
                "Invalid value for argument `end`. Expected a number greater than "
                f"`start`. Received: start={start!r}, end={end!r}"
            )
        self.schedule = _check_choice("schedule", schedule, SCHEDULES)
        self.initial = check_number("initial", initial)
        self.final = check_number("final", final)
        self.cycles = check_count("cycles", cycles)
        self.ratio = check_number("ratio", ratio, above=0.0)
        if self.ratio > 1:
            raise ValueError(
                "Invalid value for argument `ratio`. Expected a number in (0, 1]. "
                f"Received: ratio={ratio!r}"
            )
        self.every = _check_choice("every", every, ("epoch", "batch"))
        short = (self.end - self.start) / self.cycles < 2
        if schedule == "cyclical" and every == "epoch" and short:
            raise ValueError(
                "Invalid value for argument `cycles`. Expected cycles of at least two "
                'epochs with every="epoch". Received: '
                f"cycles={cycles!r}, start={start!r}, end={end!r}"
            )
        self._divergences: list[Divergence] = []
        self._epoch = 0
        self._factor = 1.0

    def factor(self, epoch):
        """The factor at an epoch.

        Args:
            epoch: Number, counted from 0; may be fractional.

        Returns:
            A float.
        """
        if epoch < self.start:
            return self.initial
        if epoch >= self.end:
            return self.final
        risen = (epoch - self.start) / (self.end - self.start)
        if self.schedule == "sigmoid":
            risen = 0.5 + 0.5 * (
                math.tanh(_STEEPNESS * (risen - 0.5)) / math.tanh(_STEEPNESS / 2)
            )
        elif self.schedule == "cyclical":
            # Rounded, so that a cycle that starts with an epoch starts at `initial`.
            phase = round(risen * self.cycles, 9) % 1.0
            risen = min(phase / self.ratio, 1.0)
        if risen == 1.0:
            return self.final
        return self.initial + (self.final - self.initial) * risen

    def on_train_begin(self, logs=None):
        """Find the KL terms of the model."""
        self._divergences = [
            penalty
            for penalty in penalties_of(self.model).values()
            if isinstance(penalty, Divergence)
        ]
        if not self._divergences:
            raise ValueError(
                "`KLWarmup` needs a model with a KL divergence. Expected a layer such "
                "as kerasreg.layers.ConcreteDropout. Received: "
                f"model={self.model!r}, which has none."
            )
        if self.every == "batch" and self.params.get("steps") is None:
            raise ValueError(
                '`KLWarmup` with every="batch" needs the number of steps in an epoch, '
                "which this data set does not tell. Expected `steps_per_epoch` in "
                "`fit`. Received: steps_per_epoch=None"
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Set the factor of the epoch."""
        self._epoch = epoch
        self._set(self.factor(epoch))

    def on_train_batch_begin(self, batch, logs=None):
        """Set the factor of the batch, if `every="batch"`."""
        if self.every == "batch":
            self._set(self.factor(self._epoch + batch / self.params["steps"]))

    def on_epoch_end(self, epoch, logs=None):
        """Log the factor, and what the divergences add to the loss."""
        if logs is not None:
            logs["kl_factor"] = self._factor
            logs["kl"] = sum(
                float(w.regularizer(w))
                for w in self.model.trainable_variables
                if isinstance(w.regularizer, Divergence)
            )

    def on_train_end(self, logs=None):
        """Leave the layers' own strengths."""
        self._set(1.0)

    def _set(self, factor):
        self._factor = factor
        for divergence in self._divergences:
            divergence.factor = factor


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of {choices}. "
            f"Received: {name}={value!r}"
        )
    return value
