"""kerasreg: regularization for Keras 3, with exact zeros.

A penalty is one object with a value, a proximal map and a strength. Give it to a
layer, wrap your optimizer in `kerasreg.optimizers.Proximal`, and fit.

Importing kerasreg registers its classes with Keras, so that saved models load, and
does nothing else. What needs an optional package imports it when it is used.
"""

from kerasreg import (
    adversarial,
    callbacks,
    datasets,
    layers,
    optimizers,
    plots,
    regularizers,
    selection,
    uncertainty,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "adversarial",
    "callbacks",
    "datasets",
    "layers",
    "optimizers",
    "plots",
    "regularizers",
    "selection",
    "uncertainty",
]
