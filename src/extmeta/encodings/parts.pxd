"""Bits of a number scattered over a PTE, and gathered from it.

What an encoding keeps in the PTE itself, a word or a code, lies in whatever bits
the architecture leaves to software: runs of them, each moved by one shift.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from extmeta.table.pte cimport ALL, PteLayout, equal

cdef enum:
    MAX_PARTS = 64

cdef struct Part:
    # `mask` of the number, shifted right by `from_`, is shifted left by `to`.
    uint64_t mask
    int from_
    int to


cdef inline uint64_t scatter(
        const Part* parts, int n, uint64_t number) noexcept nogil:
    cdef uint64_t pte = 0
    cdef int i
    for i in range(n):
        pte |= (number & parts[i].mask) >> parts[i].from_ << parts[i].to
    return pte


cdef inline uint64_t gather(const Part* parts, int n, uint64_t pte) noexcept nogil:
    cdef uint64_t number = 0
    cdef int i
    for i in range(n):
        number |= pte >> parts[i].to << parts[i].from_ & parts[i].mask
    return number


cdef inline void scatter_all(
        const Part* parts, int nr_parts, const uint64_t* numbers, Py_ssize_t n,
        uint64_t* ptes) noexcept nogil:
    """Fill ``ptes`` with the bits that hold n numbers; part by part, for SIMD."""
    cdef uint64_t mask
    cdef int to, from_, part
    cdef Py_ssize_t i
    for part in range(nr_parts):
        mask = parts[part].mask
        to = parts[part].to
        from_ = parts[part].from_
        if part == 0:
            for i in range(n):
                ptes[i] = (numbers[i] & mask) >> from_ << to
        else:
            for i in range(n):
                ptes[i] |= (numbers[i] & mask) >> from_ << to


cdef inline void gather_all(
        const Part* parts, int nr_parts, const uint64_t* ptes, Py_ssize_t n,
        uint64_t* numbers) noexcept nogil:
    """Fill ``numbers`` with what n entries hold, likewise."""
    cdef uint64_t mask
    cdef int to, from_, part
    cdef Py_ssize_t i
    for part in range(nr_parts):
        mask = parts[part].mask
        to = parts[part].to
        from_ = parts[part].from_
        if part == 0:
            for i in range(n):
                numbers[i] = ptes[i] >> to << from_ & mask
        else:
            for i in range(n):
                numbers[i] |= ptes[i] >> to << from_ & mask


cdef inline uint64_t swap_entries(
        const uint64_t* pte, Py_ssize_t n, const PteLayout* a) noexcept nogil:
    """Return a bit for each entry neither present nor none. n <= 64."""
    cdef uint64_t held = equal(pte, n, a.present, a.present)
    cdef uint64_t every = ALL >> (64 - n)
    if held != every:
        held |= equal(pte, n, ALL, a.none)
    return every & ~held


cdef inline int fill(Part* parts, bits) except -1:
    """Turn a list of PTE bits, one for each bit of a number, into runs of them.

    None is for a bit of the number that has no place. Return how many runs.
    """
    cdef int n = 0
    memset(parts, 0, MAX_PARTS * sizeof(Part))
    for i, bit in enumerate(bits):
        if bit is None:
            continue
        if n and i and bits[i - 1] is not None and bits[i - 1] + 1 == bit:
            parts[n - 1].mask |= <uint64_t>1 << <int>i
        else:
            parts[n].mask = <uint64_t>1 << <int>i
            parts[n].from_ = i
            parts[n].to = bit
            n += 1
    return n
