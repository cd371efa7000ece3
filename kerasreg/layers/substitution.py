"""Call a layer with other values in place of some of its variables."""

import contextlib

import keras


class Substitution(keras.StatelessScope):
    """A scope in which some variables have another value, and all else is as outside.

    Keras's own scope collects every assignment and loss until its end. This one lets
    them through at once: states, averages and random seeds move on inside loops too,
    where a value that is collected could not be read afterwards.

    Args:
        values: List of pairs of a `keras.Variable` and a tensor of its shape and
            dtype.
        layer: The layer that makes the call, to which losses inside belong.
    """

    def __init__(self, values, layer):
        super().__init__(collect_losses=True)
        self.state_mapping = {id(variable): value for variable, value in values}
        self._layer = layer

    def get_current_value(self, variable):
        """The value in place of the variable's, or the one that it has outside."""
        if id(variable) in self.state_mapping:
            return self.state_mapping[id(variable)]
        with self._outside():
            return variable.value

    def add_update(self, update):
        """Assign to a variable, at once."""
        variable, value = update
        if id(variable) in self.state_mapping:
            raise ValueError(
                f"A layer inside `{self._layer.name}` assigns to the weight "
                f"{variable.path} in its call, which has noise there. Wrap the two "
                "the other way round: the noise innermost."
            )
        with self._outside():
            variable.assign(value)

    def add_loss(self, loss):
        """Pass on a loss, to be counted once."""
        if self.original_scope is None:
            with self._outside():
                self._layer.add_loss(loss)
        elif self.original_scope.collect_losses:
            self.original_scope.add_loss(loss)

    @contextlib.contextmanager
    def _outside(self):
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
