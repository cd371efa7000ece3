"""A strategy under which a policy sets the strengths of penalties between rounds."""

import copy
import math
import warnings
from typing import Any

import numpy as np

from federated import records
from federated.strategies.base import Wrapper, chain, private_average, users_arrays
from federated.strategies.composite import Composite
from kerasreg.callbacks import Evidence, Hypergradient
from kerasreg.callbacks.meter import Setter, ratios_of, spread, unit_strength
from kerasreg.callbacks.policies.base import (
    State,
    Unit,
    check_bounds,
    check_policy,
    next_strengths,
    renamed,
)
from kerasreg.callbacks.units import check_exact_zeros, check_granularity, units_of
from kerasreg.regularizers.base import check_count

# What only the steps of a training can tell.
_AT_CLIENTS = ("gradient_norm", "penalty_gradient_norm", "penalty")


class AdaptiveStrength(Wrapper):
    """Let a policy set the penalty strength of each layer, for all clients, by rounds.

    What `LayerwiseAdaptiveLambda` does after an epoch, the server does after a round:
    it measures what the policy needs, asks it, and sends the new strengths with every
    message of the next round, so that a client which is picked late has them, too. A
    round takes the place of an epoch and of a step in what the policy is told.

    * `size`, `sparsity` and `norm` are those of the aggregate, as users get it. The
      average of clients' weights has a zero only where all of them have one; put
      `FederatedDualAveraging` or `ServerProximal` inside for a sparse one.
    * `gradient_norm`, `penalty_gradient_norm` and `penalty` are measured by the
      clients, in up to 16 of their steps, if the policy needs them: root mean squares
      (of penalties, means) over clients by their numbers of examples, `norm` among
      them, which then is that of the same steps. Only these numbers are sent. The pull
      of `FedProx` is part of none.
    * Metrics are the strategy's averages: `"loss"`, `"data_loss"` and so on of the
      training; with `"val_"` those of the clients' evaluation, for which they must
      hold out data (`validation_split` of `simulate`).

    With one client that takes part in each round it gives the strengths of the
    callback, if its optimizer has no state to lose between rounds. Strengths by unit
    are reported in each round: those that the next one will be trained with. The final
    model has the last ones. If a number that the policy needs is missing, NaN or
    infinite, all strengths stay, and it warns once.

    `Hypergradient` and `Evidence` differentiate the loss of the training data, which
    stay with the clients: they are refused.

    What clients say of themselves is taken at their word; the bounds limit what a false
    one can do. Put `Robust` around this strategy, so that it averages over good clients
    only; and `Private`, too, which leaves it the private aggregate and no metrics.
    Around differential privacy only policies are taken that go by the aggregate
    (`Scheduled`, `TargetSparsity`): what clients measure has no noise. Of
    layers that `Personalized` keeps at the clients the aggregate says nothing.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        policy: A `kerasreg.callbacks.Policy`: `TargetSparsity`, `GeneralizationGap`,
            `AdaptiveWeightDecay`, `GradientRatio`, `Scheduled`, or your own.
        every: Positive integer, after how many rounds the policy is asked.
        granularity: `"layer"`, `"weight"` or `"model"`: what has a strength of its own.
        min_strength: Non-negative number, below which no positive strength is set.
        max_strength: Positive number, above which no strength is set.

    Raises:
        TypeError: If `strategy` or `policy` is none, or a number is not one.
        ValueError: If an argument is out of range, or the policy needs training data,
            or what clients say while `strategy` has differential privacy;
            when a run begins, if the model has no penalty, or does not suit the policy;
            after the first round, if the policy needs metrics that there are not.

    Example:

    >>> import keras, numpy as np
    >>> import federated
    >>> from federated.strategies import AdaptiveStrength
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from kerasreg.callbacks import Scheduled
    >>> from kerasreg.regularizers import L2
    >>> def build_model():
    ...     layer = keras.layers.Dense(1, name="head")
    ...     model = keras.Sequential([keras.Input((2,)), layer])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> x = np.ones((20, 2), "float32")
    >>> clients = [(x, x[:, :1])] * 2
    >>> strategy = AdaptiveStrength(FedAvg(), Scheduled(lambda epoch: 0.5**epoch))
    >>> result = federated.simulate(
    ...     build_model, clients, strategy, 2, L2(1.0), verbose=0
    ... )
    >>> result.history["strengths/head"], list(result.strengths.values())
    ([0.5, 0.25], [0.25])
    """

    def __init__(
        self,
        strategy,
        policy,
        every=1,
        granularity="layer",
        min_strength=0.0,
        max_strength=1e3,
    ):
        super().__init__(strategy)
        self.policy = check_policy(policy)
        if isinstance(policy, Hypergradient | Evidence):
            raise ValueError(
                f"Invalid value for argument `policy`. {type(policy).__name__} "
                "differentiates the loss of the training data, which stay with the "
                "clients. Expected one that works by what can be measured of the "
                "model and averaged, such as TargetSparsity, GeneralizationGap, "
                f"GradientRatio or Scheduled. Received: policy={policy!r}"
            )
        self.every = check_count("every", every)
        self.granularity = check_granularity(granularity)
        bounds = check_bounds(min_strength, max_strength)
        self.min_strength, self.max_strength = bounds
        self._initial = copy.deepcopy(policy.get_state())
        self._measures = [name for name in _AT_CLIENTS if name in policy.needs]
        if "norm" in policy.needs and {*self._measures} - {"penalty"}:
            self._measures.append("norm")
        told = [*self._measures, *policy.needs_logs]
        if told and (private := private_average(strategy)):
            raise ValueError(
                f"Invalid value for argument `policy`. {type(policy).__name__} needs "
                f"{told} of the clients, which have no noise, so the account of "
                f"{private} would not hold. Expected a policy that goes by the "
                "aggregate alone, such as TargetSparsity or Scheduled. "
                f"Received: policy={policy!r}"
            )
        self._validates = any(n.startswith("val_") for n in policy.needs_logs)
        self._model: Any = None
        self._units: dict[str, list] = {}
        self._ratios: list[list[float]] = []
        self._setter: Any = None
        self._keys: dict[int, str] = {}
        self._sent: dict[str, float] = {}
        self._logs: dict[str, float] = {}
        self._means: dict[tuple[str, str], float] = {}
        self._trained = self._evaluated = self._warned = False

    @property
    def strengths(self):
        """The present strength of each unit: a dict from its name to a float."""
        return {name: unit_strength(members) for name, members in self._units.items()}

    def bind(self, model):
        """Find the units, and set the first strengths of a policy that knows them."""
        policy = self.policy
        policy.set_state(copy.deepcopy(self._initial))
        self._model, self._warned = model, False
        self._units = units_of(model, self.granularity)
        self._ratios = [ratios_of(members, {}) for members in self._units.values()]
        if policy.needs_exact_zeros:
            own = {n: w for n, w in self._units.items() if policy.sets(n)}
            mapped = any(isinstance(each, Composite) for each in chain(self.strategy))
            try:
                check_exact_zeros(model, own, type(policy).__name__, mapped=mapped)
            except ValueError as error:
                if mapped:
                    raise
                raise ValueError(
                    f"{error}. Or put FederatedDualAveraging or ServerProximal inside, "
                    "which keep the zeros that an average of clients loses."
                ) from None
        policy.check(model, self._units)
        self._setter = Setter([w for members in self._units.values() for w in members])
        if policy.at_start:
            self._ask(0, {})

    def configure_train(self, server_round, arrays, config, grid):
        """Send the strengths, and what the clients are to measure."""
        if self._model is None:
            raise self._unbound()
        self._keys = {records.place(key): key for key in arrays}
        self._send(config)
        if self._measures:
            config[records.MEASURE] = self._measures
        self._trained = self._evaluated = False
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        """Aggregate, and ask the policy unless it needs the clients' evaluation."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if not arrays:
            return arrays, metrics
        self._trained = True
        self._assign(arrays)
        contents = [reply.content for reply in replies if not reply.has_error()]
        self._means = _means(contents, list(self._sent))
        self._logs = _numbers(metrics)
        if not self._validates and server_round % self.every == 0:
            self._ask(server_round, self._logs)
        return arrays, metrics

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Send the strengths that the model was trained with."""
        records.write_strengths(config, self._sent)
        messages = list(super().configure_evaluate(server_round, arrays, config, grid))
        self._evaluated = bool(messages)
        return messages

    def aggregate_evaluate(self, server_round, replies):
        """Aggregate, and ask the policy if it needs this."""
        metrics = super().aggregate_evaluate(server_round, replies)
        if self._validates and self._trained and server_round % self.every == 0:
            logs = {f"val_{name}": value for name, value in _numbers(metrics).items()}
            self._ask(server_round, self._logs | logs)
        return metrics

    def report(self):
        """The strengths by unit, which the next round is trained with."""
        if self._validates and self._trained and not self._evaluated:
            raise ValueError(self._missing(self.policy.needs_logs, self._logs))
        return {"strengths": self.strengths}

    def get_state(self):
        """The strengths and what the policy remembers."""
        return {
            "units": list(self._units),
            "strengths": [w.regularizer.strength for w in self._weights()],
            "ratios": self._ratios,
            "policy": self.policy.get_state(),
        }

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self._setter(state["strengths"])
        self._ratios = state["ratios"]
        names = dict(zip(state["units"], self._units, strict=True))
        self.policy.set_state(renamed(state["policy"], names))

    def _weights(self):
        return [weight for members in self._units.values() for weight in members]

    def _send(self, config):
        self._sent = {
            self._key(weight): weight.regularizer.strength for weight in self._weights()
        }
        records.write_strengths(config, self._sent)

    def _key(self, weight):
        """The key of a weight in this round's arrays."""
        at = [i for i, each in enumerate(self._model.weights) if each is weight]
        return self._keys.get(at[0], "")

    def _assign(self, arrays):
        """Give the server's model the weights that users would get."""
        values = records.read_arrays(users_arrays(self.strategy, arrays))
        by_place = {records.place(key): value for key, value in values.items()}
        self._model.set_weights([by_place[i] for i in range(len(by_place))])

    def _ask(self, server_round, logs):
        """Measure, ask the policy, and set the strengths of the server's model."""
        missing = [name for name in self.policy.needs_logs if name not in logs]
        if missing:
            raise ValueError(self._missing(missing, logs))
        if server_round < self.policy.burn_in:
            return
        if not all(np.isfinite(weight).all() for weight in self._weights()):
            self._warn()
            return
        units = self._measured()
        for name, extra in self.policy.measure(self._model, self._units).items():
            units[name].extra = extra
        state = State(units, step=server_round, epoch=server_round, logs=logs)
        bounds = self.min_strength, self.max_strength
        strengths = next_strengths(self.policy, state, *bounds)
        if strengths is None:
            self._warn()
            return
        before = {name: unit.strength for name, unit in units.items()}
        self._setter(spread(strengths, before, self._ratios, *bounds))

    def _measured(self):
        """The units, with what can be measured here and what the clients have."""
        units = {}
        for name, members in self._units.items():
            flat = np.concatenate([np.ravel(np.float64(w)) for w in members])
            unit = units[name] = Unit(
                strength=unit_strength(members),
                size=flat.size,
                sparsity=float(np.mean(flat == 0)),
                norm=float(np.linalg.norm(flat)),
            )
            for field in self._measures:
                # A weight that the loss does not use has no gradient.
                found = [self._means.get((self._key(w), field)) for w in members]
                known = [number for number in found if number is not None]
                total = sum(known) if known else None
                if total is not None and field != "penalty":
                    total = math.sqrt(total) if total >= 0 else total
                setattr(unit, field, total)
        return units

    def _warn(self):
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"A number that {type(self.policy).__name__} needs or returned is "
                "missing, NaN or infinite: all strengths stay as they are.",
                stacklevel=2,
            )

    def _missing(self, missing, logs):
        name = type(self.policy).__name__
        evaluated = any(each.startswith("val_") for each in logs)
        if any(each.startswith("val_") for each in missing) and not evaluated:
            return (
                f"{name} needs {list(missing)} in each round. Expected clients that "
                "hold out data, such as `validation_split=0.2` of `simulate`, and a "
                f"strategy that has them evaluate. Received: metrics {sorted(logs)}"
            )
        return (
            f"{name} needs the metrics {list(missing)}. Expected a model compiled with "
            f"them. Received: metrics {sorted(logs)}"
        )


def _numbers(metrics):
    """The single numbers among averaged metrics."""
    return {
        name: float(value)
        for name, value in (metrics or {}).items()
        if isinstance(value, int | float)
    }


def _means(clients, keys):
    """What clients measured, averaged by their numbers of examples.

    Args:
        clients: List of the `RecordDict` of their replies.
        keys: List of the keys of weights.

    Returns:
        A dict from key and field to a number: mean squares of norms, means of
        penalties. What nobody measured is left out.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for content in clients:
        (metrics,) = content.metric_records.values()
        examples = metrics[records.NUM_EXAMPLES]
        measured = records.read_measured(content)
        for key in keys:
            for field, value in measured.get(key, {}).items():
                if math.isnan(value):
                    continue
                total = sums.setdefault((key, field), [0.0, 0.0])
                total[0] += examples * (value if field == "penalty" else value**2)
                total[1] += examples
    return {at: total / count for at, (total, count) in sums.items()}
