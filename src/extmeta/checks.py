"""Checks of results. They raise, also under ``python -O``, and name what differs.

The package has no ``assert`` statement: ``-O`` would remove it.
"""

import reprlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class WrongResultError(AssertionError):
    """A result is not what it has to be; the message names both."""


def must(holds: object, what: str) -> None:
    """Raise unless something holds.

    Raises
    ------
    WrongResultError
    """
    if not holds:
        raise WrongResultError(what)


def must_equal(found: Any, expected: Any, what: str) -> None:
    """Raise unless two values are equal.

    Parameters
    ----------
    found, expected : ndarray or any other value that has ``==``
    what : str
        Begins the message.

    Raises
    ------
    WrongResultError
        With the first values that differ, and their number.
    """
    if isinstance(found, np.ndarray) or isinstance(expected, np.ndarray):
        equal = np.array_equal(found, expected)
    else:
        equal = bool(found == expected)
    if not equal:
        raise WrongResultError(f"{what}: {_difference(found, expected)}")


def _difference(found: Any, expected: Any) -> str:
    if not all(isinstance(side, Sequence | np.ndarray) for side in (found, expected)):
        return f"{reprlib.repr(found)}, not {reprlib.repr(expected)}"
    found, expected = (np.asarray(side).tolist() for side in (found, expected))
    if len(found) != len(expected):
        return f"{len(found):,} values, not {len(expected):,}"
    pairs = enumerate(zip(found, expected, strict=True))
    (first, (a, b)), *more = [(at, pair) for at, pair in pairs if pair[0] != pair[1]]
    return (
        f"{1 + len(more):,} of {len(found):,} differ, the first at {first:,}: "
        f"{reprlib.repr(a)}, not {reprlib.repr(b)}"
    )


def there(value: T | None) -> T:
    """Return a value that can't be None here, though its type allows it."""
    if value is None:
        raise WrongResultError("a value is missing")
    return value
