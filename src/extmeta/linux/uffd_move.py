"""UFFDIO_MOVE: pages move from one range to another.

Linux mm/userfaultfd.c move_pages() and mm/huge_memory.c move_pages_huge_pmd(). Only
anonymous pages that nobody shares can move. A present page gets a new PTE: not
uffd-wp, but soft-dirty. A swap entry keeps its bits and becomes soft-dirty. The page of
zeros loses both bits. Other fields are kept.
"""

import errno

import numpy as np

from extmeta.linux.entries import Entries
from extmeta.linux.mm import Mm
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.reclaim import split_folio
from extmeta.linux.userfault import Userfaultfd
from extmeta.linux.vma import Prot, Vma


def move(
    mm: Mm, uffd: Userfaultfd | None, dst: int, src: int, count: int, *, holes: bool
) -> tuple[int, int]:
    """Move `count` pages; return how many moved, and the errno of the next or 0.

    Parameters
    ----------
    uffd : Userfaultfd or None
        The caller's.
    holes : bool
        Absent pages are skipped: UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES.

    Raises
    ------
    OSError
        ENOENT: nothing is mapped. EINVAL: a range is not in one private, anonymous and
        writable VMA, or the destination does not have this userfaultfd.
    """
    to = mm.vmas.get(dst, errno.ENOENT)
    if not to.shared:
        mm.vmas.prepare_anon(to)
    of = mm.vmas.get(src, errno.ENOENT)
    _validate(uffd, to, of, dst, src, count)
    done = 0
    # If ranges overlap, pages that have moved may move again.
    longest = 1 if abs(dst - src) < count else mm.pages_per_leaf
    while done < count:
        moved, error = _step(
            mm, of, dst + done, src + done, count - done, longest, holes
        )
        done += moved
        if error:
            return done, error
    return done, 0


def _validate(
    uffd: Userfaultfd | None, to: Vma, of: Vma, dst: int, src: int, count: int
) -> None:
    """Raise EINVAL: move_pages(), validate_move_areas()."""
    reasons = {
        "shared memory": of.shared or to.shared,
        "not in one VMA": src + count > of.stop or dst + count > to.stop,
        "other protection": of.prot != to.prot,
        "not writable": not of.prot & Prot.W,
        "without this userfaultfd": uffd is None or to.uffd is not uffd,
        "not anonymous": not (of.anonymous and to.anonymous),
    }
    for reason, so in reasons.items():
        if so:
            raise OSError(
                errno.EINVAL, f"vpns {src:#x} to {dst:#x}, {count} pages: {reason}"
            )


def _step(
    mm: Mm, of: Vma, dst: int, src: int, count: int, longest: int, holes: bool
) -> tuple[int, int]:
    """Move pages within one PTE table on each side; return as `move`.

    Returns (0, 0) after it split a huge page.
    """
    size = mm.pages_per_leaf
    base, to_base = mm.leaf_of(src), mm.leaf_of(dst)
    if to_base in mm.leaves:
        return 0, errno.EEXIST
    if base in mm.leaves:
        return _leaf(mm, dst, src, count)
    if base not in mm.tables and not holes:
        return 0, errno.ENOENT
    mm.tables |= {base, to_base}
    count = min(count, longest, base + size - src, to_base + size - dst)
    entries = mm.entries(src, src + count)
    end, error = _movable(mm, entries, dst, src, count, holes)
    entries = entries.take(entries.vpn < np.uint64(src + end))
    heads = [head for head, _ in mm.physical.folios(entries.value[entries.present])]
    for head in heads:
        split_folio(mm, of, head)
    if heads:
        return 0, 0
    _give(mm, entries, dst, src, end)
    return end, error


def _leaf(mm: Mm, dst: int, src: int, count: int) -> tuple[int, int]:
    """Move a huge page, or split it: move_splits_huge_pmd()."""
    size = mm.pages_per_leaf
    base = mm.leaf_of(src)
    leaf = mm.leaves[base]
    if not leaf.zero and not mm.physical.exclusive(mm.leaf_pfns(leaf)[:1]).all():
        return 0, errno.EBUSY
    if src != base or dst % size or count < size or dst in mm.tables:
        mm.split_leaf(base)
        return 0, 0
    mm.take_leaf(base)
    leaf.word &= ~(mm.uffd_wp | mm.soft_dirty)
    if not leaf.zero:
        leaf.word |= mm.settable(dst, mm.soft_dirty)
    mm.put_leaf(dst, leaf)
    return size, 0


def _movable(
    mm: Mm, entries: Entries, dst: int, src: int, count: int, holes: bool
) -> tuple[int, int]:
    """Return how many pages can move, and the errno of the next one or 0."""
    errors = np.full(count, 0 if holes else errno.ENOENT)
    values = entries.value
    marked = mm.marked(entries)
    slots = np.where(entries.present | marked, np.uint64(0), values)
    pages = np.where(entries.present, values, np.uint64(ZERO_PFN))
    busy = np.where(
        entries.present,
        (pages != ZERO_PFN) & ~mm.physical.exclusive(pages),
        ~mm.physical.exclusive_slots(slots) | (mm.physical.cached(slots) != 0),
    )
    found = np.where(marked, errno.EFAULT, np.where(busy, errno.EBUSY, 0))
    errors[(entries.vpn - np.uint64(src)).astype(np.int64)] = found
    there = mm.entries(dst, dst + count).vpn - np.uint64(dst)
    errors[there.astype(np.int64)] = errno.EEXIST
    refused = np.flatnonzero(errors)
    if len(refused):
        return int(refused[0]), int(errors[refused[0]])
    return count, 0


def _give(mm: Mm, entries: Entries, dst: int, src: int, count: int) -> None:
    """Move PTEs with their words: move_present_pte(), move_swap_pte()."""
    if not len(entries.vpn):
        return
    mm.table.move(slice(src, src + count), dst)
    vpns = entries.vpn + np.uint64((dst - src) % 2**64)
    zero = entries.present & (entries.value == ZERO_PFN)
    mm.change_words(vpns[zero], mm.uffd_wp | mm.soft_dirty)
    mm.change_words(vpns[entries.present], mm.uffd_wp)
    mm.change_words(vpns[~zero], 0, mm.soft_dirty)
