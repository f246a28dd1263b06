"""/proc/PID/pagemap: its words, and the walk of the ioctl PAGEMAP_SCAN.

Linux fs/proc/task_mmu.c. `regions` has what the walk puts out.
"""

import errno
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from extmeta.arrays import U64
from extmeta.linux import protect
from extmeta.linux.entries import Refused, runs
from extmeta.linux.mm import Mm
from extmeta.linux.pagemap_scan import CHECK_WPASYNC, WP_MATCHING, PageIs
from extmeta.linux.pagewords import EXCLUSIVE, FILE, PRESENT, SOFT_DIRTY, UFFD_WP
from extmeta.linux.ptes import raw
from extmeta.linux.regions import Regions
from extmeta.linux.vma import Vma

# PTE tables that pagemap and PAGEMAP_SCAN look at together, at most. With 16, 32 and 64
# a scan with WP_MATCHING after 50,000 random writes to 8 GiB took 14.4, 12.3 and 15.7
# ns a page (time of `pagemap_scan`, `linked`).
TABLES_TOGETHER = 32

REGION = np.dtype([("start", "<u8"), ("end", "<u8"), ("categories", "<u8")])


# -- the words --------------------------------------------------------------


def pagemap(mm: Mm, first: int, stop: int, *, pfns: bool) -> U64:
    """Return the words of [first, stop): pte_to_pagemap_entry().

    Without `pfns` frames and swap slots are 0, as without CAP_SYS_ADMIN. The type of
    a marker is always shown.
    """
    out = np.zeros(stop - first, np.uint64)
    for vma, low, high in mm.vmas.parts(first, stop):
        for at, end in _adjoining(mm, mm.tables_within(low, high)):
            part = slice(max(low, at), min(high, end))
            _write_words(mm, part, pfns, out[part.start - first : part.stop - first])
        for base in mm.leaves_within(low, high):
            start, end = max(low, base), min(high, base + mm.pages_per_leaf)
            leaf = _leaf_words(mm, base, pfns)
            out[start - first : end - first] = leaf[start - base : end - base]
        if vma.soft_dirty:
            out[low - first : high - first] |= np.uint64(SOFT_DIRTY)
    return out


def pagemap_of(mm: Mm, vpns: U64, *, pfns: bool) -> U64:
    """Return the words of vpns in any order, as `pagemap`."""
    out = np.empty(len(vpns), np.uint64)
    _write_words(mm, vpns, pfns, out)
    for base in mm.leaves_of(vpns):
        here = (vpns >= base) & (vpns < base + mm.pages_per_leaf)
        out[here] = _leaf_words(mm, base, pfns)[vpns[here] - np.uint64(base)]
    dirty = [(vma.start, vma.stop) for vma in mm.vmas if vma.soft_dirty]
    # An odd number of bounds up to a vpn: it is in one of the VMAs.
    bounds = np.array(dirty, np.uint64).ravel()
    inside = np.searchsorted(bounds, vpns, "right") % 2 == 1
    out[inside] |= np.uint64(SOFT_DIRTY)
    return out


def _write_words(mm: Mm, vpns: U64 | slice, pfns: bool, out: U64) -> None:
    """Write the words of PTEs."""
    words = mm.words(vpns, mm.uffd_wp | mm.soft_dirty)
    mm.ptes.pagemap(raw(mm.bare, vpns), words, mm.physical.pages, pfns, out)


def _adjoining(mm: Mm, bases: list[int]) -> Iterator[tuple[int, int]]:
    """Yield tables that adjoin, at most TABLES_TOGETHER, as ranges of vpns."""
    size = mm.pages_per_leaf
    for first, stop in runs(np.array(bases, np.uint64) // np.uint64(size)):
        for at in range(first, stop, TABLES_TOGETHER):
            yield at * size, min(stop, at + TABLES_TOGETHER) * size


def _leaf_words(mm: Mm, base: int, pfns: bool) -> U64:
    """Return the words of a huge page: pagemap_pmd_range()."""
    leaf = mm.leaves[base]
    numbers = mm.leaf_pfns(leaf)
    word = PRESENT
    word |= UFFD_WP if leaf.word & mm.uffd_wp else 0
    word |= SOFT_DIRTY if leaf.word & mm.soft_dirty else 0
    words = numbers if pfns else np.zeros(len(numbers), np.uint64)
    if leaf.zero:
        return words | np.uint64(word | FILE)
    exclusive = mm.physical.mapcount[numbers] == 1
    if mm.release >= (6, 15):
        # The kernel calls __folio_page_mapped_exclusively() for the first page only.
        exclusive[:] = exclusive[0]
    return words | np.uint64(word) | np.where(exclusive, np.uint64(EXCLUSIVE), 0)


# -- PAGEMAP_SCAN -----------------------------------------------------------


class Scan:
    """The walk of PAGEMAP_SCAN, with vpns as addresses: do_pagemap_scan().

    Parameters
    ----------
    mm : Mm
    flags : int
        `WP_MATCHING`, `CHECK_WPASYNC`.
    **arg : int
        The masks and limits that `Regions` takes.
    """

    def __init__(self, mm: Mm, flags: int, **arg: int) -> None:
        self.mm = mm
        self.regions = Regions(**arg)
        self._protects = bool(flags & WP_MATCHING)
        self._checks = bool(flags & CHECK_WPASYNC)
        self._inverted = arg["category_inverted"]
        self._required = arg["category_mask"]
        self._wanted = arg["category_mask"] | arg["category_anyof_mask"]
        self._wanted |= arg["return_mask"]
        # PTE tables to look at next. Few at first: the output may be full soon.
        self._together = 1
        self._bases: list[int] = []
        self._listed = False
        self._bits = mm.soft_dirty if self._wanted & PageIs.SOFT_DIRTY else 0
        if self._protects or self._wanted & PageIs.WRITTEN:
            self._bits |= mm.uffd_wp

    def run(self, first: int, stop: int) -> U64:
        """Walk [first, stop) and return the regions, (n, 3)."""
        self._range = first, stop
        at = first
        while at < stop:
            full = self._walk(at, stop)
            self.regions.flush()
            if not full or self.regions.over:
                break
            walked = self.regions.walk_end
            at = stop if walked is None else walked
        return self.regions.result()

    def _list(self) -> None:
        """List the tables and leaves of the range, unless the last list still holds."""
        if not self._listed:
            tables = self.mm.tables_within(*self._range)
            self._bases = sorted({*tables, *self.mm.leaves_within(*self._range)})
            self._listed = True

    # -- the walk: each method with -> bool returns whether the output is full, -ENOSPC

    def _walk(self, first: int, stop: int) -> bool:
        for vma, low, high in self.mm.vmas.parts(first, stop):
            category = self._test(vma)
            if category is not None and self._walk_vma(vma, category, low, high):
                return True
        return False

    def _test(self, vma: Vma) -> int | None:
        """Return a VMA's categories; None: skip it. pagemap_scan_test_walk()"""
        allowed = vma.wp and vma.asynchronous
        if not allowed:
            if self._checks:
                raise OSError(
                    errno.EPERM, f"the VMA at vpn {vma.start:#x} is not WP_ASYNC"
                )
            if self._protects:
                return None
        category = PageIs.WPALLOWED if allowed else 0
        category |= PageIs.SOFT_DIRTY if vma.soft_dirty else 0
        required = self._required & PageIs.WPALLOWED
        if (category ^ self._inverted) & required != required:
            return None
        return int(category)

    def _walk_vma(self, vma: Vma, category: int, first: int, stop: int) -> bool:
        mm, size = self.mm, self.mm.pages_per_leaf
        self._list()
        at = first
        while at < stop:
            i = bisect_left(self._bases, mm.leaf_of(at))
            base = self._bases[i] if i < len(self._bases) else stop
            if at < base:
                low = min(base, stop)
                if self._hole(vma, category, at, low):
                    return True
                at = low
                continue
            full, nr = None, 1
            if base in mm.leaves:
                full = self._leaf(category, at, min(stop, base + size))
            else:
                while nr < self._together and self._is_table(i + nr, base + nr * size):
                    nr += 1
            high = min(stop, base + nr * size)
            if full is None:
                full = self._tables(category, at, high)
                # Fewer if the output was full, since the walk will read them again.
                nr = self._together // 2 if full else self._together * 2
                self._together = min(max(1, nr), TABLES_TOGETHER)
            if full:
                return True
            at = high
        return False

    def _is_table(self, i: int, base: int) -> bool:
        """Tell whether the i-th listed is a table that starts at ``base``."""
        return self._bases[i : i + 1] == [base] and base not in self.mm.leaves

    def _hole(self, vma: Vma, category: int, first: int, stop: int) -> bool:
        """Scan pages without a table: pagemap_scan_pte_hole()."""
        if vma.wp:
            category |= PageIs.WRITTEN
        if not self.regions.matches(category):
            return False
        end, full = self.regions.add(category, first, stop)
        if first < end and self._protects:
            protect.change(self.mm, vma, first, end, on=True)
            # It made tables. This walk of the VMA is past them.
            self._listed = False
        return full

    def _leaf(self, category: int, first: int, stop: int) -> bool | None:
        """Scan a huge page; None if it was split. pagemap_scan_thp_entry()"""
        mm = self.mm
        base = mm.leaf_of(first)
        leaf = mm.leaves[base]
        category |= PageIs.HUGE | PageIs.PRESENT
        category |= PageIs.WRITTEN if not leaf.word & mm.uffd_wp else 0
        category |= PageIs.PFNZERO if leaf.zero else 0
        category |= PageIs.SOFT_DIRTY if leaf.word & mm.soft_dirty else 0
        if not self.regions.matches(category):
            return False
        end, full = self.regions.add(category, first, stop)
        if first == end:
            return full
        if not self._protects or not category & PageIs.WRITTEN:
            return full
        if end - first < mm.pages_per_leaf:
            mm.split_leaf(base)
            self.regions.back_out()
            return None
        leaf.word |= mm.uffd_wp
        return full

    def _tables(self, category: int, first: int, stop: int) -> bool:
        """Scan adjoining PTE tables: pagemap_scan_pmd_entry() on each."""
        mm, regions = self.mm, self.regions
        ptes = raw(mm.bare, slice(first, stop))
        words = mm.words(slice(first, stop), self._bits)
        pages = mm.physical.pages
        found = mm.ptes.categories(ptes, words, pages, category, self._wanted)
        end, full = stop, False
        if regions.wants_output or not self._protects:
            end, full = regions.add_pages(first, found)
        if self._protects:
            matching = regions.wants_output
            vpns = regions.written(first, found, end, matching)
            self._protect(vpns, vpns[ptes[vpns - np.uint64(first)] == mm.none])
        return full

    def _protect(self, vpns: U64, absent: U64) -> None:
        """Protect pages, some of which are absent: make_uffd_wp_pte()."""
        try:
            self._protect_at_once(vpns, absent)
        except (MemoryError, Refused):
            # Table by table: if one is refused, those before stay changed.
            for base in self.mm.bases_of(vpns).tolist():
                stop = base + self.mm.pages_per_leaf
                parts = [
                    some[slice(*np.searchsorted(some, (base, stop)))]
                    for some in (vpns, absent)
                ]
                self._protect_at_once(*parts)

    def _protect_at_once(self, vpns: U64, absent: U64) -> None:
        if len(vpns):
            self.mm.change_words(vpns, 0, self.mm.uffd_wp)
            self.mm.mark(absent)
