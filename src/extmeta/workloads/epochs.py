"""Epochs: what changed since any earlier snapshot?

A snapshot raises the number of the epoch. The first write to a page in an epoch faults,
and the fault stores the number in the page's word. One scan then finds the pages that
were written since any earlier snapshot (`PageTable.scan_since`), and protects only those
written in the last epoch. A bit for each page, as WP_ASYNC's or soft-dirty's, answers for
the last snapshot only: for an older one a tracker keeps a bitmap of each epoch, which is
what ``how`` of these does. Both have to report exactly the pages that were written.

Epochs use the bare PageTable, because no semantics of Linux store a number on a write.
Numbers wrap around: 0 stands for none and is skipped, and old numbers are removed before
they look newer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.checks import must
from extmeta.cost.placement import PLACEMENTS
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.workloads.play import Counts, Stage, Workload, must_be
from extmeta.workloads.process import Process
from extmeta.workloads.trackers import TRACKERS

MAX_BITS = 64


def later(number: int, by: int, bits: int) -> int:
    """Return the number ``by`` epochs later; 0 is skipped.

    Examples
    --------
    >>> later(14, 1, 4), later(15, 1, 4), later(2, -3, 4)
    (15, 1, 14)
    """
    return (number - 1 + by) % ((1 << bits) - 1) + 1


@dataclass(frozen=True)
class Epochs(Workload):
    """Deltas against several earlier snapshots.

    Attributes
    ----------
    snapshots : int
    back : int
        Earlier snapshots that a delta may be asked against; each round asks for one of
        them in turn. Less than half of the numbers there are.
    dirty : float
        Share of the pages that is written between two snapshots.
    placement : str
        How these lie: see `placement.flags`.
    bits : int
        Bits of an epoch.
    trackers : int
        Independent trackers, each with an epoch of its own in the word; tracker i takes
        a snapshot every i + 1 rounds.
    first : int
        The number of the first epoch.
    how : {"epochs", "WP_ASYNC", "soft-dirty"}
    """

    question: ClassVar[str] = "incremental backup: what changed since any snapshot?"
    choices: ClassVar = {"placement": PLACEMENTS, "how": ("epochs", *TRACKERS)}

    snapshots: int = 12
    back: int = 10
    dirty: float = 0.05
    placement: str = "clustered"
    bits: int = 16
    trackers: int = 1
    first: int = 1
    how: str = "epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits: {self.bits} is not in [2, {MAX_BITS}]")
        if not 1 <= self.back < (1 << self.bits - 1) - 1:
            raise ValueError(
                f"back: {self.back} is not in [1, {(1 << self.bits - 1) - 2}]: the "
                f"numbers of {self.bits} bits wrap around"
            )
        if not 1 <= self.trackers <= 8:
            raise ValueError(f"trackers: {self.trackers} is not in [1, 8]")
        if not 1 <= self.first < 1 << self.bits:
            raise ValueError(f"first: {self.first} is not in [1, 2**{self.bits})")
        if self.how != "epochs" and self.trackers > 1:
            raise ValueError(f"trackers: {self.trackers}, but {self.how} has one bit")

    @property
    def fields(self) -> Fields:
        """An epoch for each tracker, or the other trackers' bit."""
        if self.how != "epochs":
            return TRACKERS[self.how].fields
        return Fields(**{f"epoch{i}": self.bits for i in range(self.trackers)})

    @property
    def patience(self) -> int:
        """Snapshots after which old numbers are removed: as few bits need it."""
        bits = min(self.bits, self.back.bit_length() + 2)
        return (1 << bits - 1) - 1 - self.back

    def narrower(self) -> "Epochs | None":
        """Return it with the fewest bits that reach back, if these are fewer."""
        bits = self.back.bit_length() + 2
        if self.how != "epochs" or bits >= self.bits or self.first != 1:
            return None
        return replace(self, bits=bits)

    def nr_rounds(self, process: Process) -> int:
        """Return the snapshots."""
        return process.rounds(self.snapshots)

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Let the process write, ask what changed since an earlier snapshot, ..."""
        return self._epochs(stage) if self.how == "epochs" else self._bitmaps(stage)

    def _written(self, process: Process, number: int) -> U64:
        return process.writes(number, self.dirty, self.placement, self.seed)

    def _since(self, process: Process, since: int, number: int) -> U64:
        """Return the pages written in rounds [since, number]."""
        rounds = [self._written(process, at) for at in range(since, number + 1)]
        return np.unique(np.concatenate(rounds))

    def _epochs(self, stage: Stage) -> Iterator[Counts]:
        process = stage.process
        table = stage.table()
        trackers = [
            Tracker(
                table,
                f"epoch{i}",
                process.pages,
                self.first,
                self.back,
                self.patience,
            )
            for i in range(self.trackers)
        ]
        starts = [[0] for _ in trackers]
        for number in range(self.nr_rounds(process)):
            written = self._written(process, number)
            with stage.during("write"):
                faulted = np.zeros(len(written), np.bool_)
                for tracker in trackers:
                    faulted |= tracker.write(written)
            # One fault serves all trackers.
            stage.faults += int(faulted.sum())
            counts = {}
            for i, tracker in enumerate(trackers):
                if (number + 1) % (i + 1):
                    continue
                with stage.during("raise"):
                    tracker.snapshot()
                back = 1 + number % min(self.back, len(starts[i]))
                with stage.during("delta"):
                    delta = tracker.since(back)
                expected = self._since(process, starts[i][-back], number)
                must_be(f"snapshot {number} of tracker {i}", delta, expected)
                starts[i].append(number + 1)
                counts[f"changed {i}" if i else "changed"] = len(delta)
            yield counts

    def _bitmaps(self, stage: Stage) -> Iterator[Counts]:
        process = stage.process
        space = stage.space()
        with stage.during("raise"):
            tracker = TRACKERS[self.how](space, process.ranges(process.pages))
            tracker.collect()
        bitmaps: list[U64] = []
        for number in range(self.nr_rounds(process)):
            stage.write(space, self._written(process, number))
            with stage.during("raise"):
                bitmaps = [*bitmaps, tracker.collect()][-self.back :]
            back = 1 + number % min(self.back, number + 1)
            delta = np.unique(np.concatenate(bitmaps[-back:]))
            must_be(
                f"snapshot {number}",
                delta,
                self._since(process, number + 1 - back, number),
            )
            yield {"changed": len(delta), "bitmap bytes": self.bitmap_bytes(process)}

    def bitmap_bytes(self, process: Process) -> int:
        """Return what the bitmaps of a tracker with one bit take in user memory."""
        if self.how == "epochs":
            return 0
        pages = sum(stop - first for first, stop in process.ranges(process.pages))
        return self.back * (-(-pages // 8))


class Tracker:
    """One epoch in each word of a page table.

    Attributes
    ----------
    now : int
        The number of the epoch.
    back : int
        Snapshots that a delta may be asked against.
    patience : int
        Snapshots after which old numbers are removed. ``back + patience`` is less than
        half of the numbers there are.
    """

    def __init__(
        self,
        table: PageTable,
        field: str,
        pages: U64,
        first: int,
        back: int,
        patience: int,
    ) -> None:
        self.table = table
        self.field = field
        self.bits = table.fields[field]
        self.now = first
        self.back = back
        self.everything = slice(int(pages[0]), int(pages[-1]) + 1)
        # Snapshots until old numbers are removed.
        self.patience = self.left = patience

    def write(self, vpns: U64) -> Bools:
        """Store the number of the epoch in the words of pages written.

        Returns which of the writes fault: those of pages not written in this epoch.
        """
        faults = self.table.load(vpns, self.field) != self.now
        if faults.any():
            self.table.store(vpns[faults], **{self.field: self.now})
        return np.asarray(faults)

    def snapshot(self) -> U64:
        """Raise the number of the epoch; return the vpns written in the last one.

        A kernel write-protects these, so that their next writes fault.
        """
        written = self.table.scan_since(self.everything, self.field, self.now)
        if self.left == 0:
            self._forget()
        self.left -= 1
        self.now = later(self.now, 1, self.bits)
        return written

    def since(self, back: int) -> U64:
        """Return the vpns of pages written since the snapshot ``back`` epochs ago."""
        must(1 <= back <= self.back, f"{back} is not in [1, {self.back}] snapshots")
        oldest = later(self.now, -back, self.bits)
        return self.table.scan_since(self.everything, self.field, oldest)

    def _forget(self) -> None:
        """Clear the numbers that no delta asks for any more, before they look newer."""
        kept = later(self.now, 1 - self.back, self.bits)
        oldest = later(self.now, 1 - self.back - self.patience, self.bits)
        old = np.setdiff1d(
            self.table.scan_since(self.everything, self.field, oldest),
            self.table.scan_since(self.everything, self.field, kept),
        )
        self.table.update(old, clear=self.table.fields.mask(self.field))
        self.left = self.patience
