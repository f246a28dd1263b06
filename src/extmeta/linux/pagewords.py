"""The bits of pagemap words, tested for whole arrays.

/proc/PID/pagemap has a word of 8 bytes for each page. Its bits are documented in Linux
Documentation/admin-guide/mm/pagemap.rst. Markers are swap entries of type 31:
include/linux/swapops.h make_pte_marker(), seen on 6.18.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools

PAGE_BYTES = 4096
PAGE_SHIFT = 12

# One PMD maps 2 MiB.
LEAF_SHIFT = 21
LEAF_PAGES = 512
LEAF_KB = 2048

PFN_MASK = (1 << 55) - 1
SOFT_DIRTY = 1 << 55
EXCLUSIVE = 1 << 56
UFFD_WP = 1 << 57
GUARD = 1 << 58
FILE = 1 << 61
SWAPPED = 1 << 62
PRESENT = 1 << 63

SWAP_TYPE_MASK = 0x1F
SWAP_OFFSET_SHIFT = 5
SWAP_OFFSET_BITS = 50
MARKER_TYPE = 31

# x86-64 has 52 bits of physical address at most, arm64 with 4 KiB pages too.
PFN_BITS = 40


def populated(entry: U64) -> Bools:
    """Tell which words are of a PTE.

    A word may have other bits without one: in a hole of a soft-dirty VMA, bit 55 is
    set (Linux fs/proc/task_mmu.c pagemap_pte_hole()).
    """
    return np.greater_equal(entry, SWAPPED)


def present(entry: U64) -> Bools:
    """Tell which words are of present pages."""
    return np.greater_equal(entry, PRESENT)


def marker(entry: U64) -> Bools:
    """Tell which words are of PTE markers: no page, no swap slot."""
    # Without CAP_SYS_ADMIN the type is hidden. The guard bit is not.
    marked = (entry & SWAP_TYPE_MASK == MARKER_TYPE) | (entry & GUARD != 0)
    return np.asarray(marked & populated(entry) & ~present(entry))


def slots(entry: U64) -> U64:
    """Return the swap slots of swapped and marker words: type << 50 | offset.

    Hidden slots get distinct offsets.
    """
    offset = (entry & PFN_MASK) >> SWAP_OFFSET_SHIFT
    found = (entry & SWAP_TYPE_MASK) << SWAP_OFFSET_BITS | offset
    # Slot 0 is the swap area's header.
    hidden = np.flatnonzero(found == 0)
    found[hidden] = np.arange(1, 1 + len(hidden))
    return np.asarray(found, np.uint64)


def vpn_bounds(start: U64, end: U64) -> U64:
    """Return first vpns and ends of VMAs by turns, of their bounds in bytes."""
    return np.asarray(np.stack((start, end), axis=1).ravel() >> np.uint64(PAGE_SHIFT))


def whole_leaves(leaves: U64, vpn: U64, entry: U64) -> Bools:
    """Tell which 2 MiB leaves, by first vpn, have all of their pages present."""
    if not len(leaves):
        return np.zeros(0, np.bool_)
    first = np.searchsorted(vpn, leaves)
    stop = np.searchsorted(vpn, leaves + np.uint64(LEAF_PAGES))
    before = np.concatenate(([0], np.cumsum(present(entry))))
    return np.asarray(before[stop] - before[first] == LEAF_PAGES)


def within(vpn: U64, bounds: npt.NDArray[Any]) -> Bools:
    """Tell which vpns lie in a range.

    Parameters
    ----------
    vpn : (N,) uint64 ndarray
        Ascending.
    bounds : (2 * R,) uint64 ndarray
        Ranges [bounds[0], bounds[1]), [bounds[2], bounds[3]) ..., ascending.
    """
    # Runs of vpns, by turns outside and inside.
    cuts = np.concatenate(([0], np.searchsorted(vpn, bounds), [len(vpn)]))
    return np.repeat(np.arange(len(cuts) - 1) % 2 == 1, np.diff(cuts))


def leaves_within(leaves: U64, bounds: npt.NDArray[Any]) -> Bools:
    """Tell which 2 MiB leaves, by first vpn, lie in one range: see `within`."""
    first = np.searchsorted(bounds, leaves, side="right")
    last = np.searchsorted(bounds, leaves + np.uint64(LEAF_PAGES - 1), side="right")
    # Odd: past a start but not past its end.
    return np.asarray((first % 2 == 1) & (first == last))


def distinct(ascending: npt.NDArray[Any]) -> int:
    """Return how many different values a sorted array has."""
    if not len(ascending):
        return 0
    return 1 + int(np.count_nonzero(ascending[1:] != ascending[:-1]))
