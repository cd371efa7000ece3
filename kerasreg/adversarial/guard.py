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
from kerasreg.regularizers.base import check_number


class OverfittingGuard(keras.callbacks.Callback):
    """Notices catastrophic overfitting of an `AdversarialModel`, and acts.

    A model that is trained against one step may learn, within an epoch, to answer that
    step alone: accuracy under PGD falls to nothing while the training loss looks well.
    After each epoch the guard measures accuracy under PGD on data that are not trained
    on, logs it as `robust_accuracy`, and if it has fallen by more than `drop` from its
    best, restores the model's weights of then and stops or goes on with PGD. The state
    of the optimizer is left as it is.

    Args:
        x: Inputs that are not trained on, some hundred.
        y: Their classes, one-hot rows, or 0 and 1 for a single output.
        attack: The attack to judge by; by default `PGD` with 10 steps, where the
            model's own attack goes.
        drop: Positive number, a difference of accuracies.
        action: `"stop"`, or `"fallback"`: train on with `fallback`; the step is traced
            anew.
        fallback: The attack to go on with; by default `PGD` with 10 steps.
        batch_size: Positive integer.

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        best: The highest accuracy so far.
        acted: The epoch after which the guard acted, or `None`.

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
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected an attack. "
                    f"Received: {name}={value!r}"
                )
        if action not in ("stop", "fallback"):
            raise ValueError(
                'Invalid value for argument `action`. Expected "stop" or "fallback". '
                f"Received: action={action!r}"
            )
        self._data, self._batch_size = (x, y), batch_size
        self.attack, self.fallback = attack, fallback
        self.drop = check_number("drop", drop, above=0.0)
        self.action = action
        self.best, self.acted = -1.0, None
        self._judge: Any = None
        self._weights: Any = None

    def on_train_begin(self, logs=None):
        """Check the model."""
        if not isinstance(self.model, AdversarialModel):
            raise ValueError(
                "OverfittingGuard is for an AdversarialModel. Received: "
                f"{type(self.model).__name__}"
            )
        if self.attack is None:
            self.attack = PGD(**where(self.model.attack))
        self._judge = Judge(self.model, *self._data, self._batch_size)

    def on_epoch_end(self, epoch, logs=None):
        """Measure, and act if need be."""
        accuracy = float(np.mean(self._judge.right(self.attack)))
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
            f"{self.best:.3f} to {accuracy:.3f} in epoch {epoch}. The best weights are "
            "restored.",
            stacklevel=2,
        )
        if self.action == "stop":
            self.model.stop_training = True
            return
        self.model.attack = self.fallback or PGD(**where(self.model.attack))
        self.model.make_train_function(force=True)
