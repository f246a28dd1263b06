"""Huge pages of anonymous memory: faults, writes, MADV_COLLAPSE.

Linux mm/huge_memory.c, mm/khugepaged.c.
"""

import errno

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.linux.entries import Entries, Leaf
from extmeta.linux.mm import Mm
from extmeta.linux.physical import FIRST_PFN, HUGE_ZERO_PFN, ZERO_PFN
from extmeta.linux.swap import swap_in
from extmeta.linux.vma import Prot, Vma


def may_be_huge(mm: Mm, vma: Vma) -> bool:
    """thp_vma_allowable_order(): tell whether faults may map huge pages in a VMA."""
    if not vma.anonymous or vma.huge is False or mm.thp == "never":
        return False
    return vma.huge is True or mm.thp == "always"


def would_be_huge(mm: Mm, vma: Vma, base: int) -> bool:
    """Tell whether a fault would map a huge page: create_huge_pmd()."""
    inside = vma.start <= base and base + mm.pages_per_leaf <= vma.stop
    free = base not in mm.tables and base not in mm.leaves
    return inside and free and may_be_huge(mm, vma)


def huge_faults(mm: Mm, vma: Vma, vpns: U64, *, write: bool) -> None:
    """Map huge pages where no table is yet: do_huge_pmd_anonymous_page()."""
    if not may_be_huge(mm, vma):
        return
    for base in mm.bases_of(vpns).tolist():
        if not would_be_huge(mm, vma, base):
            continue
        mm.vmas.prepare_anon(vma)
        if write:
            _put_huge(mm, base)
        else:
            mm.put_leaf(base, Leaf(HUGE_ZERO_PFN))


def _put_huge(mm: Mm, base: int, word: int = 0) -> None:
    """Map a new huge page; pmd_mkdirty() makes it soft-dirty."""
    word |= mm.settable(base, mm.soft_dirty)
    leaf = Leaf(mm.physical.allocate_huge(mm.pages_per_leaf), word)
    mm.put_leaf(base, leaf)
    mm.physical.map(mm.leaf_pfns(leaf))


def write_leaves(mm: Mm, vma: Vma, vpns: U64, *, content: bool) -> U64:
    """Write to those pages that leaves map; return the others, some of split leaves."""
    for base in mm.leaves_of(vpns):
        _write_leaf(mm, vma, base)
    leaves = mm.leaves_of(vpns)
    for base in leaves:
        leaf = mm.leaves[base]
        leaf.word |= mm.settable(base, mm.soft_dirty)
        mm.keep(mm.leaf_pfns(leaf))
        if content:
            low, high = np.searchsorted(vpns, (base, base + mm.pages_per_leaf))
            mm.physical.write(vpns[low:high] - np.uint64(base) + np.uint64(leaf.pfn))
    return mm.outside(vpns, leaves)


def _write_leaf(mm: Mm, vma: Vma, base: int) -> None:
    """Write to a page of a leaf: wp_huge_pmd(), do_huge_pmd_wp_page()."""
    leaf = mm.leaves[base]
    if vma.wp and leaf.word & mm.uffd_wp:
        # Asynchronous: only the page written loses its protection.
        mm.split_leaf(base)
    elif leaf.zero and mm.release >= (6, 13):
        # do_huge_zero_wp_pmd(), new in 6.13.
        mm.take_leaf(base)
        mm.vmas.prepare_anon(vma)
        _put_huge(mm, base, leaf.word & ~mm.uffd_wp)
    elif leaf.zero or mm.physical.shared(mm.leaf_pfns(leaf)).any():
        mm.split_leaf(base)
    else:
        mm.physical.reuse(mm.leaf_pfns(leaf))


def collapse(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """Collapse each aligned huge page's span in [first, stop): madvise_collapse().

    Raises OSError: EINVAL, or EBUSY if a page is missing and a userfaultfd may have to
    bring it. Spans before the one refused are collapsed; for some reasons also those
    after it.
    """
    size = mm.pages_per_leaf
    start, end = -(-first // size) * size, mm.leaf_of(stop)
    fits = -(-vma.start // size) * size + size <= vma.stop
    if not vma.anonymous or vma.huge is False or mm.thp == "never" or not fits:
        raise OSError(errno.EINVAL, "this VMA can't have huge pages")
    if vma.anon_vma is None:
        raise OSError(errno.EINVAL, "nothing was written to this VMA")
    # A range inside one span ends, when rounded, before it starts: the number of pages
    # collapsed then never equals the number wanted.
    failed = errno.EINVAL if end < start else 0
    for base in range(start, end, size):
        error, go_on = _collapse_one(mm, vma, base)
        failed = error or failed
        if error and not go_on:
            break
    if failed:
        raise OSError(failed, f"vpns of [{first:#x}, {stop:#x}) can't be collapsed")


def _collapse_one(mm: Mm, vma: Vma, base: int) -> tuple[int, bool]:
    """Collapse one span: hpage_collapse_scan_pmd(), collapse_huge_page().

    Returns the error or 0, and whether the spans after it are tried.
    """
    if base in mm.leaves:
        return 0, True
    if base not in mm.tables:
        return errno.EINVAL, False  # SCAN_PMD_NONE
    size = mm.pages_per_leaf
    entries = mm.entries(base, base + size)
    real = ~entries.present | (entries.value >= FIRST_PFN)
    held = real & mm.has("uffd_wp", entries.vpn)
    if not mm.collapses_words:
        held |= mm.flagged(entries.vpn)
    missing = base + size
    if vma.uffd is not None:
        vpns = np.arange(base, base + size, dtype=np.uint64)
        absent = np.setdiff1d(vpns, entries.vpn[real | held], assume_unique=True)
        missing = int(absent[0]) if len(absent) else missing
    protected = entries.vpn[held]
    if len(protected) and protected[0] < missing:
        return errno.EINVAL, True  # SCAN_PTE_UFFD_WP
    if missing < base + size:
        return errno.EBUSY, False  # SCAN_EXCEED_NONE_PTE
    if mm.release < (6, 18) and not _writable(mm, vma, entries).any():
        return errno.EINVAL, True  # SCAN_PAGE_RO
    swap_in(mm, entries.take(~entries.present))
    entries = mm.entries(base, base + size)
    places = (entries.vpn - np.uint64(base)).astype(np.int64)
    word = _common(np.asarray(mm.table.load(entries.vpn), np.uint64))
    mm.table.unmap(slice(base, base + size))
    _put_huge(mm, base, word)
    head = np.uint64(mm.leaves[base].pfn)
    real = entries.value >= FIRST_PFN
    mm.physical.copy(entries.value[real], head + places[real].astype(np.uint64))
    mm.physical.unmap(entries.value)
    return 0, True


def _writable(mm: Mm, vma: Vma, entries: Entries) -> Bools:
    """Tell which PTEs have the write bit, as far as the model knows.

    6.18 does not check it; the release that dropped the check is unverified.
    """
    pages = np.where(entries.present, entries.value, np.uint64(ZERO_PFN))
    writable = mm.physical.exclusive(pages) & bool(vma.prot & Prot.W)
    if mm.soft_dirty and not vma.soft_dirty:
        # clear_soft_dirty() cleared the write bit too; a write sets both again.
        writable &= mm.has("soft_dirty", entries.vpn)
    return np.asarray(writable)


def _common(words: U64) -> int:
    """Return the bits that all words have: the word of the collapsed page."""
    if not len(words):
        return 0
    lanes = np.bitwise_and.reduce(words.reshape(len(words), -1), axis=0)
    return sum(int(lane) << 64 * i for i, lane in enumerate(lanes))
