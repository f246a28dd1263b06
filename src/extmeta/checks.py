"""Checks of results: they raise, also under ``python -O``, which drops assertions."""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class CheckError(AssertionError):
    """A result is not what it has to be."""


def must(holds: Any, why: str) -> None:
    """Raise CheckError with the reason unless something holds.

    Parameters
    ----------
    holds : bool
    why : str
        What is wrong if it does not.
    """
    if not holds:
        raise CheckError(why)


def same(found: Any, wanted: Any, what: str = "") -> None:
    """Raise CheckError with the values that differ unless two are equal.

    Parameters
    ----------
    found, wanted : ndarray, or any other value that has ``==``
    what : str, optional
        Begins the message.
    """
    if isinstance(found, np.ndarray) or isinstance(wanted, np.ndarray):
        equal = np.array_equal(found, wanted)
    else:
        equal = bool(found == wanted)
    if not equal:
        raise CheckError(f"{what}: " * bool(what) + _difference(found, wanted))


def _difference(found: Any, wanted: Any) -> str:
    """Return both, or of two sequences how many values differ and the first that do."""
    if not all(isinstance(side, list | tuple | np.ndarray) for side in (found, wanted)):
        return f"{reprlib.repr(found)} is not {reprlib.repr(wanted)}"
    sides: list[Sequence[Any]] = [
        side.tolist() if isinstance(side, np.ndarray) else side
        for side in (found, wanted)
    ]
    lengths = [len(side) for side in sides]
    if lengths[0] != lengths[1]:
        return f"{lengths[0]:,} values are not {lengths[1]:,}"
    differ = [at for at in range(lengths[0]) if sides[0][at] != sides[1][at]]
    if not differ:
        return f"{type(found).__name__} is not {type(wanted).__name__}"
    a, b = (reprlib.repr(side[differ[0]]) for side in sides)
    return f"{len(differ):,} of {lengths[0]:,} differ, at {differ[0]:,}: {a} is not {b}"
