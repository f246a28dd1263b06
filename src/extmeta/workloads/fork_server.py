"""A fuzzer's snapshot: every input starts from equal memory.

Either the process forks a child for each input, which writes to a few pages of its
copy and exits; or it runs the input itself, collects the written pages and copies them
back. Afterwards pages, frames and words must be as before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from extmeta.arrays import U64
from extmeta.cost.placement import PLACEMENTS
from extmeta.fields import Fields
from extmeta.linux import AddressSpace
from extmeta.linux.pagewords import PFN_MASK
from extmeta.workloads.play import Counts, MismatchError, Stage, Workload, must_be
from extmeta.workloads.process import Process, Range
from extmeta.workloads.trackers import TRACKERS, pagemap


@dataclass(frozen=True)
class ForkServer(Workload):
    """Inputs run from a snapshot.

    Attributes
    ----------
    inputs : int
    dirty : float
        Share of the pages that each input writes.
    placement : str
        How these lie: see `placement.flags`.
    how : {"fork", "WP_ASYNC", "soft-dirty"}
        Fork a child for each input, or find written pages by that tracker and restore
        them. A child has no userfaultfd, so with fork the words are soft-dirty's.
    """

    question: ClassVar[str] = "a fuzzer's snapshot: back to the same memory each time"
    choices: ClassVar = {"placement": PLACEMENTS, "how": ("fork", *TRACKERS)}

    inputs: int = 16
    dirty: float = 0.002
    placement: str = "random"
    how: str = "fork"

    @property
    def fields(self) -> Fields:
        """The tracker's bit."""
        return TRACKERS["soft-dirty" if self.how == "fork" else self.how].fields

    def nr_rounds(self, process: Process) -> int:
        """Return the inputs."""
        return process.rounds(self.inputs)

    def play(self, stage: Stage) -> Iterator[Counts]:
        """Run input after input."""
        run = self._forks if self.how == "fork" else self._restores
        return run(stage)

    def _forks(self, stage: Stage) -> Iterator[Counts]:
        process = stage.process
        ranges = process.ranges(process.pages)
        space = stage.space()
        with stage.during("fork"):
            # From now on a child's words show what it wrote.
            space.clear_refs()
        before = _seen(space, ranges)
        for number in range(self.nr_rounds(process)):
            written = process.writes(number, self.dirty, self.placement, self.seed)
            with stage.during("fork"):
                child = space.fork()
            stage.write(child, written)
            its = _seen(child, ranges)
            must_be(f"child {number}", _other_frames(before, its), written)
            with stage.during("collect"):
                dirty = TRACKERS["soft-dirty"](child, ranges).collect()
            must_be(f"child {number}'s words", dirty, written)
            with stage.during("exit"):
                child.exit()
            after = _seen(space, ranges)
            # Pages that are no longer shared are reported as exclusive again.
            if not np.array_equal(after, before):
                raise MismatchError(f"child {number}: its parent is not intact")
            yield {"written": len(written)}

    def _restores(self, stage: Stage) -> Iterator[Counts]:
        process = stage.process
        ranges = process.ranges(process.pages)
        space = stage.space()
        with stage.during("collect"):
            tracker = TRACKERS[self.how](space, ranges)
            tracker.collect()
        before = _seen(space, ranges)
        for number in range(self.nr_rounds(process)):
            written = process.writes(number, self.dirty, self.placement, self.seed)
            stage.write(space, written)
            with stage.during("collect"):
                found = tracker.collect()
            must_be(f"input {number}", found, written)
            # Copying pages back dirties them again: collect and drop that.
            stage.write(space, found, "restore")
            with stage.during("restore"):
                again = tracker.collect()
            must_be(f"input {number}, restored", again, written)
            if not np.array_equal(_seen(space, ranges), before):
                raise MismatchError(f"input {number}: memory is not as before")
            yield {"written": len(written)}


def _seen(space: AddressSpace, ranges: list[Range]) -> U64:
    """Return vpns and pagemap words, with frames: (n, 2)."""
    words, vpns = pagemap(space, ranges, pfns=True)
    return np.stack((vpns, words), axis=1)


def _other_frames(before: U64, after: U64) -> U64:
    """Return the vpns whose pages lie in another frame."""
    moved = (before[:, 1] ^ after[:, 1]) & np.uint64(PFN_MASK) != 0
    return np.asarray(before[moved, 0])
