"""mremap: moves and resizes VMAs.

Linux mm/mremap.c. A PTE that moves becomes soft-dirty (move_soft_dirty_pte()). If a
whole table moves, its PTEs do not change (move_normal_pmd()); `Arch.moves_tables` says
whether an architecture does this. Protection by a userfaultfd without EVENT_REMAP does
not move.
"""

import errno

import numpy as np

from extmeta.linux import mux
from extmeta.linux.mm import Mm
from extmeta.linux.vma import Vma

# Since this release all checks come before the first unmap, and one call can move
# several VMAs.
CHECKS_FIRST = (6, 17)


def resize(mm: Mm, first: int, old: int, new: int, end: int) -> None:
    """Resize a mapping to `new` pages in place: mremap_at(), without MAYMOVE.

    Raises OSError: EFAULT if nothing is mapped or the range leaves a VMA; ENOMEM if
    there is no room before the next VMA or `end`.
    """
    mm.vmas.get(first, errno.EFAULT)
    if new < old:
        mm.unmap(first + new, first + old)
    if new <= old:
        return
    vma, start, stop = _one_vma(mm, first, old), first + old, first + new
    if start != vma.stop or stop > end or mm.vmas.within(start, stop):
        raise OSError(errno.ENOMEM, f"no room up to vpn {stop:#x}")
    # vma_merge_extend()
    mm.vmas.add(vma.part(start, stop))
    mux.give(mm, start, stop, "uffd_wp" if vma.wp else "soft_dirty")


def mremap(mm: Mm, src: int, old: int, new: int, dst: int, *, keep: bool) -> None:
    """Move pages [src, src + old) to dst, and resize to `new` pages: MREMAP_FIXED.

    With `keep` the old mapping stays, empty: MREMAP_DONTUNMAP.

    Raises OSError: EINVAL if the ranges overlap; EFAULT if nothing is mapped, or if the
    length changes and the range is not in one VMA.
    """
    several = mm.release >= CHECKS_FIRST
    if not several:
        mm.vmas.get(src, errno.EFAULT)
    if src < dst + new and dst < src + old:
        raise OSError(errno.EINVAL, f"vpns {src:#x} and {dst:#x} on overlap")
    if several and old == new:
        _move_several(mm, src, old, dst, keep)
        return
    if several:
        _one_vma(mm, src, min(old, new))
        if old < new:
            _one_vma(mm, src, old)
    mm.unmap(dst, dst + new)
    told = old
    if old > new:
        mm.unmap(src + new, src + old)
        old = new
        # mremap_userfaultfd_complete() got the old length that was asked for.
        told = old if several else told
    _move(mm, _one_vma(mm, src, old), src, old, new, dst, keep, told)


def _one_vma(mm: Mm, src: int, count: int) -> Vma:
    """Return the VMA that contains a range: vma_to_resize()."""
    vma = mm.vmas.find(src)
    if vma is None or src + count > vma.stop:
        raise OSError(errno.EFAULT, f"vpns [{src:#x}, {src + count:#x}) leave a VMA")
    if not count and not vma.shared:
        raise OSError(errno.EINVAL, f"the VMA at vpn {src:#x} is private")
    return vma


def _move_several(mm: Mm, src: int, count: int, dst: int, keep: bool) -> None:
    """Move each VMA of a range; gaps stay: remap_move() of 6.17."""
    stop = src + count
    parts = [(low, high) for _vma, low, high in mm.vmas.parts(src, stop)]
    if not parts or parts[0][0] > src:
        raise OSError(errno.EFAULT, f"nothing mapped at vpn {src:#x}")
    for at, end in parts:
        vma = _one_vma(mm, at, end - at)
        if vma.uffd is not None and (at > src or end < stop):
            raise OSError(errno.EFAULT, f"vpn {at:#x} has a userfaultfd")
        to = dst + at - src
        mm.unmap(to, to + end - at)
        # The unmap has not cut the source: the ranges do not overlap.
        count = end - at
        _move(mm, _one_vma(mm, at, count), at, count, count, to, keep, count)


def _move(
    mm: Mm, vma: Vma, src: int, old: int, new: int, dst: int, keep: bool, told: int
) -> None:
    """Move a range of one VMA to free space: move_vma().

    `told` is the number of pages that the event says.
    """
    moved = vma.part(src, src + old)
    moved.start, moved.stop = dst, dst + new
    if vma.anonymous and vma.anon_vma is None:
        moved.pgoff = dst
    loses = vma.uffd is not None and "EVENT_REMAP" not in vma.uffd.features
    aligned = (src - dst) % mm.pages_per_leaf == 0
    whole = aligned and not loses and mm.arch.moves_tables
    wholes = _whole_tables(mm, vma, src, old, dst) if whole else set()
    new_vma = mm.vmas.add(moved)
    if wholes and new_vma.start != dst and mm.leaf_of(src) != src:
        # try_realign_addr() does not apply if the new VMA merged with one before it.
        wholes.discard(mm.leaf_of(src))
    _move_entries(mm, src, old, dst, wholes, loses)
    if loses:
        new_vma.uffd = None
        if vma.wp:
            mux.give(mm, new_vma.start, new_vma.stop, "soft_dirty")
    mm.note(new_vma, "REMAP", src, src + told, dst)
    mux.give(mm, dst + old, dst + new, "uffd_wp" if new_vma.wp else "soft_dirty")
    if not keep:
        mm.unmap(src, src + old)
        return
    # dontunmap_complete(): the old VMA has no page with its anon_vma any more.
    emptied = mm.vmas.find(src)
    if (
        emptied is not None
        and emptied is not new_vma
        and (emptied.start, emptied.stop) == (src, src + old)
    ):
        emptied.anon_vma, emptied.chain = None, 0


def _whole_tables(mm: Mm, vma: Vma, src: int, count: int, dst: int) -> set[int]:
    """Return the PTE tables of a range that move whole.

    The range must contain a table. For the first table it is enough that no VMA is in
    the part before the range, on both sides: try_realign_addr().
    """
    size = mm.pages_per_leaf
    stop = src + count
    start = -(-src // size) * size
    base = mm.leaf_of(src)
    if (
        base != src
        and vma.start == src
        and stop >= base + size
        and not mm.vmas.within(base, src)
        and not mm.vmas.within(mm.leaf_of(dst), dst)
    ):
        start = base
    return {
        b
        for b in range(start, mm.leaf_of(stop), size)
        if b in mm.tables and b - src + dst not in mm.tables
    }


def _move_entries(
    mm: Mm, src: int, count: int, dst: int, wholes: set[int], loses: bool
) -> None:
    """Move the entries of a range: move_page_tables()."""
    size, delta = mm.pages_per_leaf, dst - src
    stop = src + count
    mm.split_at(src, stop)
    if delta % size:
        for base in mm.leaves_within(src, stop):
            mm.split_leaf(base)
    leaves = {b: mm.take_leaf(b) for b in mm.leaves_within(src, stop)}
    for base in set(mm.tables_within(src, stop)) - wholes:
        # pte_alloc() at the destination, even if the source is empty.
        low, high = max(base, src) + delta, min(base + size, stop) + delta
        mm.tables.update(b for b, _at, _end in mm.regions(low, high))
    mm.tables -= wholes
    mm.tables |= {base + delta for base in wholes}
    entries = mm.entries(src, stop)
    of = entries.vpn & ~np.uint64(size - 1)
    forced = entries.vpn[~np.isin(of, np.array(sorted(wholes), np.uint64))]
    if count:
        mm.table.move(slice(src, src + count), dst)
    mm.change_words(forced + np.uint64(delta % 2**64), 0, mm.soft_dirty)
    if loses:
        mm.disown(dst, dst + count)
    for base, leaf in leaves.items():
        leaf.word |= mm.settable(base + delta, mm.soft_dirty)
        if loses:
            leaf.word &= ~mm.uffd_wp
        mm.put_leaf(base + delta, leaf)
