"""What a federated run leaves behind."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from flwr.app import ArrayRecord

from federated import records
from kerasreg import extras
from kerasreg.regularizers import penalties_of
from kerasreg.regularizers.attach import separate


@dataclasses.dataclass
class Round:
    """One round, as it is kept in the history.

    Args:
        number: Number of the round, from 1; 0 is the model before the first.
        train: Metrics of training, averaged over the clients by the strategy.
        evaluate: Metrics of the clients' evaluation, averaged by the strategy.
        server: Metrics of the server's own evaluation.
        clients: Dict from the number of each client that took part to its metrics;
            those of its evaluation begin with `"val_"`.
        errors: Dict from the number of each client that failed to the reason.
        bytes_down: Bytes of weights sent to the clients.
        bytes_up: Bytes of weights that they sent back.
        seconds: Duration.
        report: What the strategies report: strengths, rejected clients, privacy.
    """

    number: int
    train: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluate: dict[str, float] = dataclasses.field(default_factory=dict)
    server: dict[str, float] = dataclasses.field(default_factory=dict)
    clients: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    errors: dict[int, str] = dataclasses.field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    report: dict[str, Any] = dataclasses.field(default_factory=dict)


class History:
    """The rounds of a run, a list of `Round`.

    Args:
        rounds: List of `Round`.
        names: List with the name of each client, their numbers by default.

    Example:

    >>> from federated.history import History, Round
    >>> history = History(
    ...     [Round(1, train={"loss": 0.5}), Round(2, train={"loss": 0.4})]
    ... )
    >>> history["loss"]
    [0.5, 0.4]
    """

    def __init__(self, rounds=(), names=None):
        self.rounds: list[Round] = list(rounds)
        self.names = names

    def __repr__(self):
        return f"<History of {len(self)} rounds: {sorted(_columns(self.rounds))}>"

    def name(self, client):
        """The name of a client, by its number."""
        return client if self.names is None else self.names[client]

    def __len__(self):
        return sum(r.number > 0 for r in self.rounds)

    def __iter__(self):
        return iter(self.rounds)

    def __getitem__(self, name):
        """A column of `to_frame`, without the rounds that have no such number."""
        values = [row[name] for row in map(_row, self.rounds) if name in row]
        if not values:
            known = sorted(_columns(self.rounds))
            raise KeyError(f"No round has {name!r}. Expected one of {known}.")
        return values

    def to_frame(self, clients=False):
        """The history as a `pandas.DataFrame`.

        Args:
            clients: Whether to have one row for each round and client, instead of
                one for each round.

        Returns:
            A frame. A row of a round has the metrics of training under their names,
            those of the clients' evaluation with `"val_"`, those of the server's with
            `"server_"` in front, bytes, seconds, the number of clients that replied
            and that failed, how many of the replies `Robust` rejected, and the numbers
            that strategies report. A row of a client has its name, metrics, and why it
            failed (`error`) or was rejected (`rejected`).
        """
        pandas = extras.require("pandas")
        if not clients:
            return pandas.DataFrame([_row(r) for r in self.rounds])
        rows: list[dict[str, Any]] = [
            {"round": r.number, "client": client, **metrics}
            for r in self.rounds
            for client, metrics in sorted(r.clients.items())
        ]
        for r in self.rounds:
            for row in rows:
                reason = r.report.get("rejected", {}).get(row["client"])
                if row["round"] == r.number and reason:
                    row["rejected"] = reason
        rows += [
            {"round": r.number, "client": client, "error": reason}
            for r in self.rounds
            for client, reason in sorted(r.errors.items())
        ]
        if self.names is not None:
            rows = [{**row, "name": self.name(row["client"])} for row in rows]
        frame = pandas.DataFrame(rows)
        return frame if frame.empty else frame.sort_values(["round", "client"])

    def plot(self, title=None):
        """Loss, metrics, failures and traffic by round, a `matplotlib` figure."""
        from federated.plots import history as figure

        return figure(self, title=title)

    def to_json(self):
        """The history as dicts and lists, which `from_json` takes back."""
        return [dataclasses.asdict(r) for r in self.rounds]

    @classmethod
    def from_json(cls, rounds):
        """Make the history of `to_json`, also after its way through a file."""
        made = [Round(**r) for r in rounds]
        for r in made:  # JSON knows keys of text only
            r.clients = {int(k): v for k, v in r.clients.items()}
            r.errors = {int(k): v for k, v in r.errors.items()}
            for name in _REJECTED & r.report.keys():
                r.report[name] = {int(k): v for k, v in r.report[name].items()}
        return cls(made)


@dataclasses.dataclass
class Result:
    """What `simulate` returns.

    Args:
        model: The final `keras.Model`, compiled, with its penalties.
        history: `History`.
        strengths: Dict from the path of each penalized weight to its final strength.
        privacy: Dict with the privacy spent, `epsilon` and `delta`; empty without.
        stopped: Why the run ended before its last round, or `None`.
        personal: Dict from the number of each client to the weights that it has kept
            to itself, as far as the simulation holds them.
        build_model: Function that makes a model such as the final one.
    """

    model: keras.Model
    history: History
    strengths: dict[str, float] = dataclasses.field(default_factory=dict)
    privacy: dict[str, float] = dataclasses.field(default_factory=dict)
    stopped: str | None = None
    personal: dict[int, ArrayRecord] = dataclasses.field(
        default_factory=dict, repr=False
    )
    build_model: Callable[[], keras.Model] | None = dataclasses.field(
        default=None, repr=False
    )

    def __repr__(self):
        facts = [f"model={self.model.name!r}", f"rounds={len(self.history)}"]
        for name in ("strengths", "privacy", "stopped"):
            if value := getattr(self, name):
                facts.append(f"{name}={value!r}")
        return f"Result({', '.join(facts)})"

    def personal_model(self, client):
        """The model of one client: the final one with its own weights in it.

        Args:
            client: Number, or name, of a client that has trained under `Personalized`.

        Returns:
            A new compiled `keras.Model`.

        Raises:
            ValueError: If it has no weights of its own.
        """
        names = self.history.names or []
        if client not in self.personal and client in names:
            client = names.index(client)
        if client not in self.personal or self.build_model is None:
            raise ValueError(
                "Invalid value for argument `client`. Expected one that has trained "
                f"under `Personalized`, of {sorted(self.personal)}. "
                f"Received: client={client!r}"
            )
        model, weights = self.build_model(), self.model.get_weights()
        for key, array in records.read_arrays(self.personal[client]).items():
            weights[records.place(key)] = array
        model.set_weights(weights)
        separate(model)
        penalties = penalties_of(model).values()
        for penalty, strength in zip(penalties, self.strengths.values(), strict=True):
            penalty.strength = strength
        return model

    @property
    def bytes_sent(self):
        """Bytes of weights sent, down and up, in all rounds."""
        return sum(r.bytes_down + r.bytes_up for r in self.history)


_REJECTED = {"rejected", "rejected_evaluation"}  # reasons by client


def _columns(rounds):
    return {name for r in rounds for name in _row(r)}


def _row(r):
    numbers: dict[str, Any] = {
        **r.train,
        **{f"val_{k}": v for k, v in r.evaluate.items()},
        **{f"server_{k}": v for k, v in r.server.items()},
    }
    row: dict[str, Any] = {"round": r.number, **numbers}
    if r.number:
        row |= {
            "clients": len(r.clients),
            "failed": len(r.errors),
            "rejected": len(r.report.get("rejected", {})),
            "bytes_down": r.bytes_down,
            "bytes_up": r.bytes_up,
            "seconds": r.seconds,
        }
    for name, value in r.report.items():
        if name in _REJECTED:
            continue
        if isinstance(value, dict):
            row |= {f"{name}/{k}": v for k, v in value.items()}
        else:
            row[name] = value
    return row
