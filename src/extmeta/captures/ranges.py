"""Ranges of bytes, and the VMAs of a process that can be tracked."""

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
        rows = procfs.slurp(procfs.living(pid), "maps").split(b"\n")
    except (FileNotFoundError, ProcessLookupError, procfs.GoneError):
        return []
    found = []
    for row in filter(None, rows):
        span, perms, _offset, _device, inode, *name = row.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split(b"-"))
        found.append(Vma(start, end, perms, inode, name[0] if name else b""))
    return found


class Ranges:
    """Ranges of bytes that ascend and neither overlap nor touch.

    Parameters
    ----------
    ranges : sequence of (int, int)
        In any order.
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.all: list[Range] = []
        for start, end in sorted(ranges):
            if self.all and start <= self.all[-1][1]:
                self.all[-1] = (self.all[-1][0], max(self.all[-1][1], end))
            else:
                self.all.append((start, end))
        self._starts = [start for start, _end in self.all]

    def add(self, ranges: Iterable[Range]) -> "Ranges":
        """Return these and others."""
        return Ranges([*self.all, *ranges])

    def cover(self, start: int, end: int) -> bool:
        """Tell whether [start, end) lies in one of them."""
        at = bisect_right(self._starts, start)
        return at > 0 and end <= self.all[at - 1][1]

    def touch(self, start: int, end: int) -> bool:
        """Tell whether [start, end) has a byte in one of them."""
        at = bisect_left(self._starts, end)
        return at > 0 and start < self.all[at - 1][1]


def split_where(ranges: Sequence[Range], kept: Sequence[bool]) -> list[list[Range]]:
    """Return the ranges that are kept, a list for each that stand side by side."""
    runs: list[list[Range]] = []
    before = False
    for one, keep in zip(ranges, kept, strict=True):
        if keep and before:
            runs[-1].append(one)
        elif keep:
            runs.append([one])
        before = keep
    return runs
