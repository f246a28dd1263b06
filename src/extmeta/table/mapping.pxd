"""Make and clear PTEs, and the tables that they lie in."""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.encoding cimport Encoding
from extmeta.table.refusal cimport Found
from extmeta.table.snapshot cimport Snapshots
from extmeta.table.vpns cimport Run, Span, entry_at

cdef inline uint64_t make_present(
        uint64_t* entry, const Run* r, Py_ssize_t last_entry, uint64_t none,
        const uint64_t* pfns, uint64_t next_pfn, uint64_t pfn_mask, int shift,
        uint64_t bits, int stride) noexcept nogil:
    """Make present PTEs of a run; return how many were none."""
    cdef uint64_t made = 0
    cdef uint64_t* pte
    cdef uint64_t pfn
    cdef Py_ssize_t i
    for i in range(r.n):
        pfn = pfns[i] if pfns else (next_pfn + <uint64_t>i) & pfn_mask
        pte = &entry[entry_at(r, i, last_entry) * stride]
        # A vpn may be named twice: the last pfn wins.
        made += pte[0] == none
        pte[0] = pfn << shift | bits
    return made

cdef class Mapping(Snapshots):
    cdef int put(
        self, const Span* s, const uint64_t* pfns, uint64_t bits) noexcept nogil
    cdef uint64_t make_pages(
        self, uint64_t* entry, const Run* r, const uint64_t* pfns,
        uint64_t next_pfn, uint64_t bits) noexcept nogil
    cdef void drop_empty(self, const Span* s, Py_ssize_t upto) noexcept nogil
    cdef Ptdesc* new_table(self, int order) noexcept nogil
    cdef bint in_leaf(self, uint64_t vpn) noexcept nogil
    cdef void clear(
        self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    # Preallocate memory for one operation on each of n tables, as Encoding.set_aside.
    cdef bint set_aside(self, size_t n) noexcept nogil
    cdef int find_tables(self, Found* found) noexcept nogil
