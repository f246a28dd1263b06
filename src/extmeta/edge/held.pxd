"""What a page table holds."""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Ptdesc
from extmeta.table.operations cimport Operations

cdef class Held(Operations):
    cdef size_t share_of_side(self) noexcept nogil
    cdef const char* fault(self, uint64_t* vpn) noexcept nogil
    cdef const char* fault_of_words(self, Ptdesc* t) noexcept nogil
    cdef const char* fault_of_leaves(self, uint64_t* at) noexcept nogil
