"""Arrays with zeros take fewer bytes on the way between a server and its nodes.

Strategies and clients never see packed arrays: the grid of nodes and the node's side of
the client app pack what they send, and unpack what they get, bit for bit.
"""

import math

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

_STYPE = "kerasreg.nonzero"


def pack(content):
    """A `RecordDict` whose arrays are packed where that is shorter.

    An array becomes a bit for each entry, which says whether it is not zero, and the
    entries that are not.

    Args:
        content: `RecordDict`, of which nothing is changed.

    Example:

    >>> import numpy as np
    >>> from federated import packing, records
    >>> sparse = np.zeros(1000, "float32")
    >>> sparse[:50] = 1.0
    >>> content = packing.RecordDict({"arrays": records.write_arrays(["w"], [sparse])})
    >>> records.size_of(content), records.size_of(packing.pack(content))
    (4128, 325)
    """
    return _each(content, _packed)


def unpack(content):
    """The `RecordDict` that `pack` was given.

    Args:
        content: What `pack` returned.

    Raises:
        ValueError: If an array is not what it says it is.
    """
    return _each(content, _unpacked)


def _each(content, change):
    return RecordDict(
        {
            name: ArrayRecord({k: change(a) for k, a in record.items()})
            if isinstance(record, ArrayRecord)
            else record
            for name, record in content.items()
        }
    )


def _packed(array):
    values = array.numpy()
    if values.dtype.kind not in "fiu":
        return array
    # Bits, not numbers: -0.0 stays what it is.
    entries = np.ascontiguousarray(values).reshape(-1).view(f"u{values.itemsize}")
    nonzero = entries != 0
    data = np.packbits(nonzero).tobytes() + entries[nonzero].tobytes()
    if len(data) >= len(array.data):
        return array
    return Array(str(values.dtype), values.shape, _STYPE, data)


def _unpacked(array):
    if array.stype != _STYPE:
        return array
    dtype, shape = np.dtype(array.dtype), tuple(array.shape)
    size = math.prod(shape)
    bits = -(-size // 8)
    if dtype.kind not in "fiu" or min(shape, default=0) < 0 or len(array.data) < bits:
        raise ValueError(f"Received a packed array of {dtype} that is cut off.")
    packed = np.frombuffer(array.data, "uint8", bits)
    nonzero = np.unpackbits(packed, count=size).astype(bool)
    rest = array.data[bits:]
    if len(rest) != nonzero.sum() * dtype.itemsize:
        raise ValueError(f"Received a packed array of {dtype} that is cut off.")
    entries = np.zeros(size, f"u{dtype.itemsize}")
    entries[nonzero] = np.frombuffer(rest, entries.dtype)
    return Array(entries.view(dtype).reshape(shape))
