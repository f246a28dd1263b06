"""Pages and swap slots, counted: what address spaces have in common.

A write to a page that is mapped more than once copies it. A page is free if no PTE
maps it and no swap entry needs it. pagemap calls a page exclusive that is mapped once
(Linux fs/proc/task_mmu.c, folio_precise_page_mapcount()).
"""

from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools
from extmeta.linux.pages import count, reset

# The page of zeros that reads of untouched anonymous memory map, and the huge one,
# which has 8192 pages at most (arm64 with 64K).
ZERO_PFN = 1
HUGE_ZERO_PFN = 8192
FIRST_PFN = 2 * HUGE_ZERO_PFN

# Slot 0 holds a swap area's header.
FIRST_SLOT = 1

PAGE = np.dtype(
    [
        ("mapcount", "u4"),  # PTEs that map it
        ("head", "u4"),  # the first pfn of its huge page, or 0
        ("slot", "u4"),  # the slot that the swap cache has it for, or 0
        ("file", "?"),  # of a backing, not anonymous
        ("written", "?"),  # something other than zeros was written to it
        ("exclusive", "?"),  # PG_anon_exclusive
        ("lazy", "?"),  # MADV_FREE was the last advice
        ("writes", "u4"),  # how many writes reached it, if TLBs are modelled
    ],
    align=True,
)
SLOT = np.dtype(
    [
        ("count", "i8"),  # swap entries that name it
        ("cached", "i8"),  # the page in the swap cache, or 0
        ("written", "?"),  # its content is not all zeros
        ("writes", "u4"),  # the page's
        ("exclusive", "?"),  # pte_swp_exclusive()
    ],
    align=True,
)


class Numbers:
    """A source of numbers that are reused after they are given back."""

    def __init__(self, first: int) -> None:
        self.top = first
        self._free: list[U64] = []

    def take(self, n: int) -> U64:
        """Return n numbers."""
        parts = []
        while n and self._free:
            part = self._free.pop()
            if len(part) > n:
                self._free.append(part[n:])
                part = part[:n]
            parts.append(part)
            n -= len(part)
        parts.append(np.arange(self.top, self.top + n, dtype=np.uint64))
        self.top += n
        return np.concatenate(parts)

    def take_run(self, n: int) -> int:
        """Return the first of n numbers in a row, a multiple of n."""
        first = -(-self.top // n) * n
        self.give(np.arange(self.top, first, dtype=np.uint64))
        self.top = first + n
        return first

    def give(self, numbers: U64) -> None:
        """Take numbers back."""
        if len(numbers):
            self._free.append(numbers)


def _grown(array: npt.NDArray[np.void], size: int) -> npt.NDArray[np.void]:
    """Return the array with at least ``size`` elements, the new ones 0."""
    if size <= len(array):
        return array
    grown = np.zeros(len(array) + size, array.dtype)
    # As bytes: numpy copies records field by field.
    grown.view(np.uint8)[: array.nbytes] = array.view(np.uint8)
    return grown


class Physical:
    """The machine's pages and swap slots.

    Attributes
    ----------
    spaces : WeakSet of Mm
        Those that may map pages.
    """

    def __init__(self) -> None:
        self.spaces: WeakSet[Any] = WeakSet()
        self._pfns = Numbers(FIRST_PFN)
        self._slots = Numbers(FIRST_SLOT)
        self._page = np.zeros(FIRST_PFN, PAGE)
        self._swap = np.zeros(FIRST_SLOT, SLOT)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "spaces": list(self.spaces)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, spaces=WeakSet(state["spaces"]))

    # -- pages --------------------------------------------------------------

    @property
    def pages(self) -> npt.NDArray[np.void]:
        """By pfn: the `PAGE` of each page."""
        return self._page

    @property
    def mapcount(self) -> npt.NDArray[np.uint32]:
        """By pfn: how many PTEs map the page. A leaf counts for each of its pages."""
        return self._page["mapcount"]

    def _reset(self, pfns: U64, file: bool) -> None:
        self._page = _grown(self._page, self._pfns.top)
        reset(self._page, pfns, file)

    def allocate(self, n: int, file: bool = False) -> U64:
        """Return n new pages of zeros, not mapped yet."""
        pfns = self._pfns.take(n)
        self._reset(pfns, file)
        return pfns

    def allocate_huge(self, n: int) -> int:
        """Return the first pfn of a new huge page of n pages."""
        head = self._pfns.take_run(n)
        self._reset(np.arange(head, head + n, dtype=np.uint64), False)
        self._page["head"][head : head + n] = head
        return head

    def map(self, pfns: U64) -> None:
        """Count one more PTE for each page."""
        count(self._page, pfns, 1)

    def unmap(self, pfns: U64) -> None:
        """Count one PTE less for each page, and free what nobody needs."""
        real = pfns[pfns >= FIRST_PFN]
        count(self._page, real, -1)
        self._release(np.unique(real[self.mapcount[real] == 0]))

    def _release(self, pfns: U64) -> None:
        """Free those anonymous pages that no swap entry needs either."""
        pfns = pfns[~self._page["file"][pfns] & (self._page["slot"][pfns] == 0)]
        self._page["head"][pfns] = 0
        self._pfns.give(pfns)

    def file(self, pfns: U64) -> Bools:
        """Tell which pages are of a backing."""
        return np.asarray(self._page["file"][pfns])

    def shared(self, pfns: U64) -> Bools:
        """Tell which anonymous pages must be copied before a write.

        Those that another PTE maps or another's swap entry names: Linux
        mm/memory.c wp_can_reuse_anon_folio(). The zero page always.
        """
        slots = self._page["slot"][pfns]
        needed = self.mapcount[pfns] + np.where(slots, self._swap["count"][slots], 0)
        return np.asarray((needed > 1) | (pfns < FIRST_PFN))

    def share(self, pfns: U64) -> None:
        """Count a child's PTE for each page. From now on writes to them fault."""
        self.map(pfns)
        self._page["exclusive"][pfns] = False

    def reuse(self, pfns: U64 | int) -> None:
        """Let pages that were shared be written again: wp_page_reuse()."""
        self._page["exclusive"][pfns] = True

    def exclusive(self, pfns: U64) -> Bools:
        """Tell which anonymous pages may be written without a fault.

        A page that was shared since its last write is not one of them, even if no
        other process has it any more: PageAnonExclusive().
        """
        return np.asarray(self._page["exclusive"][pfns])

    def write(self, pfns: U64 | int) -> None:
        """Note that these pages contain something other than zeros."""
        self._page["written"][pfns] = True

    def free_lazily(self, pfns: U64) -> U64:
        """Let reclaim drop pages if no PTE is dirty: folio_mark_lazyfree().

        Returns these pages. Pages of the swap cache that others share are left out.
        """
        in_cache = self._page["slot"][pfns] != 0
        found = pfns[~(in_cache & ((self.mapcount[pfns] > 1) | self.shared(pfns)))]
        self._page["lazy"][found] = True
        return np.asarray(found)

    def lazy(self, pfns: U64) -> Bools:
        """Tell for which pages MADV_FREE was the last advice."""
        return np.asarray(self._page["lazy"][pfns])

    def copy(self, source: U64, target: U64) -> None:
        """Copy the content of pages."""
        for name in ("written", "writes"):
            self._page[name][target] = self._page[name][source]

    def written(self, pfns: U64) -> Bools:
        """Tell which pages contain something other than zeros."""
        return np.asarray(self._page["written"][pfns])

    # -- huge pages ---------------------------------------------------------

    def heads(self, pfns: U64) -> npt.NDArray[np.uint32]:
        """Return the first pfn of each page's huge page; 0: a small page."""
        return np.asarray(self._page["head"][pfns])

    def folios(self, pfns: U64) -> Iterator[tuple[int, Bools]]:
        """Yield the first pfn of each huge page, and which of ``pfns`` it has."""
        heads = self.heads(pfns)
        for head in np.unique(heads[heads != 0]).tolist():
            yield head, heads == head

    def folio(self, head: int, n: int) -> U64:
        """Return those of a huge page's n pages that are still mapped or swapped."""
        pfns = np.arange(head, head + n, dtype=np.uint64)
        return np.asarray(pfns[self.heads(pfns) == head])

    def split(self, head: int, n: int) -> None:
        """Make a huge page n small ones: Linux mm/huge_memory.c split_folio()."""
        self._page["head"][head : head + n] = 0

    # -- swap ---------------------------------------------------------------

    def take_slots(self, pfns: U64) -> U64:
        """Return a slot for each page: that of the swap cache, or a new one."""
        slots = self._page["slot"][pfns].astype(np.uint64)
        new = slots == 0
        slots[new] = self._slots.take(int(np.count_nonzero(new)))
        self._swap = _grown(self._swap, self._slots.top)
        return slots

    def give_slots(self, slots: U64) -> None:
        """Take back slots that were not used after all."""
        rows = self._swap[slots]
        self._slots.give(slots[(rows["count"] == 0) & (rows["cached"] == 0)])

    def swap_out(self, pfns: U64, slots: U64) -> None:
        """Count swap entries for pages that one PTE each mapped.

        A huge page that is swapped out whole stays in the swap cache.
        """
        whole = self.heads(pfns) != 0
        self._swap["count"][slots] += 1
        self._swap["cached"][slots] = np.where(whole, pfns.astype(np.int64), 0)
        for name in ("written", "exclusive", "writes"):
            self._swap[name][slots] = self._page[name][pfns]
        self._page["slot"][pfns] = np.where(whole, slots.astype(np.int64), 0)
        self.unmap(pfns)

    def cached(self, slots: U64) -> U64:
        """Return the page that the swap cache has for each slot; 0: none."""
        return np.asarray(self._swap["cached"][slots].astype(np.uint64))

    def swap_in(self, slots: U64) -> U64:
        """Map the pages of swap entries in their place; return the pfns."""
        pfns = self.cached(slots)
        new = pfns == 0
        pfns[new] = self.allocate(int(np.count_nonzero(new)))
        for name in ("written", "writes"):
            self._page[name][pfns[new]] = self._swap[name][slots[new]]
        self._swap["cached"][slots] = pfns
        self._page["slot"][pfns] = slots
        self.map(pfns)
        self._page["exclusive"][pfns] = self._swap["exclusive"][slots]
        self.drop_slots(slots)
        return pfns

    def exclusive_slots(self, slots: U64) -> Bools:
        """Tell which swap entries are pte_swp_exclusive().

        Nobody has shared them since their page was written.
        """
        return np.asarray(self._swap["exclusive"][slots])

    def share_slots(self, slots: U64) -> None:
        """Count one more swap entry for each: swap_duplicate()."""
        self._swap["count"][slots] += 1
        self._swap["exclusive"][slots] = False

    def drop_slots(self, slots: U64) -> None:
        """Count one swap entry less for each; slots without any are free."""
        self._swap["count"][slots] -= 1
        free = slots[self._swap["count"][slots] == 0]
        cached = self.cached(free)
        cached = cached[cached != 0]
        self._page["slot"][cached] = 0
        self._swap["cached"][free] = 0
        self._slots.give(free)
        self._release(cached[self.mapcount[cached] == 0])


class Backing:
    """What holds the pages of shared memory and of files: a page cache.

    Parameters
    ----------
    physical : Physical
    pages : int
        Its size.
    """

    def __init__(self, physical: Physical, pages: int) -> None:
        self._physical = physical
        # pfn by page; 0 if it is not in memory: a hole, or swapped out.
        self._cache = np.zeros(pages, np.uint64)
        self._swapped = np.zeros(pages, np.bool_)
        self._dirty = np.zeros(pages, np.bool_)

    def __len__(self) -> int:
        return len(self._cache)

    def resident(self, pages: U64) -> Bools:
        """Tell which pages are in memory."""
        return np.asarray(self._cache[pages] != 0)

    def has(self, pages: U64) -> Bools:
        """Tell which pages are in memory or swapped out, so not holes."""
        return np.asarray((self._cache[pages] != 0) | self._swapped[pages])

    def get(self, pages: U64) -> U64:
        """Return the pfns of pages; brings in those not in memory."""
        pfns = self._cache[pages]
        absent = np.flatnonzero(pfns == 0)
        pfns[absent] = self._physical.allocate(len(absent), file=True)
        self._cache[pages] = pfns
        self._swapped[pages] = False
        return pfns

    def evict(self, pages: U64) -> None:
        """Swap pages out; one that nobody wrote becomes a hole.

        Linux mm/vmscan.c shrink_folio_list() just removes a clean folio.
        """
        self._cache[pages] = 0
        self._swapped[pages] = self._dirty[pages]

    def punch(self, pages: U64) -> None:
        """Make holes: shmem_fallocate() with FALLOC_FL_PUNCH_HOLE."""
        self._dirty[pages] = False
        self.evict(pages)

    def dirty(self, pages: U64) -> None:
        """Note that pages were written: folio_mark_dirty()."""
        self._dirty[pages] = True
