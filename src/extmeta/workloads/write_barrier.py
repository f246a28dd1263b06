"""A generational collector's write barrier by page protection.

The old generation is write-protected. A minor collection needs the old pages that the
mutator wrote to: only these can point to young objects. It collects and re-protects
them in one step, copies survivors to old pages, and protects those too. The nursery is
not tracked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extmeta.arrays import U64
from extmeta.cost.placement import PLACEMENTS
from extmeta.fields import Fields
from extmeta.linux import AddressSpace
from extmeta.linux.entries import runs
from extmeta.linux.pagewords import PAGE_BYTES, PAGE_SHIFT
from extmeta.workloads.play import Counts, Stage, Workload, must_be
from extmeta.workloads.process import Process, Range
from extmeta.workloads.trackers import NONE, WpAsync


class Handled:
    """Collects written pages by a handler of each page's first write; no WP_ASYNC."""

    def __init__(self, space: AddressSpace, ranges: list[Range]) -> None:
        self.space = space
        self.cards: list[int] = []
        for first, stop in ranges:
            space.uffd_register(
                first << PAGE_SHIFT,
                stop - first << PAGE_SHIFT,
                ("PAGEFAULT_FLAG_WP",),
                handler=self.fault,
            )

    def fault(self, space: AddressSpace, address: int) -> None:
        """Note a page and unprotect it."""
        self.cards.append(address >> PAGE_SHIFT)
        space.uffd_writeprotect(address, PAGE_BYTES, False)

    def collect(self) -> U64:
        """Return the vpns written since the last collection, and protect them."""
        found = np.unique(np.array(self.cards, np.uint64)) if self.cards else NONE
        self.cards.clear()
        protect(self.space, found)
        return found


def protect(space: AddressSpace, vpns: U64) -> None:
    """Write-protect pages, run by run."""
    for first, stop in runs(vpns):
        space.uffd_writeprotect(first << PAGE_SHIFT, stop - first << PAGE_SHIFT, True)


@dataclass(frozen=True)
class WriteBarrier(Workload):
    """Minor collections of a generational heap.

    Attributes
    ----------
    collections : int
    nursery : float
        Share of the pages that is written whole between two collections; the rest is old.
    dirty : float
        Share of the old pages that the mutator writes between two collections.
    survivors : float
        Share of the nursery's pages that each collection copies to old ones.
    placement : str
        How the written old pages lie: see `placement.flags`.
    how : {"WP_ASYNC", "handler"}
        Whether PAGEMAP_SCAN or a fault handler finds written pages.
    """

    question: ClassVar[str] = "a collector's write barrier: which old pages to look at?"
    choices: ClassVar = {"placement": PLACEMENTS, "how": ("WP_ASYNC", "handler")}

    collections: int = 8
    nursery: float = 0.1
    dirty: float = 0.02
    survivors: float = 0.1
    placement: str = "random"
    how: str = "WP_ASYNC"

    @property
    def fields(self) -> Fields:
        """uffd_wp."""
        return WpAsync.fields

    def nr_rounds(self, process: Process) -> int:
        """Return the collections."""
        return process.rounds(self.collections)

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Let the mutator write, collect, promote, protect."""
        process = stage.process
        nr_old = max(1, round(len(process.pages) * (1 - self.nursery)))
        old, young = process.pages[:nr_old], process.pages[nr_old:]
        mutated = process.only(old)
        space = stage.space()
        with stage.during("collect"):
            make = WpAsync if self.how == "WP_ASYNC" else Handled
            tracker = make(space, process.ranges(old))
            protect(space, old)
        promoted_each = min(nr_old, round(self.survivors * len(young)))
        for number in range(self.nr_rounds(process)):
            written = mutated.writes(number, self.dirty, self.placement, self.seed)
            if process.trace is not None:
                written = np.intersect1d(written, old)
            stage.write(space, young)
            stage.write(space, written)
            with stage.during("collect"):
                cards = tracker.collect()
            must_be(f"collection {number}", cards, written)
            # Continue after the last promoted pages, and wrap around.
            places = (np.arange(promoted_each) + number * promoted_each) % nr_old
            promoted = old[np.sort(places)]
            stage.write(space, promoted, "promote")
            with stage.during("promote"):
                # The collector's own writes are no cards of the next collection.
                if isinstance(tracker, Handled):
                    tracker.cards.clear()
                protect(space, promoted)
            yield {"cards": len(cards), "promoted": len(promoted)}
