"""Where a table's link and its count of flags lie, and how room for words is made.

A kernel finds both in the struct page of a table's page. If 16 or 256 tables share one,
it can't hold them for all: they are kept in an array that is found from it. The first
table with a word brings the array, the last one takes it away. Its bytes are held, and
are Memory.index; what is in it is read from Ptdesc, so its cache line is not touched.
"""
from libc.stdint cimport uint64_t, uintptr_t

from extmeta.memory.frames cimport Ptdesc
from extmeta.table.encoding cimport Write
from extmeta.table.vpns cimport Run

cdef enum:
    # A table's link and its count of flags.
    PLACE_BYTES = 16


cdef class Places(Locking):
    """Where a table's link and its count of flags lie."""

    cdef Ptdesc* placed(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        """Return a table that has a place if the write gives it a word, or NULL."""
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
