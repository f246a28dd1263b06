"""Write faults while a flush of the TLB is pending: which of them have to flush too?

A tracker protects the pages written in the round before, a few at a time, and flushes
the TLB after each batch. Meanwhile the process writes. Since Linux 5.12 a write fault
flushes its page while any flush of the mm is pending (6ce64428d620). A generation for
each PTE table, or in each PTE's word, spares the faults on pages that are not in the
batch: docs/tlb.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from extmeta.arch import arch_named
from extmeta.arrays import Bools
from extmeta.fields import Fields
from extmeta.linux.pagewords import PAGE_SHIFT, UFFD_WP
from extmeta.linux.tlb.cures import LONG
from extmeta.linux.tlb.generations import pending, stamp
from extmeta.workloads.play import Counts, MismatchError, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import pagemap
from extmeta.workloads.write_barrier import protect

# The bits of a generation that flushes are counted for.
WIDTHS = (1, 2, 4, 8, 16)

Indices = npt.NDArray[np.int64]


def stamps_of(generations: Indices, bits: int) -> Indices:
    """Return what words of some bits hold of generations; 0 is none."""
    return np.where(generations > 0, generations % ((1 << bits) - 1) + 1, 0)


@dataclass(frozen=True)
class DeferredFlush(Workload):
    """Write-protection in batches, each with one flush at its end.

    It counts the faults and the IPIs of each strategy, for all `WIDTHS` of a generation.

    Attributes
    ----------
    rounds : int
        After the first, in which nothing is being protected.
    dirty : float
        Share of the pages that is written in a round.
    placement : str
        How these lie: see `placement.flags`.
    batch : float
        Share of the pages that is protected before each flush.
    cpus : int
        CPUs that run the process: a flush sends IPIs to all but one.
    bits : int
        Bits of a generation in a word, 1 to 16.
    """

    question: ClassVar[str] = (
        "a flush is pending: which write faults have to flush too?"
    )

    rounds: int = 8
    dirty: float = 0.05
    placement: str = "random"
    batch: float = 0.01
    cpus: int = 8
    bits: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bits <= max(WIDTHS):
            raise ValueError(f"bits: {self.bits} is not in [1, {max(WIDTHS)}]")
        if not self.cpus:
            raise ValueError("cpus: 0 CPUs run nothing")
        if not self.batch:
            raise ValueError("batch: 0.0 of the pages protects nothing")

    @property
    def fields(self) -> Fields:
        """uffd_wp and the generation."""
        return Fields(uffd_wp=1, gen=self.bits)

    def narrower(self) -> "DeferredFlush | None":
        """Return it with one bit less. Counts are of all `WIDTHS`, so they are equal."""
        return replace(self, bits=self.bits - 1) if self.bits > 1 else None

    def nr_rounds(self, process: Process) -> int:
        """Return the rounds, including the first if none were recorded."""
        return process.rounds(self.rounds + 1)

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Write, protect what was written while writing more, ..."""
        process, space, mask = stage.process, stage.space(), stage.fields.mask("gen")
        vpns = process.pages
        nr_batch = max(1, round(self.batch * len(vpns)))
        for first, stop in process.ranges(vpns):
            space.uffd_register(first << PAGE_SHIFT, stop - first << PAGE_SHIFT)
        protect(space, vpns)
        pages = _Pages(len(vpns), vpns // arch_named(process.arch).ptrs_per_pte)
        for number in range(self.nr_rounds(process)):
            written = process.writes(number, self.dirty, self.placement, self.seed)
            order = np.random.default_rng((self.seed, number)).permutation(
                np.searchsorted(vpns, written)
            )
            open_pages = np.flatnonzero(~pages.protected)
            batches = [
                open_pages[at : at + nr_batch]
                for at in range(0, len(open_pages), nr_batch)
            ]
            windows = np.array_split(order, max(1, len(batches)))
            counts = dict.fromkeys(_NAMES, 0)
            for batch, window in zip_longest(batches, windows):
                if batch is not None:
                    pages.protect(batch)
                    with stage.during("protect"):
                        protect(space, vpns[batch])
                        held = stamp(pages.newest, stage.fields["gen"])
                        space.table.store(vpns[batch], gen=held)
                faults = window[pages.protected[window]]
                expected = stamps_of(pages.generation[faults], stage.fields["gen"])
                with stage.during("fault"):
                    found = space.table.load(vpns[faults], "gen")
                    space.table.update(vpns[faults], mask, 0)
                if not np.array_equal(found, expected):
                    raise MismatchError(f"round {number}: other generations in words")
                if batch is not None:
                    pages.count(faults, counts)
                pages.protected[faults] = False
                pages.generation[faults] = 0
                stage.write(space, vpns[window])
            words, seen = pagemap(space, process.ranges(vpns))
            must_be(
                f"round {number}, protected pages",
                seen[words & np.uint64(UFFD_WP) != 0],
                vpns[pages.protected],
            )
            # Each batch is flushed in any case.
            for by in _ASKED:
                flushes = len(batches) + counts[f"flushes by {by}"]
                counts[f"IPIs by {by}"] = flushes * (self.cpus - 1)
            yield counts


_ASKED = ("mm", "table", *(f"PTE, {bits} bits" for bits in WIDTHS))
_NAMES = ("flushes that are needed", *(f"flushes by {by}" for by in _ASKED))


class _Pages:
    """What a plain array knows of each page: whether it is protected, since which batch."""

    def __init__(self, nr_pages: int, tables: npt.NDArray[np.uint64]) -> None:
        self.protected = np.ones(nr_pages, np.bool_)
        self.generation = np.zeros(nr_pages, np.int64)
        self.newest = 0
        names, self.table = np.unique(tables, return_inverse=True)
        self.tables = np.zeros(len(names), np.int64)

    def protect(self, batch: Indices) -> None:
        """Begin the next generation with the pages of a batch."""
        self.newest += 1
        self.protected[batch] = True
        self.generation[batch] = self.newest
        self.tables[self.table[batch]] = self.newest

    def count(self, faults: Indices, counts: Counts) -> None:
        """Count the faults that flush while the newest generation is pending."""
        needed = self.generation[faults] == self.newest
        counts["flushes that are needed"] += int(needed.sum())
        counts["flushes by mm"] += len(faults)
        asked = {"table": (self.tables[self.table[faults]], LONG - 1)}
        for bits in WIDTHS:
            asked[f"PTE, {bits} bits"] = self.generation[faults], bits
        for by, (generations, bits) in asked.items():
            held = stamps_of(generations, bits)
            flushed: Bools = np.asarray(
                pending(held, self.newest, self.newest - 1, bits)
            )
            if (needed & ~flushed).any():
                raise MismatchError(f"by {by}: a page is not flushed that has to be")
            counts[f"flushes by {by}"] += int(flushed.sum())
