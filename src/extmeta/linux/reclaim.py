"""madvise that swaps pages out or frees them.

Linux mm/madvise.c. Swap is never full, and advice takes effect at once, as if the
caller of MADV_PAGEOUT waited for writeback and repeated the call.
"""

import errno

import numpy as np

from extmeta.arrays import Bools
from extmeta.linux.entries import Entries
from extmeta.linux.faults import pages_of
from extmeta.linux.mm import Mm
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.vma import Vma


def cold(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_COLD: split huge pages that the range covers in part.

    madvise_cold_or_pageout_pte_range(). The order of reclaim is not modelled.
    """
    _split_parts(mm, first, stop)
    _split_folios(mm, vma, mm.pages(first, stop), rows_stay=True)


def _split_parts(mm: Mm, first: int, stop: int) -> None:
    """Split leaves that an edge of the range cuts and only this process maps."""
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        whole = first <= base and base + mm.pages_per_leaf <= stop
        if not (whole or leaf.zero or mm.physical.shared(mm.leaf_pfns(leaf)).any()):
            # The page itself is split too.
            mm.split_leaf(base, frozen=True)


def pageout(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_PAGEOUT: reclaim pages that only this PTE maps.

    madvise_cold_or_pageout_pte_range(), try_to_unmap_one(): the PTE of an anonymous
    page becomes a swap entry with the same bits; that of another page becomes none, or
    a marker if it was protected.
    """
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        pfns = mm.leaf_pfns(leaf)
        if leaf.zero or mm.physical.shared(pfns).any():
            continue
        whole = first <= base and base + mm.pages_per_leaf <= stop
        if whole and mm.droppable(pfns).all() and mm.release >= (6, 11):
            # unmap_huge_pmd_locked(); the table stays, as seen on 6.18.
            mm.split_leaf(base, frozen=True)
            mm.drop(mm.entries(base, base + mm.pages_per_leaf))
            continue
        # try_to_unmap_one() splits the PMD of a whole page. A part is split before.
        mm.split_leaf(base, frozen=not (whole and mm.thp_swap))
    _split_folios(mm, vma, mm.pages(first, stop), rows_stay=mm.thp_swap)
    entries = mm.pages(first, stop)
    entries = entries.take(_alone(mm, entries))
    lazy = mm.droppable(entries.value)
    mm.drop(entries.take(lazy))
    entries = entries.take(~lazy)
    file = mm.physical.file(entries.value)
    _swap_out(mm, entries.take(~file))
    entries = entries.take(file)
    if vma.backing is not None and len(entries.vpn):
        _unmap_file(mm, vma, entries)
        vma.backing.evict(pages_of(vma, entries.vpn))


def _alone(mm: Mm, entries: Entries) -> Bools:
    """Tell which pages no other process maps, nor other pages of their huge page."""
    alone = mm.physical.mapcount[entries.value] == 1
    for head, here in mm.physical.folios(entries.value):
        alone[here] &= not mm.shared_folio(head, int(here.sum()))
    return np.asarray(alone)


def _split_folios(mm: Mm, vma: Vma, entries: Entries, *, rows_stay: bool) -> None:
    """Split the huge pages that these PTEs map.

    madvise_cold_or_pageout_pte_range() splits a page that is mapped in part. Without
    THP_SWAP, or with swap on a rotating disk, folio_alloc_swap() finds no 512 slots in a
    row, and shrink_folio_list() splits a whole page too; with `rows_stay` it stays if
    all of it is mapped in a row (madvise_folio_pte_batch()).
    """
    for head, here in mm.physical.folios(entries.value):
        mapped = entries.take(here)
        whole = len(mapped.vpn) == mm.pages_per_leaf
        in_one_row = (
            whole
            and int(mapped.vpn[-1] - mapped.vpn[0]) == len(mapped.vpn) - 1
            and len(np.unique(mm.has("uffd_wp", mapped.vpn))) == 1
            and len(np.unique(mm.flagged(mapped.vpn))) == 1
        )
        if mm.shared_folio(head, len(mapped.vpn)) or (rows_stay and in_one_row):
            continue
        split_folio(mm, vma, head, mapped if whole else None)


def split_folio(mm: Mm, vma: Vma, head: int, mapped: Entries | None = None) -> None:
    """Split a huge page. `mapped`: all PTEs that map it, if known.

    PTEs of pages that are all zeros then map the page of zeros, with their bits.
    """
    if mapped is not None:
        _map_zeros(mm, vma, mapped)
    else:
        # mremap and fork may have moved PTEs anywhere.
        for other in mm.physical.spaces:
            mapped = other.pages(0, other.arch.nr_vpns)
            mapped = mapped.take(mm.physical.heads(mapped.value) == head)
            for of in other.vmas:
                here = (of.start <= mapped.vpn) & (mapped.vpn < of.stop)
                _map_zeros(other, of, mapped.take(here))
    mm.physical.split(head, mm.pages_per_leaf)


def _map_zeros(mm: Mm, vma: Vma, mapped: Entries) -> None:
    """mm/migrate.c try_to_map_unused_to_zeropage()"""
    zeros = mapped.take(~mm.physical.written(mapped.value))
    mm.replace(vma, zeros.vpn, np.full(len(zeros.vpn), ZERO_PFN, np.uint64))
    mm.physical.unmap(zeros.value)


def _swap_out(mm: Mm, entries: Entries) -> None:
    """Replace the PTEs of anonymous pages by swap entries with the same words."""
    slots = mm.physical.take_slots(entries.value)
    try:
        mm.refusable(mm.table.swap_out, entries.vpn, slots)
    except Exception:
        mm.physical.give_slots(slots)
        raise
    mm.physical.swap_out(entries.value, slots)


def _unmap_file(mm: Mm, vma: Vma, entries: Entries) -> None:
    """Unmap pages of a backing; protected ones leave markers."""
    stay = entries.vpn[mm.has("uffd_wp", entries.vpn)] if vma.wp else entries.vpn[:0]
    mm.drop(entries)
    mm.mark(stay)


def remove(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_REMOVE: make a hole in shared memory, for all processes.

    vfs_fallocate(), unmap_mapping_range(): private copies stay, and protected pages
    leave markers.
    """
    if vma.backing is None:
        raise OSError(errno.EINVAL, f"the VMA at vpn {vma.start:#x} is anonymous")
    if not vma.shared:
        raise OSError(errno.EACCES, f"the VMA at vpn {vma.start:#x} is private")
    mm.tell_now(vma, "REMOVE", first, stop)
    low = first - vma.start + vma.pgoff
    high = min(stop - vma.start + vma.pgoff, len(vma.backing))
    for other in mm.physical.spaces:
        for one in other.vmas:
            if one.backing is vma.backing:
                at = one.start - one.pgoff
                start, end = max(one.start, at + low), min(one.stop, at + high)
                entries = other.pages(start, max(start, end))
                file = other.physical.file(entries.value)
                _unmap_file(other, one, entries.take(file))
    vma.backing.punch(np.arange(low, max(low, high), dtype=np.uint64))


def dontneed(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_DONTNEED: unmap pages; the next access brings new ones."""
    mm.tell_now(vma, "REMOVE", first, stop)
    mm.zap(vma, first, stop, keep_markers=True)
    if mm.release < (6, 14):
        return
    # CONFIG_PT_RECLAIM, new in 6.14: tables that the range contains are freed.
    for base in mm.tables_within(first, stop):
        whole = first <= base and base + mm.pages_per_leaf <= stop
        if whole and not len(mm.entries(base, base + mm.pages_per_leaf).vpn):
            mm.tables.discard(base)


def free(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_FREE: drop swap entries; pages stay until reclaim.

    madvise_free_pte_range(), madvise_free_huge_pmd(). `pageout` drops pages not written
    since.
    """
    mm.tell_now(vma, "REMOVE", first, stop)
    if not vma.anonymous:
        raise OSError(errno.EINVAL, f"the VMA at vpn {vma.start:#x} is not anonymous")
    _split_parts(mm, first, stop)
    _split_folios(mm, vma, mm.pages(first, stop), rows_stay=True)
    for base in mm.leaves_within(first, stop):
        if not mm.leaves[base].zero:
            mm.free_lazily(mm.leaf_pfns(mm.leaves[base]))
    mm.free_lazily(mm.pages(first, stop).value)
    entries = mm.entries(first, stop)
    mm.drop(entries.take(~entries.present & ~mm.marked(entries)))
