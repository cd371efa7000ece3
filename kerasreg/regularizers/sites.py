"""The weights of a layer that a penalty, or noise, can sit on, and their names."""

import fnmatch
import inspect

import keras

from kerasreg.regularizers.divergence import Divergence

_NOT_KERNELS = ("bias", "beta", "gamma", "alpha")  # alpha: the slopes of PReLU


def _normalizations():
    module = keras.layers
    return tuple(
        cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and name.endswith("Normalization")
    )


class Site:
    """One weight of a model, the layer that owns it, and what that lies in."""

    def __init__(self, variable, path, layer, ancestors):
        self.variable, self.path = variable, path
        self.layer, self.ancestors = layer, ancestors

    @property
    def by_default(self):
        """Whether a rule means this weight without naming it."""
        return (
            len(self.variable.shape) > 1
            and self.variable.name not in _NOT_KERNELS
            and not isinstance(self.layer, _normalizations())
        )

    def attach(self, penalty):
        """Set the penalty on the weight and on the layer that saves it."""
        self.variable.regularizer = penalty
        name = self.variable.name
        for attribute in (name, name.removesuffix("_kernel"), "depthwise"):
            attribute += "_regularizer"
            if hasattr(self.layer, attribute):
                setattr(self.layer, attribute, penalty)
                return


def weight_paths(model):
    """Yield each weight of the model with its path, made unique."""
    seen: dict[str, int] = {}
    for variable in model.weights:
        count = seen[variable.path] = seen.get(variable.path, 0) + 1
        yield variable.path if count == 1 else f"{variable.path}#{count}", variable


def find_owners(model):
    """Who owns each weight of a model.

    Returns:
        A dict from the id of each weight that its layer trains to that layer and a
        list of all the layers and models that it lies in.
    """
    owners: dict[int, tuple] = {}

    def walk(layer, ancestors):
        above = () if layer is model else (*ancestors, layer)
        fixed = {id(v) for v in getattr(layer, "_non_trainable_variables", [])}
        children = list(layer._flatten_layers(include_self=False, recursive=False))
        inner = {id(v) for child in children for v in child.weights}
        for variable in layer.weights:
            if id(variable) not in inner | fixed:
                # A shared layer lies in everything that leads to it.
                owners.setdefault(id(variable), (layer, []))[1].extend(ancestors)
        for child in children:
            walk(child, above)

    walk(model, ())
    return owners


def find_sites(model):
    """The weights that a penalty can sit on, in the order of `model.weights`."""
    owners = find_owners(model)
    return [
        Site(variable, path, *owners[id(variable)])
        for path, variable in weight_paths(model)
        if id(variable) in owners
        and "float" in str(variable.dtype)
        and not isinstance(variable.regularizer, Divergence)  # a noise parameter
    ]


def names_weight(pattern, site):
    """Whether a glob names this weight, by its name or by the end of its path."""
    last = pattern.rsplit("/", 1)[-1]
    if not site.by_default and last != site.variable.name:
        return False
    if "/" not in pattern:
        return fnmatch.fnmatchcase(site.variable.name, pattern)
    return fnmatch.fnmatchcase("/" + site.path, "*/" + pattern)
