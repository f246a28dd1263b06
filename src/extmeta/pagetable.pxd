"""PageTable, for Cython callers.

What is promised here: `read_word` and `write_word` for words of one lane, and the
walk of `Radix`, find and next_table. Hold the lock around them, by `enter` and
`leave`, if other threads use the same table. `see_one` and `see_all`, a snapshot, need
none; `lock_table` and `unlock_table` of `frames` are a PTE table's own. A consumer
must be compiled against the version of extmeta that it runs with: the layout of the
classes may change between minor versions.
"""
from libc.stdint cimport uint64_t

from extmeta.table.operations cimport Operations
from extmeta.table.vpns cimport Vpns

cdef class PageTable(Operations):
    cdef int refuse_result(self, Vpns v, size_t nbytes) except -1
    cdef Vpns named(self, vpns)
    cdef int spread(self, uint64_t* lanes, value) except -1
    cdef PageTable grafted(self, bint shared)
    cdef bint stored_one(self, vpn, word)
    cdef size_t share_of_side(self) noexcept nogil
    cdef int check_leaves(self) except -1
