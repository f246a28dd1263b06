"""Make and clear PTEs, and the tables that they lie in."""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport PTE, Ptdesc, entries, lock_table, unlock_table
from extmeta.memory.sync cimport fill_each
from extmeta.table.pte cimport ALL, PteLayout, count
from extmeta.table.refusal cimport Found, IN_LEAF, NONE, no_memory, refuse_for, room_for
from extmeta.table.vpns cimport Run, Span, entry_at, next_run, vpn_at


cdef class Mapping(Snapshots):

    cdef int put(
            self, const Span* s, const uint64_t* pfns, uint64_t bits) noexcept nogil:
        cdef int shift = self.pte.pfn_shift
        cdef uint64_t pfn_mask = (<uint64_t>1 << self.pte.pfn_bits) - 1
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t none = self.pte.none
        cdef Py_ssize_t at = 0
        cdef const uint64_t* some
        cdef uint64_t* entry
        cdef uint64_t made, pfn
        cdef Py_ssize_t i
        cdef bint by_page = self.encoding.by_page
        cdef uint64_t first_pfn = self.next_pfn
        cdef Ptdesc* t
        cdef Run r
        if pfns is NULL:
            first_pfn = self.encoding.fresh_pfns(first_pfn, <uint64_t>s.n)
        while at < s.n:
            next_run(s, at, self.table_bits, &r)
            t = self.make(vpn_at(s, at), self.encoding.order)
            if t is NULL:
                self.drop_empty(s, at)
                if self.in_leaf(vpn_at(s, at)):
                    return refuse_for(IN_LEAF, vpn_at(s, at))
                return no_memory(self.frames.frame_bytes)
            i = self.first_unlike(t, &r, NONE)
            if i >= 0:
                self.drop_empty(s, at + r.n)
                return self.refuse(vpn_at(s, at + i), NONE)
            at += r.n
        if by_page and self.encoding.admit(pfns, first_pfn, s.n):
            self.encoding.end()
            self.drop_empty(s, s.n)
            return no_memory(self.frames.page_bytes)
        at = 0
        while at < s.n:
            next_run(s, at, self.table_bits, &r)
            t = self.find(vpn_at(s, at))
            entry = entries(self.frames, t)
            lock_table(t)
            some = &pfns[at] if pfns is not NULL else NULL
            pfn = first_pfn + <uint64_t>at
            # Inlined twice, so that each loop has a constant stride.
            if by_page:
                made = self.make_pages(entry, &r, some, pfn, bits)
            elif self.stride == 1:
                made = make_present(entry, &r, last_entry, none, some, pfn, pfn_mask,
                                    shift, bits, 1)
            else:
                made = make_present(entry, &r, last_entry, none, some, pfn, pfn_mask,
                                    shift, bits, 2)
            t.used += <unsigned int>made
            unlock_table(t)
            self.nr_ptes += made
            at += r.n
        if by_page:
            self.encoding.end()
        if pfns is NULL:
            self.next_pfn = first_pfn + <uint64_t>s.n
        return 0

    cdef uint64_t make_pages(
            self, uint64_t* entry, const Run* r, const uint64_t* pfns,
            uint64_t next_pfn, uint64_t bits) noexcept nogil:
        """Make present PTEs as make_present does, and call `carry` for each."""
        cdef const PteLayout* a = &self.pte
        cdef uint64_t made = 0
        cdef uint64_t pte
        cdef uint64_t* at
        cdef Py_ssize_t i
        for i in range(r.n):
            pte = pfns[i] if pfns else (
                next_pfn + <uint64_t>i) & ((<uint64_t>1 << a.pfn_bits) - 1)
            pte = pte << a.pfn_shift | bits
            at = &entry[entry_at(r, i, self.entries - 1)]
            made += at[0] == a.none
            self.encoding.carry(at[0], pte)
            at[0] = pte
        return made

    cdef void drop_empty(self, const Span* s, Py_ssize_t upto) noexcept nogil:
        """Free the empty tables of the span's first ``upto`` vpns."""
        cdef Py_ssize_t at = 0
        cdef Ptdesc* t
        cdef Run r
        while at < upto:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                self.prune(t)
            at += r.n

    cdef Ptdesc* new_table(self, int order) noexcept nogil:
        """Return an empty PTE table, not hooked, or NULL."""
        cdef Ptdesc* t = self.frames.alloc(order, PTE, True)
        self.fill(t)
        return t

    cdef bint in_leaf(self, uint64_t vpn) noexcept nogil:
        """Return whether ``vpn`` lies in a huge page."""
        cdef uint64_t at = vpn
        return self.nr_leaves and self.next_leaf(&at, vpn + 1) is not NULL

    cdef void clear(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        """Make entries [first, last) none, and subtract them from the counts."""
        cdef uint64_t none = self.pte.none
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t held = 0
        cdef Py_ssize_t i
        if last - first == self.entries:
            held = t.used
        else:
            for i in range(first, last, 64):
                held += <uint64_t>(min(64, last - i) - count(
                    self.like(entry, i, min(64, last - i), ALL, none)))
        if self.stride == 1:
            fill_each(entry + first, last - first, none)
        else:
            for i in range(first, last):
                entry[2 * i] = none
                entry[2 * i + 1] = 0
        t.used -= <unsigned int>held
        self.nr_ptes -= held

    cdef bint set_aside(self, size_t n) noexcept nogil:
        cdef size_t before = self.frames.nr_aside
        cdef size_t held = self.index_aside.n
        if not self.frames.set_aside(n, self.encoding.worded_order, PTE):
            return False
        if not (self.set_index_aside(n) and self.encoding.set_aside(n)):
            self.set_index_aside(held)
            self.frames.set_aside(before, self.encoding.worded_order, PTE)
            return False
        return True

    cdef int find_tables(self, Found* found) noexcept nogil:
        cdef uint64_t at = 0
        cdef Ptdesc* t
        while (t := self.next_table(&at, self.nr_vpns)) is not NULL:
            if room_for(found, 1):
                return -1
            found.vpns[found.n] = t.vpn
            found.n += 1
            at = t.vpn + <uint64_t>self.entries
        return 0
