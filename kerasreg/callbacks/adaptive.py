"""The callback that lets a policy set the strength of each layer's penalty."""

import copy
import warnings
import weakref
from typing import Any

import keras
from keras import ops

from kerasreg.callbacks.data_loss import DataLoss
from kerasreg.callbacks.meter import (
    SAMPLES,
    Meter,
    Setter,
    added_losses,
    ratios_of,
    spread,
    unit_strength,
)
from kerasreg.callbacks.policies.base import (
    State,
    check_bounds,
    check_every,
    check_policy,
    next_strengths,
    renamed,
)
from kerasreg.callbacks.probe import wrapped
from kerasreg.callbacks.saved_state import SavedState
from kerasreg.callbacks.units import check_exact_zeros, check_granularity, units_of


class LayerwiseAdaptiveLambda(keras.callbacks.Callback):
    """Let a policy set the penalty strength of each layer while `fit` runs.

    At the end of each epoch, or every so many batches, it measures what the policy
    needs (zeros, norms, gradients, the validation loss), asks it for new strengths, and
    sets them. Strengths are variables, so the running train step sees the change and is
    never traced again. Any penalty of kerasreg can be tuned, the divergences of
    Bayesian and other noisy layers included, in the loss or under
    `kerasreg.optimizers.Proximal`.

    A *unit* is what has one strength: a layer, a weight, or the whole model. A weight
    that shares its penalty object with others gets a copy of its own, and where
    penalties of a unit differ in strength, their ratio stays. The strength of a unit is
    that of its first weight which has one.

    Each unit's strength is logged as `strength/<unit>` at the end of each epoch: the
    one that the next batch will be trained with. As with Keras's LearningRateScheduler,
    callbacks after this one in the list see it, and the history: put CSVLogger,
    TensorBoard, BackupAndRestore and ModelCheckpoint behind it (a checkpoint that is
    written before it lacks the strengths of its epoch). If a number that the policy
    needs is NaN or infinite, or a weight is, all strengths stay as they are, training
    goes on, and it warns once.

    **Resuming.** Strengths, and what the policy remembers, are saved together with the
    weights, by `keras.callbacks.BackupAndRestore`, `ModelCheckpoint` and `model.save`.
    BackupAndRestore takes them up itself. To go on from a saved model in a new process,
    give the callback its path as `resume_from`. Plain Keras loads the file as ever.

    Args:
        policy: A `kerasreg.callbacks.Policy`: `TargetSparsity`, `GeneralizationGap`,
            `Hypergradient`, `Evidence`, `AdaptiveWeightDecay`, `GradientRatio`,
            `Scheduled`, or your own.
        every: When to ask the policy: `"epoch"`, or a number of batches; by default
            what the policy says. With `steps_per_execution` steps compiled into one,
            the first chance is at the end of these. A policy that needs validation
            metrics can be asked after epochs only.
        granularity: `"layer"`, `"weight"` or `"model"`: what has a strength of its own.
        pattern: Glob pattern on the name of the layer or weight
            (`"block?_*"`, `"hidden/kernel"`) to leave all others alone, so that
            several of these callbacks can tune different parts. `None` for all.
        min_strength: Non-negative number, below which no positive strength is set.
        max_strength: Positive number, above which no strength is set. Both hold for
            all penalties of a unit.
        resume_from: Path of a `.keras` or `.weights.h5` file, saved while such a
            callback was at work, from which the model's weights, the optimizer, the
            strengths and the policy's memory are taken when `fit` begins, unless
            BackupAndRestore has restored later ones; or `None`.
        verbose: 1 prints a line whenever strengths change.

    Raises:
        ValueError: If an argument is out of range. When `fit` begins, if the model is
            not built, has no penalty, or does not suit the policy: one that needs exact
            zeros, and no `Proximal`; or if another callback tunes the same weights. At
            the end of the first epoch, if the policy needs validation data and there
            is none.
        TypeError: If an argument is of the wrong type.

    Example:

    >>> import keras
    >>> from kerasreg.callbacks import LayerwiseAdaptiveLambda, TargetSparsity
    >>> from kerasreg.optimizers import Proximal
    >>> from kerasreg.regularizers import L1
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 10), seed=0)
    >>> layer = keras.layers.Dense(1, kernel_regularizer=L1(1e-3), name="head")
    >>> model = keras.Sequential([keras.Input((10,)), layer])
    >>> model.compile(Proximal(keras.optimizers.SGD(0.1)), loss="mse")
    >>> y = keras.ops.matmul(x, keras.ops.reshape(keras.ops.arange(10.0), (10, 1)))
    >>> adaptive = LayerwiseAdaptiveLambda(TargetSparsity(0.5))
    >>> history = model.fit(x, y, 64, epochs=200, verbose=0, callbacks=[adaptive])
    >>> int(keras.ops.count_nonzero(layer.kernel))
    5
    """

    def __init__(
        self,
        policy,
        *,
        every=None,
        granularity="layer",
        pattern=None,
        min_strength=0.0,
        max_strength=1e3,
        resume_from=None,
        verbose=0,
    ):
        super().__init__()
        self.policy = check_policy(policy)
        self.granularity = check_granularity(granularity)
        every = policy.every if every is None else every
        self.every = check_every(every)
        self.pattern = pattern
        bounds = check_bounds(min_strength, max_strength)
        self.min_strength, self.max_strength = bounds
        after_validation = any(n.startswith("val_") for n in policy.needs_logs)
        if after_validation and self.every != "epoch":
            raise ValueError(
                'Invalid value for argument `every`. Expected "epoch": '
                f"{type(policy).__name__} needs validation metrics, which there are "
                f"after epochs only. Received: every={every!r}"
            )
        self.resume_from, self.verbose = resume_from, verbose
        self._initial = copy.deepcopy(policy.get_state())
        self._known: Any = lambda: None
        self._units: dict[str, list] = {}
        self._ratios: list[list[float]] = []
        self._batches = self._before_epoch = self._epoch = self._step = 0
        self._fit: Any = None
        self._validated: float | None = None
        self._fresh = self._resumed = self._warned = False
        self._logs: dict[str, float] = {}

    @property
    def strengths(self):
        """The present strength of each unit: a dict from its name to a float."""
        return {name: unit_strength(members) for name, members in self._units.items()}

    def set_model(self, model):
        """Find the units, and have the train step measure what the policy needs."""
        if model is not self._known():  # what it remembers is of another model
            self.policy.set_state(copy.deepcopy(self._initial))
            self._known = weakref.ref(model)
        super().set_model(model)
        known = self._known_ratios()
        self._units = units_of(model, self.granularity, self.pattern)
        self._ratios = [ratios_of(members, known) for members in self._units.values()]
        if self.policy.needs_exact_zeros:
            set_by_it = {n: w for n, w in self._units.items() if self.policy.sets(n)}
            check_exact_zeros(model, set_by_it, type(self.policy).__name__)
        self.policy.check(model, self._units)
        self._meter = Meter(model, self._units, self.policy.needs)
        self._setter = Setter([w for members in self._units.values() for w in members])
        needs_loss = {"data_loss", "val_data_loss"} & set(self.policy.needs_logs)
        self._data_loss = DataLoss.of(model) if needs_loss else None
        self._hang_on(model)
        self._batches, self._logs = 0, {}
        self._fresh, self._warned, self._resumed = True, False, False

    def _hang_on(self, model):
        """Be saved with the model; refuse another callback on the same weights."""
        self._fit = getattr(model, "history", None)  # one for each fit
        mine = {id(w) for members in self._units.values() for w in members}
        for other in SavedState.all_on(model):
            theirs = [w for members in other._units.values() for w in members]
            both = [w.path for w in theirs if id(w) in mine]
            if other is not self and self._fit and other._fit is self._fit and both:
                raise ValueError(
                    "Invalid value for argument `pattern`. Expected patterns with "
                    "which each weight is tuned by one callback of a `fit`. Received: "
                    f"pattern={self.pattern!r} and pattern={other.pattern!r}, which "
                    f"both fit {both}"
                )
        name = f"{type(self.policy).__name__}_{self.granularity}_{self.pattern or ''}"
        SavedState(self).hang_on(model, name)

    def on_train_begin(self, logs=None):
        """Take up a saved state, if one was given."""
        if self.resume_from is None or self._resumed:
            return
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self.model.load_weights(self.resume_from)
        if not self._resumed:
            raise ValueError(
                "Invalid value for argument `resume_from`. Expected a file that was "
                "saved while the same policy, granularity and pattern were at work. "
                f"Received: resume_from={self.resume_from!r}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Start to measure; set the first strengths of a policy that knows them."""
        self._epoch, self._before_epoch = epoch, self._batches
        if self._data_loss is not None:
            self._data_loss.reset()
        if self._fresh and not self._resumed:
            self._step = batches_so_far(self.model.optimizer)
        if self.every == "epoch":
            steps = self.params.get("steps") or 1
            self._meter.start(max(steps // SAMPLES, 1))
        elif self._fresh:  # by now other callbacks have restored what they saved
            self._meter.start(self.every, done=self._batches % self.every)
        if self._fresh and self.policy.at_start and not self._resumed:
            self._update(epoch, {})
        self._fresh = False

    def on_test_begin(self, logs=None):
        """Start to measure the validation loss."""
        if self._data_loss is not None:
            self._data_loss.reset(training=False)

    def on_test_end(self, logs=None):
        """Note the validation loss, before anybody evaluates anything else."""
        if self._data_loss is not None:
            self._validated = self._data_loss.read(training=False)

    def on_train_batch_end(self, batch, logs=None):
        """Ask the policy, if `every` batches have passed."""
        before, self._batches = self._batches, self._before_epoch + batch + 1
        self._step += self._batches - before
        if self.every != "epoch" and self._batches // self.every > before // self.every:
            logs = {**self._logs, **(logs or {})}
            self._update(self._epoch, self._with_data_losses(logs))

    def on_epoch_end(self, epoch, logs=None):
        """Ask the policy, if it is asked after epochs, and log the strengths."""
        logs = {} if logs is None else logs
        self._logs = dict(logs)
        if self.every == "epoch":
            self._update(epoch + 1, self._with_data_losses(self._logs))
        for name, strength in self.strengths.items():
            logs[f"strength/{name}"] = strength

    def on_train_end(self, logs=None):
        """Stop to measure."""
        self._meter.stop()

    def _update(self, epoch, logs):
        """Measure, ask the policy, and set the strengths."""
        missing = [name for name in self.policy.needs_logs if name not in logs]
        if missing:
            raise ValueError(self._missing(missing, logs))
        if self._step < self.policy.burn_in:
            return
        units = self._meter.read()
        if None in [getattr(u, n) for u in units.values() for n in self.policy.needs]:
            return  # no step was measured yet: gradients are being accumulated
        if not self._meter.finite:
            self._warn()
            return
        for name, extra in self.policy.measure(self.model, self._units).items():
            units[name].extra = extra
        state = State(units, step=self._step, epoch=epoch, logs=logs)
        strengths = next_strengths(
            self.policy, state, self.min_strength, self.max_strength
        )
        if strengths is not None:
            self._set(strengths, {name: u.strength for name, u in units.items()})
        else:
            self._warn()

    def _warn(self):
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"A number that {type(self.policy).__name__} needs or returned is NaN "
                "or infinite: all strengths stay as they are.",
                stacklevel=2,
            )

    def _set(self, strengths, before):
        if strengths == before:
            return
        bounds = self.min_strength, self.max_strength
        self._setter(spread(strengths, before, self._ratios, *bounds))
        if self.verbose:
            shown = ", ".join(f"{name} {s:.3g}" for name, s in self.strengths.items())
            print(f"{type(self.policy).__name__}: {shown}")

    def _with_data_losses(self, logs):
        """Logs with the losses without penalties, if they are needed."""
        logs = dict(logs)
        for name, training in (("data_loss", True), ("val_data_loss", False)):
            total = name.replace("data_", "")
            if name not in self.policy.needs_logs or total not in logs:
                continue
            value = None
            if self._data_loss is not None:
                value = self._data_loss.read() if training else self._validated
            if value is None:  # the steps are the user's own
                value = logs[total] - sum(added_losses(self.model))
            logs[name] = value
        return logs

    def _missing(self, missing, logs):
        policy = type(self.policy).__name__
        if any(name.startswith("val_") for name in missing):
            return (
                f"{policy} needs {missing} at the end of each epoch. Expected "
                "`validation_data` or `validation_split` in `fit`, with "
                f"`validation_freq=1`. Received: metrics {sorted(logs)}"
            )
        return (
            f"{policy} needs the metrics {missing}. Expected a model compiled with "
            f"them. Received: metrics {sorted(logs)}"
        )

    def get_state(self):
        """What is saved with the model."""
        weights = [weight for members in self._units.values() for weight in members]
        return {
            "units": list(self._units),
            "strengths": [weight.regularizer.strength for weight in weights],
            "ratios": self._ratios,
            "batches": self._batches,
            "step": self._step,
            "policy": self.policy.get_state(),
        }

    def set_state(self, state):
        """Take back what was saved; of other units, nothing."""
        weights = [weight for members in self._units.values() for weight in members]
        shape = [len(ratios) for ratios in state["ratios"]]
        if shape != [len(members) for members in self._units.values()]:
            warnings.warn(
                f"The strengths that were saved, of {state['units']}, are not "
                f"restored: now {list(self._units)} are tuned.",
                stacklevel=2,
            )
            return
        for weight, strength in zip(weights, state["strengths"], strict=True):
            weight.regularizer.strength = strength
        self._ratios, self._batches = state["ratios"], state["batches"]
        self._step = state["step"]
        names = dict(zip(state["units"], self._units, strict=True))
        self.policy.set_state(renamed(state["policy"], names))
        self._resumed = True

    def _known_ratios(self):
        members = [weight for each in self._units.values() for weight in each]
        ratios = [ratio for each in self._ratios for ratio in each]
        return {id(w): r for w, r in zip(members, ratios, strict=True)}


def batches_so_far(optimizer):
    """How many batches an optimizer has been given, in earlier calls of `fit` too."""
    # `iterations` counts updates, where batches are accumulated.
    return int(ops.cast(wrapped(optimizer)[-1]._iterations, "int64"))
