"""Vpns that callers pass, as C sees them."""
from libc.stdint cimport uint64_t

cdef struct Run:
    # Entries of one PTE table: [first, first + n) or, if `vpns` is not NULL, those of
    # vpns[0] ... vpns[n - 1], in that order.
    Py_ssize_t first
    Py_ssize_t n
    const uint64_t* vpns

cdef struct Span:
    # [first, first + n) or, if `vpns` is not NULL, vpns[0] ... vpns[n - 1].
    uint64_t first
    Py_ssize_t n
    const uint64_t* vpns

cdef inline Run run_of(Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    return Run(first, n, NULL)

cdef inline Py_ssize_t entry_at(
        const Run* r, Py_ssize_t i, Py_ssize_t last_entry) noexcept nogil:
    """Return the index in the table of the ``i``-th entry of ``r``."""
    return <Py_ssize_t>(r.vpns[i] & <uint64_t>last_entry) if r.vpns else r.first + i

cdef inline uint64_t vpn_at(const Span* s, Py_ssize_t i) noexcept nogil:
    return s.vpns[i] if s.vpns else s.first + <uint64_t>i

cdef inline bint consecutive(const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
    """Return whether the n vpns are a range."""
    cdef uint64_t first = vpns[0]
    cdef uint64_t differ = 0
    cdef Py_ssize_t i
    # This alone finds nearly all that are no range.
    if vpns[n - 1] != first + <uint64_t>(n - 1):
        return False
    for i in range(n):
        differ |= vpns[i] ^ (first + <uint64_t>i)
    return differ == 0


cdef inline void next_run(
        const Span* s, Py_ssize_t at, int table_bits, Run* r) noexcept nogil:
    """Fill ``r`` with the entries from ``at`` on that share a PTE table."""
    cdef uint64_t vpn = vpn_at(s, at)
    cdef Py_ssize_t entries = <Py_ssize_t>1 << table_bits
    cdef Py_ssize_t i
    r.first = <Py_ssize_t>(vpn & <uint64_t>(entries - 1))
    r.n = min(entries - r.first, s.n - at)
    r.vpns = NULL
    # vpns that are a range are faster as a range.
    if s.vpns is NULL or consecutive(s.vpns + at, r.n):
        return
    i = at + 1
    while i < s.n and s.vpns[i] >> table_bits == vpn >> table_bits:
        i += 1
    r.vpns = s.vpns + at
    r.n = i - at

cdef inline bint scattered(
        const Span* s, Py_ssize_t at, int table_bits) noexcept nogil:
    """Return whether each of the next three vpns is of another PTE table.

    After the last vpn of a table, sorted vpns often go on with two of the next one.
    """
    return s.vpns is not NULL and at + 1 < s.n and (
        (s.vpns[at] ^ s.vpns[at + 1]) >> table_bits != 0) and (
        at + 2 == s.n or (s.vpns[at + 1] ^ s.vpns[at + 2]) >> table_bits != 0)


cdef class Vpns:
    # Holds the array that `span` points into.
    cdef Span span
    cdef object held
    cdef readonly bint single
