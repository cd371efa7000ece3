"""What every callback must pass."""

import numpy as np

from kerasreg.layers import ConcreteDropout
from tests import models
from tests.cases import Case


def _model(case: Case, penalty, **arguments):
    if "KL" in case.labels:
        arguments["wrap"] = lambda layer: ConcreteDropout(
            layer, num_examples=models.ROWS
        )
    return models.model(penalty, **arguments)


def check_fit(case: Case, penalty):
    """It runs in `fit`, also with XLA, and leaves a finite loss."""
    for jit_compile in (False, True):
        model = _model(
            case, type(penalty)(**penalty.get_config()), jit_compile=jit_compile
        )
        history = models.fit(model, callbacks=[case.make()]).history
        assert np.all(np.isfinite(history["loss"]))
        assert all(np.all(np.isfinite(w)) for w in model.get_weights())


def check_again(case: Case, penalty):
    """One instance serves several calls of `fit`."""
    callback = case.make()
    model = _model(case, penalty)
    for _ in range(2):
        models.fit(model, epochs=1, callbacks=[callback])
