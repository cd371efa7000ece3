"""What the strategies share that keep a penalty's proximal map at the server."""

from typing import Any

import numpy as np
from flwr.serverapp import strategy as flower
from keras import ops

from federated import records
from federated.optimizers import local_optimizer
from federated.strategies.base import Wrapper, chain, private_average
from kerasreg.optimizers.proximal import proximal_penalty
from kerasreg.regularizers.base import check_number


class Composite(Wrapper):
    """Clients step by the data loss with an optimizer of ours, the server maps.

    Clients say how far their steps went in all. Averaged like their weights, that is
    the step that the server's map takes.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy` that averages.
        step: How far a client's steps go in a round, `Σ_k η_k`, a positive number;
            `None` for what the clients say. With differential privacy, inside or
            outside, it has to be given: what clients say has no noise.
        server_learning_rate: How far the server goes towards the clients' average.

    Raises:
        TypeError: If `strategy` is no strategy, or one that does not average.
        ValueError: If a number is not positive, or `step` is missing.
    """

    optimizer: str
    """Name of the clients' optimizer in `federated.optimizers`."""

    def __init__(self, strategy, step=None, server_learning_rate=1.0):
        super().__init__(strategy)
        for each in chain(strategy):
            if isinstance(each, (*_ADAPTIVE, Composite)) or (
                isinstance(each, flower.FedProx) and each.proximal_mu
            ):
                raise TypeError(
                    "Invalid value for argument `strategy`. Expected one that takes "
                    "an average or a median of the clients' weights, such as FedAvg, "
                    "FedMedian or Krum: the server's map needs the length of its step. "
                    f"Received: {type(each).__name__}"
                )
        if step is None and (name := private_average(strategy)):
            raise ValueError(
                "Invalid value for argument `step`. Expected a positive number, "
                f"learning rate times steps a round, around {name}: how far the "
                "clients' steps went has no noise. Received: step=None"
            )
        self.step = None if step is None else check_number("step", step, above=0.0)
        self.server_learning_rate = check_number(
            "server_learning_rate", server_learning_rate, above=0.0
        )
        self._model: Any = None
        self._sent: dict = {}

    def bind(self, model):
        """Take the penalties from the server's model.

        Args:
            model: The compiled `keras.Model`, with its penalties.

        Raises:
            ValueError: If the model is not compiled with plain SGD, or has no penalty
                with a proximal map.
        """
        local_optimizer(model.optimizer, self.optimizer)
        self._model = model
        if not self._penalties():
            raise ValueError(
                f"{type(self).__name__} needs a penalty with a proximal map on a "
                f"weight that is trained, and the model {model.name!r} has none. Give "
                "it some by `penalties=`, such as kerasreg.regularizers.L1(0.01)."
            )

    def configure_train(self, server_round, arrays, config, grid):
        """Messages that ask for the optimizer."""
        if self._model is None:
            raise RuntimeError(
                f"{type(self).__name__} does not know the model. Run it by "
                "federated.simulate or the server app of federated."
            )
        config[records.OPTIMIZER] = self.optimizer
        self._sent = records.read_arrays(arrays)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages[:1]:
            kept = message.content[records.CONFIG].get(records.PERSONAL, [])
            if lost := self._mapped(kept):
                raise ValueError(
                    f"{type(self).__name__} applies the penalties of the weights "
                    f"{lost} at the server, but they stay at the clients. Take the "
                    "penalties off them, or share them."
                )
        return messages

    def aggregate_train(self, server_round, replies):
        """The strategy's arrays, a step of the server away from those sent."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if not arrays:
            return arrays, metrics
        taken = metrics.pop(records.TAKEN, None) if metrics else None
        step = taken if self.step is None else self.step
        if step is None:
            raise ValueError(
                f"The metrics of {type(self.strategy).__name__} lack "
                f"{records.TAKEN!r}, how far the clients' steps went. Give it to "
                f"{type(self).__name__} as `step`: learning rate times steps a round."
            )
        rate = self.server_learning_rate
        if rate != 1.0:
            average = records.read_arrays(arrays)
            moved = [
                self._sent[k] + rate * (a - self._sent[k]) for k, a in average.items()
            ]
            arrays = records.write_arrays(average, moved)
        return self.advance(arrays, rate * step), metrics

    def advance(self, arrays, step):
        """What is sent in the next round.

        Args:
            arrays: `ArrayRecord`, the server's step from what it had sent.
            step: How far this step goes along a constant gradient.
        """
        raise NotImplementedError

    def mapped(self, arrays, step):
        """Arrays after the proximal map of each penalty, of any step's length.

        Args:
            arrays: `ArrayRecord`.
            step: Non-negative number.
        """
        penalties, values = self._penalties(), records.read_arrays(arrays)
        if step:
            for key in self._mapped(arrays):
                penalty = penalties[records.place(key)]
                mapped = penalty.prox(ops.convert_to_tensor(values[key]), step)
                values[key] = ops.convert_to_numpy(mapped).astype(values[key].dtype)
        return records.write_arrays(values, values.values())

    def zeros(self, arrays):
        """Share of exact zeros among the weights with such a penalty."""
        values = records.read_arrays(arrays)
        parts = [values[key].ravel() for key in self._mapped(values)]
        return float(np.mean(np.concatenate(parts) == 0))

    def _mapped(self, keys):
        """Those keys whose weights clients leave to the map."""
        penalties = self._penalties()
        return [key for key in keys if records.place(key) in penalties]

    def _penalties(self):
        """Dict from a weight's place to the penalty that clients leave to the map."""
        return {
            place: proximal_penalty(weight)
            for place, weight in enumerate(self._model.weights)
            if weight.trainable and proximal_penalty(weight) is not None
        }


_ADAPTIVE = (
    flower.FedAdagrad,
    flower.FedAdam,
    flower.FedYogi,
    flower.FedAvgM,
    flower.QFedAvg,
)
