"""What all fits of a comparison share, and one fit."""

import time

import keras

from kerasreg.selection import support
from kerasreg.selection.again import unnumbered
from kerasreg.selection.checks import callbacks_of
from kerasreg.selection.curves import DataLoss
from kerasreg.selection.measure import data_loss
from kerasreg.selection.progress import EpochTicker, Silent
from kerasreg.selection.recipe import BASELINE

_KERAS_METRICS = {name.lower() for name in dir(keras.metrics)}


class Study:
    """The data and settings of a comparison.

    Args:
        x: Inputs, an array.
        y: Targets, an array.
        seed: Seed of the first model; fold k uses `seed + k`.
        epochs: Epochs of each fit.
        batch_size: Examples a batch.
        preprocess: Function of training inputs that returns a function of
            inputs, or `None`.
        callbacks: Function of the training inputs and targets that returns the
            callbacks of one fit, or `None`.
        class_weight: Dict from class number to weight for `fit`, or `None`.
        validation_freq: Epochs between validation points.

    Attributes:
        preprocess: The preprocessing fitted to all inputs, or `None`.
        x_all: All inputs after it.
        display: What the fits report their progress to.
        metric: Name of the metric to report, once `rehearse` decided it.
    """

    def __init__(
        self,
        x,
        y,
        *,
        seed,
        epochs,
        batch_size,
        preprocess,
        callbacks,
        class_weight,
        validation_freq,
    ):
        self.x, self.y, self.seed = x, y, seed
        self.epochs, self.batch_size = epochs, batch_size
        self._fit_preprocess, self._callbacks = preprocess, callbacks
        self._class_weight = class_weight
        self._validation_freq = validation_freq
        self.preprocess = preprocess(x) if preprocess else None
        self.x_all = x if self.preprocess is None else self.preprocess(x)
        self.display, self.metric = Silent(), None
        self._looked_at: dict = {}

    def rehearse(self, recipes, metric):
        """Makes every model once, so that mistakes show before hours of training.

        Decides the metric, and the weights whose zeros are counted: those that
        any candidate of the baseline's architecture penalizes, or all kernels.

        Args:
            recipes: Dict of `Recipe` by name, the baseline first.
            metric: Name of the metric, or `None` for the baseline's first.

        Raises:
            ValueError: A model is not compiled with the metric.
        """
        shapes, penalized, kernels = {}, {}, {}
        for name, recipe in recipes.items():
            model = recipe.start(self.seed, self.x_all)
            shapes[name] = [tuple(w.shape) for w in model.weights]
            penalized[name] = support.penalized(model)
            kernels[name] = support.kernels(model)
            if recipe.own_model:
                metric = self._check_metric(model, name, metric)
        self.metric = metric
        same = [name for name in recipes if shapes[name] == shapes[BASELINE]]
        common = sorted({i for name in same for i in penalized[name]})
        for name in recipes:
            own = common if name in same else penalized[name]
            self._looked_at[name] = own or kernels[name]

    def _check_metric(self, model, name, metric):
        few = slice(0, self.batch_size)
        logs = model.evaluate(self.x_all[few], self.y[few], verbose=0, return_dict=True)
        known = [key for key in logs if key != "loss"]
        if metric is None and name == BASELINE:
            return _plain(known[0]) if known else None
        if metric is not None and _key(known, metric) is None:
            raise ValueError(
                f"Invalid value for argument `metric`. Expected one of {known}, the "
                f"metrics that '{name}' is compiled with. Received: metric={metric!r}"
            )
        return metric

    def fit(self, recipe, number, training, validation=None):
        """Trains one model on some examples and measures it.

        Args:
            recipe: The `Recipe` of the model.
            number: Number of the fold, 0 for the refit.
            training: Positions of the training examples.
            validation: Positions of the validation examples; without them only
                the training loss and the zeros are measured.

        Returns:
            The model, a dict of what was measured, and the history of `fit`.
        """
        x, y = self.x[training], self.y[training]
        transform = self._fit_preprocess(x) if self._fit_preprocess else None
        x = transform(x) if transform else x
        held_out = None
        if validation is not None:
            held_out = self.x[validation], self.y[validation]
            held_out = transform(held_out[0]) if transform else held_out[0], held_out[1]
        own = callbacks_of(self._callbacks, x, y)
        model = recipe.start(self.seed + number, x, anew=bool(own))
        callbacks = [
            DataLoss(len(x), self.batch_size),
            *own,
            EpochTicker(self.display, self.epochs),
        ]
        keras.utils.set_random_seed(self.seed + number)  # The same batches for all.
        start = time.perf_counter()
        history = model.fit(
            x,
            y,
            batch_size=self.batch_size,
            epochs=self.epochs,
            validation_data=held_out,
            validation_freq=self._validation_freq,
            class_weight=self._class_weight,
            callbacks=callbacks,
            verbose=0,
        )
        result = {"seconds": time.perf_counter() - start}
        result["train_loss"] = data_loss(model, x, y)
        result |= self._support(model, recipe.name, x)
        if held_out is not None:
            result["val_loss"] = data_loss(model, *held_out)
            result["train_metric"] = self._evaluate(model, x, y)
            result["val_metric"] = self._evaluate(model, *held_out)
        return model, result, history.history

    def _evaluate(self, model, x, y):
        if self.metric is None:
            return None
        logs = model.evaluate(
            x, y, batch_size=self.batch_size, verbose=0, return_dict=True
        )
        return float(logs[_key(logs, self.metric)])

    def _support(self, model, name, x):
        zeros, weights = support.count_zeros(model, self._looked_at[name])
        table = x.ndim == 2
        kept = support.kept_features(model, x.shape[1]) if table else None
        return {"zeros": zeros, "weights": weights, "features": kept}


def _key(names, metric):
    """The metric among names, also if Keras has numbered it; `None` if it is not."""
    if metric in names:
        return metric
    return next((name for name in names if _plain(name) == metric), None)


def _plain(name):
    """A metric's name without the number, where Keras chose it and not the user."""
    plain = unnumbered(name)
    return plain if plain.replace("_", "") in _KERAS_METRICS else name
