"""A warning about penalties that a batch normalization makes void."""

import re
import warnings

from kerasreg.regularizers.base import Penalty


def warn_batch_norm(variables, batch_norm=None):
    """Warn about penalized kernels right before a batch normalization.

    Each penalty is looked at once.

    Args:
        variables: List of the weights of a model in order.
        batch_norm: List of whether each belongs to a batch normalization; by
            default the name of its layer tells.
    """
    if batch_norm is None:
        variables = [v for v in variables if hasattr(v, "path")]
        layers = [v.path.split("/")[-2:][0] for v in variables]
        batch_norm = [_BATCH_NORM.search(layer) for layer in layers]
    found, penalties = [], []
    for index, kernel in enumerate(variables):
        penalty = kernel.regularizer
        if not isinstance(penalty, Penalty) or hasattr(penalty, "_looked_at"):
            continue
        penalties.append(penalty)
        parent = kernel.path.rpartition("/")[0]
        for other in range(index + 1, min(index + 3, len(variables))):
            following = variables[other]
            if following.path.rpartition("/")[0] == parent:
                continue  # the bias
            if len(following.shape) == 0:
                continue  # the noise of a layer between them
            fits = following.shape[-1] in kernel.shape[-2:] and len(kernel.shape) > 1
            handled = isinstance(following.regularizer, Penalty)
            if batch_norm[other] and fits and not handled:
                layer = following.path.split("/")[-2:][0]
                found.append(f"{kernel.path} (before {layer})")
            break
    for penalty in penalties:
        penalty._looked_at = True
    if found:
        warnings.warn(
            "A batch normalization follows the penalized kernels "
            f"{some(found)}. It undoes their scale, so an L2 penalty there only "
            "changes the effective learning rate and a penalty can fall without the "
            "model getting simpler. Penalize the normalization's gamma instead, or "
            "whole units by GroupLasso (van Laarhoven 2017, arXiv 1706.05350).",
            stacklevel=3,
        )


def some(names):
    """Write the first names of a long list."""
    more = len(names) - _MOST_NAMES
    return f"{names[:_MOST_NAMES]}" + (f" and {more} more" if more > 0 else "")


_MOST_NAMES = 5
_BATCH_NORM = re.compile(r"batch_?norm|(^|_)bn(?![a-z])", re.IGNORECASE)
