"""CRIU on an application that itself uses userfaultfd's write-protection.

Arcangeli's question of 2020: what if one VMA needs both trackers? The application (a
collector, a VMM) protects pages and its handler sees the writes. A VMA has only one
userfaultfd, so CRIU needs soft-dirty. Both must be right at once. An encoding with one
bit for the two refuses, names the tracker that holds the bit, and that is its result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extmeta.cost.placement import flags
from extmeta.encodings.compact import Compact
from extmeta.fields import Fields
from extmeta.linux.pagewords import UFFD_WP
from extmeta.rows import Point
from extmeta.workloads.play import Counts, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import NONE, SoftDirty, pagemap
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
        How protected and written pages lie: see `placement.flags`.
    """

    question: ClassVar[str] = "CRIU on a user of userfaultfd: are both trackers right?"

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
        """Return the rounds, including the first."""
        return process.rounds(self.rounds) + 1

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Write, let the handler note, protect, let CRIU dump; hold both to sets."""
        process = stage.process
        own = process.pages[: max(1, round(self.share * len(process.pages)))]
        space = stage.space()
        with stage.during("protect"):
            application = Handled(space, process.ranges(own))
        criu = SoftDirty(space, process.ranges(process.pages))
        held, expected = NONE, process.pages
        for number in range(self.nr_rounds(process)):
            cards = NONE
            if number:
                expected = process.writes(
                    number - 1, self.dirty, self.placement, self.seed
                )
                stage.write(space, expected)
                cards = np.intersect1d(held, expected)
                held = np.setdiff1d(held, cards)
            # These may be pages that CRIU has not collected yet.
            point = Point(self.protected, self.placement)
            chosen = own[flags(own, point, self.seed + number, process.arch)]
            with stage.during("protect"):
                protect(space, chosen)
            held = np.union1d(held, chosen)
            must_be(
                f"round {number}: the application's handler",
                np.array(application.cards, np.uint64),
                cards,
            )
            application.cards.clear()
            with stage.during("collect"):
                dumped = criu.collect()
            must_be(f"round {number}: CRIU", dumped, expected)
            # clear_refs must not remove protection.
            words, vpns = pagemap(space, process.ranges(own))
            must_be(f"round {number}: protected", vpns[words & UFFD_WP != 0], held)
            yield {"dumped": len(dumped), "handled": len(cards)}
