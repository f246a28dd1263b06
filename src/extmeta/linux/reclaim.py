"""Pages taken away by advice: to swap, or for good.

Linux mm/madvise.c. There is always room in swap, and what is asked for is done
at once, as if a caller of MADV_PAGEOUT waited for writeback and asked again.
"""

import errno

import numpy as np

from extmeta.linux.entries import Entries
from extmeta.linux.mm import Mm
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.vma import Vma


def cold(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_COLD: a huge page of which a part is meant is split.

    madvise_cold_or_pageout_pte_range(). That pages are reclaimed sooner is not modelled.
    """
    _split_parts(mm, first, stop)
    _split_folios(mm, vma, mm.pages(first, stop), rows_stay=True)


def _split_parts(mm: Mm, first: int, stop: int) -> None:
    """Split the leaves that an edge cuts and that only this process maps."""
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        whole = first <= base and base + mm.pages_per_leaf <= stop
        if not (whole or leaf.zero or mm.physical.shared(mm.leaf_pfns(leaf)).any()):
            # The page itself is split, too.
            mm.split_leaf(base, frozen=True)


def pageout(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_PAGEOUT: pages that only this PTE maps leave memory.

    madvise_cold_or_pageout_pte_range(), try_to_unmap_one(): anonymous pages
    become swap entries with their bits; others are forgotten, or leave a marker
    where they were protected.
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
            _drop(mm, mm.entries(base, base + mm.pages_per_leaf))
            continue
        # Whole, its PTE is split by try_to_unmap_one(), else before the page is.
        mm.split_leaf(base, frozen=not (whole and mm.thp_swap))
    _split_folios(mm, vma, mm.pages(first, stop), rows_stay=mm.thp_swap)
    entries = mm.pages(first, stop)
    entries = entries.take(_alone(mm, entries))
    lazy = mm.droppable(entries.value)
    _drop(mm, entries.take(lazy))
    entries = entries.take(~lazy)
    file = mm.physical.file(entries.value)
    _swap_out(mm, entries.take(~file))
    _evict(mm, vma, entries.take(file))


def _alone(mm: Mm, entries: Entries) -> np.ndarray:
    """Tell which pages nobody else maps, nor another part of their huge page."""
    alone = mm.physical.mapcount[entries.value] == 1
    heads = mm.physical.heads(entries.value)
    for head in np.unique(heads[heads != 0]).tolist():
        here = heads == head
        alone[here] &= not mm.shared_folio(head, int(here.sum()))
    return np.asarray(alone)


def _split_folios(mm: Mm, vma: Vma, entries: Entries, *, rows_stay: bool) -> None:
    """Split the huge pages of which these PTEs map a part, or all.

    A part: madvise_cold_or_pageout_pte_range(). With `rows_stay` PTEs that map all of
    one in a row are let be. All: without THP_SWAP, and where
    swap is not on a solid-state device, folio_alloc_swap() has no room for 512 pages
    in a row, and shrink_folio_list() splits. What is all zeros becomes the page of zeros, bits
    stay: mm/migrate.c try_to_map_unused_to_zeropage().
    """
    heads = mm.physical.heads(entries.value)
    for head in np.unique(heads[heads != 0]).tolist():
        mapped = entries.take(heads == head)
        if mm.shared_folio(head, len(mapped.vpn)):
            continue
        if rows_stay and _in_one_row(mm, mapped):
            continue
        whole = len(mapped.vpn) == mm.pages_per_leaf
        split_folio(mm, vma, head, mapped if whole else None)


def split_folio(mm: Mm, vma: Vma, head: int, mapped: Entries | None = None) -> None:
    """Split a huge page, of which all is in `mapped` if that is given."""
    if mapped is not None:
        _map_zeros(mm, vma, mapped)
    else:
        # Wherever mremap or fork may have put it.
        for other in mm.physical.spaces:
            mapped = other.pages(0, other.arch.nr_vpns)
            mapped = mapped.take(mm.physical.heads(mapped.value) == head)
            for of in other.vmas:
                here = (of.start <= mapped.vpn) & (mapped.vpn < of.stop)
                _map_zeros(other, of, mapped.take(here))
    mm.physical.split(head, mm.pages_per_leaf)


def _map_zeros(mm: Mm, vma: Vma, mapped: Entries) -> None:
    """Map the page of zeros for pages of zeros: try_to_map_unused_to_zeropage()."""
    zeros = mapped.take(~mm.physical.written(mapped.value))
    mm.replace(vma, zeros.vpn, np.full(len(zeros.vpn), ZERO_PFN, np.uint64))
    mm.physical.unmap(zeros.value)


def _in_one_row(mm: Mm, mapped: Entries) -> bool:
    """Tell whether PTEs map all of a huge page alike: madvise_folio_pte_batch()."""
    return (
        len(mapped.vpn) == mm.pages_per_leaf
        and int(mapped.vpn[-1] - mapped.vpn[0]) == len(mapped.vpn) - 1
        and len(np.unique(mm.protected(mapped.vpn))) == 1
    )


def _swap_out(mm: Mm, entries: Entries) -> None:
    """Let swap entries stand for anonymous pages; their words stay."""
    slots = mm.physical.take_slots(entries.value)
    try:
        mm.refusable(mm.table.swap_out, entries.vpn, slots)
    except Exception:
        mm.physical.give_slots(slots)
        raise
    mm.physical.swap_out(entries.value, slots)


def _evict(mm: Mm, vma: Vma, entries: Entries) -> None:
    """Unmap pages of a backing, which leave memory."""
    if vma.backing is None or not len(entries.vpn):
        return
    _unmap_file(mm, vma, entries)
    vma.backing.evict(entries.vpn - np.uint64(vma.start) + np.uint64(vma.pgoff))


def _unmap_file(mm: Mm, vma: Vma, entries: Entries) -> None:
    """Unmap pages of a backing; protection leaves markers."""
    stay = entries.vpn[mm.protected(entries.vpn)] if vma.wp else entries.vpn[:0]
    _drop(mm, entries)
    mm.mark(stay)


def remove(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_REMOVE: make a hole in shared memory, for everybody who maps it.

    vfs_fallocate(), unmap_mapping_range(): what processes copied to write it stays,
    and protection leaves a marker.
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
    """MADV_DONTNEED: pages are gone, the next touch brings fresh ones."""
    mm.tell_now(vma, "REMOVE", first, stop)
    mm.zap(vma, first, stop, keep_markers=True)
    if mm.release < (6, 14):
        return
    # CONFIG_PT_RECLAIM, new in 6.14: a table of which all was zapped goes too.
    for base in mm.tables_within(first, stop):
        whole = first <= base and base + mm.pages_per_leaf <= stop
        if whole and not len(mm.entries(base, base + mm.pages_per_leaf).vpn):
            mm.tables.discard(base)


def free(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """MADV_FREE: swap entries go; pages stay, until memory is short.

    madvise_free_pte_range(), madvise_free_huge_pmd(). `pageout` drops the pages that
    nothing was written to since.
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
    _drop(mm, entries.take(~entries.present & (entries.value != mm.marker)))


def _drop(mm: Mm, entries: Entries) -> None:
    """Take PTEs away, and what they map or name."""
    mm.forget(entries)
    mm.clear(entries.vpn)
