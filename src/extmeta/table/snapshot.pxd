"""Read entries and their words without a lock."""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.vpns cimport Run, Span
from extmeta.table.words cimport Group, Words

cdef class Snapshots(Words):
    # Return an entry, or none if there is no table, and read its word, all lanes. Both
    # are of one moment. Don't call it if encoding.reading is LOCKED.
    cdef uint64_t see_one(self, uint64_t vpn, uint64_t* word) noexcept nogil
    cdef bint see_entry(
        self, const Ptdesc* t, uint64_t vpn, uint64_t* pte,
        uint64_t* word) noexcept nogil
    cdef void see_all(
        self, const Span* s, uint64_t* ptes, uint64_t* words) noexcept nogil
    cdef bint see_group(
        self, Group* g, uint64_t* ptes, uint64_t* words) noexcept nogil
    cdef bint see_run(
        self, const Ptdesc* t, const Run* r, uint64_t* ptes,
        uint64_t* words) noexcept nogil
    cdef bint see_each(
        self, const Ptdesc* t, const Run* r, uint64_t* ptes,
        uint64_t* words) noexcept nogil
    cdef void copy_entries(
        self, const Ptdesc* t, const Run* r, uint64_t* ptes) noexcept nogil
    # The entries of a span, under the lock.
    cdef void read_ptes(self, const Span* s, uint64_t* ptes) noexcept nogil
