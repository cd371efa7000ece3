"""Steps of recurrent cells whose weights are turned by the signs of each example.

Flipout for a recurrent layer: example b has weights `μ + E·s_b·r_b` of its own, with
one draw E of the noise for the batch, and fair signs s_b of the inputs and r_b of the
outputs of the product. Draw and signs are made before the first time step and are the
same in all of them, so each example sees one draw of the weights.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Turned:
    """A weight with noise, another one for each example, and its bias.

    Attributes:
        mean: Tensor of shape (inputs, outputs).
        noise: One draw of the noise, of the same shape.
        rows: Signs of shape (batch, inputs).
        columns: Signs of shape (batch, outputs).
        bias: Tensor of shape (outputs,) or (batch, outputs), or `None`.
    """

    mean: Any
    noise: Any
    rows: Any
    columns: Any
    bias: Any

    def __call__(self, x, start, stop):
        """The outputs `start` to `stop` of `x` times the weight, plus bias."""
        part = ops.matmul(x * self.rows, self.noise[:, start:stop])
        part = part * self.columns[:, start:stop]
        part = part + ops.matmul(x, self.mean[:, start:stop])
        return part if self.bias is None else part + self.bias[..., start:stop]

    def gates(self, x, masks, units, count):
        """The first `count` gates of `units` outputs each.

        Args:
            x: Tensor of shape (batch, inputs).
            masks: Dropout mask of `x`, or a list of one for each gate, or `None`.
            units: Outputs of one gate.
            count: How many gates.
        """
        if isinstance(masks, list):
            return [
                self(x * masks[k], k * units, (k + 1) * units) for k in range(count)
            ]
        x = x if masks is None else x * masks
        return ops.split(self(x, 0, count * units), count, axis=-1)


class TurnedCell:
    """A cell for one call of `keras.layers.RNN`, that holds no variables.

    Args:
        cell: The Keras cell, whose activations and dropout masks are used.
        kernel: `Turned`.
        recurrent_kernel: `Turned`.
        training: Whether dropout is on.
    """

    def __init__(self, cell, kernel, recurrent_kernel, training):
        self.cell, self.kernel, self.recurrent_kernel = cell, kernel, recurrent_kernel
        self.training = training
        self.state_size = cell.state_size

    def __call__(self, inputs, states):
        """The output of one time step, and the states after it."""
        return self.call(inputs, states)

    def call(self, inputs, states):
        """The output of one time step, and the states after it."""
        raise NotImplementedError

    def _masks(self, inputs, hidden):
        cell, masks = self.cell, [None, None]
        if self.training and 0.0 < cell.dropout < 1.0:
            masks[0] = cell.get_dropout_mask(inputs)
        if self.training and 0.0 < cell.recurrent_dropout < 1.0:
            masks[1] = cell.get_recurrent_dropout_mask(hidden)
        return masks


class TurnedLSTMCell(TurnedCell):
    """One step of `keras.layers.LSTMCell`."""

    def call(self, inputs, states):
        """The output of one time step, and the states after it."""
        hidden, carry = states
        cell = self.cell
        mask, recurrent_mask = self._masks(inputs, hidden)
        x = self.kernel.gates(inputs, mask, cell.units, 4)
        h = self.recurrent_kernel.gates(hidden, recurrent_mask, cell.units, 4)
        i, f, new, o = (a + b for a, b in zip(x, h, strict=True))
        carry = cell.recurrent_activation(f) * carry
        carry = carry + cell.recurrent_activation(i) * cell.activation(new)
        hidden = cell.recurrent_activation(o) * cell.activation(carry)
        return hidden, [hidden, carry]


class TurnedGRUCell(TurnedCell):
    """One step of `keras.layers.GRUCell`."""

    def call(self, inputs, states):
        """The output of one time step, and the states after it."""
        (hidden,) = states
        cell, units = self.cell, self.cell.units
        mask, masks = self._masks(inputs, hidden)
        x_z, x_r, x_new = self.kernel.gates(inputs, mask, units, 3)
        count = 3 if cell.reset_after else 2
        h_z, h_r, *h_new = self.recurrent_kernel.gates(hidden, masks, units, count)
        z, r = (
            cell.recurrent_activation(x_z + h_z),
            cell.recurrent_activation(x_r + h_r),
        )
        if cell.reset_after:
            new = r * h_new[0]
        else:
            kept = hidden * masks[2] if masks is not None else hidden
            new = self.recurrent_kernel(r * kept, 2 * units, 3 * units)
        hidden = z * hidden + (1 - z) * cell.activation(x_new + new)
        return hidden, [hidden]
