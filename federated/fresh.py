"""A strategy of Flower that is used twice begins its second run like its first."""

import collections.abc
import contextlib
import copy
import weakref

from federated.checkpoint import attributes, digest
from federated.strategies.base import Wrapper, chain

_LEFT: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""What a run changed of a strategy: by attribute, its value before, and a digest of
the one that the run left."""

_MISSING = object()


@contextlib.contextmanager
def fresh(strategy):
    """Set back what runs before left in a strategy, momentum and the like, and run.

    It can be read after the run; what its owner has set since then stays. Our own
    strategies begin anew by `bind`.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
    """
    members = [
        each
        for each in chain(strategy)
        if not isinstance(each, Wrapper) and isinstance(each, collections.abc.Hashable)
    ]
    for each in members:
        for name, (before, left) in _LEFT.pop(each, {}).items():
            now = attributes(each)
            if name in now and digest(now[name]) == left:
                delattr(each, name)
                if before is not _MISSING:
                    setattr(each, name, before)
    begun = [copy.deepcopy(attributes(each)) for each in members]
    try:
        yield
    finally:
        for each, before in zip(members, begun, strict=True):
            changed = {}
            for name, value in attributes(each).items():
                left = digest(value)
                if name not in before or digest(before[name]) != left:
                    changed[name] = before.get(name, _MISSING), left
            _LEFT[each] = changed
