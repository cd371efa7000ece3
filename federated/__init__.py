"""Federated learning with kerasreg's penalties, by Flower.

`federated.simulate` trains a Keras model across simulated clients, with the penalties
it has centrally; `flwr run .` does the same as a Flower app, and `kerasreg federated
server` and `client` do it between machines. It needs the extra `federated`:
`pip install "kerasreg[federated]"`.

Names are imported when they are first used: what only starts Flower's processes
does without TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING

try:
    import flwr  # noqa: F401
except ImportError:
    from kerasreg import extras

    extras.require("flwr", "federated")

if TYPE_CHECKING:
    from federated import partition, privacy, strategies
    from federated.clients import Clients
    from federated.history import History, Result, Round
    from federated.membership import MembershipReport, membership_inference
    from federated.rounds import RoundError
    from federated.simulation import simulate

_MODULE_OF = {
    "Clients": "clients",
    "History": "history",
    "MembershipReport": "membership",
    "Result": "history",
    "Round": "history",
    "RoundError": "rounds",
    "membership_inference": "membership",
    "simulate": "simulation",
}

__all__ = [
    "Clients",
    "History",
    "MembershipReport",
    "Result",
    "Round",
    "RoundError",
    "membership_inference",
    "partition",
    "privacy",
    "simulate",
    "strategies",
]


def __getattr__(name):
    if name in _MODULE_OF:
        module = importlib.import_module(f"federated.{_MODULE_OF[name]}")
        found = getattr(module, name)
    elif name in __all__:
        found = importlib.import_module(f"federated.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__():
    return sorted({*globals(), *__all__})
