"""PTEs, leaves and runs of vpns, as values."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.linux.physical import HUGE_ZERO_PFN


class Refused(ValueError):
    """The encoding can't hold the result of an operation."""


class Entries(NamedTuple):
    """PTEs that are not none.

    Attributes
    ----------
    vpn : (n,) uint64 ndarray
        Ascending.
    present : (n,) bool ndarray
    value : (n,) uint64 ndarray
        The pfn, or the slot: type << offset_bits | offset.
    """

    vpn: U64
    present: Bools
    value: U64

    def take(self, which: Any) -> "Entries":
        """Return those that an index or mask selects."""
        return Entries(self.vpn[which], self.present[which], self.value[which])


@dataclass
class Leaf:
    """A PMD that maps a huge page: its first pfn, and its word."""

    pfn: int
    word: int = 0

    @property
    def zero(self) -> bool:
        """Whether it is the huge page of zeros."""
        return self.pfn == HUGE_ZERO_PFN


def distinct(vpns: U64) -> U64:
    """Return vpns ascending, each once."""
    if (vpns[1:] > vpns[:-1]).all():
        return vpns
    # np.unique() hashes, which takes far longer.
    found = np.sort(vpns)
    return np.asarray(found[np.append(True, found[1:] != found[:-1])])


def runs(vpns: U64) -> Iterator[tuple[int, int]]:
    """Yield ascending vpns as ranges [first, stop)."""
    if not len(vpns):
        return
    cuts = np.flatnonzero(vpns[1:] != vpns[:-1] + np.uint64(1)) + 1
    firsts, lasts = vpns[np.append(0, cuts)], vpns[np.append(cuts, len(vpns)) - 1]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield first, last + 1
