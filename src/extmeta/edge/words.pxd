"""The methods about words."""
from libc.stdint cimport uint64_t

from extmeta.edge.held cimport Held
from extmeta.table.encoding cimport Write
from extmeta.table.refusal cimport Found
from extmeta.table.vpns cimport Vpns

cdef class WordMethods(Held):
    cdef int refuse_result(self, Vpns v, size_t nbytes) except -1
    # Lock the span, write or read, and unlock; raise the refusal of a write.
    cdef int write_locked(self, Vpns v, const Write* w, bint all_mapped) except -1
    cdef int read_locked(self, Vpns v, ptes, words) except -1
    cdef Vpns named(self, vpns)
    cdef Vpns range_of(self, name, vpns)
    cdef runs_of(self, Vpns v)
    cdef bounds(self, first, count)
    cdef fitting(self, name, value)
    cdef int spread(self, uint64_t* lanes, value, uint64_t flip) except -1
    cdef bint stored_one(self, vpn, word)
    cdef left_with(self, int range_, Found* found, int failed)
    cdef Vpns asked_for(
        self, name, vpns, mask, value, uint64_t* bits, uint64_t* wanted)
    cdef matching(
        self, Vpns v, bint as_runs, const uint64_t* bits, const uint64_t* wanted,
        const Write* w)
