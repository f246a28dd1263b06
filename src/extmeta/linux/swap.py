"""Faults of swapped pages: do_swap_page()."""

import numpy as np

from extmeta.linux.entries import Entries
from extmeta.linux.mm import Mm


def swap_in(mm: Mm, entries: Entries) -> None:
    """Map the pages of swap entries; the bits stay: do_swap_page()."""
    if mm.thp_swap and len(entries.vpn):
        entries = _with_huge(mm, entries)
    if len(entries.vpn):
        mm.table.swap_in(entries.vpn, mm.physical.swap_in(entries.value))


def _with_huge(mm: Mm, entries: Entries) -> Entries:
    """Return swap entries, and the others of each huge page that is still whole.

    do_swap_page() maps a huge page of the swap cache by 512 PTEs if their swap entries
    are still in order in one table and one VMA, with equal bits.
    """
    pfns = mm.physical.cached(entries.value)
    found = [entries]
    for head, here in mm.physical.folios(pfns):
        at = int(np.argmax(here))
        start = int(entries.vpn[at]) - int(pfns[at]) + head
        stop = start + mm.pages_per_leaf
        vma = mm.vmas.find(int(entries.vpn[at]))
        if (
            vma is None
            or start % mm.pages_per_leaf
            or not (vma.start <= start and stop <= vma.stop)
        ):
            continue
        whole = mm.entries(start, stop)
        if whole.present.any() or (whole.value == mm.marker).any():
            continue
        bits = [mm.has(name, whole.vpn) for name in ("uffd_wp", "soft_dirty")]
        bits.append(mm.flagged(whole.vpn))
        wanted = np.arange(head, head + mm.pages_per_leaf, dtype=np.uint64)
        alike = all(len(np.unique(has)) == 1 for has in bits)
        if alike and np.array_equal(mm.physical.cached(whole.value), wanted):
            found.append(whole)
    vpns = np.concatenate([one.vpn for one in found])
    _, first = np.unique(vpns, return_index=True)
    slots = np.concatenate([one.value for one in found])
    return Entries(vpns[first], np.zeros(len(first), np.bool_), slots[first])
