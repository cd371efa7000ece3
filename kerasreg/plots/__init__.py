"""Figures, one function each; they need the `viz` extra (matplotlib).

Every function returns a `matplotlib.figure.Figure` that belongs to you: nothing
is shown, no backend is chosen and pyplot's state is left alone.

```python
figure = kerasreg.plots.weight_histogram({"L2": ridge, "L1": lasso})
figure.savefig("weights.png")
```
"""

from kerasreg.plots.coefficients import coefficient_path
from kerasreg.plots.curves import learning_curves
from kerasreg.plots.reliability import reliability_diagram
from kerasreg.plots.robustness import robustness_curve
from kerasreg.plots.training import training_report
from kerasreg.plots.weights import weight_histogram

__all__ = [
    "coefficient_path",
    "learning_curves",
    "reliability_diagram",
    "robustness_curve",
    "training_report",
    "weight_histogram",
]
