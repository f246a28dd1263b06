"""Huge pages of a captured process: their places, and their deposited PTE tables.

Linux maps 2 MiB by one PMD, a leaf, instead of a PTE table. pagemap shows 512 words
for it. Kinds of leaves (Linux 6.12, x86-64):

- Anonymous memory: Linux deposits a PTE table with each leaf, for a later split, and
  VmPTE counts it (pgtable_trans_huge_deposit() in mm/huge_memory.c).
- Files and shmem: no table. do_set_pmd() of mm/memory.c deposits one only if
  arch_needs_pgtable_deposit(), which is false on x86.
- hugetlb: no table.

PAGEMAP_SCAN (since Linux 6.7) tells where the leaves are. Before, smaps has only a sum
for each VMA. It tells the places only if all memory of the VMA that may be in leaves is.
No sum counts the huge page of zeros, so that it is taken for PTEs.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools
from extmeta.linux.pagewords import (
    EXCLUSIVE,
    FILE,
    LEAF_KB,
    LEAF_PAGES,
    PAGE_SHIFT,
    PFN_MASK,
    leaves_within,
    populated,
    present,
    vpn_bounds,
    whole_leaves,
    within,
)

if TYPE_CHECKING:
    from extmeta.captures.capture import Capture
    from extmeta.captures.procfs import Vmas


def possible(bounds: U64, vpn: U64, entry: U64) -> U64:
    """Return the first vpns of the 2 MiB spans that may be leaves.

    Their 512 pages are present in one VMA with equal words, except for bit 56, which
    differs by page; the PFNs, if known, are one aligned run. `bounds`: see `vpn_bounds`.
    """
    at = np.flatnonzero(vpn % LEAF_PAGES == 0)
    at = at[at + LEAF_PAGES <= len(vpn)]
    at = at[vpn[at + LEAF_PAGES - 1] == vpn[at] + np.uint64(LEAF_PAGES - 1)]
    at = at[present(entry[at])]
    step = np.uint64((entry[present(entry)] & PFN_MASK).any())
    word = entry & ~np.uint64(EXCLUSIVE)
    steps = np.cumsum(np.diff(word, prepend=np.uint64(0)) == step)
    at = at[steps[at + LEAF_PAGES - 1] - steps[at] == LEAF_PAGES - 1]
    at = at[entry[at] & PFN_MASK & (LEAF_PAGES - 1) == 0]
    return np.asarray(vpn[at][leaves_within(vpn[at], bounds)])


def placed(vmas: "Vmas", vpn: U64, entry: U64) -> tuple[U64, U64, U64]:
    """Return the leaves whose places follow from the sums of smaps.

    Returns
    -------
    leaves : (H,) uint64 ndarray
        First vpns, ascending.
    files, anonymous : (V,) uint64 ndarray
        KiB that other leaves map in each VMA, at unknown places.
    """
    bounds = vpn_bounds(vmas.start, vmas.end)
    leaves = possible(bounds, vpn, entry)
    vma = np.searchsorted(bounds[::2], leaves, side="right") - 1
    of_files = entry[np.searchsorted(vpn, leaves)] & FILE != 0
    keep = np.zeros(len(leaves), np.bool_)
    left = []
    for kib, kind in ((vmas.pmd_mapped_kb, of_files), (vmas.anon_huge_kb, ~of_files)):
        sure = np.bincount(vma[kind], minlength=len(kib)) * LEAF_KB == kib
        keep |= kind & sure[vma]
        left.append(np.where(sure, np.uint64(0), kib))
    return leaves[keep], left[0], left[1]


def hugetlb(capture: "Capture") -> U64:
    """Return the first vpns of a capture's hugetlb leaves."""
    chosen = has_flag(capture.vma_flags, "ht")
    bounds = vpn_bounds(capture.vma_start[chosen], capture.vma_end[chosen])
    vpn = capture.vpn[within(capture.vpn, bounds)]
    leaves = np.unique(vpn & ~np.uint64(LEAF_PAGES - 1))
    leaves = leaves[leaves_within(leaves, bounds)]
    # A reading that is not settled may have a part of a leaf.
    return np.asarray(leaves[whole_leaves(leaves, capture.vpn, capture.entry)])


def ptes(capture: "Capture") -> Bools:
    """Tell which entries are of PTEs, not of leaves."""
    first = capture.vpn & ~np.uint64(LEAF_PAGES - 1)
    in_leaf = np.isin(first, capture.huge_vpn)
    return np.asarray(populated(capture.entry) & ~in_leaf)


def deposited(capture: "Capture") -> U64:
    """Return the first vpns of a capture's anonymous leaves, each with a PTE table.

    pagemap sets bit 61 for the huge page of zeros too (seen on 6.18). In a VMA without
    a file, a leaf with bit 61 must be that page.
    """
    leaves = capture.huge_vpn
    first = capture.entry[np.searchsorted(capture.vpn, leaves)]
    vma = np.searchsorted(capture.vma_start >> PAGE_SHIFT, leaves, side="right") - 1
    name = capture.vma_name
    fileless = (name == "") | np.strings.startswith(name, "[")
    private = np.strings.endswith(capture.vma_perms, "p")
    may = private & ~has_flag(capture.vma_flags, "ht")
    anonymous = may[vma] & ((first & FILE == 0) | fileless[vma])
    return np.asarray(leaves[anonymous])


def unmarked(capture: "Capture") -> int:
    """Return the number of spans that may be anonymous leaves without a mark.

    0 if the capture has the sum of anonymous leaves for each VMA.
    """
    if capture.huge_marked:
        return 0
    bounds = vpn_bounds(capture.vma_start, capture.vma_end)
    leaves = possible(bounds, capture.vpn, capture.entry)
    leaves = leaves[~np.isin(leaves, capture.huge_vpn)]
    words = capture.entry[np.searchsorted(capture.vpn, leaves)]
    return int(np.count_nonzero(words & FILE == 0))


def has_flag(vma_flags: npt.NDArray[np.str_], flag: str) -> Bools:
    """Tell which VMAs have a flag, two letters of VmFlags."""
    padded = np.strings.add(np.strings.add(" ", vma_flags), " ")
    return np.greater_equal(np.strings.find(padded, f" {flag} "), 0)
