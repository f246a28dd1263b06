"""CRIU's pre-dump: a running process is dumped in rounds.

The first round dumps every page, each later one the pages that the tracker reports as
written since; the last one, of the stopped process, is short. A missed page is lost
and a clean page is dumped in vain, so each round must be the exact set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from extmeta.cost.placement import PLACEMENTS
from extmeta.fields import Fields
from extmeta.workloads.play import Counts, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import TRACKERS


@dataclass(frozen=True)
class Predump(Workload):
    """CRIU pre-dump rounds.

    Attributes
    ----------
    rounds : int
        After the first, which dumps all.
    dirty : float
        Share of the pages that is written between two rounds.
    placement : str
        How these lie: see `placement.flags`.
    how : {"WP_ASYNC", "soft-dirty"}
    """

    question: ClassVar[str] = "CRIU's pre-dump: which pages were written since?"
    choices: ClassVar = {"placement": PLACEMENTS, "how": tuple(TRACKERS)}

    rounds: int = 8
    dirty: float = 0.05
    placement: str = "clustered"
    how: str = "WP_ASYNC"

    @property
    def fields(self) -> Fields:
        """The tracker's bit."""
        return TRACKERS[self.how].fields

    def nr_rounds(self, process: Process) -> int:
        """Return the rounds, including the first."""
        return process.rounds(self.rounds) + 1

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Dump, let the process write, dump what it wrote, ..."""
        process = stage.process
        space = stage.space()
        with stage.during("collect"):
            tracker = TRACKERS[self.how](space, process.ranges(process.pages))
        expected = process.pages
        for number in range(self.nr_rounds(process)):
            if number:
                expected = process.writes(
                    number - 1, self.dirty, self.placement, self.seed
                )
                stage.write(space, expected)
            with stage.during("collect"):
                dumped = tracker.collect()
            must_be(f"pre-dump {number}", dumped, expected)
            yield {"dumped": len(dumped)}
