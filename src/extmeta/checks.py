"""Checks of results: they raise, also under ``python -O``, which drops assertions."""

from typing import Any


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


def same(found: Any, wanted: Any) -> None:
    """Raise CheckError with both values unless they are equal."""
    if found != wanted:
        raise CheckError(f"{found!r} is not {wanted!r}")
