"""What a capture holds, as text and JSON: VMAs, entries, tables, how full they are."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator

import numpy as np

from extmeta.captures.capture import Capture
from extmeta.linux.pagewords import LEAF_PAGES
from extmeta.reports.figures import size
from extmeta.reports.layout import plain

PAGE_BYTES = 4096
WIDTH = 80

# Rows of the histogram, and its longest bar: it fits 80 columns.
BINS = 16
BAR_CHARS = 50

# Names that are listed; those with fewer entries are summed up.
NAMED = 6


@dataclasses.dataclass(frozen=True)
class Vmas:
    """VMAs of one name, all anonymous ones, or the rest; `nbytes` of address space."""

    name: str
    count: int
    nbytes: int
    entries: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A capture in numbers; bytes and counts.

    Attributes
    ----------
    name : str
        Name of the file.
    comm, kernel, sha256 : str
    settled, has_pfns : bool
    vmas : tuple of Vmas
        The one with the most entries first.
    present, swapped, markers : int
        Entries: PTEs, and 512 for each 2 MiB leaf.
    leaves, deposited : int
        2 MiB leaves; anonymous ones among them, each with a deposited PTE table.
    unplaced : int
        Bytes that leaves map at places not known.
    unmarked : int
        See `Capture.unmarked`.
    tables : dict of str to int
        By level, as the entries need them, deposited ones included.
    vmpte_bytes : int
    empty_tables : int
        Tables that VmPTE counts and no entry needs.
    occupancy : tuple of int
        Number of PTE tables by number of their entries, from 0.
    about : str
        See `Capture.about`.
    """

    name: str
    comm: str
    kernel: str
    sha256: str
    settled: bool
    has_pfns: bool
    vmas: tuple[Vmas, ...]
    present: int
    swapped: int
    markers: int
    leaves: int
    deposited: int
    unplaced: int
    unmarked: int
    tables: dict[str, int]
    vmpte_bytes: int
    empty_tables: int
    occupancy: tuple[int, ...]
    about: str = ""


def summary(capture: Capture, name: str) -> Summary:
    """Return what a capture holds."""
    return Summary(
        name=name,
        comm=capture.comm,
        kernel=capture.kernel,
        sha256=capture.sha256,
        settled=capture.settled,
        has_pfns=capture.has_pfns,
        vmas=tuple(_vmas(capture)),
        present=capture.nr_present,
        swapped=capture.nr_swapped,
        markers=capture.nr_markers,
        leaves=len(capture.huge_vpn),
        deposited=len(capture.deposited_vpn),
        unplaced=capture.unplaced_kb * 1024,
        unmarked=capture.unmarked,
        tables=capture.tables_needed()._asdict(),
        vmpte_bytes=capture.vmpte_kb * 1024,
        empty_tables=capture.empty_tables,
        occupancy=tuple(capture.occupancy().tolist()),
        about=capture.about,
    )


def _vmas(capture: Capture) -> Iterator[Vmas]:
    first = np.searchsorted(capture.vpn, capture.vma_start // PAGE_BYTES)
    stop = np.searchsorted(capture.vpn, capture.vma_end // PAGE_BYTES)
    names, which, count = np.unique(
        capture.vma_name, return_inverse=True, return_counts=True
    )
    entries = np.bincount(which, stop - first, len(names)).astype(np.int64)
    nbytes = np.zeros(len(names), np.uint64)
    np.add.at(nbytes, which, capture.vma_end - capture.vma_start)
    order = np.argsort(-entries, kind="stable")
    for i in order[:NAMED]:
        yield Vmas(str(names[i]), int(count[i]), int(nbytes[i]), int(entries[i]))
    rest = order[NAMED:]
    if len(rest):
        yield Vmas(
            f"{len(rest)} more names",
            int(count[rest].sum()),
            int(nbytes[rest].sum()),
            int(entries[rest].sum()),
        )


def to_json(s: Summary) -> str:
    """Return a summary as JSON."""
    return json.dumps(dataclasses.asdict(s), indent=1)


def text(s: Summary) -> str:
    """Return a summary for people, at most 80 columns wide unless names are long."""
    entries = s.present + s.swapped + s.markers
    count = sum(v.count for v in s.vmas)
    nbytes = sum(v.nbytes for v in s.vmas)
    tables = ", ".join(f"{n:,} {level.upper()}" for level, n in s.tables.items() if n)
    deposited = f"; {s.deposited:,} PTE deposited" if s.deposited else ""
    kinds = (
        f"{s.present:,} present, {s.swapped:,} swapped, {s.markers:,} markers; "
        f"{size(s.present * PAGE_BYTES)} present"
    )
    lines = [
        f"{plain(s.name)}: {plain(s.comm)}, Linux {plain(s.kernel)}",
        *_about(s),
        f"  VMAs      {count:,}, {size(nbytes)} of address space",
        f"  entries   {entries:,}: {kinds}",
        *_leaves(s),
        f"  tables    {tables or 'none'}, and the root{deposited}",
        f"  VmPTE     {size(s.vmpte_bytes)}, {s.empty_tables:,} of its tables empty",
        f"  PFNs      {'kept' if s.has_pfns else 'none'}",
        f"  settled   {'yes' if s.settled else 'no: it changed while it was read'}",
        f"  sha256    {plain(s.sha256)}",
        "",
        f"  {'VMAs by name':<28}{'VMAs':>8}{'size':>12}{'entries':>14}",
    ]
    lines += [
        f"  {plain(v.name) or '(anonymous)':<28}{v.count:>8,}{size(v.nbytes):>12}"
        f"{v.entries:>14,}"
        for v in s.vmas
    ]
    lines += ["", *_histogram(s.occupancy)]
    return "\n".join(lines)


def _about(s: Summary) -> list[str]:
    """Return the lines that say what ran."""
    wrapped = textwrap.wrap(plain(s.about), WIDTH - 12, break_long_words=False)
    return [
        f"{'' if number else '  about':<12}{line}"
        for number, line in enumerate(wrapped)
    ]


def _leaves(s: Summary) -> Iterator[str]:
    """Yield lines on huge pages, each mapped by a leaf above the PTE tables."""
    line = f"  leaves    {s.leaves:,} of 2 MiB"
    if s.leaves:
        files = s.leaves - s.deposited
        line += f": {s.deposited:,} anonymous, {files:,} of files, shmem or hugetlb"
    if s.unplaced:
        line += f", and {size(s.unplaced)} more at places unknown"
    if s.unmarked:
        line += f", and perhaps up to {s.unmarked:,} more, which are not marked"
    yield line
    if s.deposited:
        nr_ptes = s.deposited * LEAF_PAGES
        yield f"  split     of all anonymous: {nr_ptes:,} PTEs, in the deposited tables"


def _histogram(occupancy: tuple[int, ...]) -> Iterator[str]:
    entries = np.arange(len(occupancy))
    counts = np.array(occupancy)
    tables = int(counts.sum())
    if not tables:
        yield "  no PTE table"
        return
    mean = int(entries @ counts) / tables
    yield f"  entries of a PTE table: mean {mean:.0f} of {len(occupancy) - 1}"
    step = (len(occupancy) - 1) // BINS
    sums = counts[1:].reshape(BINS, step).sum(axis=1)
    for row, held in enumerate(sums.tolist()):
        # At least one character if it is not 0, so that it can be seen.
        bar = "#" * max(round(BAR_CHARS * held / max(sums)), held > 0)
        span = f"{row * step + 1}-{(row + 1) * step}"
        yield f"  {span:>9} {bar:<{BAR_CHARS}} {held:,}".rstrip()
