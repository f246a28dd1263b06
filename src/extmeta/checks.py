"""Checks of results, which raise also under ``python -O``: assert would not."""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class CheckError(AssertionError):
    """A result is wrong."""


def must(holds: Any, why: str) -> None:
    """Raise CheckError(why) unless ``holds`` is true."""
    if not holds:
        raise CheckError(why)


def same(found: Any, wanted: Any, what: str = "") -> None:
    """Raise CheckError with the values that differ, unless both are equal.

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
    """Say how two values differ; of two sequences, how many items, and the first."""
    if not all(isinstance(side, list | tuple | np.ndarray) for side in (found, wanted)):
        return f"{reprlib.repr(found)} is not {reprlib.repr(wanted)}"
    a: Sequence[Any] = found.tolist() if isinstance(found, np.ndarray) else found
    b: Sequence[Any] = wanted.tolist() if isinstance(wanted, np.ndarray) else wanted
    if len(a) != len(b):
        return f"{len(a):,} values are not {len(b):,}"
    differ = [at for at in range(len(a)) if a[at] != b[at]]
    if not differ:
        return f"{type(found).__name__} is not {type(wanted).__name__}"
    first = differ[0]
    return (
        f"{len(differ):,} of {len(a):,} differ, at {first:,}: "
        f"{reprlib.repr(a[first])} is not {reprlib.repr(b[first])}"
    )
