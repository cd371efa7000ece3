"""The account of differential privacy: how much of the budget a run has spent."""

import logging
import math
from collections import Counter

import keras
from flwr.clientapp.mod import LocalDpMod

from federated import records
from federated.rounds import StopFederation
from federated.strategies.base import Wrapper
from kerasreg import extras
from kerasreg.regularizers.base import check_number


def epsilon_of(noise_multiplier, rounds, delta, *, sample_rate=None, accountant="rdp"):
    """The ε of some rounds of the Gaussian mechanism, by Google's dp-accounting.

    Neighbours are two runs that differ by one client, whose updates are all zero in
    one of them ("add or remove one").

    Args:
        noise_multiplier: Standard deviation of the noise on the sum of the updates,
            in units of the most that one client can change the sum.
        rounds: Number of rounds that the client was asked in; with `sample_rate`,
            number of all rounds.
        delta: δ, between 0 and 1; it should be well below 1 / number of clients.
        sample_rate: Probability with which each client was asked in each round,
            independently of all others and unknown to outsiders (Poisson sampling);
            `None` for no such amplification.
        accountant: `"rdp"`, Rényi differential privacy, fast, or `"pld"`, privacy
            loss distributions, tighter and seconds slower for many rounds.

    Returns:
        ε, a float.

    Raises:
        ValueError: If `accountant` is neither.

    Example:

    >>> from federated.privacy import epsilon_of
    >>> epsilon_of(5.0, 10, 1e-5)
    2.81...
    >>> epsilon_of(5.0, 10, 1e-5, accountant="pld")
    2.59...

    Reference: Mironov 2017, "Rényi differential privacy"; Doroshenko et al. 2022,
    "Connect the dots: tighter discrete approximations of privacy loss distributions".
    """
    accounting = extras.require("dp_accounting", "federated")
    from dp_accounting import pld, rdp  # optional, as above

    kinds = {"rdp": rdp.RdpAccountant, "pld": pld.PLDAccountant}
    if accountant not in kinds:
        raise ValueError(
            "Invalid value for argument `accountant`. Expected 'rdp' or 'pld'. "
            f"Received: accountant={accountant!r}"
        )
    if not rounds:
        return 0.0
    event = accounting.GaussianDpEvent(noise_multiplier)
    if sample_rate is not None:
        event = accounting.PoissonSampledDpEvent(sample_rate, event)
    relation = accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of each Rényi order that it leaves out
    try:
        account = kinds[accountant](neighboring_relation=relation)
        return float(account.compose(event, int(rounds)).get_epsilon(delta))
    finally:
        log.setLevel(level)


class Accounted(Wrapper):
    """Counts the rounds that clients were asked in, and ends the run at a budget.

    A round counts when its clients are asked, whatever comes of it: one that fails
    and is done again counts twice, and so do two runs with the same object.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        noise_multiplier: As of `epsilon_of`.
        delta: δ.
        max_epsilon: Largest ε; `None` for no limit.
        sample_rate: As of `epsilon_of`.
        accountant: As of `epsilon_of`.
    """

    def __init__(
        self, strategy, noise_multiplier, delta, max_epsilon, sample_rate, accountant
    ):
        super().__init__(strategy)
        self.noise_multiplier = check_number("noise_multiplier", noise_multiplier, 0)
        self.delta = check_probability("delta", delta)
        self.max_epsilon = max_epsilon
        if max_epsilon is not None:
            self.max_epsilon = check_number("max_epsilon", max_epsilon, 0)
        self.sample_rate = sample_rate
        if sample_rate is not None and sample_rate != 1:
            self.sample_rate = check_probability("sample_rate", sample_rate)
        self.accountant = accountant
        self._asked: Counter[int] = Counter()
        self._known: dict[int, float] = {}
        self.epsilon(0)  # checks accountant

    def epsilon(self, rounds=None):
        """The ε of the client that was asked most often.

        Args:
            rounds: Number of rounds it was asked in; `None` for those until now.
        """
        if rounds is None:
            rounds = max(self._asked.values(), default=0)
        if rounds not in self._known:
            self._known[rounds] = epsilon_of(
                self.noise_multiplier,
                rounds,
                self.delta,
                sample_rate=self.sample_rate,
                accountant=self.accountant,
            )
        return self._known[rounds]

    def configure_train(self, server_round, arrays, config, grid):
        """Messages for the clients that train in this round, which now counts.

        Raises:
            StopFederation: If their replies would cost more than is left.
        """
        messages = list(super().configure_train(server_round, arrays, config, grid))
        at_risk = [m.metadata.dst_node_id for m in messages]
        if self.sample_rate is not None:
            at_risk = list(grid.get_node_ids())
        if self.max_epsilon is not None and at_risk:
            after = self.epsilon(1 + max(self._asked[k] for k in at_risk))
            if after > self.max_epsilon:
                raise StopFederation(
                    f"Round {server_round} would bring epsilon from "
                    f"{self.epsilon():.4g} to {after:.4g}, above "
                    f"max_epsilon={self.max_epsilon:g} at delta={self.delta:g}."
                )
        self._asked.update(at_risk)
        return messages

    def spent(self):
        """ε and δ until now, a dict."""
        return {"epsilon": self.epsilon(), "delta": self.delta}

    def report(self):
        """ε and δ until this round."""
        return {"privacy": self.spent()}

    def get_account(self):
        """The account: how many rounds each client was asked in."""
        return {
            "asked": dict(self._asked),
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
        }

    def set_account(self, account):
        """Take an account up again, of each client what is more.

        Raises:
            ValueError: If it is of another noise or sampling.
        """
        for name in ("noise_multiplier", "sample_rate"):
            if account[name] != getattr(self, name):
                raise ValueError(
                    f"The checkpoint's account is of another `{name}`. Expected: "
                    f"{account[name]}. Received: {name}={getattr(self, name)}"
                )
        self._asked |= Counter(account["asked"])

    def get_state(self):
        """The account."""
        return self.get_account()

    def set_state(self, state):
        """Take the account up again, see `set_account`."""
        self.set_account(state)


class LocallyPrivate(Accounted):
    """The account of local differential privacy by Flower's `LocalDpMod`.

    The mod clips each update to the norm C and adds Normal(0, σ²) to each weight
    before it leaves the client; give the same mod to `simulate(mods=[mod])`. No server
    need be trusted: whatever it makes of the weights is private too. Metrics and
    numbers of examples are sent as they are.

    The guarantee is (ε, δ) for each client, all its examples together: what it sends
    in the whole run would be much as likely with any other data. Two clipped updates
    differ by up to 2C, so z = σ / 2C, whatever `sensitivity` the mod was given; ε
    composes over the rounds that a client was asked in, those that failed too, and is
    the one of the client asked most often. It is not the mod's `epsilon`, which names
    the noise of one round by a formula for ε ≤ 1.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        mod: The `flwr.clientapp.mod.LocalDpMod` of the clients.
        delta: δ of the account.
        max_epsilon: Largest ε. The run ends before the round that would exceed it.
        accountant: `"rdp"` or `"pld"`, see `epsilon_of`.

    Raises:
        TypeError, ValueError: If an argument is none of those.

    Example:

    >>> from flwr.clientapp.mod import LocalDpMod
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from federated.privacy import LocallyPrivate
    >>> mod = LocalDpMod(clipping_norm=1.0, sensitivity=2.0, epsilon=1.0, delta=1e-5)
    >>> LocallyPrivate(FedAvg(), mod, delta=1e-5).epsilon(rounds=10)
    2.91...

    Reference: Dwork and Roth 2014, "The algorithmic foundations of differential
    privacy", theorem A.1, for the mod's formula.
    """

    def __init__(self, strategy, mod, *, delta, max_epsilon=None, accountant="rdp"):
        if not isinstance(mod, LocalDpMod):
            raise TypeError(
                "Invalid value for argument `mod`. Expected a "
                f"flwr.clientapp.mod.LocalDpMod. Received: mod={mod!r}"
            )
        if not (mod.sensitivity > 0 and mod.epsilon > 0 and 0 < mod.delta < 1):
            raise ValueError(
                "Invalid value for argument `mod`. Expected positive sensitivity and "
                "epsilon, and a delta between 0 and 1. Received: "
                f"sensitivity={mod.sensitivity}, epsilon={mod.epsilon}, "
                f"delta={mod.delta}"
            )
        self.mod = mod
        deviation = mod.sensitivity * math.sqrt(2 * math.log(1.25 / mod.delta))
        z = deviation / mod.epsilon / (2 * mod.clipping_norm)
        super().__init__(strategy, z, delta, max_epsilon, None, accountant)

    def bind(self, model):
        """Check that the mod does to all weights what the account assumes.

        Raises:
            ValueError: If it does not.
        """
        wrong = [
            w.path
            for w in model.weights
            if not tuple(w.shape)
            or not keras.backend.is_float_dtype(w.dtype)
            or records.is_variance(w.path)
        ]
        if wrong:
            raise ValueError(
                "Flower's LocalDpMod clips no scalars, takes no integers, and makes "
                "variances negative. Expected a model without such weights. "
                f"Received: {wrong}"
            )


def check_probability(name, value):
    """Check a number between 0 and 1, both excluded, and return it as a float."""
    number = check_number(name, value, 0)
    if number >= 1:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number between 0 and 1. "
            f"Received: {name}={value!r}"
        )
    return number
