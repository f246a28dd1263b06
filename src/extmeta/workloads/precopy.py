"""Live migration: a guest's RAM is sent in rounds while the guest writes to it.

Each round sends what was written during the previous one; a shorter round has fewer
writes. When little is left, or rounds run out, the guest is stopped and the rest is
sent: that is the downtime. At the end the target must have the last version of every
page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64
from extmeta.fields import Fields
from extmeta.workloads.play import Counts, MismatchError, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import WpAsync

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Precopy(Workload):
    """Pre-copy by WP_ASYNC and PAGEMAP_SCAN with WP_MATCHING.

    Attributes
    ----------
    rounds : int
        The most rounds before the guest is stopped.
    rate : float
        Pages written while one page is sent. Near 1 it does not converge.
    threshold : int
        Pages left at which the guest is stopped.
    placement : str
        How written pages lie: see `placement.flags`.
    """

    question: ClassVar[str] = "live migration: what did the guest write meanwhile?"

    rounds: int = 12
    rate: float = 0.4
    threshold: int = 100
    placement: str = "clustered"

    @property
    def fields(self) -> Fields:
        """uffd_wp."""
        return WpAsync.fields

    def nr_rounds(self, process: Process) -> int:
        """Return the rounds, including the one that stops the guest."""
        return process.rounds(self.rounds) + 1

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Send while the guest writes, until little is left; stop it, send that."""
        process = stage.process
        space = stage.space()
        # The version of each page, in the source and in the target.
        here = np.ones(len(process.pages), np.int64)
        there = np.zeros_like(here)
        with stage.during("collect"):
            tracker = WpAsync(space, process.ranges(process.pages))
            left = tracker.collect()
        must_be("all of RAM", left, process.pages)
        for number in range(process.rounds(self.rounds)):
            if len(left) <= self.threshold:
                break
            # Pages are sent before the writes of this round.
            self._send(process, left, here, there)
            sent = len(left)
            written = self._written(process, number, sent)
            stage.write(space, written)
            here[np.searchsorted(process.pages, written)] += 1
            with stage.during("collect"):
                left = tracker.collect()
            must_be(f"round {number}", left, written)
            yield {"sent": sent, "written": len(left)}
        self._send(process, left, here, there)
        old = int(np.count_nonzero(here != there))
        if old:
            raise MismatchError(f"{old} pages are old in the target")
        yield {"sent while stopped": len(left)}

    def _send(self, process: Process, vpns: U64, here: I64, there: I64) -> None:
        """Note that the target gets the versions that some pages have now."""
        at = np.searchsorted(process.pages, vpns)
        there[at] = here[at]

    def _written(self, process: Process, number: int, sent: int) -> U64:
        """Return what the guest writes while ``sent`` pages are sent."""
        fraction = self.rate * sent / len(process.pages)
        return process.writes(number, fraction, self.placement, self.seed)
