"""Page faults: the effects of reads and writes on PTEs.

Linux mm/memory.c handle_pte_fault() and mm/huge_memory.c, over ranges. Pages are
touched in ascending order, up to the first that can't be.
"""

import errno
from collections.abc import Callable

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.linux.entries import Entries, Refused
from extmeta.linux.huge import huge_faults, would_be_huge, write_leaf
from extmeta.linux.mm import Mm
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.swap import swap_in
from extmeta.linux.vma import Prot, Vma

# fault_around_bytes.
FAULT_AROUND_BYTES = 65536

# Pages searched at once for one whose access must wait for its userfaultfd.
LOOK_AHEAD = 4096

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
        if vma is None or not (vma.prot & Prot.W if write else vma.prot):
            how = "write" if write else "read"
            raise OSError(errno.EFAULT, f"no page to {how} at vpn {at:#x}")
        end = min(stop, vma.stop)
        waits = write and vma.wp and not vma.asynchronous
        if vma.missing or waits:
            end = min(end, at + LOOK_AHEAD)
        if vma.missing:
            end = _first_missing(mm, vma, at, end)
            if end == at:
                _before_missing(mm, vma, at, write=write)
                event(vma, at, True)
                continue
        if waits and at < reach_of(vma, end):
            end = _first_protected(mm, at, end)
            if end == at:
                _populate_protected(mm, vma, at)
                event(vma, at, False)
                continue
        reach = max(at, reach_of(vma, end))
        if write:
            write_vma(mm, vma, at, reach, content)
        else:
            read_vma(mm, vma, at, reach)
            if reach < end and vma.uffd is None:
                # do_fault_around() comes before the SIGBUS.
                _map_around(mm, vma, reach)
        if reach < end:
            raise OSError(errno.EFAULT, f"vpn {reach:#x} is past the file's end")
        at = end


def write_several(mm: Mm, vpns: U64, event: Event) -> None:
    """Write to the page of each vpn, in the given order.

    Neighbours in the order that all have their own page are written together. Errors
    are those of `access`.
    """
    alone = ~_owned(mm, vpns)
    cuts = (np.flatnonzero(alone[1:] != alone[:-1]) + 1).tolist()
    for low, high in zip([0, *cuts], [*cuts, len(vpns)], strict=True):
        if low == high or (not alone[low] and _write_owned(mm, vpns[low:high])):
            continue
        for vpn in vpns[low:high].tolist():
            access(mm, vpn, vpn + 1, event, write=True)


def _owned(mm: Mm, vpns: U64) -> Bools:
    """Tell which pages a write just marks as written: their PTE's own, anonymous.

    Writes to other pages don't change that. A userfaultfd's handler might, so with a
    userfaultfd there are none; nor with huge pages.
    """
    vmas = list(mm.vmas)
    watched = any(vma.wp or vma.missing for vma in vmas)
    if watched or mm.leaves or mm.one_bit is not None or not vmas or not len(vpns):
        return np.zeros(len(vpns), np.bool_)
    starts = np.array([vma.start for vma in vmas], np.uint64)
    stops = np.array([vma.stop for vma in vmas], np.uint64)
    plain = np.array(
        [vma.anonymous and not vma.shared and bool(vma.prot & Prot.W) for vma in vmas]
    )
    at = np.searchsorted(starts, vpns, "right") - 1
    found = np.asarray((at >= 0) & (vpns < stops[at]) & plain[at])
    here = np.flatnonzero(found)
    entries = mm.entries_at(vpns[here])
    pages = np.where(entries.present, entries.value, np.uint64(0))
    physical = mm.physical
    own = ~physical.shared(pages) & ~physical.file(pages) & (physical.heads(pages) == 0)
    found[here] = own
    return found


def _write_owned(mm: Mm, vpns: U64) -> bool:
    """Write to pages of `_owned`; False: all at once is refused."""
    vpns = np.unique(vpns)
    try:
        mm.change_words(vpns, 0, mm.soft_dirty)
    except (MemoryError, Refused):
        return False
    pfns = mm.entries_at(vpns).value
    mm.physical.reuse(pfns)
    mm.keep(pfns)
    mm.physical.write(pfns)
    return True


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
    entries = mm.entries(first, reach_of(vma, stop))
    marked = mm.marked(entries)
    absent = mm.absent(first, max(first, reach_of(vma, stop)))
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
        _populate(mm, vma, entries.vpn, protected=True)
    else:
        swap_in(mm, entries)


def read_vma(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """Read pages of one readable VMA."""
    huge_faults(mm, vma, first, stop, write=False)
    entries = mm.entries(first, stop)
    if not vma.wp:
        entries = mm.clear_markers(entries)
    marked = mm.marked(entries)
    swap_in(mm, entries.take(~entries.present & ~marked))
    absent = mm.absent(first, stop)
    if vma.anonymous:
        # do_anonymous_page(): a page of zeros, protected if there was a marker.
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
    """Return the index in the VMA's backing of each vpn."""
    return np.asarray(vpns - np.uint64(vma.start) + np.uint64(vma.pgoff))


def _map_backing(mm: Mm, vma: Vma, vpns: U64) -> None:
    """Map pages of the backing at free vpns: finish_fault()."""
    if vma.backing is not None:
        mm.map(vma, vpns, vma.backing.get(pages_of(vma, vpns)))


def _fault_around(mm: Mm, vma: Vma, absent: U64) -> None:
    """Map absent pages, and with each the resident ones around it.

    do_fault_around(): a window of 64 KiB in one PTE table and one VMA.
    """
    if not len(absent):
        return
    size = mm.pages_per_leaf
    low = max(vma.start, mm.leaf_of(int(absent[0])))
    high = min(vma.stop, mm.leaf_of(int(absent[-1])) + size)
    near = _near(mm, vma, low, high)
    wanted = absent
    around = FAULT_AROUND_BYTES >> mm.arch.page_shift
    while len(wanted) and len(near):
        # One fault at a time, while resident pages are left to map around it.
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
    """Map the resident pages around an absent one: do_fault_around()."""
    around = FAULT_AROUND_BYTES >> mm.arch.page_shift
    start = vpn // around * around
    low, high = max(start, vma.start), min(start + around, vma.stop)
    _map_backing(mm, vma, _near(mm, vma, low, high))


def _near(mm: Mm, vma: Vma, low: int, high: int) -> U64:
    """Return the absent vpns of [low, high) whose page is in memory."""
    near = mm.absent(low, max(low, reach_of(vma, high)))
    if vma.backing is None:
        return near[:0]
    return near[vma.backing.resident[pages_of(vma, near)]]


def write_vma(mm: Mm, vma: Vma, first: int, stop: int, content: bool) -> None:
    """Write pages of one writable VMA, none of which has to wait."""
    huge_faults(mm, vma, first, stop, write=True)
    for base in mm.leaves_within(first, stop):
        write_leaf(mm, vma, base)
    entries = mm.clear_markers(mm.entries(first, stop))
    swap_in(mm, entries.take(~entries.present))
    _populate(mm, vma, mm.absent(first, stop))
    if vma.wp:
        # WP_ASYNC: do_wp_page() clears the bit without waiting.
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
    """Map pages for a write at free vpns; soft-dirty by pte_mkdirty().

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
    """Give PTEs their own pages: wp_page_copy() where reuse is impossible."""
    physical = mm.physical
    shared = physical.shared(entries.value) | physical.file(entries.value)
    for head, part in physical.folios(entries.value):
        # A page of a huge page that was shared: wp_can_reuse_anon_folio().
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
