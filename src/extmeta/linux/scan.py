"""/proc/PID/pagemap: its words, and the ioctl PAGEMAP_SCAN.

Linux fs/proc/task_mmu.c. The kernel's buffer of 512 regions is modelled too, because
walk_end depends on it.
"""

import errno
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools
from extmeta.linux import protect
from extmeta.linux.mm import Mm
from extmeta.linux.pagemap_scan import CHECK_WPASYNC, VEC_LEN, WP_MATCHING, PageIs
from extmeta.linux.pagewords import (
    EXCLUSIVE,
    FILE,
    PRESENT,
    SOFT_DIRTY,
    SWAP_OFFSET_SHIFT,
    SWAPPED,
    UFFD_WP,
)
from extmeta.linux.physical import FIRST_PFN, ZERO_PFN
from extmeta.linux.vma import Vma

# PTE tables that pagemap and PAGEMAP_SCAN look at together; 16 and 256 were slower
# (pagemap_scan of PRESENT over 1 GiB in one region).
TABLES_TOGETHER = 64

REGION = np.dtype([("start", "<u8"), ("end", "<u8"), ("categories", "<u8")])


def _where(which: npt.ArrayLike, bits: int) -> U64:
    """Return ``bits`` at places that are set, else 0."""
    return np.where(which, np.uint64(bits), np.uint64(0))


# -- the words --------------------------------------------------------------


def pagemap(mm: Mm, first: int, stop: int, *, pfns: bool) -> U64:
    """Return the words of [first, stop): pte_to_pagemap_entry().

    Without `pfns` frames and swap slots are 0, as without CAP_SYS_ADMIN. The type of
    a marker is always shown.
    """
    words = np.zeros(stop - first, np.uint64)
    step = TABLES_TOGETHER * mm.pages_per_leaf
    pieces = (
        (vma, at, min(high, at + step))
        for vma, low, high in mm.vmas.parts(first, stop)
        for at in range(low, high, step)
    )
    for vma, low, high in pieces:
        entries = mm.entries(low, high)
        word = _where(entries.present, PRESENT) | _where(~entries.present, SWAPPED)
        word |= _where(mm.has("uffd_wp", entries.vpn), UFFD_WP)
        word |= _where(mm.has("soft_dirty", entries.vpn), SOFT_DIRTY)
        real = entries.present & (entries.value >= FIRST_PFN)
        pages = np.where(real, entries.value, np.uint64(0))
        word |= _where(real & mm.physical.file(pages), FILE)
        word |= _where(real & (mm.physical.mapcount[pages] == 1), EXCLUSIVE)
        numbers = np.where(entries.present, entries.value, _slots(mm, entries.value))
        word |= numbers * (np.uint64(pfns) | mm.marked(entries))
        words[entries.vpn - np.uint64(first)] = word
        for base in mm.leaves_within(low, high):
            a, b = max(low, base), min(high, base + mm.pages_per_leaf)
            leaf = _leaf_words(mm, base, pfns)
            words[a - first : b - first] = leaf[a - base : b - base]
        if vma.soft_dirty:
            words[low - first : high - first] |= np.uint64(SOFT_DIRTY)
    return words


def _slots(mm: Mm, slots: U64) -> U64:
    """Return swap slots in the format of the words: the type below the offset."""
    bits = mm.arch.swap.offset_bits
    offset = slots & np.uint64((1 << bits) - 1)
    return offset << np.uint64(SWAP_OFFSET_SHIFT) | slots >> np.uint64(bits)


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
    return words | np.uint64(word) | _where(exclusive, EXCLUSIVE)


# -- PAGEMAP_SCAN -----------------------------------------------------------


@dataclass
class Scan:
    """struct pm_scan_arg with vpns as addresses, and the state of the output.

    Attributes
    ----------
    vec_len : int
        Room for regions that is left. 0: no output is wanted.
    walk_end : int or None
        The vpn where the walk stopped because the output was full.
    """

    mm: Mm
    flags: int
    category_inverted: int
    category_mask: int
    category_anyof_mask: int
    return_mask: int
    max_pages: int
    vec_len: int
    walk_end: int | None = None

    def __post_init__(self) -> None:
        self.found_pages = 0
        self.wants_output = self.vec_len > 0
        self._regions: list[tuple[int, int, int]] = []
        self._buffer: list[tuple[int, int, int]] = []
        self._room = min(VEC_LEN, self.vec_len)
        # A region was backed out: the next one does not extend the last.
        self._apart = False

    def run(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """Walk [first, stop) and return the regions: do_pagemap_scan()."""
        at = first
        while at < stop:
            full = self._walk(at, stop)
            self._flush()
            if not full or not self.vec_len or self.found_pages == self.max_pages:
                break
            at = stop if self.walk_end is None else self.walk_end
        return self._regions

    def _flush(self) -> None:
        """Move the buffer to the result: pagemap_scan_flush_buffer()."""
        self._regions += self._buffer
        self.vec_len -= len(self._buffer)
        self._buffer = []
        self._room = min(self._room, self.vec_len)
        self._apart = False

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
            if self.flags & CHECK_WPASYNC:
                raise OSError(
                    errno.EPERM, f"the VMA at vpn {vma.start:#x} is not WP_ASYNC"
                )
            if self.flags & WP_MATCHING:
                return None
        category = PageIs.WPALLOWED if allowed else 0
        category |= PageIs.SOFT_DIRTY if vma.soft_dirty else 0
        required = self.category_mask & PageIs.WPALLOWED
        if (category ^ self.category_inverted) & required != required:
            return None
        return int(category)

    def _walk_vma(self, vma: Vma, category: int, first: int, stop: int) -> bool:
        mm, size = self.mm, self.mm.pages_per_leaf
        at = first
        bases = sorted(
            mm.tables_within(first, stop) | set(mm.leaves_within(first, stop))
        )
        i, together = 0, 1
        while i < len(bases):
            base, nr = bases[i], 1
            low = max(at, base)
            if at < low and self._hole(vma, category, at, low):
                return True
            if base in mm.leaves:
                high = min(stop, base + size)
                full = self._leaf(category, low, high)
            else:
                # Few at first: a walk that resumes after each full buffer reads little
                # again.
                while (
                    nr < together
                    and i + nr < len(bases)
                    and bases[i + nr] == base + nr * size
                    and bases[i + nr] not in mm.leaves
                ):
                    nr += 1
                together = min(2 * together, TABLES_TOGETHER)
                high, full = min(stop, base + nr * size), None
            if full is None:
                full = self._tables(category, low, high)
            if full:
                return True
            at = high
            i += nr
        return at < stop and self._hole(vma, category, at, stop)

    def _matches(self, categories: U64) -> Bools:
        """pagemap_scan_is_interesting_page()"""
        seen = categories ^ np.uint64(self.category_inverted)
        mask = np.uint64(self.category_mask)
        anyof = np.uint64(self.category_anyof_mask)
        return np.asarray((seen & mask == mask) & ((anyof == 0) | (seen & anyof != 0)))

    def _output(self, categories: int, first: int, stop: int) -> tuple[int, bool]:
        """Add a range; return the end of what fitted, and whether the output is full.

        pagemap_scan_output(), pagemap_scan_push_range()
        """
        if not self.wants_output:
            return stop, False
        categories &= self.return_mask
        full = self.found_pages + stop - first > self.max_pages
        if full:
            stop = first + self.max_pages - self.found_pages
        last = self._buffer[-1] if self._buffer and not self._apart else None
        if last and last[1] == first and last[2] == categories:
            self._buffer[-1] = (last[0], stop, categories)
        elif len(self._buffer) >= self._room:
            stop, full = first, True
        elif first < stop:
            self._buffer.append((first, stop, categories))
            self._apart = False
        self.found_pages += stop - first
        if full:
            self.walk_end = stop
        return stop, full

    def _hole(self, vma: Vma, category: int, first: int, stop: int) -> bool:
        """Scan pages without a table: pagemap_scan_pte_hole()."""
        if vma.wp:
            category |= PageIs.WRITTEN
        if not self._matches(np.array([category], np.uint64))[0]:
            return False
        end, full = self._output(category, first, stop)
        if first < end and self.flags & WP_MATCHING:
            protect.change(self.mm, vma, first, end, on=True)
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
        if not self._matches(np.array([category], np.uint64))[0]:
            return False
        before = self.found_pages, list(self._buffer)
        end, full = self._output(category, first, stop)
        if first == end:
            return full
        if not self.flags & WP_MATCHING or not category & PageIs.WRITTEN:
            return full
        if end - first < mm.pages_per_leaf:
            mm.split_leaf(base)
            # pagemap_scan_backout_range()
            self._apart = len(self._buffer) > len(before[1])
            self.found_pages, self._buffer = before
            return None
        leaf.word |= mm.uffd_wp
        return full

    def _tables(self, category: int, first: int, stop: int) -> bool:
        """Scan adjoining PTE tables: pagemap_scan_pmd_entry() on each."""
        categories = self._categories(category, first, stop)
        written = categories & np.uint64(PageIs.WRITTEN) != 0
        vpns = np.arange(first, stop, dtype=np.uint64)
        if self.flags & WP_MATCHING and not self.wants_output:
            self._protect(vpns[written])
            return False
        matches = self._matches(categories)
        shown = categories & np.uint64(self.return_mask)
        # Runs of matching pages with equal output.
        key = np.where(matches, shown + np.uint64(1), np.uint64(0))
        cuts = (np.flatnonzero(key[1:] != key[:-1]) + 1).tolist()
        full, end = False, first
        for low, high in zip([0, *cuts], [*cuts, len(key)], strict=True):
            if not key[low]:
                continue
            end, full = self._output(int(shown[low]), first + low, first + high)
            if full:
                break
        if self.flags & WP_MATCHING:
            upto = vpns < np.uint64(end if full else stop)
            self._protect(vpns[matches & written & upto])
        return full

    def _categories(self, category: int, first: int, stop: int) -> U64:
        """Return the categories of pages: pagemap_page_category()."""
        mm = self.mm
        found = np.full(stop - first, category | PageIs.WRITTEN, np.uint64)
        entries = mm.entries(first, stop)
        has = _where(entries.present, PageIs.PRESENT)
        has |= _where(~entries.present, PageIs.SWAPPED)
        has |= _where(~mm.has("uffd_wp", entries.vpn), PageIs.WRITTEN)
        zero = entries.present & (entries.value == ZERO_PFN)
        has |= _where(zero, PageIs.PFNZERO)
        real = entries.present & ~zero
        pages = np.where(real, entries.value, np.uint64(0))
        has |= _where(real & mm.physical.file(pages), PageIs.FILE)
        has |= _where(mm.has("soft_dirty", entries.vpn), PageIs.SOFT_DIRTY)
        found[entries.vpn - np.uint64(first)] = has | np.uint64(category)
        return found

    def _protect(self, vpns: U64) -> None:
        """Protect pages table by table: if one is refused, those before stay changed.

        make_uffd_wp_pte()
        """
        if not len(vpns):
            return
        tables = vpns & np.uint64(-self.mm.pages_per_leaf & (1 << 64) - 1)
        for part in np.split(vpns, np.flatnonzero(tables[1:] != tables[:-1]) + 1):
            first, stop = int(part[0]), int(part[-1]) + 1
            self.mm.change_words(part, 0, self.mm.uffd_wp)
            absent = self.mm.absent(first, stop)
            self.mm.mark(np.intersect1d(part, absent, assume_unique=True))
