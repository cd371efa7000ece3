"""What every public object must pass, by kind. Each check takes one row of the table.

Beside this contract an object has tests of its defining property, in the file that
mirrors its source.
"""

from tests.contract import (
    attacks,
    callbacks,
    layer_models,
    layers,
    metrics,
    optimizers,
    policies,
    regularizers,
)

__all__ = [
    "attacks",
    "callbacks",
    "layer_models",
    "layers",
    "metrics",
    "optimizers",
    "policies",
    "regularizers",
]
