"""Integers that callers pass: which are taken, and which are refused.

Every vpn, pfn, swap slot, word, mask and field value goes through `whole`, or through
`uint64s` if there are several.

==========================================  =======================================
taken                                       refused, by TypeError
==========================================  =======================================
int, numpy's integers, a 0-d integer        bool and numpy's bool, float, str,
array, whatever has ``__index__``           Decimal, None
an array of an integer dtype, of any byte   an array of another dtype, empty or not;
order and layout; an object array of ints   a masked array
a range, list, tuple, array.array or        str, bytes, a set or a mapping, whose
memoryview of ints; an iterator, used up    order says nothing
==========================================  =======================================

A value below 0 or above its limit is refused by ValueError. Nothing is ever rounded:
numpy's own conversions would turn [1, 2**63] into floats, 1.5 into 1 and -1 into
2**64 - 1.
"""

import operator
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNORDERED = (str, bytes, bytearray, AbstractSet, Mapping)


def is_whole(value: object) -> bool:
    """Return whether ``value`` is one integer."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def whole(name: str, value: Any, limit: int = 2**64) -> int:
    """Return ``value`` as an int in [0, limit).

    Parameters
    ----------
    name : str
        What it is, for messages.
    value : int or object with ``__index__``
    limit : int, default 2**64

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is outside [0, limit).
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r} is not an integer") from None
    if number < 0:
        raise ValueError(f"{name}: {number} is negative")
    if number >= limit:
        raise ValueError(f"{name}: {number:#x} is not below {limit:#x}")
    return number


def listed(name: str, values: Any) -> list[Any]:
    """Return the items of an iterable, or refuse one that has no order."""
    if isinstance(values, _UNORDERED) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name}: {values!r} is not an integer, nor several")
    return list(values)


def uint64s(name: str, values: Any) -> NDArray[np.uint64]:
    """Return several integers as a C-contiguous uint64 array.

    Parameters
    ----------
    name : str
        What the values are, for messages.
    values : array_like of int

    Raises
    ------
    TypeError
        If a value is not an integer.
    ValueError
        If a value is outside [0, 2**64).
    MemoryError
        If a range is too long.
    """
    if isinstance(values, range):
        return _of_range(name, values)
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array; its mask would be lost")
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.dtype.kind not in "iu":
            first = f", {values.flat[0]} first" if values.size else ""
            raise TypeError(
                f"{name}: an array of {values.dtype}{first}; integers are needed"
            )
        if values.dtype.kind == "i" and values.size and (low := values.min()) < 0:
            raise ValueError(f"{name}: {low} is negative")
        return np.ascontiguousarray(values, np.uint64)
    shape = values.shape if isinstance(values, np.ndarray) else -1
    items = values.flat if isinstance(values, np.ndarray) else listed(name, values)
    # Not asarray(): it makes floats of [1, 2**63].
    return np.array([whole(name, item) for item in items], np.uint64).reshape(shape)


def _of_range(name: str, values: range) -> NDArray[np.uint64]:
    if not values:
        return np.empty(0, np.uint64)
    first = whole(name, values[0])
    whole(name, values[-1])
    try:
        found = np.arange(len(values), dtype=np.uint64)
    except OverflowError:
        raise MemoryError(f"{name}: {values} is too long") from None
    # Modulo 2**64, so that a negative step counts down.
    found *= np.uint64(values.step % 2**64)
    found += np.uint64(first)
    return found


def lanes_of(name: str, words: Any, lanes: int) -> NDArray[np.uint64]:
    """Return words of several lanes as an (n, lanes) array, the lowest bits first.

    Parameters
    ----------
    name : str
    words : (n, lanes) array_like of int, or n ints of up to 64 * lanes bits
    lanes : int

    Raises
    ------
    TypeError, ValueError
        If a word is neither, or negative or too wide.
    """
    if isinstance(words, np.ndarray) and words.dtype.kind != "O":
        return uint64s(name, words)
    rows = []
    for word in listed(name, words):
        if is_whole(word):
            number = whole(name, word, 1 << 64 * lanes)
            rows.append([number >> 64 * i & 0xFFFFFFFFFFFFFFFF for i in range(lanes)])
        else:
            row = uint64s(name, word)
            if row.shape != (lanes,):
                raise ValueError(
                    f"{name}: a word of shape {row.shape}; ({lanes},) is needed"
                )
            rows.append(row.tolist())
    return np.array(rows, np.uint64).reshape(len(rows), lanes)
