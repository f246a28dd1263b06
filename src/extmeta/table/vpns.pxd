"""What callers pass as vpns and words, as C sees it."""
from libc.stdint cimport uint64_t

cdef struct Run:
    # Entries of one PTE table: [first, first + n), or, where there are `vpns`,
    # those of vpns[0] ... vpns[n - 1], in that order.
    Py_ssize_t first
    Py_ssize_t n
    const uint64_t* vpns

cdef struct Span:
    # [first, first + n), or, where there are `vpns`, vpns[0] ... vpns[n - 1].
    uint64_t first
    Py_ssize_t n
    const uint64_t* vpns

cdef inline Py_ssize_t entry_at(
        const Run* r, Py_ssize_t i, Py_ssize_t last_entry) noexcept nogil:
    """Return the table's entry that ``r`` names as its ``i``-th."""
    return <Py_ssize_t>(r.vpns[i] & <uint64_t>last_entry) if r.vpns else r.first + i

cdef inline uint64_t vpn_at(const Span* s, Py_ssize_t i) noexcept nogil:
    return s.vpns[i] if s.vpns else s.first + <uint64_t>i

cdef inline bint consecutive(const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
    """Return whether the n vpns are a range."""
    cdef uint64_t first = vpns[0]
    cdef uint64_t differ = 0
    cdef Py_ssize_t i
    # The last one tells of nearly all that are none.
    if vpns[n - 1] != first + <uint64_t>(n - 1):
        return False
    for i in range(n):
        differ |= vpns[i] ^ (first + <uint64_t>i)
    return differ == 0


cdef inline Py_ssize_t next_run(
        const Span* s, Py_ssize_t at, int table_bits, Run* r) noexcept nogil:
    """Fill ``r`` with the entries from ``at`` on that share a PTE table.

    Return how many they are.
    """
    cdef uint64_t vpn = vpn_at(s, at)
    cdef Py_ssize_t entries = <Py_ssize_t>1 << table_bits
    cdef Py_ssize_t i, n
    r.first = <Py_ssize_t>(vpn & <uint64_t>(entries - 1))
    if s.vpns is NULL:
        r.vpns = NULL
        r.n = min(entries - r.first, s.n - at)
        return r.n
    n = min(entries - r.first, s.n - at)
    if consecutive(s.vpns + at, n):
        # As good as a range, and faster.
        r.vpns = NULL
        r.n = n
        return n
    i = at + 1
    while i < s.n and s.vpns[i] >> table_bits == vpn >> table_bits:
        i += 1
    r.vpns = s.vpns + at
    r.n = i - at
    return r.n

cdef inline bint scattered(
        const Span* s, Py_ssize_t at, int table_bits) noexcept nogil:
    """Return whether the next two vpns are of different PTE tables."""
    return s.vpns is not NULL and at + 1 < s.n and (
        s.vpns[at] ^ s.vpns[at + 1]) >> table_bits != 0


cdef class Vpns:
    # Holds the array that `span` points into.
    cdef Span span
    cdef object held
    cdef readonly bint single
