"""Copy page tables; move, swap out and swap in PTEs.

An operation of `extmeta.table` walks once per table and hands the encoding a run of
entries. If it may allocate it has two passes: the first makes every check and
allocation, the second changes entries and can't fail. So an error leaves the table as
it was. Arguments are trusted: :mod:`extmeta.pagetable` checks them.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from extmeta.memory.frames cimport DEPOSITED, Ptdesc, entries, lock_table, unlock_table
from extmeta.memory.sync cimport begin_change, end_change
from extmeta.table.encoding cimport MAX_LANES, ZERO_WORD, Write
from extmeta.table.pte cimport PteLayout, present_bits, swap_entry
from extmeta.table.refusal cimport PRESENT, SWAPPED, no_memory
from extmeta.table.words cimport Above, Group
from extmeta.table.vpns cimport Run, Span, entry_at, run_of, vpn_at

cdef enum:
    # Entries that a move handles at once; their words lie on the stack.
    MOVE_AT_ONCE = 512


cdef class Operations(HugePages):

    cdef int copy_tables(self, Operations parent) noexcept nogil:
        """Copy all of ``parent`` into this table, which is empty."""
        cdef uint64_t at = 0
        cdef Ptdesc* t
        cdef Ptdesc* copy = NULL
        cdef uint64_t* slot
        t = parent.next_table(&at, parent.nr_vpns)
        slot = t.parent if t is not NULL else NULL
        while t is not NULL:
            copy = self.make(t.vpn, t.order)
            if copy is NULL:
                return no_memory(self.frames.frame_bytes << t.order)
            memcpy(entries(self.frames, copy), entries(parent.frames, t),
                   self.entries * self.stride * sizeof(uint64_t))
            copy.used = t.used
            if self.encoding.fork(parent.encoding, t, copy) or (
                    t.reached and not self.reach(copy)):
                return no_memory(self.frames.frame_bytes)
            t = parent.table_after(&slot, &at, parent.nr_vpns)
        self.encoding.end()
        if copy is not NULL:
            self.copy_counts(parent, copy.vpn + 1)
        return self.copy_leaves(parent)

    cdef int copy_leaves(self, Operations parent) noexcept nogil:
        """Copy the huge leaves, and the numbers that belong to the page table."""
        cdef uint64_t at = 0
        cdef uint64_t* slot
        cdef uint64_t* leaf
        cdef Ptdesc* t
        while self.nr_leaves < parent.nr_leaves:
            leaf = parent.next_leaf(&at, parent.nr_vpns)
            slot = self.leaf_slot(at, True)
            if slot is NULL:
                return no_memory(self.frames.frame_bytes)
            slot[0] = leaf[0] & ~<uint64_t>DEPOSITED
            t = self.holder(slot, self.levels - 2)
            t.used += 1
            self.nr_leaves += 1
            # The child gets a table of its own, as in the kernel's copy_huge_pmd().
            if leaf[0] & DEPOSITED and not self.deposit_one(slot):
                return no_memory(self.frames.frame_bytes << self.encoding.order)
            at = (at | <uint64_t>(self.entries - 1)) + 1
        self.nr_ptes = parent.nr_ptes
        self.next_pfn = parent.next_pfn
        return 0

    cdef void copy_counts(self, Operations parent, uint64_t end) noexcept nogil:
        """Copy the counts of PMD tables that begin below ``end``."""
        cdef uint64_t at = 0
        cdef Ptdesc* t
        while (t := parent.next_table(&at, end)) is not NULL:
            self.above(self.find(at)).flagged = parent.above(t).flagged
            at = (at >> self.pmd_shift) + 1 << self.pmd_shift

    cdef int move_tables(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil:
        cdef uint64_t stop = src + n
        cdef uint64_t at = self.next_moved(src, stop)
        cdef uint64_t step
        cdef bint failed = False
        while at < stop and not failed:
            step = self.chunk(at, stop, dst + (at - src))
            failed = self.move_run(at, dst + (at - src), <Py_ssize_t>step, True) != 0
            at = self.next_moved(at + step, stop)
        if failed or self.encoding.follow(src, dst, n):
            self.tidy(dst, dst + n)
            self.encoding.end()
            return no_memory(self.frames.frame_bytes)
        at = self.next_moved(src, stop)
        while at < stop:
            step = self.chunk(at, stop, dst + (at - src))
            self.move_run(at, dst + (at - src), <Py_ssize_t>step, False)
            at = self.next_moved(at + step, stop)
        # Not sooner: a table may be source and destination of several runs.
        self.tidy(dst, dst + n)
        self.tidy(src, stop)
        self.encoding.end()
        return 0

    cdef uint64_t next_moved(self, uint64_t at, uint64_t stop) noexcept nogil:
        """Return the first vpn from ``at`` on that has a table; at most ``stop``."""
        return at if self.next_table(&at, stop) is not NULL else stop

    cdef uint64_t chunk(
            self, uint64_t src, uint64_t stop, uint64_t dst) noexcept nogil:
        """Return how many vpns from ``src`` on stay in one table on both sides."""
        cdef uint64_t size = <uint64_t>self.entries
        cdef uint64_t n = min(stop - src, <uint64_t>MOVE_AT_ONCE)
        n = min(n, size - (src & (size - 1)))
        return min(n, size - (dst & (size - 1)))

    cdef int move_run(
            self, uint64_t src, uint64_t dst, Py_ssize_t n, bint prepare
            ) noexcept nogil:
        """Make room for a run at its destination, or move it there."""
        cdef uint64_t[MOVE_AT_ONCE * MAX_LANES] words
        cdef uint64_t none = self.pte.none
        cdef Ptdesc* t = self.find(src)
        cdef Ptdesc* to
        cdef Run here = run_of(<Py_ssize_t>(src - t.vpn), n)
        cdef Run there
        cdef Write add = Write(ZERO_WORD, &words[0], self.encoding.lanes)
        cdef Write clear = Write(ZERO_WORD, ZERO_WORD, 0)
        cdef uint64_t* source = self.pte_at(t, here.first)
        cdef uint64_t* target
        cdef Py_ssize_t stride = self.stride
        cdef Py_ssize_t i
        cdef unsigned int moved = 0
        cdef Above above = Above(NULL, 0)
        cdef uint32_t before
        for i in range(n):
            moved += source[i * stride] != none
        if moved == 0:
            return 0
        self.encoding.load(t, &here, words)
        to = self.make(dst, self.encoding.order) if prepare else self.find(dst)
        if to is NULL:
            return -1
        there = run_of(<Py_ssize_t>(dst - to.vpn), n)
        if prepare:
            return 0 if self.prepare(to, &there, &add) is not NULL else -1
        target = self.pte_at(to, there.first)
        begin_change(&self.moves)
        lock_table(t)
        if to is not t:
            lock_table(to)
        # Without its word an entry moves as it is. A word that belongs to the page is
        # not touched.
        before = t.flagged
        if not self.encoding.by_page:
            self.encoding.store(t, &here, &clear)
            self.note_words(t, before, &above)
        for i in range(n):
            target[i * stride] = source[i * stride]
            source[i * stride] = none
        to.used += moved
        t.used -= moved
        before = to.flagged
        if not self.encoding.by_page:
            self.encoding.store(to, &there, &add)
            self.note_words(to, before, &above)
        if to is not t:
            unlock_table(to)
        unlock_table(t)
        end_change(&self.moves)
        return 0

    cdef void tidy(self, uint64_t first, uint64_t stop) noexcept nogil:
        """Free memory that the tables of [first, stop) don't need, and empty tables."""
        cdef uint64_t at = first
        cdef Ptdesc* t
        while (t := self.next_table(&at, stop)) is not NULL:
            at = t.vpn + <uint64_t>self.entries
            self.settle(t)
            self.prune(t)

    cdef int swap_entries(
            self, const Span* s, const uint64_t* to, bint out) noexcept nogil:
        cdef const PteLayout* a = &self.pte
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef int wanted = PRESENT if out else SWAPPED
        cdef uint64_t pte, bare
        cdef Py_ssize_t at = 0
        cdef uint64_t* entry
        cdef Py_ssize_t i
        cdef bint writable
        cdef Ptdesc* t
        cdef Group g
        cdef Run r
        g.described = g.fetched = True
        self.forget(&g)
        while at < s.n:
            t = self.next_at(s, at, &r, &g)
            i = self.first_unlike(t, &r, wanted)
            if i >= 0:
                return self.refuse(vpn_at(s, at + i), wanted)
            if out and self.encoding.asks:
                i = self.encoding.first_unfit(t, &r, NULL)
                if i >= 0:
                    return self.refuse_word(vpn_at(s, at + i), NULL, 0)
            at += r.n
        if self.encoding.by_page and not out and self.encoding.admit(to, 0, s.n):
            self.encoding.end()
            return no_memory(self.frames.page_bytes)
        at = 0
        self.forget(&g)
        while at < s.n:
            t = self.next_at(s, at, &r, &g)
            lock_table(t)
            for i in range(r.n):
                entry = self.pte_at(t, entry_at(&r, i, last_entry))
                pte = entry[0]
                # A vpn may be named twice: then its entry is of the new kind already.
                writable = pte & (a.write if pte & a.present else a.swap_write) != 0
                if out:
                    bare = swap_entry(a, to[at + i])
                    bare |= a.swap_write if writable else 0
                else:
                    bare = to[at + i] << a.pfn_shift | present_bits(a, writable)
                entry[0] = self.encoding.carry(pte, bare)
            unlock_table(t)
            at += r.n
        if self.encoding.by_page:
            self.encoding.end()
        return 0
