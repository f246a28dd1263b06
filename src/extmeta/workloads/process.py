"""A process that workloads are played on: its VMAs, its pages, its writes.

It has private writable memory only: what CRIU pre-dumps, a guest's RAM, a collector's
heap. It is made up, or comes from a capture or a write trace; equal seeds give equal
writes.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from extmeta.arch import arch_named
from extmeta.arrays import U64
from extmeta.captures.capture import Capture, CaptureError
from extmeta.cost.placement import flags
from extmeta.cost.space import SYNTHETIC_FIRST
from extmeta.linux.pagewords import PAGE_SHIFT, populated
from extmeta.rows import Point

# [first, stop), vpns.
Range = tuple[int, int]

# Pages between two made-up VMAs: enough for a guard, less than a table.
GAP = 16

# Trackers skip holes of more pages than this, because some processes reserve terabytes.
HOLE = 1 << 15

# The usual vm.mmap_min_addr of distributions, in pages.
FIRST_VPN = 16


@dataclass(frozen=True, eq=False)
class Process:
    """Memory to be written to.

    Attributes
    ----------
    name : str
    vmas : tuple of (int, int)
        [first, stop) in vpns: ascending, private and writable.
    pages : (n,) uint64 ndarray
        Ascending vpns of the pages that are there at the beginning.
    arch : str
    sha256 : str
        The capture's name; empty if there is none.
    trace : tuple of uint64 ndarray, optional
        The vpns written in each round, if that was recorded.
    """

    name: str
    vmas: tuple[Range, ...]
    pages: U64
    arch: str = "x86_64"
    sha256: str = ""
    trace: tuple[U64, ...] | None = None
    # What `writes` has drawn: each encoding plays the same rounds.
    _drawn: dict[tuple[int, float, str, int], U64] = field(
        default_factory=dict, init=False, repr=False
    )

    def writes(self, number: int, fraction: float, placement: str, seed: int) -> U64:
        """Return the vpns written in a round, ascending.

        Parameters
        ----------
        number : int
            The round; with a trace the other arguments are ignored.
        fraction : float
            Share of `pages` that is written.
        placement : str
            See `placement.flags`.
        seed : int
        """
        if self.trace is not None:
            return self.trace[number]
        wanted = number, fraction, placement, seed
        if wanted not in self._drawn:
            # Each round has its own seed, derived from `seed`.
            of_round = int(np.random.default_rng((seed, number)).integers(1 << 31))
            chosen = flags(self.pages, Point(fraction, placement), of_round, self.arch)
            self._drawn[wanted] = self.pages[chosen]
        return self._drawn[wanted]

    def rounds(self, wanted: int) -> int:
        """Return how many rounds there are: those wanted, or those recorded."""
        return wanted if self.trace is None else len(self.trace)

    def ranges(self, pages: U64) -> list[Range]:
        """Return ascending ranges that cover some pages, without large holes."""
        found = []
        for first, stop in self.vmas:
            low, high = np.searchsorted(pages, (first, stop))
            inside = pages[low:high]
            if len(inside):
                cuts = np.flatnonzero(np.diff(inside) > HOLE) + 1
                parts = np.split(inside, cuts)
                found += [(int(part[0]), int(part[-1]) + 1) for part in parts]
        return found

    def only(self, pages: U64) -> Self:
        """Return the process with only some of its pages there."""
        return replace(self, pages=pages)


def synthetic(nr_pages: int, nr_vmas: int = 4) -> Process:
    """Return a process with VMAs of one size, all pages there.

    Raises
    ------
    ValueError
        If a VMA would have no page.
    """
    if not 0 < nr_vmas <= nr_pages:
        raise ValueError(f"{nr_pages} pages in {nr_vmas} VMAs: one each at least")
    edges = np.linspace(0, nr_pages, nr_vmas + 1).astype(np.int64)
    first = SYNTHETIC_FIRST + GAP * np.arange(nr_vmas)
    vmas = [
        (int(gap + low), int(gap + high))
        for gap, low, high in zip(first, edges[:-1], edges[1:], strict=True)
    ]
    pages = np.concatenate([np.arange(*vma, dtype=np.uint64) for vma in vmas])
    return Process("made-up memory", tuple(vmas), pages)


def of_capture(capture: Capture, name: str) -> Process:
    """Return a captured process: its private writable VMAs that have a page.

    Swapped pages become present, huge pages become small ones. CaptureError is raised
    if there is no page, or one where no process has memory.
    """
    held = capture.vpn[populated(capture.entry)]
    private = np.strings.endswith(capture.vma_perms, "p")
    writable = (np.strings.find(capture.vma_perms, "w") >= 0) & private
    bounds = np.stack((capture.vma_start, capture.vma_end), axis=1)[writable]
    vmas, pages = [], []
    for first, stop in (bounds >> np.uint64(PAGE_SHIFT)).tolist():
        low, high = np.searchsorted(held, (first, stop))
        if low < high:
            vmas.append((first, stop))
            pages.append(held[low:high])
    if not pages:
        raise CaptureError(f"{name}: no private writable page")
    return mappable(
        Process(name, tuple(vmas), np.concatenate(pages), capture.arch, capture.sha256)
    )


def mappable(process: Process) -> Process:
    """Return the process, or raise CaptureError if no process can have its VMAs."""
    last = arch_named(process.arch).nr_vpns // 2 - 1
    for first, stop in process.vmas:
        if not FIRST_VPN <= first < stop <= last:
            raise CaptureError(
                f"{process.name}: a VMA of vpns [{first:#x}, {stop:#x}) is not in "
                f"[{FIRST_VPN:#x}, {last:#x})"
            )
    return process
