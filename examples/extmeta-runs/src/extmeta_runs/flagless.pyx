"""A byte for each PTE in an array beside the table, and no flag in the PTE.

A byte of 0 means no word, so no bit of the PTE is spent. But once a table has words, a
lookup reads the array even for a PTE without a word. A table of 512 entries takes 512
bytes from its first word until its last one is gone.
"""
from cython cimport final
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memset

from extmeta.encoding cimport (
    Encoding, Ptdesc, Run, Slabs, Write, entries, entry_at, makes_a_word)


@final
cdef class Flagless(Encoding):
    """Keep words of up to 8 bits in an array linked from the table's descriptor."""

    cdef Slabs slabs

    def configure(self):
        self.refuse_above(8)
        self.slabs = Slabs()

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        if t.link == 0 and makes_a_word(w, r.n, 1):
            t.link = <uintptr_t>self.slabs.alloc(self.entries)
            if t.link == 0:
                return NULL
            memset(<void*>t.link, 0, self.entries)
        return t

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint8_t* side = <const uint8_t*>t.link
        cdef Py_ssize_t i
        for i in range(r.n):
            words[i] = side[entry_at(r, i, self.entries - 1)] if side else 0

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint8_t* side = <uint8_t*>t.link
        cdef uint8_t word
        cdef Py_ssize_t i, e
        if side is NULL:
            return
        for i in range(r.n):
            e = entry_at(r, i, self.entries - 1)
            if entry[e] != self.pte.none:
                word = <uint8_t>(side[e] & w.keep[0] | w.add[i * w.step])
                t.flagged += <unsigned int>(word != 0)
                t.flagged -= <unsigned int>(side[e] != 0)
                side[e] = word

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef uint8_t* side = <uint8_t*>t.link
        cdef Py_ssize_t e
        if side is not NULL:
            for e in range(first, last):
                t.flagged -= <unsigned int>(side[e] != 0)
                side[e] = 0

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if t.link and t.flagged == 0:
            self.slabs.free(<void*>t.link)
            t.link = 0

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to

    cdef size_t side_bytes(self) noexcept nogil:
        return self.slabs.object_bytes

    cdef size_t held_bytes(self) noexcept nogil:
        return self.slabs.page_bytes()

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint8_t* side = <const uint8_t*>t.link
        cdef unsigned int words = 0
        cdef Py_ssize_t e
        for e in range(self.entries if side else 0):
            words += side[e] != 0
            if side[e] and entries(self.frames, t)[e] == self.pte.none:
                return b"a word without a PTE"
        if words != t.flagged:
            return b"count of words is stale"
        return NULL
