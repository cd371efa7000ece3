"""State of a model that neither its weights nor its own optimizer have."""

import keras


class Leftovers:
    """Optimizers that a model has beside its own, and states of stateful layers.

    A client would leave them to the next. What they begin with is read when this is
    made, so make it before the first step.

    Args:
        model: A built, compiled `keras.Model`.
    """

    def __init__(self, model):
        self._optimizers = [o for o in _optimizers(model) if o is not model.optimizer]
        self._begun = {
            id(variable): variable.numpy()
            for optimizer in self._optimizers
            for variable in optimizer.variables
        }
        self._states = [
            variable
            for layer in model._flatten_layers()
            if getattr(layer, "stateful", False)
            for variable in keras.tree.flatten(getattr(layer, "states", None) or [])
        ]

    @property
    def stateful(self):
        """Whether there are stateful layers, whose batches have one size."""
        return bool(self._states)

    @property
    def grow(self):
        """Whether a step may make more of it: optimizers are built when they step."""
        return bool(self._optimizers)

    def initial(self):
        """A list of pairs of the variables and the arrays that they begin with."""
        pairs = [(state, 0 * state.numpy()) for state in self._states]
        for optimizer in self._optimizers:
            fresh = {}
            if any(id(v) not in self._begun for v in optimizer.variables):
                twin = type(optimizer).from_config(optimizer.get_config())
                twin.build(optimizer._trainable_variables)
                both = zip(optimizer.variables, twin.variables, strict=True)
                fresh = {id(own): new.numpy() for own, new in both}
            pairs += [(v, (fresh | self._begun)[id(v)]) for v in optimizer.variables]
        return pairs


def _optimizers(model):
    for value in vars(model).values():
        values = value.values() if isinstance(value, dict) else value
        several = isinstance(value, list | tuple | dict)
        for each in values if several else [value]:
            if isinstance(each, keras.optimizers.Optimizer):
                yield each
