"""What a client needs to take part: its model, its data and how it trains."""

import copy
import dataclasses
import importlib
import warnings
from collections.abc import Callable
from concurrent import futures
from typing import Any

import keras
import numpy as np

from federated.clients import Clients
from federated.seeds import generator, seeded
from kerasreg.layers import set_num_examples
from kerasreg.regularizers import regularize
from kerasreg.regularizers.base import check_count, check_number


def _settings():
    """Keras's settings that a model depends on, to build it in other processes."""
    return (
        keras.config.dtype_policy(),
        keras.config.floatx(),
        keras.config.image_data_format(),
    )


@dataclasses.dataclass
class Task:
    """The model, the data and the local training of the clients of a federation.

    Args:
        build_model: Function without arguments that returns a compiled, built
            `keras.Model`. Layers from outside of it are copied, as they are then.
        clients: `Clients`, or a function from the number of a client to its `(x, y)`.
        penalties: Rules for `kerasreg.regularizers.regularize`, or `None` to leave
            those of the model.
        epochs: Epochs that a client trains in a round.
        batch_size: Its batch size; `None` for all of its examples at once.
        validation_split: Share of each client's examples that it does not train on
            and evaluates by.
        seed: Non-negative integer.
        mods: Flower's mods, applied around the training of every client.
        settings: Keras's global settings, by default those that hold now.

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
    settings: tuple = dataclasses.field(default_factory=_settings)

    def __post_init__(self):
        if isinstance(self.build_model, keras.Model) or not callable(self.build_model):
            raise TypeError(
                "Invalid value for argument `build_model`. Expected a function without "
                "arguments that returns a compiled keras.Model. "
                f"Received: build_model={self.build_model!r}"
            )
        check_count("epochs", self.epochs)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer):
            raise TypeError(_not_a_seed(self.seed))
        if self.seed < 0:
            raise ValueError(_not_a_seed(self.seed))
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        check_number("validation_split", self.validation_split)
        if self.validation_split >= 1:
            raise ValueError(
                "Invalid value for argument `validation_split`. Expected a number in "
                f"[0, 1). Received: validation_split={self.validation_split!r}"
            )
        rules = self.penalties
        rules = rules.values() if isinstance(rules, dict) else [rules]
        if any(isinstance(rule, type | int | float) for rule in rules):
            raise TypeError(
                "Invalid value for argument `penalties`. Expected a penalty such as "
                "L1(0.01), or a dict from a name to one. "
                f"Received: penalties={self.penalties!r}"
            )
        if not isinstance(self.mods, list | tuple) or not all(map(callable, self.mods)):
            raise TypeError(
                "Invalid value for argument `mods`. Expected a list of functions of a "
                f"message, a context and the next one. Received: mods={self.mods!r}"
            )
        self.mods = tuple(self.mods)

    def model(self):
        """A new model, with the weights that the seed gives and the penalties.

        It is built in a thread of its own: Keras numbers the names of layers anew in
        each thread, so that they are the same in every process. Layers that
        `build_model` has from outside (a pretrained one) are copied with their weights.
        """
        with seeded(self.seed), futures.ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(self._model).result()

    def _model(self):
        policy, floatx, image_data_format = self.settings
        keras.config.set_floatx(floatx)
        keras.config.set_image_data_format(image_data_format)
        keras.config.set_dtype_policy(policy)  # for this thread
        model, made = _observed(self.build_model)
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
        if not {id(v.value) for v in model.variables} <= made:
            again = {id(v) for v in self.build_model().variables}
            if again & {id(v) for v in model.variables}:
                model = _own(model)
        if self.penalties is not None:
            regularize(model, self.penalties)
        layers = model._flatten_layers()
        if isinstance(self.clients, Clients) and any(
            hasattr(layer, "num_examples") for layer in layers
        ):  # a client's trainer says its own number
            set_num_examples(
                model, sum(map(self.clients.num_examples, range(len(self.clients))))
            )
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


def _observed(build_model):
    """A new model, and the ids of all variables that were made meanwhile."""
    import tensorflow as tf  # tensorflow: nothing else sees variables being made

    made = []

    def creator(create, **settings):
        made.append(create(**settings))
        return made[-1]

    with tf.variable_creator_scope(creator):
        model = build_model()
    return model, {id(variable) for variable in made}


def _own(model):
    """A copy of a model with layers from outside, which another model may have, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the optimizer's state: there is none
            return copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            "Invalid result of `build_model`. It has layers that were made outside of "
            "it, and cannot be copied as Keras saves and loads it. Expected a function "
            "that makes all layers anew, such as by keras.models.clone_model. "
            f"Received: {type(error).__name__}: {error}"
        ) from error


def _not_a_seed(seed):
    return (
        "Invalid value for argument `seed`. Expected a non-negative integer. "
        f"Received: seed={seed!r}"
    )


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


def named_task(run_config, num_clients):
    """The task of the module that a run of Flower names, with what the run sets.

    A setting that is `""` counts as absent: TOML has no null.

    Args:
        run_config: Dict with `task`, the name of the module, and maybe `epochs`,
            `batch-size`, `validation-split` and `seed`. It is not changed: Flower
            would answer that with errors.
        num_clients: Number of clients, which the module's `load_data` is told.

    Raises:
        ValueError: If it names no module, or a setting is no number.
        ImportError, AttributeError: See `load_task`.
    """
    if not run_config.get("task"):
        raise ValueError(
            'The run\'s config names no task. Expected `task = "module"` in '
            "[tool.flwr.app.config]."
        )
    kinds = {"epochs": int, "batch-size": int, "validation-split": float, "seed": int}
    settings = read_settings(run_config, kinds)
    task = load_task(
        run_config["task"],
        **{name.replace("-", "_"): value for name, value in settings.items()},
    )
    load_data = task.clients
    task.clients = lambda client: load_data(client, num_clients)
    return task


def read_settings(run_config, kinds):
    """The numbers in a run's config.

    Args:
        run_config: Dict.
        kinds: Dict from the names to `int` or `float`.

    Raises:
        ValueError: If one is no such number.
    """
    found = {}
    for name, kind in kinds.items():
        value = run_config.get(name, "")
        if value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, int | kind):
            raise ValueError(
                f"Invalid value for `{name}` in the run's config. Expected a number "
                f"({kind.__name__}). Received: {name}={value!r}"
            )
        found[name] = kind(value)
    return found
