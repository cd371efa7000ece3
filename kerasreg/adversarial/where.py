"""The arguments that say where an attack may go: `bounds`, `scale` and `mask`.

Each is a value for all inputs, or a dict or list with an entry for each. A list for a
model with one input is an array.
"""

import numpy as np

EACH = "each input"  # before entries in a config: JSON makes lists of all
_FEW = 6  # numbers that are shown


def check_bounds(name, values):
    """Check bounds and make arrays of them.

    Args:
        name: The argument's name.
        values: A pair, or a dict or list of pairs, or `None`.

    Raises:
        ValueError: If the least is not below the greatest.
    """
    if isinstance(values, list) and len(values) == 2 and all(map(_number, values)):
        values = tuple(values)
    return _each(name, values, _check_pair)


def check_scale(name, values):
    """Check scales, as `check_bounds` does: positive and finite.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If they are out of range.
    """
    return _each(name, values, _check_scale)


def check_mask(name, values):
    """Check masks, as `check_bounds` does: true or false, and true somewhere.

    Raises:
        TypeError: If they are neither.
        ValueError: If they are other numbers, or nothing may be changed.
    """
    masks = _each(name, values, _check_mask)
    entries = masks if isinstance(masks, list) else [masks]
    # With a dict others may be changed.
    arrays = [mask for mask in entries if isinstance(mask, np.ndarray)]
    if len(arrays) == len(entries) and not any(map(np.any, arrays)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected True for a feature that "
            f"may be changed. Received: {name}={shown(masks)}, for none"
        )
    return masks


def check_entries(name, values, keys):
    """Raise if a dict or list does not suit the inputs.

    Args:
        name: The argument's name.
        values: What the attack has.
        keys: Names of the inputs, their indices, or `[None]` for one.

    Raises:
        ValueError: If it does not.
    """
    if isinstance(values, dict):
        right = set(values) <= {key for key in keys if isinstance(key, str)}
    elif not isinstance(values, list):
        return
    elif isinstance(keys[0], int):
        right = len(values) == len(keys)
    else:
        right = len(keys) == 1 and _stacked(name, values) is not None
    if right:
        return
    if keys == [None]:
        expected = "one value or an array, for one input"
    elif isinstance(keys[0], int):
        expected = f"a list with an entry for each of the {len(keys)} inputs"
    else:
        expected = f"a dict with entries for inputs among {sorted(keys)}"
    received = f"a list of {len(values)}"
    if isinstance(values, dict):
        received = f"a dict with entries {list(values)}"
    raise ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. "
        f"Received: {received}"
    )


def entry(name, values, key):
    """What is given for one input.

    Args:
        name: The argument's name.
        values: What the attack has.
        key: The name or index of the input, or `None` if there is one.
    """
    if isinstance(values, dict):
        return values.get(key)
    if isinstance(values, list):
        return values[key] if isinstance(key, int) else _stacked(name, values)
    return values


def plain(values):
    """Arrays as lists of numbers, for a config."""
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, list):
        return [EACH, *map(plain, values)]
    if isinstance(values, tuple):
        return tuple(map(plain, values))
    return values.tolist() if isinstance(values, np.ndarray) else values


def from_plain(values, whole=np.asarray):
    """What `plain` was made of, of which pairs may have become lists.

    Args:
        values: From the config.
        whole: What a list without a mark was: an array, or `tuple` for a pair.
    """
    if isinstance(values, dict):
        return {key: from_plain(value, whole) for key, value in values.items()}
    if isinstance(values, list) and values and values[0] == EACH:
        return [from_plain(value, whole) for value in values[1:]]
    return whole(values) if isinstance(values, list) else values


def shown(values):
    """A short text for arrays and structures of them, for messages."""
    if isinstance(values, dict):
        pairs = (f"{key!r}: {shown(value)}" for key, value in values.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(values, tuple | list):
        inside = ", ".join(map(shown, values[: 2 * _FEW]))
        inside += ", ..." if len(values) > 2 * _FEW else ""
        return f"({inside})" if isinstance(values, tuple) else f"[{inside}]"
    if not isinstance(values, np.ndarray) or values.size <= _FEW:
        return repr(plain(values))
    if values.dtype == bool:
        extent = f"{np.count_nonzero(values)} of {values.size} True"
    elif values.dtype.kind in "iuf":
        extent = f"{values.min():g} to {values.max():g}"
    else:
        extent = str(values.dtype)
    return f"<array of shape {values.shape}, {extent}>"


def _each(name, values, check):
    """Check a value, or each of a dict or list of them."""
    if values is None:
        return None
    if isinstance(values, dict):
        return {key: _each(name, value, check) for key, value in values.items()}
    if isinstance(values, list):
        whole = _stacked(name, values)
        if whole is not None:
            check(name, whole)  # says where
        return [None if value is None else check(name, value) for value in values]
    return check(name, values)


def _stacked(name, values):
    """A list as one array, or `None` if it is none."""
    if name == "bounds" or any(value is None for value in values):
        return None
    try:
        return np.asarray(values)
    except ValueError:
        return None


def _number(value):
    return value is not None and np.ndim(value) == 0


def _check_pair(name, pair):
    try:
        low, high = (np.asarray(bound, dtype=float) for bound in pair)
        right = bool(np.all(low < high))
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a pair of the least and "
            "the greatest value of an input, the least below the greatest everywhere "
            f"(-np.inf or np.inf for none). Received: {name}={shown(pair)}"
        )
    return (low, high)


def _check_scale(name, scale):
    start = f"Invalid value for argument `{name}`. Expected positive numbers. Received:"
    given = np.asarray(scale)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{start} {name}={shown(scale)}")
    given = given.astype(float)
    wrong = ~(np.isfinite(given) & (given > 0))
    if np.any(wrong):
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        count = np.count_nonzero(wrong)
        place = f", which has {count} other(s), the first at {first}"
        place = place if given.ndim else ""
        raise ValueError(f"{start} {name}={shown(given)}{place}")
    return given


def _check_mask(name, mask):
    given = np.asarray(mask)
    start = (
        f"Invalid value for argument `{name}`. Expected a bool array of the shape of "
        "an example, True for features that may be changed. Received: "
        f"{name}={shown(given)}"
    )
    if given.dtype.kind not in "biuf":
        raise TypeError(start)
    if not np.all((given == 0) | (given == 1)):
        raise ValueError(start)
    return given.astype(bool)
