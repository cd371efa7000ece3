"""The penalties' proximal maps at the server: ServerProximal."""

from federated.strategies.composite import Composite


class ServerProximal(Composite):
    """Makes exact zeros of the global model, by the proximal map after averaging.

    Clients train on the data loss alone, by SGD. Of the average of their weights, the
    server takes the proximal map of each penalty,

        w ← prox_{s·penalty}(w + η_s·Σ_m p_m (w_m − w)),    s = η_s·Σ_m p_m Σ_k η_k

    where `p_m` is the weight of client `m`, `η_k` are the lengths of its steps and
    `η_s` is the server's. With this `s`, one local step on full batches is a step of
    the proximal gradient method on all the data, so the global model settles at the
    solution of the pooled problem. With more local steps the clients drift apart
    before the map, and it settles near.

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
        ValueError: If `step` or `server_learning_rate` is not positive; when the run
            begins, if the model is not compiled with plain SGD (or `Proximal` of it),
            or has no penalty with a proximal map.

    Example:

    >>> import keras, numpy as np
    >>> import federated
    >>> from federated.strategies import ServerProximal
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from kerasreg.regularizers import L1
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(90, 4)).astype("float32")
    >>> clients = [(x[k::3], x[k::3, :1]) for k in range(3)]
    >>> result = federated.simulate(
    ...     build_model, clients, ServerProximal(FedAvg()), 20, L1(0.2), verbose=0
    ... )
    >>> (result.model.layers[0].kernel.numpy() != 0).ravel().tolist()
    [True, False, False, False]

    Reference: Yuan, Zaheer & Reddi 2021, "Federated composite optimization", where
    it is federated mirror descent with the server's proximal step only.
    """

    optimizer = "smooth"

    def __init__(self, strategy, step=None, server_learning_rate=1.0):
        super().__init__(strategy, step, server_learning_rate)
        self._report: dict[str, float] = {}

    def bind(self, model):
        """Take the penalties from the server's model, see `Composite`."""
        super().bind(model)
        self._report = {}  # of a run before

    def advance(self, arrays, step):
        """The map of the new weights."""
        arrays = self.mapped(arrays, step)
        self._report = {"proximal_step": float(step), "zeros": self.zeros(arrays)}
        return arrays

    def report(self):
        """The step of the map, and the share of zeros among penalized weights."""
        return self._report


class FederatedMirrorDescent(ServerProximal):
    """Proximal steps at the clients and at the server: FedMid.

    As `ServerProximal`, but clients take the penalties' proximal maps, too, after
    each of their steps. So every step is pulled twice: with one client and one local
    step on full batches, the model solves the problem of *twice* the strengths. It is
    here to compare with; `FederatedDualAveraging` solves the stated problem.

    Args:
        strategy: A `flwr.serverapp.strategy.Strategy` that averages.
        step: How far a client's steps go in a round, or `None` for what they say.
        server_learning_rate: Positive number `η_s`.

    Raises:
        TypeError, ValueError: As `ServerProximal`.

    Example:

    >>> from federated.strategies import FederatedMirrorDescent
    >>> from flwr.serverapp.strategy import FedAvg
    >>> FederatedMirrorDescent(FedAvg(), server_learning_rate=0.5).optimizer
    'mirror'

    Reference: Yuan, Zaheer & Reddi 2021, "Federated composite optimization",
    algorithm 1.
    """

    optimizer = "mirror"
