"""Ranges of bytes, and the VMAs of a process that a tracker can cover."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from extmeta.captures import procfs

_SPECIAL = (b"[vvar", b"[vdso", b"[vsyscall", b"[uprobes")
Range = tuple[int, int]


class Vma(NamedTuple):
    """A VMA of /proc/PID/maps: bytes [start, end)."""

    start: int
    end: int
    perms: bytes
    inode: bytes
    name: bytes

    @property
    def tracked(self) -> bool:
        """Whether it is anonymous private memory."""
        ours = self.perms[3:] == b"p" and self.inode == b"0"
        return ours and not self.name.startswith(_SPECIAL)


def vmas(pid: int) -> list[Vma]:
    """Return the VMAs of a process; none if it has ended."""
    try:
        rows = procfs.vma_rows(procfs.slurp(procfs.living(pid), "maps"))
    except (FileNotFoundError, ProcessLookupError, procfs.GoneError):
        return []
    return [Vma(int(start, 16), int(end, 16), *row) for start, end, *row in rows]


class Ranges:
    """Ranges of bytes: ascending, without overlap, and adjacent ones merged."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.all: list[Range] = []
        for start, end in sorted(ranges):
            if self.all and start <= self.all[-1][1]:
                self.all[-1] = (self.all[-1][0], max(self.all[-1][1], end))
            else:
                self.all.append((start, end))
        self._starts = [start for start, _end in self.all]

    def add(self, ranges: Iterable[Range]) -> "Ranges":
        """Return the union with others."""
        return Ranges([*self.all, *ranges])

    def cover(self, start: int, end: int) -> bool:
        """Tell whether one range contains [start, end)."""
        at = bisect_right(self._starts, start)
        return at > 0 and end <= self.all[at - 1][1]

    def touch(self, start: int, end: int) -> bool:
        """Tell whether a range has a byte of [start, end)."""
        at = bisect_left(self._starts, end)
        return at > 0 and start < self.all[at - 1][1]


def split_where(ranges: Sequence[Range], kept: Sequence[bool]) -> list[list[Range]]:
    """Return the ranges that are kept, in lists of neighbours."""
    runs: list[list[Range]] = []
    before = False
    for one, keep in zip(ranges, kept, strict=True):
        if keep and before:
            runs[-1].append(one)
        elif keep:
            runs.append([one])
        before = keep
    return runs
