"""Page faults: what a read or a write of pages does to their PTEs.

Linux mm/memory.c handle_pte_fault() and mm/huge_memory.c, over ranges. Pages are
touched in ascending order; where one can't be, those before it have been.
"""

import errno
from collections.abc import Callable

import numpy as np

from extmeta.arrays import U64
from extmeta.linux.entries import Entries
from extmeta.linux.huge import huge_faults, would_be_huge, write_leaf
from extmeta.linux.mm import Mm
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.swap import swap_in
from extmeta.linux.vma import Prot, Vma

# fault_around_bytes.
FAULT_AROUND_BYTES = 65536

# Pages looked at at once for one whose access must wait for its userfaultfd.
LOOK_AHEAD = 4096

# Called with a VMA, the vpn of a page whose access waits, and whether it is missing.
Event = Callable[[Vma, int, bool], None]


def read(mm: Mm, first: int, stop: int, event: Event) -> None:
    """Read pages [first, stop); EFAULT where nothing can be read.

    `event` is called at a page that a userfaultfd has to bring, as `write` does.
    """
    at = first
    while at < stop:
        vma = mm.vmas.find(at)
        if vma is None or vma.prot == Prot.NONE:
            raise OSError(errno.EFAULT, f"no page to read at vpn {at:#x}")
        end = min(stop, vma.stop)
        if vma.missing:
            end = _first_missing(mm, vma, at, min(end, at + LOOK_AHEAD))
            if end == at:
                _before_missing(mm, vma, at, write=False)
                event(vma, at, True)
                continue
        reach = max(at, reach_of(vma, end))
        read_vma(mm, vma, at, reach)
        if reach < end and vma.uffd is None:
            # do_fault_around() comes before the SIGBUS.
            _map_around(mm, vma, reach)
        _refuse_past_end(reach, end)
        at = end


def write(mm: Mm, first: int, stop: int, event: Event, *, content: bool = True) -> None:
    """Write pages [first, stop); EFAULT where nothing can be written.

    Parameters
    ----------
    event : callable
        Called at a page whose write must wait for a userfaultfd; what it raises
        ends the write there. The page must be writable when it returns.
    content : bool
        Something other than zeros is written.
    """
    at = first
    while at < stop:
        vma = mm.vmas.find(at)
        if vma is None or not vma.prot & Prot.W:
            raise OSError(errno.EFAULT, f"no page to write at vpn {at:#x}")
        end = min(stop, vma.stop)
        if vma.missing or (vma.wp and not vma.asynchronous):
            end = min(end, at + LOOK_AHEAD)
        if vma.missing:
            end = _first_missing(mm, vma, at, end)
            if end == at:
                _before_missing(mm, vma, at, write=True)
                event(vma, at, True)
                continue
        if vma.wp and not vma.asynchronous and at < reach_of(vma, end):
            end = _first_protected(mm, at, end)
            if end == at:
                _populate_protected(mm, vma, at)
                event(vma, at, False)
                continue
        reach = max(at, reach_of(vma, end))
        write_vma(mm, vma, at, reach, content)
        _refuse_past_end(reach, end)
        at = end


def reach_of(vma: Vma, stop: int) -> int:
    """Return the vpn up to which a VMA has pages to be faulted in."""
    if vma.backing is None:
        return stop
    return min(stop, vma.start + len(vma.backing) - vma.pgoff)


def _refuse_past_end(reach: int, stop: int) -> None:
    """Raise EFAULT, for SIGBUS, where a backing ends before [.., stop)."""
    if reach < stop:
        raise OSError(errno.EFAULT, f"vpn {reach:#x} is past the file's end")


def is_missing(mm: Mm, vma: Vma, vpn: int) -> bool:
    """Tell whether an access to a page waits for a userfaultfd to bring it."""
    return vma.missing and _first_missing(mm, vma, vpn, vpn + 1) == vpn


def _first_missing(mm: Mm, vma: Vma, first: int, stop: int) -> int:
    """Return the first vpn of [first, stop) that has no page, or stop.

    Neither in its PTE, which may have a marker, nor in the backing:
    do_anonymous_page(), shmem_get_folio_gfp().
    """
    entries = mm.entries(first, reach_of(vma, stop))
    marked = ~entries.present & (entries.value == mm.marker)
    absent = mm.absent(first, max(first, reach_of(vma, stop)))
    vpns = np.union1d(absent, entries.vpn[marked])
    if vma.backing is not None:
        vpns = vpns[~vma.backing.has(pages_of(vma, vpns))]
    return int(vpns[0]) if len(vpns) else stop


def _before_missing(mm: Mm, vma: Vma, vpn: int, *, write: bool) -> None:
    """Do what a fault does before it finds that a page is missing."""
    if not vma.wp:
        _clear_leftover(mm, mm.entries(vpn, vpn + 1))
    huge = would_be_huge(mm, vma, mm.leaf_of(vpn))
    if not vma.shared and (write or huge):
        mm.vmas.prepare_anon(vma)
    if vma.anonymous and not huge:
        mm.tables.add(mm.leaf_of(vpn))
    elif vma.backing is not None and not write and not vma.wp:
        _map_around(mm, vma, vpn)


def _clear_leftover(mm: Mm, entries: Entries) -> Entries:
    """Clear markers that nobody uses any more; return the rest: pte_marker_clear()."""
    marked = ~entries.present & (entries.value == mm.marker)
    mm.clear(entries.vpn[marked])
    return entries.take(~marked)


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
    """Bring the page of a marker or a swap entry in, protected as it stays.

    The write faults again, now on a present page: do_wp_page() waits.
    """
    entries = mm.entries(vpn, vpn + 1)
    if not len(entries.vpn) or entries.present[0]:
        return
    if entries.value[0] == mm.marker:
        mm.clear(entries.vpn)
        _populate(mm, vma, entries.vpn, protected=True)
    else:
        swap_in(mm, entries)


def read_vma(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """Read pages of one VMA that may be read."""
    huge_faults(mm, vma, first, stop, write=False)
    entries = mm.entries(first, stop)
    if not vma.wp:
        entries = _clear_leftover(mm, entries)
    marked = ~entries.present & (entries.value == mm.marker)
    swap_in(mm, entries.take(~entries.present & ~marked))
    absent = mm.absent(first, stop)
    if vma.anonymous:
        # do_anonymous_page(): a page of zeros, protected where its marker was.
        mm.clear(entries.vpn[marked])
        vpns = np.sort(np.concatenate((absent, entries.vpn[marked])))
        mm.map(vma, vpns, np.full(len(vpns), ZERO_PFN, np.uint64))
    elif not vma.wp:
        _fault_around(mm, vma, absent)
    else:
        # uffd_disable_fault_around()
        mm.clear(entries.vpn[marked])
        _map_backing(mm, vma, np.concatenate((absent, entries.vpn[marked])))
    mm.change_words(entries.vpn[marked], 0, mm.uffd_wp)


def pages_of(vma: Vma, vpns: U64) -> U64:
    """Return which pages of its backing a VMA has at some vpns."""
    return np.asarray(vpns - np.uint64(vma.start) + np.uint64(vma.pgoff))


def _map_backing(mm: Mm, vma: Vma, vpns: U64) -> None:
    """Map pages of the backing where there is nothing: finish_fault()."""
    if vma.backing is not None:
        mm.map(vma, vpns, vma.backing.get(pages_of(vma, vpns)))


def _fault_around(mm: Mm, vma: Vma, absent: U64) -> None:
    """Map absent pages, and with each what is in memory around it.

    do_fault_around(): a window of 64 KiB in one PTE table and one VMA.
    """
    backing = vma.backing
    if backing is None or not len(absent):
        return
    size = mm.pages_per_leaf
    low = max(vma.start, mm.leaf_of(int(absent[0])))
    high = min(
        vma.stop,
        mm.leaf_of(int(absent[-1])) + size,
        max(low, vma.start + len(backing) - vma.pgoff),
    )
    near = mm.absent(low, high)
    near = near[backing.resident(0, len(backing))[pages_of(vma, near)]]
    wanted = absent
    around = FAULT_AROUND_BYTES >> mm.arch.page_shift
    while len(wanted) and len(near):
        # One fault at a time, as long as there is something around to be mapped.
        at = int(wanted[0])
        base = mm.leaf_of(at)
        start = max(base + (at - base) // around * around, vma.start)
        end = min(start + around, base + size, high)
        window = near[(near >= start) & (near < end)]
        _map_backing(mm, vma, np.union1d(window, wanted[:1]))
        near = near[~np.isin(near, window)]
        wanted = wanted[~np.isin(wanted, np.append(window, wanted[0]))]
    _map_backing(mm, vma, wanted)


def _map_around(mm: Mm, vma: Vma, vpn: int) -> None:
    """Map what is in memory around a page that is not: do_fault_around()."""
    if vma.backing is None:
        return
    around = FAULT_AROUND_BYTES >> mm.arch.page_shift
    start = vpn // around * around
    low = max(start, vma.start)
    high = max(low, reach_of(vma, min(start + around, vma.stop)))
    near = mm.absent(low, high)
    resident = vma.backing.resident(0, len(vma.backing))
    _map_backing(mm, vma, near[resident[pages_of(vma, near)]])


def write_vma(mm: Mm, vma: Vma, first: int, stop: int, content: bool) -> None:
    """Write pages of one VMA that may be written, none of which has to wait."""
    huge_faults(mm, vma, first, stop, write=True)
    for base in mm.leaves_within(first, stop):
        write_leaf(mm, vma, base)
    entries = mm.entries(first, stop)
    marked = ~entries.present & (entries.value == mm.marker)
    swap_in(mm, entries.take(~entries.present & ~marked))
    mm.clear(entries.vpn[marked])
    _populate(mm, vma, mm.absent(first, stop))
    if vma.wp:
        # WP_ASYNC: the bit goes by itself (do_wp_page()).
        mm.change_words(slice(first, stop), mm.uffd_wp)
    if vma.shared and vma.backing is not None:
        vma.backing.dirty(pages_of(vma, np.arange(first, stop, dtype=np.uint64)))
    else:
        _copy_on_write(mm, vma, mm.entries(first, stop))
    mm.change_words(slice(first, stop), 0, mm.soft_dirty)
    mm.keep(mm.entries(first, stop).value)
    written = [mm.entries(first, stop).value] if content else []
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        leaf.word |= mm.settable(base, mm.soft_dirty)
        mm.keep(mm.leaf_pfns(leaf))
        if content:
            low, high = max(first - base, 0), min(stop - base, mm.pages_per_leaf)
            written.append(mm.leaf_pfns(leaf)[low:high])
    for pfns in written:
        mm.physical.write(pfns)


def _populate(mm: Mm, vma: Vma, vpns: U64, *, protected: bool = False) -> None:
    """Map pages for a write where there is nothing; soft-dirty by pte_mkdirty().

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
    mm.change_words(vpns, 0, mm.soft_dirty | (mm.uffd_wp if protected else 0))


def _copy_on_write(mm: Mm, vma: Vma, entries: Entries) -> None:
    """Let PTEs have pages of their own: wp_page_copy() where reuse is impossible."""
    physical = mm.physical
    shared = physical.shared(entries.value) | physical.file(entries.value)
    heads = physical.heads(entries.value)
    for head in np.unique(heads[heads != 0]).tolist():
        # A page of a huge page that was shared: wp_can_reuse_anon_folio().
        part = heads == head
        unsure = part & ~physical.exclusive(entries.value)
        if unsure.any() and (
            mm.release < (6, 15) or mm.shared_folio(head, int(part.sum()))
        ):
            shared |= unsure
    physical.reuse(entries.value[~shared])
    entries = entries.take(shared)
    if not len(entries.vpn):
        return
    mm.vmas.prepare_anon(vma)
    pfns = physical.allocate(len(entries.vpn))
    physical.copy(entries.value, pfns)
    mm.replace(vma, entries.vpn, pfns)
    mm.change_words(entries.vpn, mm.uffd_wp)
    physical.unmap(entries.value)
