"""Page faults: the effects of reads and writes on PTEs.

Linux mm/memory.c handle_pte_fault() and mm/huge_memory.c, over ranges. Pages are
touched in ascending order, up to the first that can't be.
"""

import errno
from collections.abc import Callable
from typing import Any

import numpy as np

from extmeta.arrays import U64
from extmeta.linux.entries import Entries, Refused, distinct
from extmeta.linux.huge import huge_faults, would_be_huge, write_leaves
from extmeta.linux.mm import Mm
from extmeta.linux.pages import alone
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.swap import swap_in
from extmeta.linux.vma import Prot, Vma

# fault_around_bytes.
FAULT_AROUND_BYTES = 65536

# Pages searched at once for one whose access must wait for its userfaultfd.
LOOK_AHEAD = 4096

# Pages accessed at once. A cache holds what is known about them.
AT_ONCE = 1 << 15

# Called with a VMA, the vpn of a page whose access waits, and whether it is missing.
Event = Callable[[Vma, int, bool], None]


def access(
    mm: Mm, first: int, stop: int, event: Event, *, write: bool, content: bool = True
) -> None:
    """Read or write pages [first, stop).

    Parameters
    ----------
    event : callable
        Called at a page whose access must wait for a userfaultfd. When it returns, the
        access must be possible; an exception ends the access there.
    content : bool
        Something other than zeros is written.

    Raises
    ------
    OSError
        EFAULT: a page is not mapped, its protection forbids the access, or it is past
        the end of its backing.
    """
    at = first
    while at < stop:
        vma = mm.vmas.find(at)
        if vma is None or not _allows(vma, write):
            how = "write" if write else "read"
            raise OSError(errno.EFAULT, f"no page to {how} at vpn {at:#x}")
        if write and stop - at == 1 and _write_alone(mm, vma, at, content):
            return
        end = min(stop, vma.stop, at + AT_ONCE)
        if _may_wait(vma, write):
            end = min(end, at + LOOK_AHEAD)
        if vma.missing:
            end = _first_missing(mm, vma, at, end)
            if end == at:
                _before_missing(mm, vma, at, write=write)
                event(vma, at, True)
                continue
        if write and vma.wp and not vma.asynchronous and at < reach_of(vma, end):
            end = _first_protected(mm, at, end)
            if end == at:
                _populate_protected(mm, vma, at)
                event(vma, at, False)
                continue
        reach = max(at, reach_of(vma, end))
        vpns = np.arange(at, reach, dtype=np.uint64)
        if write:
            write_pages(mm, vma, vpns, content=content)
        else:
            read_pages(mm, vma, vpns)
            if reach < end and vma.uffd is None:
                # do_fault_around() comes before the SIGBUS.
                _map_around(mm, vma, reach)
        if reach < end:
            raise OSError(errno.EFAULT, f"vpn {reach:#x} is past the file's end")
        at = end


def access_each(mm: Mm, vpns: U64, event: Event, *, write: bool) -> None:
    """Read or write the page of each vpn, in the given order.

    Pages up to the next one whose access may wait or fail are accessed together.
    Errors are those of `access`.
    """
    at, together = 0, 1
    while at < len(vpns):
        part = vpns[at : at + together]
        try:
            done = _access_together(mm, part, write=write)
            alone = part[done : done + 1]
        except (MemoryError, Refused):
            # Some pages are accessed twice, which changes nothing. The error comes at
            # the first page that is refused.
            done, alone = 0, part
        for vpn in alone.tolist():
            access(mm, vpn, vpn + 1, event, write=write)
        at += done + len(alone)
        together = 1 if len(alone) else min(2 * together, AT_ONCE)


def _access_together(mm: Mm, vpns: U64, *, write: bool) -> int:
    """Access pages up to one whose access may wait or fail; return how many.

    The order of these faults doesn't show, with two exceptions. VMAs get their anon_vma
    in the order of their first write. A fault maps pages of the backing around its own
    if another VMA has brought them in.
    """
    simple = [v for v in mm.vmas if _allows(v, write) and not _may_wait(v, write)]
    bounds = [(v.start, max(v.start, reach_of(v, v.stop))) for v in simple]
    where = np.searchsorted(np.array(bounds, np.uint64).ravel(), vpns, "right")
    outside = np.flatnonzero(where % 2 == 0)
    done = int(outside[0]) if len(outside) else len(vpns)
    owner = where[:done] // 2
    # Runs of pages in one VMA, and the VMAs in the order in which they come.
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    owners = list(dict.fromkeys(owner[starts].tolist()))
    if any(simple[i].backing for i in owners):
        owners = owner[starts].tolist()
        parts = np.split(vpns[:done], starts[1:])
    else:
        parts = [vpns[:done][owner == i] for i in owners]
    for i, part in zip(owners, parts, strict=True):
        if write:
            write_pages(mm, simple[i], distinct(part))
        else:
            read_pages(mm, simple[i], distinct(part))
    return done


def _allows(vma: Vma, write: bool) -> bool:
    """Tell whether a VMA's protection allows an access."""
    return bool(vma.prot & Prot.W if write else vma.prot)


def _may_wait(vma: Vma, write: bool) -> bool:
    """Tell whether some access in a VMA waits for a userfaultfd."""
    return vma.missing or (write and vma.wp and not vma.asynchronous)


def reach_of(vma: Vma, stop: int) -> int:
    """Return ``stop``, or the vpn where the VMA's backing ends if that is lower."""
    if vma.backing is None:
        return stop
    return min(stop, vma.start + len(vma.backing) - vma.pgoff)


def is_missing(mm: Mm, vma: Vma, vpn: int) -> bool:
    """Tell whether an access to a page waits for a userfaultfd to bring it."""
    return vma.missing and _first_missing(mm, vma, vpn, vpn + 1) == vpn


def _first_missing(mm: Mm, vma: Vma, first: int, stop: int) -> int:
    """Return the first vpn of [first, stop) that has no page, or stop.

    Its PTE is none or a marker, and the backing has no page either:
    do_anonymous_page(), shmem_get_folio_gfp().
    """
    reach = max(first, reach_of(vma, stop))
    entries = mm.entries(first, reach)
    marked = mm.marked(entries)
    absent = mm.absent(first, reach)
    vpns = np.union1d(absent, entries.vpn[marked])
    if vma.backing is not None:
        vpns = vpns[~vma.backing.has(pages_of(vma, vpns))]
    return int(vpns[0]) if len(vpns) else stop


def _before_missing(mm: Mm, vma: Vma, vpn: int, *, write: bool) -> None:
    """Do what a fault does before it finds that a page is missing."""
    if not vma.wp:
        mm.clear_markers(mm.entries(vpn, vpn + 1))
    huge = would_be_huge(mm, vma, mm.leaf_of(vpn))
    if not vma.shared and (write or huge):
        mm.vmas.prepare_anon(vma)
    if vma.anonymous and not huge:
        mm.tables.add(mm.leaf_of(vpn))
    elif vma.backing is not None and not write and not vma.wp:
        _map_around(mm, vma, vpn)


def _first_protected(mm: Mm, first: int, stop: int) -> int:
    """Return the first vpn of [first, stop) with uffd_wp, or stop."""
    if mm.uffd_wp:
        found = mm.table.scan(slice(first, stop), mm.uffd_wp)
        if len(found):
            stop = int(found[0])
    for base in mm.leaves_within(first, stop):
        if mm.leaves[base].word & mm.uffd_wp:
            return max(first, base)
    return stop


def _populate_protected(mm: Mm, vma: Vma, vpn: int) -> None:
    """Bring in the page of a marker or a swap entry, still protected.

    The write then faults again, on a present page, and waits in do_wp_page().
    """
    entries = mm.entries(vpn, vpn + 1)
    if not len(entries.vpn) or entries.present[0]:
        return
    if entries.value[0] == mm.marker:
        mm.clear(entries.vpn)
        _populate(mm, vma, entries.vpn)
        mm.change_words(entries.vpn, 0, mm.uffd_wp | mm.soft_dirty)
    else:
        swap_in(mm, entries)


def read_pages(mm: Mm, vma: Vma, vpns: U64) -> None:
    """Read pages, ascending, of one readable VMA, none of which has to wait."""
    huge_faults(mm, vma, vpns, write=False)
    entries, absent = mm.entries_at(mm.outside(vpns, mm.leaves_of(vpns)))
    if not len(absent) and entries.present.all():
        return
    marked = mm.marked(entries)
    swap_in(mm, entries.take(~entries.present & ~marked))
    # A marker is replaced by a page that is protected, but in a VMA without protection.
    kept = entries.vpn[marked]
    mm.clear(kept)
    free = np.sort(np.concatenate((absent, kept)))
    if vma.anonymous:
        # do_anonymous_page(): a page of zeros.
        mm.map(vma, free, np.full(len(free), ZERO_PFN, np.uint64))
    elif vma.wp:
        # uffd_disable_fault_around()
        _map_backing(mm, vma, free)
    else:
        _map_backing(mm, vma, np.union1d(free, _around(mm, vma, free)))
    if vma.wp:
        mm.change_words(kept, 0, mm.uffd_wp)


def pages_of(vma: Vma, vpns: U64) -> U64:
    """Return the index in the VMA's backing of each vpn."""
    return np.asarray(vpns - np.uint64(vma.start) + np.uint64(vma.pgoff))


def _map_backing(mm: Mm, vma: Vma, vpns: U64) -> None:
    """Map pages of the backing at free vpns: finish_fault()."""
    if vma.backing is not None:
        mm.map(vma, vpns, vma.backing.get(pages_of(vma, vpns)))


def _map_around(mm: Mm, vma: Vma, vpn: int) -> None:
    """Map the resident pages around an absent one."""
    _map_backing(mm, vma, _around(mm, vma, np.array([vpn], np.uint64)))


def _around(mm: Mm, vma: Vma, vpns: U64) -> U64:
    """Return the absent vpns around some whose page is in memory: do_fault_around().

    The window of each is 64 KiB in one PTE table and one VMA.
    """
    if vma.backing is None:
        return vpns[:0]
    around = np.uint64(FAULT_AROUND_BYTES >> mm.arch.page_shift)
    windows = np.unique(vpns // around) * around
    near = np.add.outer(windows, np.arange(around)).ravel().astype(np.uint64)
    near = near[(near >= vma.start) & (near < reach_of(vma, vma.stop))]
    _entries, near = mm.entries_at(near)
    return near[vma.backing.resident(pages_of(vma, near))]


def write_pages(mm: Mm, vma: Vma, vpns: U64, *, content: bool = True) -> None:
    """Write to pages, ascending, of one writable VMA, none of which has to wait."""
    huge_faults(mm, vma, vpns, write=True)
    vpns = write_leaves(mm, vma, vpns, content=content)
    entries, absent = mm.entries_at(vpns)
    if len(absent) or not entries.present.all():
        marked = mm.marked(entries)
        mm.clear(entries.vpn[marked])
        swap_in(mm, entries.take(~entries.present & ~marked))
        _populate(mm, vma, np.sort(np.concatenate((absent, entries.vpn[marked]))))
        entries, _absent = mm.entries_at(vpns)
    if vma.shared and vma.backing is not None:
        vma.backing.dirty(pages_of(vma, vpns))
    else:
        shared = ~alone(mm.physical.pages, entries.value)
        if shared.any() and _copy_on_write(mm, vma, entries.take(shared)):
            entries, _absent = mm.entries_at(vpns)
        mm.physical.reuse(entries.value)
    _written(mm, vma, vpns, entries.value, content)


def _written(mm: Mm, vma: Vma, vpns: Any, pfns: Any, content: bool) -> None:
    """Make PTEs dirty; WP_ASYNC: do_wp_page() clears uffd_wp without waiting."""
    mm.change_words(vpns, mm.uffd_wp if vma.wp else 0, mm.soft_dirty)
    mm.keep(pfns)
    if content:
        mm.physical.write(pfns)


def _write_alone(mm: Mm, vma: Vma, vpn: int, content: bool) -> bool:
    """Write to one page if its PTE has it alone, as `write_pages` but sooner.

    A write that has to wait is left to others.
    """
    pte, word = mm.table.snapshot(vpn)
    pfn = mm.ptes.page_alone(pte, mm.physical.pages)
    if not pfn or (word & mm.uffd_wp and _may_wait(vma, True)):
        return False
    mm.physical.reuse(pfn)
    _written(mm, vma, vpn, pfn, content)
    return True


def _populate(mm: Mm, vma: Vma, vpns: U64) -> None:
    """Map pages for a write at free vpns; the caller makes them soft-dirty.

    do_anonymous_page(), do_cow_fault(), do_shared_fault().
    """
    if not len(vpns):
        return
    if vma.shared:
        _map_backing(mm, vma, vpns)
    else:
        mm.vmas.prepare_anon(vma)
        pfns = mm.physical.allocate(len(vpns))
        if vma.backing is not None:
            mm.physical.copy(vma.backing.get(pages_of(vma, vpns)), pfns)
        mm.map(vma, vpns, pfns)


def _copy_on_write(mm: Mm, vma: Vma, entries: Entries) -> bool:
    """Give PTEs pages of their own where reuse is impossible; return whether there are.

    wp_page_copy()
    """
    physical = mm.physical
    shared = physical.shared(entries.value) | physical.file(entries.value)
    for head, part in physical.folios(entries.value):
        # A page of a huge page that was shared: wp_can_reuse_anon_folio().
        unsure = part & ~physical.exclusive(entries.value)
        if unsure.any() and (
            mm.release < (6, 15) or mm.shared_folio(head, int(part.sum()))
        ):
            shared |= unsure
    entries = entries.take(shared)
    if not len(entries.vpn):
        return False
    mm.vmas.prepare_anon(vma)
    pfns = physical.allocate(len(entries.vpn))
    physical.copy(entries.value, pfns)
    mm.replace(vma, entries.vpn, pfns)
    mm.change_words(entries.vpn, mm.uffd_wp)
    physical.unmap(entries.value)
    return True
