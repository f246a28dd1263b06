"""A fork's copy of an address space: dup_mmap()."""

from dataclasses import replace
from typing import Any

from extmeta.linux.mm import Mm
from extmeta.linux.physical import FIRST_PFN


def copy_mm(mm: Mm) -> Mm:
    """Return the child of a fork: dup_mmap().

    The child's VMAs keep a userfaultfd that has EVENT_FORK
    (dup_userfaultfd()). What a fault can bring back is not copied
    (vma_needs_copy()); protection that nobody tracks goes, and its markers
    (copy_nonpresent_pte(), copy_pte_marker()).
    """
    child = Mm(
        *(mm.table.fork(), mm.arch, mm.physical, mm.release),
        *(mm.thp, mm.thp_swap),
    )
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
                copied.uffd = contexts.setdefault(vma.uffd, vma.uffd.copy())
        child.vmas.insert(copied)
        if vma.wiped or (not copied.wp and vma.anon_vma is None):
            _forget_range(child, vma.start, vma.stop)
            continue
        child.tables.update(mm.tables_within(vma.start, vma.stop))
        if not copied.wp:
            child.disown(vma.start, vma.stop)
        else:
            _renew_markers(child, vma.start, vma.stop)
        _count(child, vma.start, vma.stop)
    return child


def _forget_range(mm: Mm, first: int, stop: int) -> None:
    """Take away what a fork's copy has in [first, stop), not counted yet."""
    for base in mm.leaves_within(first, stop):
        mm.take_leaf(base)
    mm.table.unmap(slice(first, stop))


def _renew_markers(mm: Mm, first: int, stop: int) -> None:
    """Let markers be as new, without soft-dirty: copy_pte_marker()."""
    entries = mm.entries(first, stop)
    markers = entries.vpn[~entries.present & (entries.value == mm.marker)]
    mm.change_words(markers, mm.soft_dirty)


def _count(mm: Mm, first: int, stop: int) -> None:
    """Count all that PTEs of [first, stop) map once more."""
    entries = mm.entries(first, stop)
    pfns = entries.value[entries.present]
    mm.physical.share(pfns[pfns >= FIRST_PFN])
    slots = entries.value[~entries.present]
    mm.physical.share_slots(slots[slots != mm.marker])
    for base in mm.leaves_within(first, stop):
        if not mm.leaves[base].zero:
            mm.physical.share(mm.leaf_pfns(mm.leaves[base]))
