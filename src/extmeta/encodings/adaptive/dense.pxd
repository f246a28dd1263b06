"""DENSE: a word for each entry, 0 for an entry without a word."""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memset

from extmeta.encodings.adaptive.contents cimport Sparse
from extmeta.encodings.adaptive.link cimport STALE, Geometry, object_of, width_of
from extmeta.encodings.packed cimport get, narrow, put, widen
from extmeta.table.pte cimport PteLayout, flag_of

cdef inline size_t nbytes(const Geometry* g, int width) noexcept nogil:
    return <size_t>g.entries << width >> 3

cdef inline uint64_t word_at(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    return get(object_of(g, link), width_of(link), e)

cdef inline void list_words(
        const Geometry* g, uint64_t link, Py_ssize_t first, Py_ssize_t last,
        Sparse* s) noexcept nogil:
    """List the entries of [first, last) with a word, stale ones included."""
    cdef uint64_t word
    cdef Py_ssize_t i
    s.count = 0
    for i in range(first, last):
        word = word_at(g, link, i)
        s.position[s.count] = <uint16_t>i
        s.word[s.count] = word
        s.count += word != 0

cdef inline void read(
        const Geometry* g, uint64_t link, const uint64_t* entry, const PteLayout* a,
        Py_ssize_t first, Py_ssize_t last, uint64_t* words) noexcept nogil:
    cdef Py_ssize_t i
    widen(object_of(g, link), width_of(link), first, last - first, words)
    if link & STALE:
        for i in range(first, last):
            if entry[i] & flag_of(a, entry[i]) == 0:
                words[i - first] = 0

cdef inline void fill(
        const Geometry* g, void* p, int width, const uint64_t* words, const Sparse* s
        ) noexcept nogil:
    """Write the words of all entries, or those listed if ``words`` is NULL."""
    cdef Py_ssize_t i
    if words is not NULL:
        narrow(words, g.entries, width, p)
        return
    memset(p, 0, nbytes(g, width))
    for i in range(s.count):
        put(p, width, s.position[i], s.word[i])

cdef inline void clear(
        const Geometry* g, uint64_t link, Py_ssize_t first, Py_ssize_t last
        ) noexcept nogil:
    """Forget the words of [first, last)."""
    cdef Py_ssize_t i
    for i in range(first, last):
        put(object_of(g, link), width_of(link), i, 0)
