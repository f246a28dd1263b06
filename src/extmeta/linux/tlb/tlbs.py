"""The TLBs of an address space's CPUs.

An entry is compared with its PTE when it is used: a flush that was due since has removed
it. So no operation has to name what it flushes. While UFFDIO_WRITEPROTECT's flush is
deferred, an entry may still write to a page that this protected, and to no other.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import numpy as np

from extmeta.integers import whole
from extmeta.linux.mm import Mm
from extmeta.linux.physical import FIRST_PFN
from extmeta.linux.vma import Prot

# The most that x86-64 can be configured for: Linux arch/x86/Kconfig, NR_CPUS.
MOST_CPUS = 8192


class TlbEntry(NamedTuple):
    """What a TLB knows of a vpn.

    Attributes
    ----------
    pfn : int
    writable : bool
    dirty : bool
        The CPU has written through it.
    """

    pfn: int
    writable: bool
    dirty: bool = False


class Tlbs:
    """A TLB for each CPU, the entry used longest ago evicted first.

    Parameters
    ----------
    cpus : int
    size : int, optional
        Entries of each.
    """

    def __init__(self, cpus: int, size: int | None) -> None:
        self.entries: list[OrderedDict[int, TlbEntry]] = [
            OrderedDict() for _cpu in range(cpus)
        ]
        self.size = size
        # Ranges of vpns whose flush is deferred, or None if flushes are not deferred.
        self.owed: list[tuple[int, int]] | None = None

    @classmethod
    def of(cls, cpus: int, size: int | None) -> Self | None:
        """Return the TLBs of an address space, None for one CPU; ValueError."""
        if not 1 <= whole("cpus", cpus) <= MOST_CPUS:
            raise ValueError(f"cpus: {cpus} is not from 1 to {MOST_CPUS}")
        if size is not None and (cpus == 1 or whole("tlb", size) < 1):
            raise ValueError(f"tlb: {size} entries for {cpus} CPUs")
        return cls(cpus, size) if cpus > 1 else None

    def empty(self) -> "Tlbs":
        """Return as many TLBs of that size without entries."""
        return Tlbs(len(self.entries), self.size)

    def hit(self, mm: Mm, cpu: int, vpn: int, *, write: bool) -> bool:
        """Access a page through a CPU's entry; return False if it has none that may."""
        entry = self._valid(mm, cpu, vpn)
        if entry is None or (write and not entry.writable):
            return False
        self._use(mm, cpu, vpn, entry, write)
        return True

    def fill(self, mm: Mm, cpu: int, vpn: int, *, write: bool) -> None:
        """Access a page that a fault has just brought: walk the tables, add an entry."""
        found = _walk(mm, vpn)
        if found is not None:
            pfn, writable, _protected = found
            self._use(mm, cpu, vpn, TlbEntry(pfn, writable), write)

    def flush(self, mm: Mm) -> None:
        """Remove the entries that say more than their PTE, but for deferred flushes."""
        for cpu, entries in enumerate(self.entries):
            for vpn in list(entries):
                self._valid(mm, cpu, vpn)

    @contextmanager
    def deferred(self, mm: Mm) -> Iterator[None]:
        """Defer flushes; those of an outer block end with that block."""
        outer = self.owed
        if outer is None:
            self.flush(mm)
            self.owed = []
        try:
            yield
        finally:
            self.owed = outer
            self.flush(mm)

    def protected(self, first: int, stop: int) -> None:
        """Note that the flush of a range is deferred."""
        if self.owed is not None:
            self.owed.append((first, stop))

    @staticmethod
    def writes(mm: Mm, vpn: int) -> int:
        """Return how many writes reached the page that a vpn maps."""
        found = _walk(mm, vpn)
        return int(mm.physical.pages["writes"][found[0]]) if found else 0

    def _valid(self, mm: Mm, cpu: int, vpn: int) -> TlbEntry | None:
        """Return a CPU's entry, removed if it should have been flushed."""
        entry = self.entries[cpu].get(vpn)
        if entry is None:
            return None
        found = _walk(mm, vpn)
        if found is not None:
            pfn, writable, protected = found
            late = protected and any(low <= vpn < high for low, high in self.owed or ())
            if pfn == entry.pfn and (writable or late or not entry.writable):
                return entry
        del self.entries[cpu][vpn]
        return None

    def _use(self, mm: Mm, cpu: int, vpn: int, entry: TlbEntry, write: bool) -> None:
        entries = self.entries[cpu]
        entries[vpn] = entry._replace(dirty=entry.dirty or write)
        entries.move_to_end(vpn)
        if self.size is not None and len(entries) > self.size:
            entries.popitem(last=False)
        if write:
            mm.physical.pages["writes"][entry.pfn] += 1
            mm.physical.write(entry.pfn)
            mm.keep(entry.pfn)


def _walk(mm: Mm, vpn: int) -> tuple[int, bool, bool] | None:
    """Return a vpn's pfn, whether it may be written, and whether it might but for uffd-wp.

    A PTE's write bit is not kept in the model, so it follows from the VMA, the word and
    who has the page. None is returned if there is no page.
    """
    vma, base = mm.vmas.find(vpn), mm.leaf_of(vpn)
    if vma is None:
        return None
    if base in mm.leaves:
        leaf = mm.leaves[base]
        pfn, word = leaf.pfn + vpn - base, leaf.word
    else:
        entries, _absent = mm.entries_at(np.array([vpn], np.uint64))
        if not len(entries.vpn) or not entries.present[0]:
            return None
        pfn, (_pte, word) = int(entries.value[0]), mm.bare.snapshot(vpn)
    page = mm.physical.pages[pfn]
    # Anonymous and ours alone. Writes to shared memory always take the fault's way.
    own = bool(page["mapcount"] == 1 and page["exclusive"])
    # A write to a page that is not soft-dirty has to fault.
    dirty = word & mm.soft_dirty == mm.soft_dirty
    may = pfn >= FIRST_PFN and bool(vma.prot & Prot.W) and own and dirty
    protected = bool(vma.wp and word & mm.uffd_wp)
    return pfn, may and not protected, may and protected
