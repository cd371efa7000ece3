"""A callback that shows what the penalties of a model do while it trains."""

import keras
import numpy as np
from keras import ops

from kerasreg.callbacks.advice import advice, named
from kerasreg.callbacks.data_loss import DataLoss
from kerasreg.callbacks.meter import Meter
from kerasreg.callbacks.probe import is_proximal, wide
from kerasreg.callbacks.record import Record
from kerasreg.callbacks.units import GRANULARITIES, makes_zeros, units_of
from kerasreg.callbacks.writers import EventFiles, Table
from kerasreg.regularizers import Penalty
from kerasreg.regularizers.attach import check_built_model
from kerasreg.regularizers.divergence import Divergence

# How often gradients are measured in an epoch.
_SAMPLES = 16

# A penalty that makes zeros has made some if this share of the weights is zero.
_SOME_ZEROS = 0.001


class RegularizationMonitor(keras.callbacks.Callback):
    """Show what the penalties do: losses apart, strengths, zeros, gradients, advice.

    At the end of each epoch it logs, for callbacks after it in the list and for the
    history,

    * `data_loss`, `val_data_loss`: the losses without penalties, and
      `gap = val_data_loss - data_loss`. Keras's `loss` contains the penalties, so it
      cannot be compared between models, nor watched while strengths change: let
      `EarlyStopping("val_data_loss", mode="min")`, behind it in the list, watch that;
    * `penalty`: what the penalties on weights add to the loss at that moment, and
      `penalty/<weight>` its parts; `kl` and `kl/<weight>`: the same of the divergences
      of noisy layers, which `penalty` leaves out. `data_loss` is the mean over the
      epoch, as Keras's `loss` is;
    * for each unit (a layer, a weight or the whole model) `strength/<unit>`;
      `norm/<unit>`, ‖w‖₂; `sparsity/<unit>`, the share of exact zeros;
      `group_sparsity/<unit>`, the share of groups that are zero as a whole: those of
      the penalty if it has groups, else units and filters (the last axis);
      `gradient_ratio/<unit>`, ‖∇h‖/‖∇L‖ of the penalty h over that of the rest of the
      loss, L (the data loss, and penalties on activities if there are any), root mean
      squares over some batches of the epoch. Where it is far below 1 the
      penalty hardly matters, and near and above 1 it leads. A unit that has
      divergences only has the strength and the ratio.

    When `fit` ends, `advice` holds what `kerasreg.callbacks.advice` says of the curves,
    and what it finds in the model: nothing if all is well.
    `kerasreg.plots.training_report` draws all of it.

    It changes nothing in training. The progress bar of `fit` shows the keys without a
    slash only. Put it behind a LayerwiseAdaptiveLambda or a KLWarmup, to log what they
    have set.

    Args:
        granularity: `"layer"`, `"weight"` or `"model"`: what a unit is.
        pattern: Glob pattern on the name of the layer or weight, to leave other units
            out; `None` for all.
        baseline: The history of a `fit` of the same model without penalties, for the
            advice, or `None`.
        csv: Path of a CSV file to write everything to, or `None`. A `fit` with
            `initial_epoch` goes on with it.
        tensorboard: Folder for TensorBoard's event files, or `None`. To write them
            takes TensorFlow alone.
        verbose: 1 prints the advice when `fit` ends.

    Attributes:
        advice: List of strings.

    Raises:
        ValueError: If `granularity` is unknown, or `baseline` is no history; when `fit`
            begins, if the model is not built, or the pattern fits no weight with a
            penalty.

    Example:

    >>> import keras
    >>> from kerasreg.callbacks import RegularizationMonitor
    >>> from kerasreg.optimizers import Proximal
    >>> from kerasreg.regularizers import L1
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 10), seed=0)
    >>> layer = keras.layers.Dense(1, kernel_regularizer=L1(5.0), name="head")
    >>> model = keras.Sequential([keras.Input((10,)), layer])
    >>> model.compile(Proximal(keras.optimizers.Adam(0.05)), loss="mse")
    >>> monitor = RegularizationMonitor()
    >>> history = model.fit(
    ...     x,
    ...     x[:, :1],
    ...     validation_split=0.5,
    ...     epochs=40,
    ...     verbose=0,
    ...     callbacks=[monitor],
    ... )
    >>> history.history["sparsity/head"][-1]
    1.0
    >>> print(monitor.advice[0])
    All weights of `head` are zero: nothing passes through. Lower its strength.
    """

    def __init__(
        self,
        *,
        granularity="layer",
        pattern=None,
        baseline=None,
        csv=None,
        tensorboard=None,
        verbose=0,
    ):
        super().__init__()
        if granularity not in GRANULARITIES:
            raise ValueError(
                "Invalid value for argument `granularity`. Expected one of "
                f"{GRANULARITIES}. Received: granularity={granularity!r}"
            )
        if baseline is not None:
            Record(baseline)
        self.granularity, self.pattern, self.baseline = granularity, pattern, baseline
        self.csv, self.tensorboard, self.verbose = csv, tensorboard, verbose
        self.advice: list[str] = []
        self._units: dict[str, list] = {}
        self._meter: Meter | None = None

    def set_model(self, model):
        """Find the penalties, and have the steps measure gradients and data loss."""
        super().set_model(model)
        check_built_model(model)
        self._penalized = _penalized(model)
        self._units, self._meter = {}, None  # a new meter takes the place of the old
        tunable = [isinstance(w.regularizer, Penalty) for w in self._penalized.values()]
        if any(tunable) or self.pattern is not None:
            self._units = units_of(model, self.granularity, self.pattern, own=False)
            fields = ("gradient_norm", "penalty_gradient_norm")
            self._meter = Meter(model, self._units, fields)
        self._data_loss = DataLoss.of(model)
        self._validated, self._measuring = None, False
        self._own: set[str] = set()
        self._ratios: dict[str, float] = {}
        self._table = None if self.csv is None else Table(self.csv)
        events = self.tensorboard
        self._events = None if events is None else EventFiles(events)

    def on_train_begin(self, logs=None):
        """Forget the advice of an earlier `fit`."""
        self.advice = []
        _take_off_after(self.model.history, self._own)

    def on_epoch_begin(self, epoch, logs=None):
        """Start to measure."""
        if self._data_loss is not None:
            self._data_loss.reset()
        if self._meter is not None and not self._measuring:
            self._measuring = True
            self._meter.start(max((self.params.get("steps") or 1) // _SAMPLES, 1))

    def on_test_begin(self, logs=None):
        """Start to measure the validation loss."""
        if self._data_loss is not None:
            self._data_loss.reset(training=False)

    def on_test_end(self, logs=None):
        """Note the validation loss, before anybody evaluates anything else."""
        if self._data_loss is not None:
            self._validated = self._data_loss.read(training=False)

    def on_epoch_end(self, epoch, logs=None):
        """Log, and write."""
        logs = {} if logs is None else logs
        added = self._added()
        measured = {**self._losses(logs, sum(added.values())), **added}
        for name in ("penalty", "kl"):
            parts = [v for key, v in added.items() if key.startswith(name + "/")]
            if parts:
                measured[name] = sum(parts)
        if self._meter is not None:
            measured.update(self._measure(self._meter.read()))
        logs.update(measured)
        self._own.update(name for name in measured if "/" in name)
        if self._table is not None:
            self._table.write(epoch, logs)
        if self._events is not None:
            self._events.write(epoch, logs)

    def on_train_end(self, logs=None):
        """Say what can be said."""
        if self._meter is not None:
            self._meter.stop()
        if self._events is not None:
            self._events.close()
        history = self.model.history
        history.__dict__.pop("on_epoch_end", None)
        if history.history:
            self.advice = advice(history, baseline=self.baseline)
            self.advice += self._on_the_model()
        if self.verbose:
            for line in self.advice:
                print(line)

    def _on_the_model(self):
        """Advice on what the curves do not show."""
        if not self._penalized:
            return [
                "The model has no penalty on a trainable weight: these are the curves "
                "of a baseline."
            ]
        if not self._units:
            return [
                "The penalties are Keras's own, so strengths, zeros and gradients are "
                "not measured. Use those of kerasreg.regularizers, or `as_penalty`."
            ]
        optimizer = type(self.model.optimizer).__name__
        shrunk = [
            name
            for name, members in self._units.items()
            if any(w.regularizer.strength and makes_zeros(w) for w in members)
            and _zeros(members)["sparsity"] < _SOME_ZEROS
        ]
        if not shrunk or is_proximal(self.model.optimizer):
            return []
        has = "have" if len(shrunk) > 1 else "has"
        return [
            f"{named(shrunk)} {has} no exact zeros, and will have none: under a plain "
            f"{optimizer} penalties only shrink. Compile the model with "
            f"kerasreg.optimizers.Proximal({optimizer}(...))."
        ]

    def _losses(self, logs, added):
        """The losses without penalties; nearly so where the step does not tell."""
        losses = {}
        for name, exact in (
            ("loss", self._data_loss and self._data_loss.read()),
            ("val_loss", self._validated),
        ):
            if name in logs:
                data = logs[name] - added if exact is None else exact
                losses[name.replace("loss", "data_loss")] = data
        if "val_loss" in logs and "loss" in logs:
            losses["gap"] = losses["val_data_loss"] - losses["data_loss"]
        return losses

    def _added(self):
        """What each weight's penalty or divergence adds to the loss at this moment."""
        return {
            f"{_kind(weight)}/{name}": float(_value(weight))
            for name, weight in self._penalized.items()
        }

    def _measure(self, units):
        """What is logged of the units."""
        found = {}
        for name, unit in units.items():
            members = self._units[name]
            values = {"strength": unit.strength, **_zeros(members)}
            if unit.gradient_norm is not None:
                self._ratios[name] = _ratio(
                    unit.penalty_gradient_norm, unit.gradient_norm
                )
            if name in self._ratios:  # the last one, while gradients are accumulated
                values["gradient_ratio"] = self._ratios[name]
            found.update({f"{key}/{name}": value for key, value in values.items()})
        return found


def _penalized(model):
    """The trainable weights with a regularizer, Keras's own included, by name."""
    known = {}
    if any(isinstance(w.regularizer, Penalty) for w in model.trainable_weights):
        units = units_of(model, "weight", own=False)
        known = {id(members[0]): name for name, members in units.items()}
    return {
        known.get(id(weight), weight.path): weight
        for weight in model.trainable_weights
        if weight.regularizer is not None
    }


def _kind(weight):
    return "kl" if isinstance(weight.regularizer, Divergence) else "penalty"


def _value(weight):
    if isinstance(weight.regularizer, Penalty):
        return weight.regularizer.value(wide(weight))
    return weight.regularizer(weight)


def _zeros(members):
    """Norm and share of zeros of the weights that penalties other than KL are on."""
    weights = [w for w in members if _kind(w) == "penalty"]
    if not weights:
        return {}
    arrays = [ops.convert_to_numpy(w).astype("float64") for w in weights]
    single = [array == 0 for array in arrays]
    groups = [
        zero.all(axis=_inside_group(w)) for zero, w in zip(single, weights, strict=True)
    ]
    return {
        "norm": float(np.sqrt(sum(np.sum(array**2) for array in arrays))),
        "sparsity": float(np.concatenate([z.ravel() for z in single]).mean()),
        "group_sparsity": float(np.concatenate([z.ravel() for z in groups]).mean()),
    }


def _inside_group(weight):
    """The axes inside a group: those of the penalty, or all but the last."""
    penalty = weight.regularizer
    while penalty is not None:
        if hasattr(penalty, "group_axes"):
            return penalty.group_axes(weight)
        penalty = getattr(penalty, "penalty", None)
    return tuple(range(len(weight.shape) - 1))


def _ratio(above, below):
    if below:
        return above / below
    return float("inf") if above else 0.0


def _take_off_after(history, names):
    """Have a history take these names off the logs, before the progress bar comes."""
    record = history.on_epoch_end

    def on_epoch_end(epoch, logs=None):
        record(epoch, logs)
        for name in names & (logs or {}).keys():
            del logs[name]

    history.on_epoch_end = on_epoch_end
