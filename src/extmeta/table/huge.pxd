"""Huge pages: leaves above the PTE tables, made, split and dropped."""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport PTE, Ptdesc
from extmeta.table.encoding cimport Write
from extmeta.table.mapping cimport Mapping
from extmeta.table.refusal cimport Found
from extmeta.table.vpns cimport Span

cdef class HugePages(Mapping):
    cdef int put_leaves(
        self, const Span* s, const uint64_t* pfns, bint deposit) noexcept nogil
    # Map a huge page at ``vpn``, where nothing is mapped, or the operation has mapped a
    # huge page already. False if no memory can be had.
    cdef bint put_leaf(self, uint64_t vpn, uint64_t pfn, bint deposit) noexcept nogil
    cdef bint deposit_one(self, uint64_t* slot) noexcept nogil
    cdef void clear_leaf(self, uint64_t* slot) noexcept nogil
    # Replace the huge leaves of n vpns by PTE tables, all PTEs with one word. If `pfns`
    # is NULL, the leaves' pfns stay.
    cdef int split(
        self, uint64_t first, uint64_t n, const uint64_t* pfns, const Write* w,
        uint64_t bits) noexcept nogil
    cdef Ptdesc* split_one(
        self, uint64_t vpn, uint64_t* slot, const uint64_t* pfns, const Write* w,
        uint64_t bits) noexcept nogil
    cdef void unmake(self, Ptdesc* t) noexcept nogil
    # First vpn and pfn of each leaf, and whether it has a deposited table.
    cdef int find_leaves(self, Found* found) noexcept nogil
    cdef int cuts_leaf(self, uint64_t edge) noexcept nogil
    cdef int refuse_used(self, uint64_t first, uint64_t end) noexcept nogil
    # Unmap all of [first, stop); no huge leaf may be cut.
    cdef void drop(self, uint64_t first, uint64_t stop) noexcept nogil
