"""Pages and swap slots, counted: what address spaces have in common.

A page that is mapped more than once is copied when written; one that nobody
maps, nor needs from swap, is free. pagemap calls a page exclusive that is
mapped once (Linux fs/proc/task_mmu.c, folio_precise_page_mapcount()).
"""

from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# The page of zeros that reads of untouched anonymous memory map, and the huge one,
# which has 8192 pages at most (arm64 with 64K).
ZERO_PFN = 1
HUGE_ZERO_PFN = 8192
FIRST_PFN = 2 * HUGE_ZERO_PFN

# Slot 0 holds a swap area's header.
FIRST_SLOT = 1


class Numbers:
    """Numbers that are handed out, given back and handed out again."""

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


def _grown(array: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return the array, longer if it is too short for ``size``."""
    if size <= len(array):
        return array
    return np.concatenate((array, np.zeros(size, np.int64)))


class Physical:
    """The machine's pages and swap slots.

    Attributes
    ----------
    spaces : WeakSet of Mm
        Those that may map pages.
    mapcount : int64 ndarray, by pfn
        How many PTEs map the page; one of a huge page counts for each page.
    """

    def __init__(self) -> None:
        self.spaces: WeakSet[Any] = WeakSet()
        self._pfns = Numbers(FIRST_PFN)
        self._slots = Numbers(FIRST_SLOT)
        self.mapcount = np.zeros(FIRST_PFN, np.int64)
        # By pfn: of a backing, not anonymous; the first pfn of its huge page or 0;
        # whether anything was written to it; whether it is PG_anon_exclusive; whether
        # MADV_FREE was the last that was done to it; the slot it is cached for, or 0.
        self._file = np.zeros(FIRST_PFN, np.int64)
        self._head = np.zeros(FIRST_PFN, np.int64)
        self._written = np.zeros(FIRST_PFN, np.int64)
        self._exclusive = np.zeros(FIRST_PFN, np.int64)
        self._lazy = np.zeros(FIRST_PFN, np.int64)
        self._slot = np.zeros(FIRST_PFN, np.int64)
        # By slot: how many swap entries name it; the page in the swap cache, or 0;
        # whether anything was written to what is in it; whether its entry is
        # pte_swp_exclusive().
        self._swapcount = np.zeros(FIRST_SLOT, np.int64)
        self._cached = np.zeros(FIRST_SLOT, np.int64)
        self._kept = np.zeros(FIRST_SLOT, np.int64)
        self._alone = np.zeros(FIRST_SLOT, np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "spaces": list(self.spaces)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, spaces=WeakSet(state["spaces"]))

    # -- pages --------------------------------------------------------------

    def _reset(self, pfns: U64, file: bool) -> None:
        size = self._pfns.top
        self.mapcount = _grown(self.mapcount, size)
        self._file = _grown(self._file, size)
        self._head = _grown(self._head, size)
        self._written = _grown(self._written, size)
        self._exclusive = _grown(self._exclusive, size)
        self._lazy = _grown(self._lazy, size)
        self._slot = _grown(self._slot, size)
        self.mapcount[pfns] = 0
        self._file[pfns] = file
        self._head[pfns] = 0
        self._written[pfns] = 0
        self._lazy[pfns] = 0
        self._exclusive[pfns] = not file
        self._slot[pfns] = 0

    def allocate(self, n: int, file: bool = False) -> U64:
        """Return n new pages of zeros, not mapped yet."""
        pfns = self._pfns.take(n)
        self._reset(pfns, file)
        return pfns

    def allocate_huge(self, n: int) -> int:
        """Return the first of n new pages in a row that are one huge page."""
        head = self._pfns.take_run(n)
        self._reset(np.arange(head, head + n, dtype=np.uint64), False)
        self._head[head : head + n] = head
        return head

    def map(self, pfns: U64) -> None:
        """Count one more PTE for each page."""
        np.add.at(self.mapcount, pfns, 1)

    def unmap(self, pfns: U64) -> None:
        """Count one PTE less for each; pages that nobody needs are free."""
        real = pfns[pfns >= FIRST_PFN]
        np.subtract.at(self.mapcount, real, 1)
        self._release(np.unique(real[self.mapcount[real] == 0]))

    def _release(self, pfns: U64) -> None:
        """Free those anonymous pages that no swap entry needs either."""
        pfns = pfns[(self._file[pfns] == 0) & (self._slot[pfns] == 0)]
        self._head[pfns] = 0
        self._pfns.give(pfns)

    def file(self, pfns: U64) -> Bools:
        """Tell which pages are of a backing."""
        return np.asarray(self._file[pfns] != 0)

    def shared(self, pfns: U64) -> Bools:
        """Tell which anonymous pages must be copied before a write.

        Those that another PTE maps or another's swap entry names: Linux
        mm/memory.c wp_can_reuse_anon_folio(). The zero page always.
        """
        slots = self._slot[pfns]
        needed = self.mapcount[pfns] + np.where(slots, self._swapcount[slots], 0)
        return np.asarray((needed > 1) | (pfns < FIRST_PFN))

    def share(self, pfns: U64) -> None:
        """Count a child's PTE for each page: none may be written without a fault."""
        self.map(pfns)
        self._exclusive[pfns] = 0

    def reuse(self, pfns: U64) -> None:
        """Let pages that were shared be written again: wp_page_reuse()."""
        self._exclusive[pfns] = 1

    def exclusive(self, pfns: U64) -> Bools:
        """Tell which anonymous pages may be written without a fault.

        Not those shared since they were written last, with somebody who may have
        gone by now: PageAnonExclusive().
        """
        return np.asarray(self._exclusive[pfns] != 0)

    def write(self, pfns: U64) -> None:
        """Note that something other than zeros is in these pages."""
        self._written[pfns] = 1

    def free_lazily(self, pfns: U64) -> U64:
        """Let pages be dropped by reclaim if no PTE is dirty: folio_mark_lazyfree().

        Returns those that are: not what others have in the swap cache.
        """
        in_cache = self._slot[pfns] != 0
        found = pfns[~(in_cache & ((self.mapcount[pfns] > 1) | self.shared(pfns)))]
        self._lazy[found] = 1
        return np.asarray(found)

    def lazy(self, pfns: U64) -> Bools:
        """Tell which pages MADV_FREE was the last advice for."""
        return np.asarray(self._lazy[pfns] != 0)

    def copy(self, source: U64, target: U64) -> None:
        """Note that pages have the content of others."""
        self._written[target] = self._written[source]

    def written(self, pfns: U64) -> Bools:
        """Tell which pages have something other than zeros."""
        return np.asarray(self._written[pfns] != 0)

    # -- huge pages ---------------------------------------------------------

    def heads(self, pfns: U64) -> npt.NDArray[np.int64]:
        """Return the first pfn of each page's huge page; 0 where it is of none."""
        return self._head[pfns]

    def folio(self, head: int, n: int) -> U64:
        """Return those of a huge page's n pages that are still mapped or swapped."""
        pfns = np.arange(head, head + n, dtype=np.uint64)
        return np.asarray(pfns[self._head[pfns] == head])

    def split(self, head: int, n: int) -> None:
        """Make a huge page n small ones: Linux mm/huge_memory.c split_folio()."""
        self._head[head : head + n] = 0

    # -- swap ---------------------------------------------------------------

    def take_slots(self, pfns: U64) -> U64:
        """Return a slot for each page: that of the swap cache, or a new one."""
        slots = self._slot[pfns].astype(np.uint64)
        new = slots == 0
        slots[new] = self._slots.take(int(np.count_nonzero(new)))
        self._swapcount = _grown(self._swapcount, self._slots.top)
        self._cached = _grown(self._cached, self._slots.top)
        self._kept = _grown(self._kept, self._slots.top)
        self._alone = _grown(self._alone, self._slots.top)
        return slots

    def give_slots(self, slots: U64) -> None:
        """Take back slots that were not used after all."""
        unused = (self._swapcount[slots] == 0) & (self._cached[slots] == 0)
        self._slots.give(slots[unused])

    def swap_out(self, pfns: U64, slots: U64) -> None:
        """Let swap entries stand for pages that one PTE each mapped.

        A huge page that goes as a whole stays in the swap cache.
        """
        whole = self._head[pfns] != 0
        self._swapcount[slots] += 1
        self._cached[slots] = np.where(whole, pfns.astype(np.int64), 0)
        self._kept[slots] = self._written[pfns]
        self._alone[slots] = self._exclusive[pfns]
        self._slot[pfns] = np.where(whole, slots.astype(np.int64), 0)
        self.unmap(pfns)

    def cached(self, slots: U64) -> U64:
        """Return the pages that the swap cache has for slots; 0 where it has none."""
        return self._cached[slots].astype(np.uint64)

    def swap_in(self, slots: U64) -> U64:
        """Return the pages of swap entries, mapped instead of those."""
        pfns = self._cached[slots].astype(np.uint64)
        new = pfns == 0
        pfns[new] = self.allocate(int(np.count_nonzero(new)))
        self._written[pfns[new]] = self._kept[slots[new]]
        self._cached[slots] = pfns
        self._slot[pfns] = slots
        self.map(pfns)
        self._exclusive[pfns] = self._alone[slots]
        self.drop_slots(slots)
        return pfns

    def exclusive_slots(self, slots: U64) -> Bools:
        """Tell which swap entries nobody shares since their page was written.

        pte_swp_exclusive()
        """
        return np.asarray(self._alone[slots] != 0)

    def share_slots(self, slots: U64) -> None:
        """Count one more swap entry for each: swap_duplicate()."""
        self._swapcount[slots] += 1
        self._alone[slots] = 0

    def drop_slots(self, slots: U64) -> None:
        """Count one swap entry less for each; slots without any are free."""
        self._swapcount[slots] -= 1
        free = slots[self._swapcount[slots] == 0]
        cached = self._cached[free].astype(np.uint64)
        cached = cached[cached != 0]
        self._slot[cached] = 0
        self._cached[free] = 0
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
        # pfn by page; 0 where it is not in memory: a hole, or swapped out.
        self._cache = np.zeros(pages, np.uint64)
        self._swapped = np.zeros(pages, np.bool_)
        self._dirty = np.zeros(pages, np.bool_)

    def __len__(self) -> int:
        return len(self._cache)

    def resident(self, first: int, stop: int) -> Bools:
        """Tell which pages of [first, stop) are in memory."""
        return np.asarray(self._cache[first:stop] != 0)

    def has(self, pages: U64) -> Bools:
        """Tell which pages are no holes: in memory, or swapped out."""
        return np.asarray((self._cache[pages] != 0) | self._swapped[pages])

    def get(self, pages: U64) -> U64:
        """Return the pfns of pages, brought in if need be."""
        pfns = self._cache[pages]
        absent = np.flatnonzero(pfns == 0)
        pfns[absent] = self._physical.allocate(len(absent), file=True)
        self._cache[pages] = pfns
        self._swapped[pages] = False
        return pfns

    def evict(self, pages: U64) -> None:
        """Let pages leave memory, to swap; one that nobody wrote is a hole again.

        Linux mm/vmscan.c shrink_folio_list(): a clean folio is just removed.
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
