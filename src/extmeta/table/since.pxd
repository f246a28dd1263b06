"""Find the words whose field holds a number that is not older than another.

Numbers wrap around, as jiffies do: `value` is not older than `since` if it is less than
half of the numbers ahead of it. 0 is no number: a word without one is never found.
"""
from libc.stdint cimport uint64_t

from extmeta.memory.frames cimport Ptdesc
from extmeta.table.encoding cimport MAX_LANES
from extmeta.table.refusal cimport Found, room_for
from extmeta.table.vpns cimport Run, Span, run_of
from extmeta.table.words cimport Tables, Words


cdef struct Since:
    int shift          # of the field in the word
    uint64_t ones      # the field's bits, shifted down
    uint64_t since
    uint64_t half      # of the numbers there are


cdef inline Py_ssize_t since_in_table(
        Words w, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last, const Since* of,
        uint64_t* vpns) noexcept nogil:
    """Write the vpns of a table's entries that match; return their number."""
    cdef uint64_t[64 * MAX_LANES] words
    cdef Py_ssize_t lanes = w.encoding.lanes
    cdef Py_ssize_t lane = of.shift // 64
    cdef int shift = of.shift % 64
    # The part of a field that lies in the next lane.
    cdef bint cut = shift and (of.ones << shift) >> shift != of.ones
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at, i
    cdef uint64_t value
    cdef Run r
    for at in range(first, last, 64):
        r = run_of(at, min(64, last - at))
        w.encoding.load(t, &r, words)
        for i in range(r.n):
            value = words[i * lanes + lane] >> shift
            if cut:
                value |= words[i * lanes + lane + 1] << (64 - shift)
            value &= of.ones
            vpns[found] = t.vpn + <uint64_t>(at + i)
            found += value != 0 and (value - of.since & of.ones) < of.half
    return found


cdef inline int find_since(
        Words w, const Span* s, const Since* of, Found* found) noexcept nogil:
    """Find the vpns of a range that match. -1 if no memory can be had."""
    cdef uint64_t at = s.first
    cdef uint64_t stop = s.first + <uint64_t>s.n
    cdef int failed = 0
    cdef Py_ssize_t i
    cdef Tables g
    w.encoding.begin(at, stop, min(<uint64_t>s.n, w.nr_ptes), False)
    while not failed and w.next_tables(&at, stop, w.encoding.uses_descriptor, &g):
        for i in range(g.n):
            failed = room_for(found, w.entries + 1)
            if failed:
                break
            found.n += since_in_table(
                w, g.tables[i], g.run.first, g.run.first + g.run.n, of,
                found.vpns + found.n)
    w.encoding.end()
    return failed
