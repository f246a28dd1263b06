"""A table's place for its link and count of flags; make room for words.

A kernel has both in the struct page of a table's page. If 16 or 256 tables share the
page, there is no room for all: the struct page points to an array of places, which is
allocated for the first table with a word and freed with the last. The model allocates
it, for Memory.index, but keeps its content in Ptdesc: its cache line is not touched.
"""
from libc.stdint cimport uint64_t, uintptr_t

from extmeta.memory.frames cimport Ptdesc
from extmeta.table.encoding cimport Write
from extmeta.table.vpns cimport Run

cdef enum:
    # A link and a count of flags.
    PLACE_BYTES = 16


cdef class Places(Locking):

    cdef Ptdesc* placed(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        """Make a place for the table if the write gives it a word; NULL if it can't."""
        cdef uint64_t bits = 0
        cdef Py_ssize_t i
        for i in range(r.n * self.encoding.lanes if w.step else self.encoding.lanes):
            bits |= w.add[i]
        if bits and not self.reach(t):
            self.settle(t)
            return NULL
        return t

    cdef bint reach(self, Ptdesc* t) noexcept nogil:
        cdef Ptdesc* page
        if self.frames.page_order == 0 or t.reached:
            return True
        page = self.page_of(t)
        if page.users == 0:
            page.index = <uintptr_t>self.index.alloc_or(
                &self.index_aside, self.place_bytes())
            if page.index == 0:
                return False
        page.users += 1
        t.reached = 1
        return True

    cdef void unreach(self, Ptdesc* t) noexcept nogil:
        cdef Ptdesc* page = self.page_of(t)
        t.reached = 0
        page.users -= 1
        if page.users == 0:
            self.index.free(<void*>page.index)

    cdef Ptdesc* page_of(self, Ptdesc* t) noexcept nogil:
        cdef Py_ssize_t frame = t - self.frames.desc
        return &self.frames.desc[
            frame >> self.frames.page_order << self.frames.page_order]

    cdef bint set_index_aside(self, size_t n) noexcept nogil:
        return self.frames.page_order == 0 or not self.encoding.uses_descriptor or (
            self.index.set_aside(&self.index_aside, n, self.place_bytes()))

    cdef size_t index_bytes(self) noexcept nogil:
        if self.index is None:
            return 0
        self.index.reap()
        return self.index.object_bytes

    cdef size_t place_bytes(self) noexcept nogil:
        return <size_t>PLACE_BYTES << self.frames.page_order
