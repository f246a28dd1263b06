"""LISTED: the words, then the positions of their entries, 16 bits each, ascending."""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memmove

from extmeta.encodings.adaptive.contents cimport Sparse, place
from extmeta.encodings.adaptive.link cimport (
    Geometry, count_of, object_of, width_of, with_count)
from extmeta.encodings.packed cimport (
    get, keep_in_all, narrow, put, shift, widen)
from extmeta.table.simd cimport keep_matching

cdef enum:
    # A search in longer lists takes too long. docs/design.md has the choice of
    # containers; no benchmark is recorded for this limit.
    LISTED_MOST = 48

cdef inline size_t nbytes(size_t n, int width) noexcept nogil:
    """Return what n positions and their words need."""
    return ((n << (width - 3)) + 1 & ~<size_t>1) + n * 2

cdef inline uint16_t* positions(void* p, Py_ssize_t n, int width) noexcept nogil:
    """Return where the object has its n positions."""
    return <uint16_t*>(<char*>p + ((<size_t>n << (width - 3)) + 1 & ~<size_t>1))

cdef inline uint64_t word_at(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return the word of an entry that is listed."""
    cdef int width = width_of(link)
    cdef void* p = object_of(g, link)
    cdef const uint16_t* position = positions(p, count_of(link), width)
    return get(p, width, place(position, count_of(link), e))

cdef inline void list_words(const Geometry* g, uint64_t link, Sparse* s) noexcept nogil:
    cdef void* p = object_of(g, link)
    s.count = count_of(link)
    memcpy(s.position, positions(p, s.count, width_of(link)), s.count * 2)
    widen(p, width_of(link), 0, s.count, s.word)

cdef inline void fill(void* p, int width, const Sparse* s) noexcept nogil:
    narrow(s.word, s.count, width, p)
    memcpy(positions(p, s.count, width), s.position, s.count * 2)

cdef inline bint clear(const Geometry* g, uint64_t link, uint64_t keep) noexcept nogil:
    """Keep only these bits of all words, unless a word would become 0."""
    return keep_in_all(object_of(g, link), width_of(link), count_of(link), keep)

cdef inline bint put_word(
        const Geometry* g, uint64_t* link, Py_ssize_t e, bint there, uint64_t word,
        size_t room) noexcept nogil:
    """Change, add or remove one word; False if ``room`` bytes are too few."""
    cdef int width = width_of(link[0])
    cdef Py_ssize_t n = count_of(link[0])
    cdef char* p = <char*>object_of(g, link[0])
    cdef uint16_t* position = positions(p, n, width)
    cdef Py_ssize_t at = place(position, n, e)
    cdef uint16_t* moved
    if not there:
        if n >= LISTED_MOST or nbytes(n + 1, width) > room:
            return False
        # The words grow: first move the positions out of their way.
        moved = positions(p, n + 1, width)
        memmove(moved + at + 1, position + at, (n - at) * 2)
        memmove(moved, position, at * 2)
        moved[at] = <uint16_t>e
    shift(p, width, at, n, 1 if not there else -1 if word == 0 else 0)
    if word:
        put(p, width, at, word)
    else:
        moved = positions(p, n - 1, width)
        memmove(moved, position, at * 2)
        memmove(moved + at, position + at + 1, (n - at - 1) * 2)
    link[0] = with_count(link[0], n + (1 if not there else -1 if word == 0 else 0))
    return True

cdef inline Py_ssize_t scan(
        const Geometry* g, uint64_t link, uint64_t mask, uint64_t value, uint64_t vpn,
        uint64_t* vpns) noexcept nogil:
    """Scan a whole table."""
    cdef Py_ssize_t n = count_of(link)
    cdef int width = width_of(link)
    cdef void* p = object_of(g, link)
    return keep_matching(
        p, width, positions(p, n, width), n, mask, value, vpn, vpns)


# A reader without a lock calls what follows: the positions may be changing.

cdef inline Py_ssize_t find(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return which word is that of the entry, or -1."""
    cdef Py_ssize_t n = count_of(link)
    cdef const uint16_t* position = positions(object_of(g, link), n, width_of(link))
    cdef Py_ssize_t at = place(position, n, e)
    return at if at < n and position[at] == e else -1

cdef inline void see_all(
        const Geometry* g, uint64_t link, uint64_t* words) noexcept nogil:
    """Write the listed words to their places among zeros."""
    cdef Py_ssize_t n = count_of(link)
    cdef int width = width_of(link)
    cdef void* p = object_of(g, link)
    cdef const uint16_t* position = positions(p, n, width)
    cdef Py_ssize_t i
    for i in range(n):
        words[position[i] & (g.entries - 1)] = get(p, width, i)
