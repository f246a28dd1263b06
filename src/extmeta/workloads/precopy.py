"""Live migration: a guest's RAM is sent in rounds while the guest writes to it.

Each round sends what was written during the previous one; a shorter round has fewer
writes. When little is left, or rounds run out, the guest is stopped and the rest is
sent: that is the downtime. At the end the target must have the last version of every
page.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from extmeta.arrays import U64
from extmeta.fields import Fields
from extmeta.workloads.play import Counts, MismatchError, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import WpAsync


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
        here = Counter(process.pages.tolist())
        there: Counter[int] = Counter()
        with stage.during("collect"):
            tracker = WpAsync(space, process.ranges(process.pages))
            left = tracker.collect()
        must_be("all of RAM", left, set(here))
        for number in range(process.rounds(self.rounds)):
            if len(left) <= self.threshold:
                break
            # Pages are sent before the writes of this round.
            there.update({vpn: here[vpn] - there[vpn] for vpn in left.tolist()})
            sent = len(left)
            written = self._written(process, number, sent)
            stage.write(space, written)
            here.update(written.tolist())
            with stage.during("collect"):
                left = tracker.collect()
            must_be(f"round {number}", left, set(written.tolist()))
            yield {"sent": sent, "written": len(left)}
        there.update({vpn: here[vpn] - there[vpn] for vpn in left.tolist()})
        if here != there:
            raise MismatchError(f"{len(here - there)} pages are old in the target")
        yield {"sent while stopped": len(left)}

    def _written(self, process: Process, number: int, sent: int) -> U64:
        """Return what the guest writes while ``sent`` pages are sent."""
        fraction = self.rate * sent / len(process.pages)
        return process.writes(number, fraction, self.placement, self.seed)
