"""x86-64 page tables in a dump of physical memory: found, and read as pagemap words.

Each table is read once, level after level. `arch.py` has the bits of PTEs and of swap
entries. Words are those of /proc/PID/pagemap, but for what only struct page tells:
bit 56, and bit 61 of pages of private VMAs.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from extmeta.arch import ARCHES
from extmeta.arrays import U64, Bools
from extmeta.captures.capture import CaptureError
from extmeta.linux.pagewords import (
    LEAF_PAGES,
    PAGE_SHIFT,
    PRESENT,
    SOFT_DIRTY,
    SWAP_OFFSET_SHIFT,
    SWAPPED,
    UFFD_WP,
    marker,
)

ENTRIES = 512
# log2 of the pages of a PMD, which one leaf maps.
PMD_BITS = 9

_ARCH = ARCHES["x86_64"]
_P = np.uint64(1 << _ARCH.present)
# PSE, and PROT_NONE where P is clear: arch/x86/include/asm/pgtable_types.h.
_PSE, _PROT_NONE = np.uint64(1 << 7), np.uint64(1 << 8)
_PFN = np.uint64((1 << _ARCH.pfn_bits) - 1 << PAGE_SHIFT)

# A uffd-wp marker's offset: PTE_MARKER_UFFD_WP of include/linux/swapops.h.
_MARKS_WP = np.uint64(1 << SWAP_OFFSET_SHIFT)


class Entries(NamedTuple):
    """Entries of the user half.

    Attributes
    ----------
    vpn, pte : (N,) uint64 ndarray
        PTEs that are not 0, ascending.
    huge_vpn, pmd : (H,) uint64 ndarray
        Leaves of 2 MiB, ascending.
    left_out : int
        1 GiB leaves, and PMDs that are migration entries.
    """

    vpn: U64
    pte: U64
    huge_vpn: U64
    pmd: U64
    left_out: int


def entries(root: int, levels: int, read: Callable[[int], bytes], most: int) -> Entries:
    """Return the entries of page tables.

    Parameters
    ----------
    root : int
        Physical address of the top table, bytes.
    levels : {4, 5}
    read : callable
        Returns the 4,096 bytes of physical memory at an address.
    most : int
        Tables that the dump has memory for.

    Raises
    ------
    CaptureError
        If there are more tables.
    """
    tables, first = np.array([root], np.uint64), np.zeros(1, np.uint64)
    left_out, seen = 0, 0
    huge_vpn, pmd = first[:0], first[:0]
    for bits in range(9 * (levels - 1), -1, -9):
        if (seen := seen + len(tables)) > most:
            raise CaptureError(f"more than {most} page tables")
        rows = np.frombuffer(b"".join(map(read, tables.tolist())), "<u8")
        entry = rows.reshape(-1, ENTRIES).astype(np.uint64)
        if bits == 9 * (levels - 1):
            # The upper half of the top table is the kernel's.
            entry[:, ENTRIES // 2 :] = 0
        table, at = np.nonzero(entry)
        vpn = first[table] + (at.astype(np.uint64) << np.uint64(bits))
        entry = entry[table, at]
        if not bits:
            return Entries(vpn, entry, huge_vpn, pmd, left_out)
        leaf = (entry & _PSE != 0) & _is_present(entry)
        down = ~leaf & (entry & _P != 0)
        if bits == PMD_BITS:
            huge_vpn, pmd = vpn[leaf], entry[leaf]
            left_out += int(np.count_nonzero(~(leaf | down)))
        else:
            left_out += int(np.count_nonzero(~down))
        tables, first = entry[down] & _PFN, vpn[down]
    raise AssertionError


def words(pte: U64) -> U64:
    """Return the pagemap words of PTEs, or of PMDs that are leaves.

    Parameters
    ----------
    pte : (N,) uint64 ndarray
        None is 0.

    Returns
    -------
    (N,) uint64 ndarray
    """
    here = _is_present(pte)
    # The address in a PTE without P is inverted, against L1TF: pgtable-invert.h.
    plain = np.where(pte & _P != 0, pte, ~pte)
    word = np.where(here, PRESENT | (plain & _PFN) >> np.uint64(PAGE_SHIFT), _swap(pte))
    for name, bit in (("soft_dirty", SOFT_DIRTY), ("uffd_wp", UFFD_WP)):
        in_pte, in_swap = (np.uint64(1 << at) for at in _ARCH.owned[name])
        has = pte & np.where(here, in_pte, in_swap) != 0
        word |= np.where(has, np.uint64(bit), np.uint64(0))
    marks = marker(word) & (word & _MARKS_WP != 0)
    return np.asarray(word | np.where(marks, np.uint64(UFFD_WP), np.uint64(0)))


def software(pte: U64) -> dict[str, int]:
    """Return how many present PTEs have each software bit, by the bit's name.

    Bits without a name are "bit 52" and so on; those that no PTE has are not there.
    """
    pte = pte[_is_present(pte)]
    names = {use.first: use.name for use in _ARCH.uses if use.by == "Linux"}
    names |= {bits[0]: name for name, bits in _ARCH.owned.items()}
    names |= {bit: f"bit {bit}" for bit in _ARCH.free}
    has = {
        names[bit]: int(np.count_nonzero(pte & np.uint64(1 << bit)))
        for bit in sorted(names)
    }
    return {name: count for name, count in has.items() if count}


def leaf_words(pmd: U64) -> U64:
    """Return the words of the 512 pages of each leaf, leaf after leaf."""
    page = np.arange(LEAF_PAGES, dtype=np.uint64)
    # Bit 12 of a PMD is PAT, no part of the address.
    head = words(pmd & ~np.uint64(1 << PAGE_SHIFT))
    return np.asarray((head[:, None] + page).ravel())


def _is_present(entry: U64) -> Bools:
    return np.asarray(entry & (_P | _PROT_NONE) != 0)


def _swap(pte: U64) -> U64:
    """Return the words of swap entries, markers among them."""
    swap = _ARCH.swap
    kind = pte >> np.uint64(swap.type_shift)
    offset = ~pte >> np.uint64(swap.offset_shift) & np.uint64(
        (1 << swap.offset_bits) - 1
    )
    return np.asarray(SWAPPED | kind | offset << np.uint64(SWAP_OFFSET_SHIFT))
