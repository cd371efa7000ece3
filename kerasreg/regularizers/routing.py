"""Who takes a penalty's gradient: the loss, or a proximal map.

Keras adds every penalty to the loss, so its gradient reaches any optimizer.
Under `Proximal` it must not, and the penalty still has to be counted in the
loss. A penalty therefore reads its weight through `tap`, an identity whose
backward pass asks what to do:

* `Proximal` *claims* its weights in `scale_loss`, which Keras's train step
  calls on the loss just before differentiating it: the gradient stops at the
  tap, and nothing of it is computed;
* a training loop that never calls `scale_loss` (or in which another optimizer,
  such as `LossScaleOptimizer`, answers that call) lets the gradient flow. The
  tap remembers that it did, and `Proximal` takes it off again.

Nothing is remembered beyond one step or one trace: a model that is compiled
with a plain optimizer later has its penalties in the loss again.
"""

import threading
import weakref

from keras import ops

_local = threading.local()
_flowed: dict[int, tuple] = {}


class Claim:
    """The weights of one optimizer whose penalty gradients are withheld."""

    def __init__(self, loss, covers):
        self._loss = weakref.ref(loss)
        self.covers = covers
        self.withheld = {}

    def holds_for(self, upstream):
        """Whether `upstream` belongs to the step in which the claim was made."""
        loss = self._loss()
        return loss is not None and _graph(loss) is _graph(upstream)


def claim(key, loss, covers):
    """Withhold the penalty gradients of the step that differentiates `loss`.

    Args:
        key: What tells one optimizer's claim from another's.
        loss: Scalar tensor about to be differentiated.
        covers: Callable, from a `keras.Variable` to whether it is claimed.
    """
    _claims()[key] = Claim(loss, covers)


def release(key):
    """End the claim of `key` and return it, or `None`."""
    return _claims().pop(key, None)


def _claims():
    if not hasattr(_local, "claims"):
        _local.claims = {}
    return _local.claims


def tap(variable):
    """Read `variable` so that the gradient of what follows can be withheld."""
    key = id(variable)
    _flowed.pop(key, None)

    @ops.custom_gradient
    def identity(x):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            for current in _claims().values():
                if current.holds_for(upstream) and current.covers(variable):
                    current.withheld[key] = variable
                    return None
            _flowed[key] = (weakref.ref(variable), weakref.ref(_graph(upstream)))
            return upstream

        return x, grad

    # A reshape to the same shape reads the variable as a tensor, without a copy.
    return identity(ops.reshape(variable, variable.shape))


def flowed(variable, gradient):
    """Whether the penalty's gradient is part of `gradient` for `variable`."""
    mark = _flowed.get(id(variable))
    if mark is None or mark[0]() is not variable:
        return False
    wanted, graph = mark[1](), _graph(gradient)
    while graph is not None:
        if graph is wanted:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def forget(variable):
    """Drop the mark of an eager step once it has been used."""
    _flowed.pop(id(variable), None)


class _Eager:
    """Stands for the graph of eager tensors, which have none."""


_EAGER = _Eager()


def _graph(tensor):
    tensor = getattr(tensor, "values", tensor)  # tf.IndexedSlices
    try:
        return tensor.graph
    except AttributeError:
        return _EAGER
