"""Federated dual averaging."""

from federated import records
from federated.strategies.composite import Composite


class FederatedDualAveraging(Composite):
    """Averages what leads to sparse weights, not the sparse weights: FedDualAvg.

    Clients that each have a sparse model rarely have it sparse in the same places, so
    the average of their weights is dense. Here clients and server keep a dual state
    `z`, out of which the proximal map makes the weights:

        client:  w = prox_{s·penalty}(z),   z ← z − η·∇loss_m(w),   s ← s + η
        server:  z ← z + η_s·Σ_m p_m (z_m − z),   s ← s + η_s·Σ_m p_m Σ_k η_k

    `z` is linear in the gradients, so nothing is lost by averaging it. The map's step
    `s` is the sum of all steps since the first round, and the weights become sparse
    and stay so. What goes over the wire is `z`; the model that users get, and that
    clients and server evaluate, has the weights. Weights without a penalty, or whose
    penalty has no proximal map, are averaged as usual.

    Strengths may change in the course of a run, but the map goes by the present
    strength for all of `s`, so let them settle.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy` that averages: `FedAvg`,
            `FedMedian`, `Krum`, a wrapper around one of them.
        step: How far a client's steps go in a round, `Σ_k η_k`, a positive number;
            `None` for what the clients say. With differential privacy, inside or
            outside, it has to be given: what clients say has no noise.
        server_learning_rate: Positive number `η_s`.

    Raises:
        TypeError: If `strategy` is no strategy or one with steps of its own (FedAdam
            and the like), or a number is none.
        ValueError: If a number is not positive; when the run begins, if the model is
            not compiled with plain SGD (or `Proximal` of it), has no penalty with a
            proximal map, or one that is not convex.

    Example:

    >>> import keras, numpy as np
    >>> import federated
    >>> from federated.strategies import FederatedDualAveraging
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from kerasreg.regularizers import L1
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(90, 4)).astype("float32")
    >>> clients = [(x[k::3], x[k::3, :1]) for k in range(3)]
    >>> result = federated.simulate(
    ...     build_model,
    ...     clients,
    ...     FederatedDualAveraging(FedAvg()),
    ...     20,
    ...     L1(0.2),
    ...     verbose=0,
    ... )
    >>> (result.model.layers[0].kernel.numpy() != 0).ravel().tolist()
    [True, False, False, False]

    Reference: Yuan, Zaheer & Reddi 2021, "Federated composite optimization",
    algorithm 2.
    """

    optimizer = "dual"

    def __init__(self, strategy, step=None, server_learning_rate=1.0):
        super().__init__(strategy, step, server_learning_rate)
        self.steps = 0.0
        """The sum of all steps so far, `s`."""
        self._zeros = 0.0

    def bind(self, model):
        """Take the penalties from the server's model.

        Args:
            model: The compiled `keras.Model`, with its penalties.

        Raises:
            ValueError: If a penalty is not convex.
        """
        super().bind(model)
        self.steps = self._zeros = 0.0  # of a run before
        for place, penalty in self._penalties().items():
            if penalty.longest_step is not None:
                raise ValueError(
                    "FederatedDualAveraging needs convex penalties: its map's step "
                    f"grows without bound. Received: {penalty!r} on "
                    f"{model.weights[place].path}"
                )

    def configure_train(self, server_round, arrays, config, grid):
        """Messages with `z` and its step."""
        config[records.BEFORE] = self.steps
        return super().configure_train(server_round, arrays, config, grid)

    def advance(self, arrays, step):
        """The new `z`."""
        self.steps += step
        self._zeros = self.zeros(self.mapped(arrays, self.steps))
        return arrays

    def configure_evaluate(self, server_round, arrays, config, grid):
        """Messages with the weights."""
        arrays = self.final_arrays(arrays)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def final_arrays(self, arrays):
        """The weights that belong to `z`."""
        return self.mapped(arrays, self.steps)

    def report(self):
        """The step of the map, and the share of zeros among penalized weights."""
        return {"proximal_step": self.steps, "zeros": self._zeros}

    def get_state(self):
        """The sum of all steps so far."""
        return {"steps": self.steps}

    def set_state(self, state):
        """Take back what `get_state` returned."""
        self.steps = state["steps"]
