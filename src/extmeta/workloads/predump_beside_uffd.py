"""CRIU on an application that itself uses userfaultfd's write-protection.

Arcangeli's question of 2020: what if both trackers are needed in one VMA? The
application (a collector, a VMM) protects pages and is told of writes by its handler;
CRIU needs soft-dirty, since the userfaultfd is taken: a VMA has one. Both must be
right at once. An encoding that has one bit for the two can't: it is refused, and the
refusal, which names the tracker that holds the bit, is its result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extmeta.cost.placement import PLACEMENTS, flags
from extmeta.encodings.compact import Compact
from extmeta.fields import Fields
from extmeta.linux.pagewords import PAGE_SHIFT, UFFD_WP
from extmeta.rows import Point
from extmeta.workloads.play import Counts, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import SoftDirty
from extmeta.workloads.write_barrier import Handled, protect

TRACKERS = ("uffd_wp", "soft_dirty")


@dataclass(frozen=True)
class PredumpBesideUffd(Workload):
    """Pre-dump by soft-dirty of a process that write-protects pages itself.

    Attributes
    ----------
    rounds : int
        After the first, which dumps all.
    share : float
        Share of the pages, from the lowest, that the application may protect.
    protected : float
        Share of these that is protected anew in each round, after the writes.
    dirty : float
        Share of all pages that is written between two rounds.
    placement : str
        How both lie: see `placement.flags`.
    """

    question: ClassVar[str] = "CRIU on a user of userfaultfd: are both trackers right?"
    choices: ClassVar = {"placement": PLACEMENTS}
    forms: ClassVar = {
        "compact, one bit, by VMA": Compact(per_vma=[TRACKERS]),
        "compact, one by PTE": Compact(excludes=[TRACKERS]),
    }

    rounds: int = 6
    share: float = 0.5
    protected: float = 0.5
    dirty: float = 0.05
    placement: str = "clustered"

    @property
    def fields(self) -> Fields:
        """Both trackers' bits."""
        return Fields(**dict.fromkeys(TRACKERS, 1))

    def nr_rounds(self, process: Process) -> int:
        """Return the rounds, with the first."""
        return process.rounds(self.rounds) + 1

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Write, let the handler note, protect, let CRIU dump; hold both to sets."""
        process = stage.process
        own = process.pages[: max(1, round(self.share * len(process.pages)))]
        space = stage.space()
        with stage.during("protect"):
            application = Handled(space, process.ranges(own))
        criu = SoftDirty(space, process.ranges(process.pages))
        held: set[int] = set()
        expected = set(process.pages.tolist())
        for number in range(self.nr_rounds(process)):
            cards: set[int] = set()
            if number:
                written = process.writes(
                    number - 1, self.dirty, self.placement, self.seed
                )
                stage.write(space, written)
                expected = set(written.tolist())
                cards = held & expected
                held -= cards
            # Also pages that CRIU has yet to be told of.
            chosen = flags(
                own,
                Point(self.protected, self.placement),
                self.seed + number,
                process.arch,
            )
            with stage.during("protect"):
                protect(space, own[chosen])
            held |= set(own[chosen].tolist())
            must_be(
                f"round {number}: the application's handler",
                np.array(application.cards, np.uint64),
                cards,
            )
            application.cards.clear()
            with stage.during("collect"):
                dumped = criu.collect()
            must_be(f"round {number}: CRIU", dumped, expected)
            # clear_refs has taken no protection off.
            words = [
                (first, space.pagemap(first << PAGE_SHIFT, stop - first << PAGE_SHIFT))
                for first, stop in process.ranges(own)
            ]
            still = [
                np.flatnonzero(word & UFFD_WP).astype(np.uint64) + np.uint64(first)
                for first, word in words
            ]
            must_be(f"round {number}: protected", np.concatenate(still), held)
            yield {"dumped": len(dumped), "handled": len(cards)}
