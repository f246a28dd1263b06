"""The pages of a process as the kernel's tool lists them: ``page-types -p PID -r -L``.

A line has a page, its PFN or place in swap, and a letter for each flag, in hexadecimal
and divided by tabs; with ``-l`` instead of ``-L`` a line is a run of pages. With ``-r``
the flags tell swapped, soft-dirty and file pages apart (tools/mm/page-types.c).
"""

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import captured
from extmeta.captures.formats.source import Source, unfolded
from extmeta.linux.pagewords import (
    EXCLUSIVE,
    FILE,
    PFN_BITS,
    PRESENT,
    SOFT_DIRTY,
    SWAP_OFFSET_SHIFT,
    SWAPPED,
)

NAME = "a list of page-types -p PID -r"

RUNS = b"voffset\toffset\tlen\tflags\n"
PAGES = b"voffset\toffset\tflags\n"

SWAP_LETTER = b"w"
LETTERS = {b"F": FILE, b"f": SOFT_DIRTY, b"1": EXCLUSIVE}
MAX_FLAGS = 64


def recognises(found: Source) -> bool:
    """Tell whether this begins as such a list does."""
    return found.head.startswith((RUNS, PAGES))


def read(found: Source) -> Capture:
    """Return the capture of the pages in the list."""
    text = source.content(found.path)
    head = RUNS if text.startswith(RUNS) else PAGES
    # A summary follows an empty line.
    fields = text[len(head) :].partition(b"\n\n")[0].split()
    columns = len(head.split())
    if len(fields) % columns:
        raise CaptureError(f"{len(fields)} fields, in lines of {columns}")
    first, where, *length = (_hex(fields[at::columns]) for at in range(columns - 1))
    flags = np.array(fields[columns - 1 :: columns], f"S{MAX_FLAGS}")
    if len(bad := np.flatnonzero(np.strings.strip(flags, b"_") == b"")):
        raise CaptureError(
            f"page {int(first[bad[0]]):#x} has no flag: -r was not given"
        )
    if len(bad := np.flatnonzero(where >> np.uint64(PFN_BITS))):
        raise CaptureError(
            f"page {int(first[bad[0]]):#x}: offset {int(where[bad[0]]):#x}"
        )
    nr = length[0] if length else np.ones_like(first)
    # PFNs and places in swap go up with the pages of a run.
    vpn, place = (unfolded(x, x + nr, len(text)) for x in (first, where))
    swapped = _has(flags, SWAP_LETTER)
    bits = np.where(swapped, np.uint64(SWAPPED), np.uint64(PRESENT))
    for letter, bit in LETTERS.items():
        bits |= np.where(_has(flags, letter), np.uint64(bit), np.uint64(0))
    shift = np.where(swapped, np.uint64(SWAP_OFFSET_SHIFT), np.uint64(0))
    times = nr.astype(np.int64)
    entry = np.repeat(bits, times) | place << np.repeat(shift, times)
    return captured(vpn, entry, "From page-types. The types of swap are not known.")


def _hex(fields: list[bytes]) -> U64:
    try:
        return np.array([int(field, 16) for field in fields], np.uint64)
    except (ValueError, OverflowError) as error:
        raise CaptureError(str(error)[:80]) from None


def _has(flags: npt.NDArray[np.bytes_], letter: bytes) -> Bools:
    return np.greater_equal(np.strings.find(flags, letter), 0)
