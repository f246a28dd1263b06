"""Hotness for tiering: how many intervals ago was each page accessed?

Each page's word has an age. A scan of the accessed bits sets it to 0 if the page was
accessed, else increments it up to its maximum. Old pages are demoted to slow memory and
promoted when accessed. It uses the bare PageTable, because no semantics of Linux change
an age. uffd_wp of some pages, which belongs to another user, has to stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.cost.placement import flags
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import Point
from extmeta.workloads.play import Counts, Stage, Workload, ascending, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import NONE

MAX_BITS = 16

# Pages that a userfaultfd protects and ages must not disturb.
PROTECTED = Point(0.1, "clustered")


def blocks(least: int, end: int, bits: int) -> list[tuple[int, int]]:
    """Return [least, end) as (mask, value) pairs to scan for.

    Each is a run of values with equal upper bits, as a route covers addresses.

    Parameters
    ----------
    least : int
        Above 0.
    end : int
        A power of two, 2**bits at most.
    bits : int
        Bits of a value.

    Examples
    --------
    >>> blocks(12, 32, 5)
    [(28, 12), (16, 16)]
    """
    found = []
    at = least
    while at < end:
        size = at & -at
        found.append(((1 << bits) - size, at))
        at += size
    return found


@dataclass(frozen=True)
class Ages(Workload):
    """Ageing by an accessed-bit scan, and demotion of old pages.

    Attributes
    ----------
    intervals : int
    bits : int
        Bits of an age.
    limit : int
        Intervals without access after which a page is demoted, below 2**bits.
    hot : float
        Share of hot pages, in runs; each interval accesses most of them.
    busy : float
        Share of the hot pages that an interval accesses; a twentieth of that for other
        pages.
    """

    question: ClassVar[str] = "tiering: which pages were not accessed for long?"

    intervals: int = 12
    bits: int = 8
    limit: int = 6
    hot: float = 0.2
    busy: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits: {self.bits} is not in [1, {MAX_BITS}]")
        if not 1 <= self.limit < 1 << self.bits:
            raise ValueError(f"limit: {self.limit} is not in [1, 2**{self.bits})")

    @property
    def fields(self) -> Fields:
        """uffd_wp and the age."""
        return Fields(uffd_wp=1, age=self.bits)

    def narrower(self) -> "Ages | None":
        """Return it with one bit less of age, if that still reaches the limit."""
        fits = self.bits > 1 and self.limit < 1 << self.bits - 1
        return replace(self, bits=self.bits - 1) if fits else None

    def nr_rounds(self, process: Process) -> int:
        """Return the intervals."""
        return process.rounds(self.intervals)

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Let the process access, age, demote, ..."""
        process, named = stage.process, stage.fields
        vpns, most = process.pages, (1 << self.bits) - 1
        table = stage.table()
        protected = vpns[flags(vpns, PROTECTED, self.seed, process.arch)]
        table.update(protected, 0, named.mask("uffd_wp"))
        hot = flags(vpns, Point(self.hot, "clustered"), self.seed + 1, process.arch)
        ages = dict.fromkeys(vpns.tolist(), 0)
        slow: set[int] = set()
        for number in range(self.nr_rounds(process)):
            accessed = self._accessed(process, number, hot)
            touched = set(vpns[accessed].tolist())
            with stage.during("age"):
                found = table.load(vpns, "age")
                aged = np.where(accessed, 0, np.minimum(found + np.uint64(1), most))
                table.store(vpns, age=aged)
            ages = {
                vpn: 0 if vpn in touched else min(age + 1, most)
                for vpn, age in ages.items()
            }
            with stage.during("demote"):
                old = self._old(table, vpns, min(most, number + 1))
            must_be(
                f"interval {number}",
                old,
                ascending([vpn for vpn, age in ages.items() if age >= self.limit]),
            )
            promoted = slow & touched
            demoted = set(old.tolist()) - slow
            slow = slow - touched | demoted
            yield {"demoted": len(demoted), "promoted": len(promoted)}
        uffd_wp = named.mask("uffd_wp")
        with stage.during("check"):
            kept = table.scan(slice(vpns[0], vpns[-1] + 1), uffd_wp)
        must_be("protected pages", kept, protected)

    def _old(self, table: PageTable, vpns: U64, oldest: int) -> U64:
        """Return the vpns whose age is from the limit to ``oldest``, the largest so far.

        With this bound, the number of scans does not depend on the bits of an age.
        """
        named = table.fields
        found = [
            table.scan(
                slice(vpns[0], vpns[-1] + 1),
                named.pack(age=mask),
                named.pack(age=value),
            )
            for mask, value in blocks(self.limit, 1 << oldest.bit_length(), self.bits)
        ]
        return np.sort(np.concatenate([NONE, *found]))

    def _accessed(self, process: Process, number: int, hot: Bools) -> Bools:
        """Return which pages an interval accesses."""
        if process.trace is not None:
            return np.isin(process.pages, process.trace[number])
        chance = np.where(hot, self.busy, self.busy / 20)
        rng = np.random.default_rng((self.seed, number))
        return np.asarray(rng.random(len(process.pages)) < chance)
