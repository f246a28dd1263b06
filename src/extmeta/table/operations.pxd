"""Copy page tables; move, swap out and swap in PTEs."""
from libc.stdint cimport uint64_t

from extmeta.table.huge cimport HugePages
from extmeta.table.vpns cimport Span

cdef class Operations(HugePages):
    cdef int copy_tables(self, Operations parent) noexcept nogil
    cdef int copy_leaves(self, Operations parent) noexcept nogil
    cdef void copy_counts(self, Operations parent, uint64_t end) noexcept nogil
    # Move n PTEs; nothing may be mapped at ``dst``.
    cdef int move_tables(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil
    cdef uint64_t next_moved(self, uint64_t at, uint64_t stop) noexcept nogil
    cdef uint64_t chunk(
        self, uint64_t src, uint64_t stop, uint64_t dst) noexcept nogil
    cdef int move_run(
        self, uint64_t src, uint64_t dst, Py_ssize_t n, bint prepare) noexcept nogil
    cdef void tidy(self, uint64_t first, uint64_t stop) noexcept nogil
    cdef int swap_entries(
        self, const Span* s, const uint64_t* to, bint out) noexcept nogil
