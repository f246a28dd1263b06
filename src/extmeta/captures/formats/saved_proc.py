"""A directory of files saved from /proc/PID, as support bundles have.

It has ``maps`` or, better, ``smaps``; ``pagemap``; and perhaps ``status``. pagemap is
the words of all VMAs, one after the other::

    grep -v vsyscall maps | while IFS=' -' read -r start end _; do
        dd if=/proc/PID/pagemap bs=8 status=none \\
            skip=$((0x$start / 4096)) count=$(((0x$end - 0x$start) / 4096))
    done > pagemap

or a sparse file with each word where /proc/PID/pagemap has it. The size tells which.
Holes of a sparse file are skipped.
"""

import errno
import os
from collections.abc import Iterator

import numpy as np

from extmeta.arrays import U64
from extmeta.captures import procfs
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.consistency import USER_VPNS
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import NOT_KNOWN, sized
from extmeta.captures.formats.source import WORD_BYTES, Source
from extmeta.captures.process import captured as of_reading
from extmeta.linux.pagewords import PAGE_SHIFT, populated, vpn_bounds

NAME = "saved files of /proc/PID (maps or smaps, and pagemap)"


def recognises(found: Source) -> bool:
    """Tell whether this is a directory with VMAs and their pagemap."""
    return "pagemap" in found.names and not {"maps", "smaps"}.isdisjoint(found.names)


def read(found: Source) -> Capture:
    """Return the capture."""
    which = "smaps" if "smaps" in found.names else "maps"
    try:
        vmas = procfs.parse_smaps(
            source.content(found.beside(which)), maps=which == "maps"
        )
        if not vmas.user.any():
            raise procfs.GoneError
    except procfs.GoneError:
        raise CaptureError(f"{which}: no VMA, or one that is cut short") from None
    except (ValueError, OverflowError) as error:
        raise CaptureError(f"{which}: {str(error)[:80]}") from None
    vpn, entry = _pagemap(found.beside("pagemap"), vmas)
    keep = procfs.within_vmas(vpn, vmas)
    status = _status(found) if "status" in found.names else None
    # Without PAGEMAP_SCAN, smaps has to tell where huge pages are.
    reading = procfs.Reading(
        vmas=vmas,
        vpn=vpn[keep],
        entry=entry[keep],
        huge_vpn=None,
        status=status or procfs.Status(NOT_KNOWN, "", 0, 0, 0),
        settled=True,
    )
    made = of_reading(
        reading,
        NOT_KNOWN,
        huge_marked=which == "smaps",
        about=f"From saved files of /proc: {which} and pagemap.",
    )
    return made if status else sized(made)


def _status(found: Source) -> procfs.Status:
    lines = procfs.parse_status(source.content(found.beside("status")))
    try:
        return procfs.Status(
            comm=lines[b"Name"].decode("utf-8", "backslashreplace"),
            state="",
            tgid=0,
            vmpte_kb=int(lines[b"VmPTE"].split()[0]),
            vmrss_kb=int(lines[b"VmRSS"].split()[0]),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise CaptureError(f"status: {str(error)[:80]}: no such line") from None


def _pagemap(path: str, vmas: procfs.Vmas) -> tuple[U64, U64]:
    """Return the populated words, and their vpns."""
    bounds = vpn_bounds(vmas.start[vmas.user], vmas.end[vmas.user])
    first, stop = bounds[::2], bounds[1::2]
    # A sparse one may be larger than other files may be.
    nr_words = os.stat(path).st_size // WORD_BYTES
    if nr_words > USER_VPNS:
        raise CaptureError(f"pagemap: {nr_words} words are more than {USER_VPNS}")
    ends = np.cumsum(stop - first)
    if nr_words == int(ends[-1:].sum()):
        words = source.words(path)
        at = np.flatnonzero(populated(words)).astype(np.uint64)
        vma = np.searchsorted(ends, at, "right")
        return at - (ends - stop)[vma], words[at]
    if nr_words <= int(first[:1].sum()):
        raise CaptureError(
            f"pagemap: {nr_words} words are neither those of the VMAs, "
            f"{int(ends[-1:].sum())}, nor do they reach the first VMA"
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        spans = list(_written(descriptor, nr_words))
        ranges = np.array(spans, np.uint64).reshape(-1, 2) << np.uint64(PAGE_SHIFT)
        return procfs.pagemap(descriptor, ranges, None)
    finally:
        os.close(descriptor)


def _written(descriptor: int, nr_words: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of words of a file that are no holes."""
    at = 0
    while at < nr_words * WORD_BYTES:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            # No data up to the end.
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start // WORD_BYTES, at // WORD_BYTES
