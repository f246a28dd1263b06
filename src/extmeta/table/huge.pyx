"""Huge pages: leaves above the PTE tables, made, split and dropped."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from extmeta.memory.frames cimport (
    DEPOSITED, LEAF, Ptdesc, TABLE_BITS, entries, lock_table, unlock_table,
    upper_entry,
)
from extmeta.memory.sync cimport publish
from extmeta.table.encoding cimport Write
from extmeta.table.mapping cimport make_present
from extmeta.table.pte cimport ALL, PteLayout
from extmeta.table.refusal cimport (
    CUT, Found, IN_LEAF, NONE, no_memory, refuse_for, room_for,
)
from extmeta.table.vpns cimport Run, Span, run_of, vpn_at
from extmeta.table.words cimport Above

cdef enum:
    # Leaves of one huge page: two, if `wide` halves a PTE table's entries.
    MOST_LEAVES = 2


cdef class HugePages(Mapping):

    cdef int put_leaves(
            self, const Span* s, const uint64_t* pfns, bint deposit) noexcept nogil:
        cdef Py_ssize_t i, j
        cdef uint64_t pfn
        cdef uint64_t* slot
        for i in range(s.n):
            slot = self.leaf_slot(vpn_at(s, i), False)
            if slot is not NULL and slot[0]:
                return refuse_for(NONE, vpn_at(s, i))
        for i in range(s.n):
            pfn = pfns[i] if pfns is not NULL else self.next_pfn
            if not self.put_leaf(vpn_at(s, i), pfn, deposit):
                for j in range(i):
                    self.clear_leaf(self.leaf_slot(vpn_at(s, j), False))
                return no_memory(self.frames.frame_bytes)
            if pfns is NULL:
                self.next_pfn += <uint64_t>self.entries
        return 0

    cdef bint put_leaf(self, uint64_t vpn, uint64_t pfn, bint deposit) noexcept nogil:
        cdef uint64_t* slot = self.leaf_slot(vpn, True)
        cdef Ptdesc* t
        if slot is NULL:
            return False
        t = self.holder(slot, self.levels - 2)
        if slot[0] == 0:
            if deposit and not self.deposit_one(slot):
                self.prune(t)
                return False
            self.nr_leaves += 1
            t.used += 1
        publish(slot, pfn << self.pte.pfn_shift | TABLE_BITS | LEAF
                | slot[0] & DEPOSITED)
        return True

    cdef bint deposit_one(self, uint64_t* slot) noexcept nogil:
        """Deposit a new table; False if no memory can be had."""
        cdef Ptdesc* t = self.new_table(self.encoding.order)
        if t is not NULL:
            self.deposit(slot, t)
        return t is not NULL

    cdef void clear_leaf(self, uint64_t* slot) noexcept nogil:
        cdef Ptdesc* t
        if slot is not NULL and slot[0] & LEAF:
            t = self.withdraw(slot)
            if t is not NULL:
                self.frames.free(t)
            t = self.holder(slot, self.levels - 2)
            publish(slot, 0)
            t.used -= 1
            self.nr_leaves -= 1
            self.prune(t)

    cdef int split(
            self, uint64_t first, uint64_t n, const uint64_t* pfns, const Write* w,
            uint64_t bits) noexcept nogil:
        cdef uint64_t size = <uint64_t>self.entries
        cdef Ptdesc* made[MOST_LEAVES]
        cdef Ptdesc* unused
        cdef uint64_t* slot
        cdef uint64_t at = first
        cdef Above above = Above(NULL, 0)
        cdef int nr = 0
        cdef int i
        while at < first + n:
            made[nr] = self.split_one(
                at, self.leaf_slot(at, False),
                pfns + (at - first) if pfns is not NULL else NULL, w, bits)
            if made[nr] is NULL:
                for i in range(nr):
                    self.unmake(made[i])
                self.encoding.end()
                return no_memory(self.frames.frame_bytes)
            nr += 1
            at += size
        # Lockless readers see the leaf until they see a table with its words.
        for i in range(nr):
            slot = self.leaf_slot(made[i].vpn, False)
            unused = self.withdraw(slot)
            made[i].parent = slot
            publish(slot, upper_entry(self.frames, made[i]))
            self.note_words(made[i], 0, &above)
            if unused is not NULL:
                self.frames.free(unused)
        self.encoding.end()
        self.nr_leaves -= <uint64_t>nr
        self.nr_ptes += n
        return 0

    cdef Ptdesc* split_one(
            self, uint64_t vpn, uint64_t* slot, const uint64_t* pfns, const Write* w,
            uint64_t bits) noexcept nogil:
        """Return a PTE table that maps a leaf's pages, not hooked yet, or NULL."""
        cdef const PteLayout* a = &self.pte
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t pfn_mask = (<uint64_t>1 << a.pfn_bits) - 1
        cdef uint64_t pfn = slot[0] >> a.pfn_shift & pfn_mask
        cdef bint worded = False
        cdef uint64_t* entry
        cdef Ptdesc* t
        cdef Run r
        cdef int lane, order
        for lane in range(self.encoding.lanes):
            worded |= w.add[lane] != 0
        order = self.encoding.worded_order if worded else self.encoding.order
        t = self.withdraw(slot)
        if t is not NULL and t.order != order:
            self.deposit(slot, t)
            t = NULL
        if t is not NULL:
            # `unmake` deposits it there again.
            t.parent = slot
        else:
            t = self.new_table(order)
        if t is NULL:
            return NULL
        t.vpn = vpn
        r = run_of(0, self.entries)
        entry = entries(self.frames, t)
        if self.encoding.by_page:
            if self.encoding.admit(pfns, pfn, r.n):
                self.unmake(t)
                return NULL
            self.make_pages(entry, &r, pfns, pfn, bits)
        else:
            make_present(entry, &r, last_entry, a.none, pfns, pfn, pfn_mask,
                         a.pfn_shift, bits, self.stride)
        t.used = <unsigned int>r.n
        if not worded:
            return t
        # A table that is not hooked does not move.
        if self.prepare(t, &r, w) is not t:
            self.unmake(t)
            return NULL
        lock_table(t)
        self.encoding.store(t, &r, w)
        unlock_table(t)
        self.settle(t)
        return t

    cdef void unmake(self, Ptdesc* t) noexcept nogil:
        """Free a table that was not hooked, or deposit it again."""
        self.encoding.zap(t, 0, self.entries)
        self.settle(t)
        if t.parent is NULL:
            self.frames.free(t)
            return
        memset(entries(self.frames, t), 0, self.frames.frame_bytes)
        self.fill(t)
        t.used = 0
        self.deposit(t.parent, t)

    cdef int find_leaves(self, Found* found) noexcept nogil:
        cdef uint64_t mask = (<uint64_t>1 << self.pte.pfn_bits) - 1
        cdef uint64_t at = 0
        cdef uint64_t* slot
        while self.nr_leaves and (
                slot := self.next_leaf(&at, self.nr_vpns)) is not NULL:
            if room_for(found, 3):
                return -1
            found.vpns[found.n] = at
            found.vpns[found.n + 1] = slot[0] >> self.pte.pfn_shift & mask
            found.vpns[found.n + 2] = slot[0] & DEPOSITED != 0
            found.n += 3
            at = (at | <uint64_t>(self.entries - 1)) + 1
        return 0

    cdef int cuts_leaf(self, uint64_t edge) noexcept nogil:
        """Refuse a range that ends or begins inside a huge page."""
        if edge & (self.leaf_ptes - 1) and edge < self.nr_vpns and self.in_leaf(edge):
            return refuse_for(CUT, edge)
        return 0

    cdef int refuse_used(self, uint64_t first, uint64_t end) noexcept nogil:
        """Refuse a range in which anything is mapped."""
        cdef uint64_t at = first
        cdef uint64_t leaf = first
        cdef Ptdesc* t
        cdef Py_ssize_t i
        if self.next_leaf(&leaf, end) is not NULL:
            return refuse_for(IN_LEAF, leaf)
        while (t := self.next_table(&at, end)) is not NULL:
            for i in range(<Py_ssize_t>(at - t.vpn), <Py_ssize_t>min(
                    end - t.vpn, <uint64_t>self.entries)):
                if self.pte_at(t, i)[0] != self.pte.none:
                    return refuse_for(NONE, t.vpn + <uint64_t>i)
            at = t.vpn + <uint64_t>self.entries
        return 0

    cdef void drop(self, uint64_t first, uint64_t stop) noexcept nogil:
        cdef uint64_t at = first
        cdef uint64_t* slot
        cdef Ptdesc* t
        cdef Py_ssize_t i, end
        cdef uint64_t counted = ALL
        cdef Ptdesc* pmd = NULL
        self.encoding.begin(first, stop, min(stop - first, self.nr_ptes), True)
        while (t := self.next_table(&at, stop)) is not NULL:
            i = <Py_ssize_t>(at - t.vpn)
            end = <Py_ssize_t>min(stop - t.vpn, <uint64_t>self.entries)
            at = t.vpn + <uint64_t>end
            if t.flagged:
                # No lock is needed: an unmap has all of the page table. The PMD table
                # is freed below if no table of it follows.
                if (t.vpn ^ counted) >> self.pmd_shift:
                    pmd = self.above(t)
                    counted = t.vpn
                pmd.flagged -= 1
            lock_table(t)
            self.encoding.zap(t, i, end)
            self.clear(t, i, end)
            unlock_table(t)
            if t.flagged:
                pmd.flagged += 1
            self.settle(t)
            self.prune(t)
        self.encoding.end()
        at = first
        while self.nr_leaves and (slot := self.next_leaf(&at, stop)) is not NULL:
            self.clear_leaf(slot)
