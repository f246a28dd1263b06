"""Regions as PAGEMAP_SCAN returns them: an array of ``struct page_region``.

A region is three 64-bit numbers: its first byte, the byte past its end, and categories
(PAGE_IS_*, include/uapi/linux/fs.h). The file has them raw, little-endian, or as an
array (n, 3) of uint64 that `numpy.save` wrote. Categories that were not asked for are
missing from it: without PRESENT and SWAPPED every page counts as present.
"""

import os

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.captures import npz
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.consistency import USER_VPNS
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import captured
from extmeta.captures.formats.source import HEAD_BYTES, WORD_BYTES, Source, unfolded
from extmeta.linux.pagemap_scan import PageIs
from extmeta.linux.pagewords import (
    FILE,
    GUARD,
    LEAF_PAGES,
    PAGE_BYTES,
    PAGE_SHIFT,
    PRESENT,
    SOFT_DIRTY,
    SWAPPED,
    UFFD_WP,
    whole_leaves,
)

NAME = "regions of PAGEMAP_SCAN"

COLUMNS = 3
REGION_BYTES = COLUMNS * WORD_BYTES
ALL_CATEGORIES = np.uint64(sum(PageIs))
NPY_MAGIC = b"\x93NUMPY"
KEY = npz.Key("u", npz.MAX_ENTRIES, columns=COLUMNS)


def recognises(found: Source) -> bool:
    """Tell whether this is an array that numpy saved, or begins with regions."""
    if found.head.startswith(NPY_MAGIC):
        return True
    whole = min(found.nbytes, HEAD_BYTES) // REGION_BYTES
    if not whole or found.nbytes % REGION_BYTES:
        return False
    head = np.frombuffer(found.head, "<u8", whole * COLUMNS).reshape(-1, COLUMNS)
    return _fault(head) is None


def _fault(regions: U64) -> str | None:
    """Return what is wrong with the first bad region, or None."""
    start, end, categories = regions.T
    ahead = np.concatenate((start[:1], end[:-1]))
    bad = (start | end) % PAGE_BYTES != 0
    bad |= (start >= end) | (start < ahead) | (end > USER_VPNS << PAGE_SHIFT)
    bad |= categories & ~ALL_CATEGORIES != 0
    if not bad.any():
        return None
    at = int(np.argmax(bad))
    first, stop, more = (int(value) for value in regions[at])
    return f"region {at} is [{first:#x}, {stop:#x}), categories {more:#x}"


def read(found: Source) -> Capture:
    """Return the capture of the pages in the regions."""
    if found.head.startswith(NPY_MAGIC):
        try:
            regions = npz.array(found.path, KEY)
        except npz.DamagedFileError as error:
            raise CaptureError(str(error)) from None
    else:
        regions = source.words(found.path).reshape(-1, COLUMNS)
    if why := _fault(regions):
        raise CaptureError(why)
    start, end, categories = regions.T
    populated = categories & np.uint64(PageIs.PRESENT | PageIs.SWAPPED) != 0
    if not populated.any():
        populated |= True
    first, stop = (x[populated] >> np.uint64(PAGE_SHIFT) for x in (start, end))
    categories = categories[populated]
    vpn = unfolded(first, stop, os.path.getsize(found.path))
    entry = np.repeat(_words(categories), (stop - first).astype(np.int64))
    huge = categories & np.uint64(PageIs.HUGE) != 0
    return captured(
        vpn,
        entry,
        "From regions of PAGEMAP_SCAN.",
        huge_vpn=_leaves(first[huge], stop[huge], vpn, entry),
        huge_marked=bool(huge.any()),
    )


def _words(categories: U64) -> U64:
    """Return pagemap words that have the categories."""

    def has(wanted: PageIs) -> Bools:
        return np.asarray(categories & np.uint64(wanted) != 0)

    swapped = has(PageIs.SWAPPED) & ~has(PageIs.PRESENT)
    word = np.where(swapped, np.uint64(SWAPPED), np.uint64(PRESENT))
    for category, bit in (
        (PageIs.FILE, FILE),
        (PageIs.SOFT_DIRTY, SOFT_DIRTY),
        (PageIs.GUARD, GUARD),
    ):
        word |= np.where(has(category), np.uint64(bit), np.uint64(0))
    # Not written since it was write-protected, if WRITTEN was asked for.
    protected = has(PageIs.WPALLOWED) & ~has(PageIs.WRITTEN)
    protected &= has(PageIs.WRITTEN).any()
    return np.asarray(word | np.where(protected, np.uint64(UFFD_WP), np.uint64(0)))


def _leaves(first: U64, stop: U64, vpn: U64, entry: U64) -> U64:
    """Return the first vpns of the whole 2 MiB leaves in regions of huge pages."""
    size = np.uint64(LEAF_PAGES)
    spans = [
        np.arange(a, b, size, dtype=np.uint64)
        for a, b in zip((first + size - np.uint64(1)) // size * size, stop, strict=True)
    ]
    leaves = np.concatenate([vpn[:0], *spans])
    return np.asarray(leaves[whole_leaves(leaves, vpn, entry)])
