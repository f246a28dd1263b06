"""One address space's VMAs and page table, and the steps that operations share.

The words of the PageTable have the bits `uffd_wp` and `soft_dirty`, also those of swap
entries and PTE markers. The PageTable has no word for a huge page, which a leaf above
the PTE tables maps: `leaves` has it, as the kernel has these bits in the pmd.
The write bit of an entry is set by its VMA's protection when it is mapped, and not
kept up to date: words and mapcounts decide what a write does.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from extmeta.arch import Arch
from extmeta.arrays import U64, Bools
from extmeta.encodings.compact import Compact
from extmeta.linux.entries import Entries, Leaf, Refused
from extmeta.linux.physical import FIRST_PFN, ZERO_PFN, Physical
from extmeta.linux.ptes import Ptes, raw
from extmeta.linux.userfault import Userfaultfd
from extmeta.linux.vma import Vma, Vmas
from extmeta.pagetable import PageTable

# include/linux/swapops.h: a swap entry of this type is a PTE marker; this offset
# says uffd-wp.
MARKER_TYPE = 31
MARKER_UFFD_WP = 1


class Mm:
    """An address space: struct mm_struct.

    Parameters
    ----------
    table : PageTable
    arch : Arch
    physical : Physical
    release : (int, int)
        The kernel's version.
    thp : str
        "always", "madvise" or "never".
    thp_swap : bool
        Huge pages are swapped out whole.

    Attributes
    ----------
    bare : PageTable
        The same; PTEs are read from it. A workload's `table` records its calls.
    leaves : dict of int to Leaf
        By first vpn.
    tables : set of int
        First vpns of the PTE tables that the kernel would have. The model frees
        a table with its last entry, the kernel mostly when no VMA is left there, and
        PAGEMAP_SCAN tells the difference.
    """

    def __init__(
        self,
        table: PageTable,
        arch: Arch,
        physical: Physical,
        release: tuple[int, int],
        thp: str,
        thp_swap: bool,
    ) -> None:
        self.table = table
        self.bare: PageTable = getattr(table, "bare", table)
        self.arch = arch
        self.physical = physical
        self.release = release
        self.thp = thp
        self.thp_swap = thp_swap
        self.vmas = Vmas(release)
        # Events to deliver at the end of the call: userfaultfd, name, vpns.
        self.notes: list[tuple[Userfaultfd, str, tuple[int, ...]]] = []
        # Delivers an event; an AddressSpace sets it.
        self.tell: Callable[[Userfaultfd, str, tuple[int, ...]], None]
        physical.spaces.add(self)
        self.leaves: dict[int, Leaf] = {}
        # By pfn: this address space's PTE has been clean since MADV_FREE.
        self.clean = np.zeros(0, np.bool_)
        self.tables: set[int] = set()
        fields = table.fields
        self.uffd_wp = fields.mask("uffd_wp") if "uffd_wp" in fields else 0
        self.soft_dirty = fields.mask("soft_dirty") if "soft_dirty" in fields else 0
        # The other fields, by lane. A PTE with one of these bits has a flag.
        others = (1 << fields.bits) - 1 & ~(self.uffd_wp | self.soft_dirty)
        lanes = range(0, 64 * table.encoding.lanes, 64)
        self.others = np.array([others >> at & 2**64 - 1 for at in lanes], np.uint64)
        # Whether MADV_COLLAPSE joins PTEs that have a flag.
        self.collapses_words = True
        # The encoding, if it has one bit for both trackers, by VMA: see `mux`.
        self.one_bit: Compact | None = None
        if isinstance(table.encoding, Compact):
            groups = map(set, table.encoding.per_vma)
            if any({"uffd_wp", "soft_dirty"} <= group for group in groups):
                self.one_bit = table.encoding
        self.pages_per_leaf = arch.ptrs_per_pte
        self._base_mask = ~np.uint64(arch.ptrs_per_pte - 1)
        self.none = np.uint64(arch.none)
        self.marker = MARKER_TYPE << arch.swap.offset_bits | MARKER_UFFD_WP
        self.ptes = Ptes(arch, self.uffd_wp, self.soft_dirty, self.marker)

    # -- entries ------------------------------------------------------------

    def leaf_of(self, vpn: int) -> int:
        """Return the first vpn of the huge page, or PTE table, that has ``vpn``."""
        return vpn & -self.pages_per_leaf

    def regions(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Split [first, stop) by PTE table: yield each first vpn and the part."""
        at = first
        while at < stop:
            base = self.leaf_of(at)
            end = min(stop, base + self.pages_per_leaf)
            yield base, at, end
            at = end

    def entries(self, first: int, stop: int) -> Entries:
        """Return the PTEs of [first, stop) that are not none; no leaves."""
        return self.entries_at(self.bare.vpns(slice(first, stop)))[0]

    def entries_at(self, vpns: U64) -> tuple[Entries, U64]:
        """Return the PTEs of vpns that are not none, and the vpns of the others."""
        ptes = raw(self.bare, vpns)
        none = ptes == self.none
        if not none.any():
            return Entries(vpns, *self.ptes.decoded(ptes)), vpns[:0]
        held = ~none
        return Entries(vpns[held], *self.ptes.decoded(ptes[held])), vpns[none]

    def words(self, vpns: Any, bits: int) -> U64:
        """Return the words of vpns, (n, lanes); none at all if ``bits`` is 0."""
        if not bits:
            return np.empty((0, 1), np.uint64)
        words = np.asarray(self.table.load(vpns))
        return words.reshape(len(words), self.table.encoding.lanes)

    def pages(self, first: int, stop: int) -> Entries:
        """Return the PTEs of [first, stop) that map a page other than that of zeros."""
        entries = self.entries(first, stop)
        return entries.take(entries.present & (entries.value >= FIRST_PFN))

    def marked(self, entries: Entries) -> Bools:
        """Tell which PTEs are uffd-wp markers."""
        return np.asarray(~entries.present & (entries.value == self.marker))

    def clear_markers(self, entries: Entries) -> Entries:
        """Clear PTEs that are markers; return the others: pte_marker_clear()."""
        marked = self.marked(entries)
        self.clear(entries.vpn[marked])
        return entries.take(~marked)

    def shared_folio(self, head: int, here: int) -> bool:
        """Tell whether another process maps a page of a huge page mapped by PTEs here.

        folio_maybe_mapped_shared() counts by process since 6.15. Before,
        folio_likely_mapped_shared() looked at the first page. `here` is the number of
        pages known to be mapped by this process.
        """
        counts = self.physical.mapcount[self.physical.folio(head, self.pages_per_leaf)]
        total = int(counts.sum())
        if self.release < (6, 15):
            return total > self.pages_per_leaf or int(self.physical.mapcount[head]) > 1
        if total == here or (counts > 1).any():
            return total != here
        heads = self.physical.heads(self.pages(0, self.arch.nr_vpns).value)
        return total > int((heads == head).sum())

    def absent(self, first: int, stop: int) -> U64:
        """Return the vpns of [first, stop) with neither PTE nor leaf."""
        free = np.ones(stop - first, np.bool_)
        free[self.entries(first, stop).vpn - np.uint64(first)] = False
        for base in self.leaves_within(first, stop):
            free[max(base - first, 0) : base + self.pages_per_leaf - first] = False
        return np.flatnonzero(free).astype(np.uint64) + np.uint64(first)

    def leaves_within(self, first: int, stop: int) -> list[int]:
        """Return the first vpns of the leaves that have a page of [first, stop)."""
        return self._within(self.leaves, first, stop)

    def tables_within(self, first: int, stop: int) -> list[int]:
        """Return the first vpns of the PTE tables that have a page of [first, stop)."""
        return self._within(self.tables, first, stop)

    def _within(self, there: Collection[int], first: int, stop: int) -> list[int]:
        if first >= stop:
            return []
        bases = range(self.leaf_of(first), stop, self.pages_per_leaf)
        if len(bases) < len(there):
            return [b for b in bases if b in there]
        return sorted(b for b in there if bases.start <= b < stop)

    def bases_of(self, vpns: U64) -> U64:
        """Return the first vpns of the huge pages, or PTE tables, that have ``vpns``."""
        bases = vpns & self._base_mask
        # Most follow one of the same table, and np.unique() sorts.
        return np.unique(bases[np.flatnonzero(np.diff(bases, prepend=~bases[:1]))])

    def leaves_of(self, vpns: U64) -> list[int]:
        """Return the first vpns of the leaves that have a page of ``vpns``."""
        if not self.leaves:
            return []
        return [b for b in self.bases_of(vpns).tolist() if b in self.leaves]

    def outside(self, vpns: U64, leaves: list[int]) -> U64:
        """Return those of ``vpns`` that none of the leaves has."""
        if not leaves:
            return vpns
        return vpns[~np.isin(vpns & self._base_mask, np.array(leaves, np.uint64))]

    def has(self, field: str, vpns: U64) -> Bools:
        """Tell which vpns have `uffd_wp` or `soft_dirty` set."""
        if field not in self.table.fields or not len(vpns):
            return np.zeros(len(vpns), np.bool_)
        return np.asarray(self.table.load(vpns, field) != 0)

    def flagged(self, vpns: U64) -> Bools:
        """Tell which vpns have a word: a bit of a field that is not a tracker's."""
        if not self.others.any() or not len(vpns):
            return np.zeros(len(vpns), np.bool_)
        return np.asarray((self.words(vpns, -1) & self.others).any(axis=1))

    # -- MADV_FREE -------------------------------------------------------------

    def free_lazily(self, pfns: U64) -> None:
        """Let reclaim drop pages, unless they are written before."""
        if len(missing := self.physical.mapcount[len(self.clean) :]):
            self.clean = np.append(self.clean, np.zeros(len(missing), np.bool_))
        self.clean[self.physical.free_lazily(pfns)] = True

    def keep(self, pfns: U64 | int) -> None:
        """Note that PTEs are dirty: reclaim must keep the content of the pages."""
        if len(self.clean):
            known = np.atleast_1d(pfns)
            self.clean[known[known < len(self.clean)]] = False

    def droppable(self, pfns: U64) -> Bools:
        """Tell which pages, mapped only here, reclaim drops instead of swapping out."""
        found = self.physical.lazy(pfns)
        known = pfns < len(self.clean)
        found[~known] = False
        found[known] &= self.clean[pfns[known]]
        return found

    # -- changing entries ---------------------------------------------------

    def refusable(self, operation: Callable[..., None], *args: Any) -> None:
        """Call an operation; a ValueError of the encoding becomes `Refused`."""
        try:
            operation(*args)
        except ValueError as refused:
            raise Refused(str(refused)) from refused

    def change_words(self, vpns: Any, clear: int = 0, set_: int = 0) -> None:
        """Change bits in the words of mapped PTEs; `set_` only within one VMA."""
        if set_ and self.one_bit is not None:
            at = vpns.start if isinstance(vpns, slice) else np.append(vpns, 0)[0]
            set_ = self.settable(int(at), set_)
        if clear or set_:
            self.refusable(self.table.update, vpns, clear, set_)

    def settable(self, vpn: int, bits: int) -> int:
        """Return ``bits``, without soft_dirty if uffd_wp has the shared bit there."""
        if self.one_bit is not None and "uffd_wp" in self.one_bit.chosen(vpn):
            return bits & ~self.soft_dirty
        return bits

    def map(self, vma: Vma, vpns: U64, pfns: U64) -> None:
        """Map pages at free vpns; the zero page is not counted."""
        if not len(vpns):
            return
        self.table.map(vpns, pfns, bool(vma.prot & vma.prot.W))
        self.physical.map(pfns[pfns >= FIRST_PFN])
        self.have_tables(vpns)

    def have_tables(self, vpns: U64) -> None:
        """Note that the PTE tables of some vpns exist."""
        self.tables.update(self.bases_of(vpns).tolist())

    def mark(self, vpns: U64) -> None:
        """Put uffd-wp markers at free vpns: make_pte_marker()."""
        if not len(vpns):
            return
        self.table.map(vpns, np.zeros(len(vpns), np.uint64), False)
        try:
            self.refusable(self.table.swap_out, vpns, self.marker)
            self.change_words(vpns, 0, self.uffd_wp)
        except Exception:
            self.clear(vpns)
            raise
        self.have_tables(vpns)

    def clear(self, vpns: U64) -> None:
        """Clear PTEs without counting: pte_clear()."""
        if len(vpns):
            self.table.unmap(vpns)

    def replace(self, vma: Vma, vpns: U64, pfns: U64) -> None:
        """Map other pages by these PTEs; the words stay."""
        if not len(vpns):
            return
        words = self.table.load(vpns)
        self.clear(vpns)
        self.map(vma, vpns, pfns)
        self.refusable(self.table.store, vpns, words)

    def forget(self, entries: Entries) -> None:
        """Count one user less of each page or slot that PTEs have."""
        self.physical.unmap(entries.value[entries.present])
        slots = entries.value[~entries.present]
        self.physical.drop_slots(slots[slots != self.marker])

    def drop(self, entries: Entries) -> None:
        """Clear PTEs and count one user less of their pages and slots."""
        self.forget(entries)
        self.clear(entries.vpn)

    def zap(
        self, vma: Vma, first: int, stop: int, *, keep_markers: bool = False
    ) -> None:
        """Unmap the pages of a VMA's [first, stop): zap_pte_range().

        With `keep_markers`, a protected page that is not anonymous leaves a marker:
        zap_install_uffd_wp_if_needed().
        """
        self.split_at(first, stop)
        for base in self.leaves_within(first, stop):
            # zap_huge_pmd(): the deposited table goes too.
            self.physical.unmap(self.leaf_pfns(self.take_leaf(base)))
        entries = self.entries(first, stop)
        stay = np.empty(0, np.uint64)
        if keep_markers and not vma.anonymous:
            # A marker stays even if no userfaultfd is left: zap_drop_markers().
            marked = self.marked(entries)
            kept = self.has("uffd_wp", entries.vpn) if vma.wp else marked
            stay = entries.vpn[kept]
        self.forget(entries)
        self.table.unmap(slice(first, stop))
        self.mark(stay)

    # -- leaves -------------------------------------------------------------

    def put_leaf(self, base: int, leaf: Leaf) -> None:
        """Map a huge page at a free place; the caller counts it."""
        self.table.map_huge(base, leaf.pfn, deposit=True)
        self.leaves[base] = leaf
        self.tables.discard(base)

    def take_leaf(self, base: int) -> Leaf:
        """Unmap a leaf without counting."""
        self.table.unmap(slice(base, base + self.pages_per_leaf))
        return self.leaves.pop(base)

    def leaf_pfns(self, leaf: Leaf) -> U64:
        """Return the pfns that a leaf maps."""
        return np.arange(leaf.pfn, leaf.pfn + self.pages_per_leaf, dtype=np.uint64)

    def split_leaf(self, base: int, *, frozen: bool = False) -> None:
        """Replace a leaf by 512 PTEs with its word: __split_huge_pmd().

        The PTEs of a dirty leaf get pte_mkdirty(), which on x86 sets soft-dirty:
        all pages become soft-dirty, even if the leaf was not. If the page itself is
        split next (`frozen`), they don't. The huge zero page's PTEs lose soft-dirty
        (__split_huge_zero_page_pmd()).
        """
        leaf = self.leaves[base]
        pfns, word = self.leaf_pfns(leaf), leaf.word
        if leaf.zero:
            pfns = np.full(self.pages_per_leaf, ZERO_PFN, np.uint64)
            word &= ~self.soft_dirty
        elif not frozen:
            word |= self.settable(base, self.soft_dirty)
        # Not writable. The mapcounts stay.
        self.refusable(self.table.split_huge, base, word, pfns, False)
        del self.leaves[base]
        self.tables.add(base)

    def split_at(self, first: int, stop: int) -> None:
        """Split the leaves that an edge of [first, stop) cuts."""
        for edge in (first, stop):
            base = self.leaf_of(edge)
            if base != edge and base in self.leaves:
                self.split_leaf(base)

    # -- VMAs ---------------------------------------------------------------

    def modify(self, vma: Vma, first: int, stop: int, **changes: Any) -> Vma:
        """Change a part of a VMA: `Vmas.modify`; an edge splits the leaf it cuts.

        Linux mm/huge_memory.c vma_adjust_trans_huge().
        """
        self.split_at(first, stop)
        return self.vmas.modify(vma, first, stop, **changes)

    def unmap(self, first: int, stop: int) -> None:
        """Remove the VMAs of [first, stop) and their pages: do_munmap()."""
        gone = self.vmas.cut(first, stop)
        for vma in {vma.uffd: vma for vma in gone}.values():
            self.note(vma, "UNMAP", first, stop)
        for vma in gone:
            self.zap(vma, vma.start, vma.stop)
        # free_pgtables()
        size = self.pages_per_leaf
        low, high = self.leaf_of(first), self.leaf_of(stop - 1)
        for base in [b for b in self.tables if low <= b <= high]:
            if not self.vmas.within(base, base + size):
                self.tables.discard(base)

    # -- events -------------------------------------------------------------

    def note(self, vma: Vma, kind: str, *vpns: int) -> None:
        """Note an event for a VMA's userfaultfd if it has that feature."""
        if vma.uffd is not None and f"EVENT_{kind}" in vma.uffd.features:
            self.notes.append((vma.uffd, kind, vpns))

    def tell_now(self, vma: Vma, kind: str, *vpns: int) -> None:
        """Deliver an event at once, before the call goes on."""
        if vma.uffd is not None and f"EVENT_{kind}" in vma.uffd.features:
            self.tell(vma.uffd, kind, vpns)

    def tell_notes(self) -> None:
        """Deliver the events of a call: REMAP, then UNMAP.

        UNMAP of the range that mremap() moved to comes first: uf_unmap_early.
        """
        notes, self.notes = self.notes, []
        moved = {vpns[2] for _uffd, kind, vpns in notes if kind == "REMAP"}
        notes.sort(key=lambda note: (note[1] == "UNMAP") - 2 * (note[2][0] in moved))
        for note in notes:
            self.tell(*note)

    def disown(self, first: int, stop: int) -> None:
        """Drop the markers and clear uffd_wp."""
        self.clear_markers(self.entries(first, stop))
        self.change_words(slice(first, stop), self.uffd_wp)
        for base in self.leaves_within(first, stop):
            self.leaves[base].word &= ~self.uffd_wp
