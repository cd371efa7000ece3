"""The loss of a model on data, without what was added to it."""

import keras

from kerasreg.optimizers.objective import without_penalties

_BATCH = 1024


def data_loss(model, x, y):
    """Measures the compiled loss without penalties, in inference mode.

    Weight penalties are taken off for the time of the measurement, so nothing
    is lost to rounding however large they are; activity penalties and other
    `add_loss` terms are subtracted.

    Args:
        model: A compiled and built Keras model.
        x: Inputs, an array.
        y: Targets, an array.

    Returns:
        The mean loss of an example, a float.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential(
        ...     [keras.Input((1,)), keras.layers.Dense(1, kernel_regularizer="l2")]
        ... )
        >>> model.compile("sgd", "mse")
        >>> data_loss(model, np.zeros((3, 1)), np.full(3, 2.0))
        4.0
    """
    total = 0.0
    with without_penalties(model.weights):
        for start in range(0, len(x), _BATCH):
            inputs = keras.ops.convert_to_tensor(x[start : start + _BATCH])
            targets = keras.ops.convert_to_tensor(y[start : start + _BATCH])
            loss = model.compute_loss(
                x=inputs, y=targets, y_pred=model(inputs, training=False)
            )
            added = sum(float(extra) for extra in model.losses)
            summed = getattr(model.loss, "reduction", None) == "sum"
            total += (float(loss) - added) * (1 if summed else len(inputs))
    return total / len(x)
