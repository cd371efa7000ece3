"""What a client needs to take part: its model, its data and how it trains."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import keras

from federated.clients import Clients
from federated.seeds import generator, seeded
from kerasreg.regularizers import regularize
from kerasreg.regularizers.base import check_count


@dataclasses.dataclass
class Task:
    """The model, the data and the local training of the clients of a federation.

    Args:
        build_model: Function without arguments that returns a compiled, built
            `keras.Model`.
        clients: `Clients`, or a function from the number of a client to its `(x, y)`.
        penalties: Rules for `kerasreg.regularizers.regularize`, or `None` to leave
            those of the model.
        epochs: Epochs that a client trains in a round.
        batch_size: Its batch size; `None` for all of its examples at once.
        validation_split: Share of each client's examples that it does not train on
            and evaluates by.
        seed: Non-negative integer.
        mods: Flower's mods, applied around the training of every client.

    Raises:
        TypeError, ValueError: If an argument is none of those.
    """

    build_model: Callable[[], keras.Model]
    clients: Clients | Callable[[int], tuple]
    penalties: Any = None
    epochs: int = 1
    batch_size: int | None = 32
    validation_split: float = 0.0
    seed: int = 0
    mods: tuple = ()

    def __post_init__(self):
        if not callable(self.build_model):
            raise TypeError(
                "Invalid value for argument `build_model`. Expected a function without "
                "arguments that returns a compiled keras.Model. "
                f"Received: build_model={self.build_model!r}"
            )
        check_count("epochs", self.epochs)
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        if not 0 <= self.validation_split < 1:
            raise ValueError(
                "Invalid value for argument `validation_split`. Expected a number in "
                f"[0, 1). Received: validation_split={self.validation_split!r}"
            )

    def model(self):
        """A new model, with the weights that the seed gives and the penalties."""
        with seeded(self.seed):
            model = self.build_model()
        if not isinstance(model, keras.Model):
            raise TypeError(
                "Invalid result of `build_model`. Expected a keras.Model. "
                f"Received: {model!r}"
            )
        if not model.built or not model.compiled:
            missing = "built (give it a keras.Input)" if model.compiled else "compiled"
            raise ValueError(
                f"Invalid result of `build_model`. Expected a model that is {missing}. "
                f"Received: {model.name!r}"
            )
        if self.penalties is not None:
            regularize(model, self.penalties)
        return model

    def data(self, client):
        """The examples of a client: those it trains on, and those it evaluates by.

        Args:
            client: Number of the client.

        Returns:
            Two tuples `(x, y)` or `(x, y, sample_weight)`; the second is `None` if
            `validation_split` is 0.
        """
        clients = self.clients
        data = clients[client] if isinstance(clients, Clients) else clients(client)
        if not self.validation_split:
            return data, None
        total = len(keras.tree.flatten(data)[0])
        held_out = max(1, round(total * self.validation_split))
        if held_out == total:
            raise ValueError(
                f"Client {client} has {total} example(s): too few for "
                f"validation_split={self.validation_split}."
            )
        order = generator(self.seed, client).permutation(total)
        return _rows(data, order[held_out:]), _rows(data, order[:held_out])


def _rows(data, rows):
    return keras.tree.map_structure(lambda array: array[rows], data)


def load_task(name, **settings):
    """The task of a module of the user's own, as `flwr run` names it.

    The module has `build_model()` and `load_data(client, num_clients)`, and, if it
    wants, `penalties`, `epochs`, `batch_size`, `validation_split`, `seed` and `mods`.

    Args:
        name: Name of the module, importable, such as `"my_package.task"`.
        **settings: Fields of `Task` that take the place of the module's.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If it lacks one of the two functions.
    """
    module = importlib.import_module(name)
    for function in ("build_model", "load_data"):
        if not callable(getattr(module, function, None)):
            raise AttributeError(
                f"The task module {name!r} has no function `{function}`. Expected "
                "`build_model()`, which returns a compiled keras.Model, and "
                "`load_data(client, num_clients)`, which returns (x, y)."
            )
    names = [f.name for f in dataclasses.fields(Task)]
    own = {n: getattr(module, n) for n in names[2:] if hasattr(module, n)}
    return Task(module.build_model, module.load_data, **{**own, **settings})
