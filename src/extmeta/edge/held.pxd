"""A page table's memory, tables and invariants."""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Ptdesc
from extmeta.table.operations cimport Operations
from extmeta.table.refusal cimport Found

cdef class Held(Operations):
    cdef size_t share_of_side(self) noexcept nogil
    cdef results(self, Found* found, int failed)
    cdef adopted(self, Found* found)
    cdef const char* fault(self, uint64_t* vpn) noexcept nogil
    cdef const char* fault_of_words(self, Ptdesc* t) noexcept nogil
    cdef const char* fault_of_counts(self, uint64_t* vpn) noexcept nogil
    cdef const char* fault_of_leaves(self, uint64_t* at) noexcept nogil
