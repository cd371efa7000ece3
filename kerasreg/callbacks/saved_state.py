"""Numbers that Keras saves and restores together with a model's weights."""

import json

import keras
import numpy as np


class SavedState(keras.losses.Loss):
    """Has Keras save what a callback remembers wherever it saves the weights.

    Keras saves everything that hangs on a model and says that it can be saved, and
    skips what a file has and the model has not: the file is read by plain Keras. Keras
    has no public class for just that; a loss is the smallest that is one. It is not a
    layer's attribute to Keras, so `model.losses`, weights and config are as they were.

    Args:
        owner: Object with `get_state`, which returns a dict that JSON can hold, and
            `set_state`, which takes it back.
    """

    def __init__(self, owner):
        super().__init__(name="saved_state")
        self.owner = owner

    def hang_on(self, model, name):
        """Be saved with this model, in place of what it has under this name.

        Args:
            model: A `keras.Model`.
            name: String.
        """
        object.__setattr__(model, f"_kerasreg_{name}", self)

    @classmethod
    def all_on(cls, model):
        """The owners of all that hang on a model."""
        return [v.owner for v in vars(model).values() if isinstance(v, cls)]

    def save_own_variables(self, store):
        """Write the numbers as the bytes of their JSON text: a store takes arrays."""
        text = json.dumps(self.owner.get_state())
        store["state"] = np.frombuffer(text.encode(), dtype="uint8")

    def load_own_variables(self, store):
        """Read them, if the file has them."""
        if "state" in store:
            text = bytes(np.asarray(store["state"])).decode()
            self.owner.set_state(json.loads(text))

    def call(self, y_true, y_pred):
        """Nothing: it is no loss of the model."""
        return 0.0
