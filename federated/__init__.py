"""Federated learning with kerasreg's penalties, by Flower.

`federated.simulate` trains a Keras model across simulated clients, with the penalties
it has centrally; `flwr run .` does the same as a Flower app. It needs the extra
`federated`: `pip install "kerasreg[federated]"`.
"""

from kerasreg import extras

extras.require("flwr", "federated")

from federated import partition, privacy, strategies
from federated.clients import Clients
from federated.history import History, Result, Round
from federated.membership import MembershipReport, membership_inference
from federated.rounds import RoundError
from federated.simulate import simulate

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
