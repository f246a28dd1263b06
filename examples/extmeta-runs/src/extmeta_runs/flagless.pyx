"""A byte for each PTE in an array beside the table, and no flag in the PTE.

A byte of 0 means no word, so no bit of the PTE is spent. But once a table has words, a
lookup reads the array even for a PTE without a word. A table of 512 entries takes 512
bytes from its first word until its last one is gone. These are the five required
methods and no more.
"""
from cython cimport final
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memset

from extmeta.encoding cimport (
    Encoding, Ptdesc, Run, Slabs, Write, entries, entry_at, makes_a_word)


@final
cdef class Flagless(Encoding):
    """Keep words of up to 8 bits in an array linked from the table's descriptor."""

    def configure(self):
        self.refuse_above(8)
        self.objects = Slabs()

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        if t.link == 0 and makes_a_word(w, r.n, 1):
            t.link = <uintptr_t>self.objects.alloc(self.entries)
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

    cdef size_t side_bytes(self) noexcept nogil:
        return self.objects.object_bytes
