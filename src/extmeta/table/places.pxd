"""A table's place for its link and count of flags; make room for words."""
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.slabs cimport Aside, Slabs
from extmeta.table.encoding cimport Write
from extmeta.table.locking cimport Locking
from extmeta.table.vpns cimport Run

cdef class Places(Locking):
    cdef Slabs index                  # places, if tables share a page; else None
    cdef Aside index_aside
    # May allocate: make room for `w` in the encoding, and a place for the table's link.
    # NULL if no memory can be had; nothing has changed then.
    cdef inline Ptdesc* prepare(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        t = self.encoding.prepare(t, r, w)
        if self.frames.page_order and t is not NULL and t.reached == 0 and (
                self.encoding.uses_descriptor):
            return self.placed(t, r, w)
        return t

    # Free memory that the table's words no longer need.
    cdef inline void settle(self, Ptdesc* t) noexcept nogil:
        self.encoding.settle(t)
        if t.next:
            self.encoding.trim(t, False)
        if t.reached and t.flagged == 0:
            self.unreach(t)

    cdef Ptdesc* placed(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil
    cdef bint reach(self, Ptdesc* t) noexcept nogil
    cdef void unreach(self, Ptdesc* t) noexcept nogil
    cdef Ptdesc* page_of(self, Ptdesc* t) noexcept nogil
    cdef bint set_index_aside(self, size_t n) noexcept nogil
    # Bytes of all places, and of those of one page.
    cdef size_t index_bytes(self) noexcept nogil
    cdef size_t place_bytes(self) noexcept nogil
