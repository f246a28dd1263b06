"""Generations of flushes: which of them have not been completed.

Each operation that takes write permission away has a generation, a number that counts
up. A PTE's word holds a stamp of n bits, the generation modulo 2**n - 1, plus 1. Stamp 0
means that no flush was ever owed.

A stamp is pending if it matches a generation after the last completed one. Older
generations may match too when the numbers have wrapped around; then a fault flushes in
vain. A pending generation always matches, so wrapping is safe at every width.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from extmeta.arrays import Bools

Stamps = TypeVar("Stamps", int, npt.NDArray[np.int64])


def stamp(generation: int, bits: int) -> int:
    """Return what a word of some bits holds of a generation: 1 to 2**bits - 1."""
    return generation % ((1 << bits) - 1) + 1


def completed(newest: int, active: Sequence[int]) -> int:
    """Return the last generation that is completed, as are all before it.

    Parameters
    ----------
    newest : int
        The last generation that was begun.
    active : sequence of int
        The generations whose flush is not completed.
    """
    return min(active) - 1 if active else newest


def pending(stamps: Stamps, newest: int, done: int, bits: int) -> bool | Bools:
    """Return whether stamps may be of a generation in (done, newest].

    Parameters
    ----------
    stamps : int or (n,) int64 ndarray
    newest, done : int
        The last generation begun, and the last completed.
    bits : int
        Bits of a stamp.
    """
    period = (1 << bits) - 1
    found: bool | Bools = (stamps != 0) & (
        (newest + 1 - stamps) % period < newest - done
    )
    return found


def pending_unless_wrapped(stamp: int, done: int, bits: int) -> bool:
    """Compare a stamp with the last completed one, wrongly: the numbers wrap around."""
    last = done % ((1 << bits) - 1) + 1 if done else 0
    return stamp > last
