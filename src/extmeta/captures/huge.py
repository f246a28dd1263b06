"""Huge pages of a captured process: where they are, and what a split would ask for.

Linux maps 2 MiB by one PMD, a leaf, instead of a PTE table. pagemap shows 512 words
for it. Kinds of leaves (Linux 6.12, x86-64):

- Anonymous memory: a PTE table is deposited with each leaf, for when it is split, and
  VmPTE counts it (pgtable_trans_huge_deposit() in mm/huge_memory.c).
- Files and shmem have none: do_set_pmd() of mm/memory.c deposits one only if
  arch_needs_pgtable_deposit(), which is not so on x86.
- hugetlb has none.

PAGEMAP_SCAN (Linux 6.7 up) tells where the leaves are. Before, smaps has the sums of
each VMA. They tell the places only if a VMA has no more memory that may be in leaves.
The huge page of zeros is in no sum, so it is then taken for PTEs.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
    whole_leaves,
    within,
)

if TYPE_CHECKING:
    from extmeta.captures.capture import Capture
    from extmeta.captures.procfs import Vmas

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


def vpn_bounds(start: U64, end: U64) -> U64:
    """Return first vpns and ends of VMAs by turns."""
    return np.asarray(np.stack((start, end), axis=1).ravel() >> np.uint64(PAGE_SHIFT))


def possible(bounds: U64, vpn: U64, entry: U64) -> U64:
    """Return the 2 MiB spans that may each be a leaf, by first vpn.

    Their 512 pages are present in one VMA and their words alike, but for bit 56, which
    is each page's own; the PFNs, if known, are those of one aligned run.

    Parameters
    ----------
    bounds : (2 * V,) uint64 ndarray
        First vpn and vpn past the end of each VMA, ascending.
    vpn, entry : (N,) uint64 ndarray
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
    """Return the leaves whose places follow from how many smaps says there are.

    Returns
    -------
    leaves : (H,) uint64 ndarray
        First vpns, ascending.
    files, anonymous : (V,) uint64 ndarray
        KiB that other leaves map in each VMA, at places not known.
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
    """Return the first vpns of a capture's leaves in hugetlb's VMAs."""
    chosen = has_flag(capture.vma_flags, "ht")
    bounds = vpn_bounds(capture.vma_start[chosen], capture.vma_end[chosen])
    vpn = capture.vpn[within(capture.vpn, bounds)]
    leaves = np.unique(vpn & ~np.uint64(LEAF_PAGES - 1))
    leaves = leaves[leaves_within(leaves, bounds)]
    # A torn reading may have part of one.
    return np.asarray(leaves[whole_leaves(leaves, capture.vpn, capture.entry)])


def ptes(capture: "Capture") -> Bools:
    """Tell which entries are of a PTE table, not of a leaf above it."""
    first = capture.vpn & ~np.uint64(LEAF_PAGES - 1)
    in_leaf = np.isin(first, capture.huge_vpn)
    return np.asarray(populated(capture.entry) & ~in_leaf)


def deposited(capture: "Capture") -> U64:
    """Return the first vpns of a capture's anonymous leaves, each with a PTE table.

    pagemap has bit 61 in words of the huge page of zeros too (seen on 6.18). In a VMA
    without a file it can be nothing else.
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
    """Return how many anonymous leaves a capture may have that it does not mark.

    0 if it says of each VMA how much it has of them.
    """
    if capture.huge_marked:
        return 0
    bounds = vpn_bounds(capture.vma_start, capture.vma_end)
    leaves = possible(bounds, capture.vpn, capture.entry)
    leaves = leaves[~np.isin(leaves, capture.huge_vpn)]
    words = capture.entry[np.searchsorted(capture.vpn, leaves)]
    return int(np.count_nonzero(words & FILE == 0))


def has_flag(vma_flags: npt.NDArray[np.str_], flag: str) -> Bools:
    """Tell which VMAs have a flag: two letters of VmFlags."""
    padded = np.strings.add(np.strings.add(" ", vma_flags), " ")
    return np.greater_equal(np.strings.find(padded, f" {flag} "), 0)
