"""A baseline and candidates, trained and measured on the same folds."""

import gc

import numpy as np

from kerasreg.selection import checks
from kerasreg.selection.comparison import Comparison, Row
from kerasreg.selection.folds import split
from kerasreg.selection.progress import choose
from kerasreg.selection.recipe import recipes
from kerasreg.selection.study import Study


def compare(
    build,
    x,
    y,
    candidates,
    *,
    folds=5,
    epochs=50,
    batch_size=32,
    seed=0,
    metric=None,
    preprocess=None,
    feature_names=None,
    callbacks=None,
    class_weight=None,
    validation_freq=1,
    progress=True,
):
    """Compares penalties, or other models, with a baseline by cross-validation.

    Every candidate is trained on the same folds with the same seed, so a
    penalty starts from the baseline's initial weights and sees its batches in
    the same order; then it is refitted to all data. What is measured is the
    *data loss*: the compiled loss without penalties and without dropout. So the
    numbers of all rows can be compared, also where the penalties cannot.

    The histories hold it too, for each epoch, beside what Keras logs: as
    `val_data_loss`, and as `data_loss` for the training loss, which Keras averages
    over an epoch while the weights change. Both are the logged loss minus the
    penalties on weights; those that the training loss contains are sampled before
    up to eight batches an epoch, so it is an estimate where there are more.

    A model that carries a penalty with a proximal map is trained by
    `kerasreg.optimizers.Proximal` around the optimizer it was compiled with.

    Args:
        build: Function without arguments that returns a new compiled Keras
            model, the baseline. It is called for each fit. Models of the same layers
            and settings train in the graph of the first one, so the functions in it
            (losses, say) must not change from call to call.
        x: Inputs, an array (or data frame) with the examples on the first axis.
            They must be finite; with a function as `preprocess`, which may fill
            in what is missing, they must be so after it.
        y: Targets, an array with as many examples, finite.
        candidates: Dict from a name to one of

            * a penalty, for every kernel of the baseline's model;
            * a dict of rules for `kerasreg.regularizers.regularize`;
            * a function without arguments that returns a new compiled model,
              for what is not a penalty. It starts from the weights it makes
              itself: give dropout layers a `seed`, or they change the random
              numbers, and so the initial weights, of the layers behind them.
        folds: Number of folds, stratified if `y` holds classes; or pairs of
            training and validation indices, e.g. of a scikit-learn splitter.
        epochs: Epochs of each fit.
        batch_size: Examples a batch.
        seed: Seed of the folds, and of the random numbers of each fit. Calls
            `keras.utils.set_random_seed`.
        metric: Name of the compiled metric for the table, by default the first.
        preprocess: `"standardize"`, or a function that takes the training part
            of `x` and returns a function of `x`. It is fitted to the training
            part of each fold, so nothing is learnt from validation examples.
        feature_names: Names of the columns of `x` after preprocessing; by
            default those of the data frame.
        callbacks: Function of the training inputs and targets of one fit that
            returns its Keras callbacks. Mind that early stopping on `val_loss`
            chooses by the examples that the table is measured on, and that the
            refit has no `val_loss`. To monitor `data_loss` or
            `val_data_loss`, say `mode="min"`.
        class_weight: Dict from class number to weight, for every `fit`, as in
            `keras.Model.fit`. It weighs the training loss, and so the logged
            `loss` and `data_loss`; validation and all losses and metrics of the
            table are unweighted.
        validation_freq: Epochs between the validation points of the histories.
            They cost time and change nothing else.
        progress: Whether to show progress: a bar with rich, else plain lines.

    Returns:
        A `Comparison`; `print` shows it as a table.

    Raises:
        ValueError: An argument is out of range, or lengths do not agree.
        TypeError: An argument, a candidate or what `build` returns is of the
            wrong type.

    Example:
        >>> import keras, numpy as np
        >>> from kerasreg.regularizers import L1
        >>> x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
        >>> y = 2.0 * x[:, 0]
        >>> def build():
        ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        ...     model.compile(keras.optimizers.SGD(0.1), "mse")
        ...     return model
        >>> result = compare(
        ...     build, x, y, {"L1": L1(0.4)}, folds=2, epochs=9, progress=False
        ... )
        >>> result.selected("L1"), result["L1"].zeros
        ([0], 2)
    """
    x, y, columns = _data(x, y, feature_names)
    checks.check_counts(
        epochs=epochs, batch_size=batch_size, validation_freq=validation_freq
    )
    checks.check_callbacks(callbacks)
    checks.check_finite("y", y)
    if not callable(preprocess):
        checks.check_finite("x", x)
    class_weight = checks.check_class_weight(class_weight, y)
    parts = split(y, folds, seed)
    todo = recipes(build, candidates)
    study = Study(
        x,
        y,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        preprocess=_preprocess(preprocess),
        callbacks=callbacks,
        class_weight=class_weight,
        validation_freq=validation_freq,
    )
    checks.check_finite("x", study.x_all)
    columns = _columns(columns, study.x_all)
    study.rehearse(todo, metric)
    rows, models, histories = [], {}, {}
    total = epochs * len(todo) * (len(parts) + 1)
    with choose(progress, len(todo), total) as study.display:
        for name, recipe in todo.items():
            row, models[name], histories[name] = _cross_validate(study, recipe, parts)
            rows.append(row)
            study.display.row(row)
    return Comparison(rows, models, histories, study.metric, columns, study.preprocess)


def _cross_validate(study, recipe, parts):
    """Returns the row, the refitted model and the histories of a candidate."""
    results, histories = [], []
    for number, (training, validation) in enumerate(parts, 1):
        study.display.fit(recipe.name, f"fold {number} of {len(parts)}")
        _, result, history = study.fit(recipe, number, training, validation)
        results.append(result)
        histories.append(history)
    study.display.fit(recipe.name, "all data")
    model, final, _ = study.fit(recipe, 0, slice(None))
    gc.collect()  # Keras models are reference cycles: free those of the folds.
    return _row(recipe.name, results, final), model, histories


def _row(name, results, final):
    losses = [result[key] for result in results for key in ("train_loss", "val_loss")]
    sound = bool(np.isfinite([*losses, final["train_loss"]]).all())
    kept = final["features"]
    measured: dict = {}
    for key in ("train_loss", "val_loss", "train_metric", "val_metric"):
        values = [result[key] for result in results]
        known = None not in values and (sound or "loss" in key)
        measured[key] = float(np.mean(values)) if known else None
        measured[f"{key}_std"] = _deviation(values) if known else None
    return Row(
        name=name,
        **measured,
        gap=measured["val_loss"] - measured["train_loss"],
        refit_loss=final["train_loss"],
        zeros=final["zeros"] if sound else None,
        weights=final["weights"],
        features=len(kept) if sound and kept is not None else None,
        seconds=float(np.mean([result["seconds"] for result in results])),
        folds=tuple(results),
    )


def _deviation(values):
    """The sample standard deviation; 0 for a single fold."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _data(x, y, feature_names):
    """Arrays, and the names of the columns if there are any."""
    names = feature_names
    if names is None and hasattr(x, "columns"):
        names = x.columns
    x, y = np.asarray(x), np.asarray(y)
    for name, value in (("x", x), ("y", y)):
        if value.dtype.kind not in "biuf" or not value.ndim:
            raise TypeError(
                f"Invalid value for argument `{name}`. Expected an array of numbers "
                f"with one example a row. Received: dtype {value.dtype}, shape "
                f"{value.shape}"
            )
    if len(x) != len(y):
        raise ValueError(
            "Invalid value for arguments `x` and `y`. Expected the same number of "
            f"examples. Received: {len(x)} in x, {len(y)} in y"
        )
    return x, y, None if names is None else [str(name) for name in names]


def _columns(names, x):
    """A label for each column of a table, `None` for other inputs."""
    count = x.shape[1] if x.ndim == 2 else None
    if names is not None and len(names) != count:
        raise ValueError(
            "Invalid value for argument `feature_names`. Expected one name a column, "
            f"for inputs of shape {x.shape}. Received: {len(names)} names"
        )
    return names if names is not None or count is None else list(range(count))


def _preprocess(preprocess):
    if preprocess == "standardize":
        return _standardize
    if preprocess is None or callable(preprocess):
        return preprocess
    raise ValueError(
        "Invalid value for argument `preprocess`. Expected 'standardize', a function "
        "of the training inputs that returns a function of inputs, or None. "
        f"Received: preprocess={preprocess!r}"
    )


def _standardize(x):
    """Mean 0 and standard deviation 1 of each feature, as measured on `x`."""
    mean = x.mean(axis=0, dtype="float64")
    deviation = x.std(axis=0, dtype="float64")
    deviation[deviation == 0] = 1.0  # A constant feature becomes 0.
    return lambda other: ((other - mean) / deviation).astype("float32")
