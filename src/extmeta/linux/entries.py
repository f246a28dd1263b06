"""What page tables hold, as values: PTEs, leaves, runs of vpns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.linux.physical import HUGE_ZERO_PFN


class Refused(ValueError):
    """The encoding can't hold what this operation would write."""


class Entries(NamedTuple):
    """PTEs that hold something.

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
        """Return some of them."""
        return Entries(self.vpn[which], self.present[which], self.value[which])


@dataclass
class Leaf:
    """A PTE of a huge page.

    Attributes
    ----------
    pfn : int
        The first.
    word : int
    """

    pfn: int
    word: int = 0

    @property
    def zero(self) -> bool:
        """Whether it is the huge page of zeros."""
        return self.pfn == HUGE_ZERO_PFN


def runs(vpns: U64) -> Iterator[tuple[int, int]]:
    """Yield ascending vpns as ranges [first, stop)."""
    if not len(vpns):
        return
    cuts = np.flatnonzero(vpns[1:] != vpns[:-1] + np.uint64(1)) + 1
    firsts = vpns[np.concatenate(([0], cuts))]
    lasts = vpns[np.concatenate((cuts - 1, [len(vpns) - 1]))]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield first, last + 1
