"""fork copies an address space: dup_mmap()."""

import copy
from dataclasses import replace
from typing import Any

from extmeta.linux.mm import Mm
from extmeta.linux.physical import FIRST_PFN


def copy_mm(mm: Mm) -> Mm:
    """Return the child's address space: dup_mmap().

    The child's VMAs keep a userfaultfd that has EVENT_FORK (dup_userfaultfd());
    otherwise they lose protection and markers (copy_nonpresent_pte(),
    copy_pte_marker()). PTEs that a fault can restore are not copied (vma_needs_copy()).
    """
    table = mm.table.fork()
    child = Mm(table, mm.arch, mm.physical, mm.release, mm.thp, mm.thp_swap)
    child.collapses_words = mm.collapses_words
    child.clean = mm.clean.copy()
    child.leaves = {base: replace(leaf) for base, leaf in mm.leaves.items()}
    contexts: dict[Any, Any] = {}
    for vma in mm.vmas:
        if not vma.copied:
            _forget_range(child, vma.start, vma.stop)
            continue
        copied = vma.part(vma.start, vma.stop)
        if vma.wiped:
            copied.anon_vma = None
        elif vma.anon_vma is not None:
            copied.anon_vma, copied.chain = type(vma.anon_vma)(), vma.chain + 1
        if vma.uffd is not None:
            copied.uffd = None
            if "EVENT_FORK" in vma.uffd.features:
                copied.uffd = contexts.setdefault(vma.uffd, copy.copy(vma.uffd))
        child.vmas.insert(copied)
        if vma.wiped or (not copied.wp and vma.anon_vma is None):
            _forget_range(child, vma.start, vma.stop)
            continue
        child.tables.update(mm.tables_within(vma.start, vma.stop))
        if not copied.wp:
            child.disown(vma.start, vma.stop)
        else:
            # copy_pte_marker() makes new markers, without soft-dirty.
            entries = child.entries(vma.start, vma.stop)
            markers = entries.vpn[child.marked(entries)]
            child.change_words(markers, child.soft_dirty)
        _count(child, vma.start, vma.stop)
    return child


def _forget_range(mm: Mm, first: int, stop: int) -> None:
    """Unmap [first, stop) of a copy that is not counted yet."""
    for base in mm.leaves_within(first, stop):
        mm.take_leaf(base)
    mm.table.unmap(slice(first, stop))


def _count(mm: Mm, first: int, stop: int) -> None:
    """Count one more user of the pages and slots of [first, stop)."""
    entries = mm.entries(first, stop)
    pfns = entries.value[entries.present]
    mm.physical.share(pfns[pfns >= FIRST_PFN])
    slots = entries.value[~entries.present]
    mm.physical.share_slots(slots[slots != mm.marker])
    for base in mm.leaves_within(first, stop):
        if not mm.leaves[base].zero:
            mm.physical.share(mm.leaf_pfns(mm.leaves[base]))
