"""What every strategy of kerasreg is: a wrapper around one of Flower's."""

from flwr.serverapp.strategy import Strategy


class Wrapper(Strategy):
    """Adds something to any strategy of Flower, and leaves the rest to it.

    A subclass overrides what it changes and calls `super()` for the rest. Wrappers
    can be nested, ours and Flower's.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.

    Raises:
        TypeError: If it is none.
    """

    def __init__(self, strategy):
        if not isinstance(strategy, Strategy):
            raise TypeError(
                "Invalid value for argument `strategy`. Expected a "
                "flwr.serverapp.strategy.Strategy, such as FedAvg(). "
                f"Received: strategy={strategy!r}"
            )
        self.strategy = strategy

    def bind(self, model):
        """Hook, called once before the first round with the server's Keras model.

        Args:
            model: The compiled `keras.Model`, with its penalties. Its weights are the
                initial ones, and may be changed; later the round's arrays, not it, are
                what is sent.
        """

    def configure_train(self, server_round, arrays, config, grid):
        """Messages for the clients that train in this round, see Flower's."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        """Arrays and metrics out of the clients' replies, see Flower's."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Messages for the clients that evaluate in this round, see Flower's."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        """Metrics out of the clients' replies, see Flower's."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self):
        """Log the settings, see Flower's."""
        self.strategy.summary()

    def report(self):
        """What is to be kept of this round in the history.

        Returns:
            A dict of numbers, strings and dicts and lists of them (JSON), such as
            `{"strengths": {"dense": 0.1}}` or `{"rejected": {...}}`; may be empty.
        """
        return {}

    def final_arrays(self, arrays):
        """The arrays of the model that users get, from those that are sent.

        Args:
            arrays: The round's `ArrayRecord`.

        Returns:
            An `ArrayRecord` with the same keys.
        """
        return arrays

    def finish(self, model):
        """Hook, called at the end with the server's model, which has its weights.

        Args:
            model: The `keras.Model` that users get.
        """

    def get_state(self):
        """What it remembers from round to round, to resume exactly.

        Returns:
            A dict of numbers, strings, NumPy arrays, and dicts and lists of them. The
            wrapped strategy's is not part of it.
        """
        return {}

    def set_state(self, state):
        """Take back what `get_state` returned."""

    def _unbound(self):
        """What to raise if a run began without `bind`."""
        return RuntimeError(
            f"{type(self).__name__} does not know the model. Run it by "
            "federated.simulate or the server app of federated."
        )


def private_average(strategy):
    """The name of the strategy within whose account covers its average alone.

    What clients say beside their weights has no noise there, so no strategy around it
    may act on that: the account would not hold. `None` if there is no such strategy.
    """
    for each in chain(strategy):
        kinds = [kind.__name__ for kind in type(each).__mro__]
        if any(name.startswith(("DifferentialPrivacy", "Private")) for name in kinds):
            return type(each).__name__
    return None


def users_arrays(strategy, arrays):
    """The arrays of the model that users get, of what a strategy made or sends.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy`.
        arrays: `ArrayRecord`.
    """
    for each in reversed(list(chain(strategy))):
        if isinstance(each, Wrapper):
            arrays = each.final_arrays(arrays)
    return arrays


def chain(strategy):
    """A strategy and what it wraps, from the outside in, Flower's wrappers too."""
    while strategy is not None:
        yield strategy
        strategy = getattr(strategy, "strategy", None)
