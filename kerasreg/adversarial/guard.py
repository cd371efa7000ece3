"""A guard for fast adversarial training."""

import warnings
from typing import Any

import keras
import numpy as np

from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.attacks import PGD
from kerasreg.adversarial.judge import Judge
from kerasreg.adversarial.masking import where
from kerasreg.adversarial.training import AdversarialModel
from kerasreg.regularizers.base import check_count, check_number


class OverfittingGuard(keras.callbacks.Callback):
    """Notices catastrophic overfitting of an `AdversarialModel`, and acts.

    A model that is trained against one step may learn, within an epoch, to answer that
    step alone: accuracy under PGD falls to nothing while the training loss looks well.
    After each epoch the guard measures accuracy under PGD on data that are not trained
    on, logs it as `robust_accuracy`, and if it has fallen by more than `drop` from its
    best, restores the model's weights of then and stops or goes on with PGD. The state
    of the optimizer is left as it is. When training ends and that accuracy was never
    above what one class for all examples gets, the guard warns: such a model has
    collapsed from the start, or was attacked too hard before it had learned anything.

    Each `fit` begins anew, also one that goes on with the same model: what was best
    before is forgotten. Callbacks that monitor `robust_accuracy`, such as
    `ModelCheckpoint`, must come after the guard in the list.

    Args:
        x: Inputs that are not trained on, some hundred.
        y: Their classes, one-hot rows, or 0 and 1 for a single output.
        attack: The attack to judge by; by default `PGD` with 10 steps, where the
            model's own attack goes when `fit` begins.
        drop: Number between 0 and 1, a difference of accuracies.
        action: `"stop"`, or `"fallback"`: train on with `fallback`; the step is traced
            anew.
        fallback: The attack to go on with; by default `PGD` with 10 steps, where the
            model's own attack goes. Only for `action="fallback"`.
        batch_size: Positive integer.

    Raises:
        ValueError: If an argument is out of range; when `fit` begins, if the data do
            not suit the model.
        TypeError: If an argument is of the wrong type; when `fit` begins, if the model
            is no `AdversarialModel`.

    Attributes:
        best: The highest accuracy of this `fit` so far; -1 before.
        acted: The epoch after which the guard last acted in this `fit`, counted from 0
            as in `history.epoch`, or `None`.

    Example:

    >>> import keras
    >>> from kerasreg.adversarial import FGSM, AdversarialModel, OverfittingGuard
    >>> keras.utils.set_random_seed(0)
    >>> x = keras.random.normal((64, 5), seed=0)
    >>> y = keras.ops.cast(x[:, :1] > 0, "float32")
    >>> dense = keras.layers.Dense(1, activation="sigmoid")
    >>> model = keras.Sequential([keras.Input((5,)), dense])
    >>> robust = AdversarialModel(model, FGSM(0.1, random_start=True))
    >>> robust.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
    >>> guard = OverfittingGuard(x[:32], y[:32], drop=0.5)
    >>> history = robust.fit(x[32:], y[32:], epochs=2, verbose=0, callbacks=[guard])
    >>> len(history.history["robust_accuracy"])
    2

    Reference: Wong, Rice & Kolter 2020, "Fast is better than free", section 5.4.
    """

    def __init__(
        self,
        x,
        y,
        attack=None,
        *,
        drop=0.2,
        action="stop",
        fallback=None,
        batch_size=128,
    ):
        super().__init__()
        for name, value in (("attack", attack), ("fallback", fallback)):
            if value is not None and not isinstance(value, Attack):
                raise TypeError(
                    f"Invalid value for argument `{name}`. Expected an attack such as "
                    f"kerasreg.adversarial.PGD. Received: {name}={value!r}"
                )
        if action not in ("stop", "fallback"):
            raise ValueError(
                'Invalid value for argument `action`. Expected "stop" or "fallback". '
                f"Received: action={action!r}"
            )
        if fallback is not None and action != "fallback":
            raise ValueError(
                "Invalid value for argument `fallback`. Expected none unless "
                f'action="fallback". Received: action={action!r} and '
                f"fallback={fallback!r}"
            )
        self._data = x, y, check_count("batch_size", batch_size)
        self.attack, self.fallback = attack, fallback
        self.drop, self.action = _share("drop", drop), action
        self.best, self.acted = -1.0, None
        self._judge: Any = None
        self._by: Any = None
        self._weights: Any = None

    def on_train_begin(self, logs=None):
        """Check the model and the data, and begin anew."""
        model = self.model
        if not isinstance(model, AdversarialModel):
            raise TypeError(
                "Invalid value for argument `callbacks`. Expected OverfittingGuard for "
                f"an AdversarialModel. Received: one for a {type(model).__name__}"
            )
        self.best, self.acted, self._weights = -1.0, None, None
        self._by = self.attack or PGD(**where(model.attack))
        self._judge = Judge(model, *self._data)
        self._by.check(self._judge.inputs, self._judge.targets(self._by))
        if self.fallback is not None:
            model.check_attack(self.fallback)

    def on_epoch_end(self, epoch, logs=None):
        """Measure, and act if need be."""
        accuracy = float(np.mean(self._judge.right(self._by)))
        if logs is not None:
            logs["robust_accuracy"] = accuracy
        inner = self.model.model
        if accuracy >= self.best:
            self.best, self._weights = accuracy, inner.get_weights()
            return
        if self.best - accuracy <= self.drop:
            return
        self.acted = epoch
        inner.set_weights(self._weights)
        warnings.warn(
            "Catastrophic overfitting: accuracy under attack fell from "
            f"{self.best:.3f} to {accuracy:.3f} in epoch {epoch + 1}, by more than "
            f"drop={self.drop:g}. The best weights are restored.",
            stacklevel=2,
        )
        if self.action == "stop":
            self.model.stop_training = True
            return
        self.model.attack = self.fallback or PGD(**where(self.model.attack))
        self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        """Warn of a model that has learned nothing that holds."""
        counts = np.unique(self._judge.classes, return_counts=True)[1]
        trivial = np.max(counts) / self._judge.examples
        if 0 <= self.best <= trivial < 1:
            warnings.warn(
                "Accuracy under attack was never above that of one class for all "
                f"examples, {trivial:.3f}: it was at most {self.best:.3f}. "
                "Train longer, or with a smaller `eps` in the first epochs.",
                stacklevel=2,
            )


def _share(name, value):
    number = check_number(name, value, above=0.0)
    if number >= 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number between 0 and 1. "
            f"Received: {name}={value!r}"
        )
    return number
