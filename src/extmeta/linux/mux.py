"""One bit for two trackers: in each VMA, uffd-wp or soft-dirty has it.

:class:`extmeta.Compact` does this with ``per_vma=[("uffd_wp", "soft_dirty")]``. It is
the idea of RISC-V's second series (CAAfSe-v6+Gc8ujv3m3LdBPk+rGSqmz44RheoNqGJcXjOq3vU9A@
mail.gmail.com). uffd-wp has the bit in VMAs with a userfaultfd, soft-dirty in others.
Soft-dirty needs it only after the first clear_refs: until then VM_SOFTDIRTY covers all
pages. While uffd-wp has the bit, VM_SOFTDIRTY stays set, and when soft-dirty gets the
bit back, all pages are soft-dirty: a page may be reported too often, never too seldom.
"""

from collections.abc import Iterable

import numpy as np

from extmeta.linux.entries import Refused
from extmeta.linux.mm import Mm
from extmeta.linux.vma import Vma

_HOLDS = {
    "uffd_wp": "soft_dirty holds it since clear_refs",
    "soft_dirty": "uffd_wp holds it as long as a userfaultfd is there",
}


def refuse(mm: Mm, name: str, vmas: Iterable[Vma]) -> None:
    """Raise Refused if the tracker other than ``name`` has the bit in a VMA."""
    for vma in vmas if mm.one_bit is not None else ():
        if vma.wp if name == "soft_dirty" else not (vma.wp or vma.soft_dirty):
            raise Refused(
                f"{mm.table.encoding!r}: {name} has no bit in the VMA at vpn "
                f"{vma.start:#x}, {_HOLDS[name]}"
            )


def give(mm: Mm, first: int, stop: int, name: str) -> None:
    """Give the bit to tracker ``name`` in [first, stop).

    The other one's bits are lost. For soft-dirty all bits are set.
    """
    if mm.one_bit is None or first == stop:
        return
    both, held = mm.uffd_wp | mm.soft_dirty, mm.soft_dirty
    if name == "uffd_wp":
        held = 0
    vpns = mm.entries(first, stop).vpn
    words = np.asarray(mm.table.load(vpns)) & np.uint64(~both & 2**64 - 1)
    mm.table.store(vpns, np.zeros(len(vpns), np.uint64))
    mm.one_bit.choose(first, stop, name)
    mm.refusable(mm.table.store, vpns, words | np.uint64(held))
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        leaf.word = leaf.word & ~both | held
