"""RANKED: a bit for each entry, then the words of the entries whose bit is set."""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memset

from extmeta.encodings.adaptive.contents cimport Sparse
from extmeta.encodings.adaptive.link cimport (
    Geometry, count_of, object_of, width_of, with_count)
from extmeta.encodings.packed cimport (
    get, keep_in_all, narrow, put, shift, widen)
from extmeta.memory.sync cimport once
from extmeta.table.pte cimport lowest
from extmeta.table.simd cimport keep_matching, vpns_of_bits

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>

    /* For 512 entries there is no branch: nobody can predict which of the 8 words
       has the entry. */
    #define EXTMETA_RANK(name, attributes)                                   \
    attributes static int name(const uint64_t *map, int words, int entry)    \
    {                                                                        \
        const uint64_t below = ((uint64_t)1 << (entry & 63)) - 1;            \
        const int last = entry >> 6;                                         \
        int rank = __builtin_popcountll(map[last] & below);                  \
        if (words == 8)                                                      \
            for (int i = 0; i < 7; i++)                                      \
                rank += __builtin_popcountll(map[i] & -(uint64_t)(i < last)); \
        else                                                                 \
            for (int i = 0; i < last; i++)                                   \
                rank += __builtin_popcountll(map[i]);                        \
        return rank;                                                         \
    }
    EXTMETA_RANK(extmeta_rank_any, __attribute__((unused)))

    /* Most processors have an instruction for this; else each count is a call. */
    #if defined(__x86_64__) && defined(__GNUC__)
    EXTMETA_RANK(extmeta_rank_popcnt,
                 __attribute__((unused, noinline, target("popcnt"))))
    #define extmeta_rank(map, words, entry) (__builtin_cpu_supports("popcnt") ? \
        extmeta_rank_popcnt(map, words, entry) : extmeta_rank_any(map, words, entry))
    #else
    #define extmeta_rank extmeta_rank_any
    #endif
    """
    # Number of bits set before that of ``entry`` in a map of that many words.
    int rank "extmeta_rank"(const uint64_t* map, int words, int entry) noexcept nogil

cdef inline size_t nbytes(const Geometry* g, size_t n, int width) noexcept nogil:
    """Return what the map and n words need."""
    return g.map_bytes + (n << (width - 3))

cdef inline char* words_of(const Geometry* g, uint64_t link) noexcept nogil:
    return <char*>object_of(g, link) + g.map_bytes

cdef inline Py_ssize_t index_of(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return how many words are before that of the entry."""
    return rank(<const uint64_t*>object_of(g, link), <int>g.map_bytes // 8, <int>e)

cdef inline uint64_t word_at(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return the word of an entry whose bit is set."""
    return get(words_of(g, link), width_of(link), index_of(g, link, e))

cdef inline void list_words(const Geometry* g, uint64_t link, Sparse* s) noexcept nogil:
    cdef const uint64_t* map = <const uint64_t*>object_of(g, link)
    cdef uint64_t bits
    cdef Py_ssize_t at
    s.count = 0
    for at in range(0, g.entries, 64):
        bits = map[at >> 6]
        while bits:
            s.position[s.count] = <uint16_t>(at + lowest(bits))
            s.count += 1
            bits &= bits - 1
    widen(words_of(g, link), width_of(link), 0, s.count, s.word)

cdef inline void fill(
        const Geometry* g, void* p, int width, const Sparse* s) noexcept nogil:
    cdef uint64_t* map = <uint64_t*>p
    cdef Py_ssize_t i
    memset(map, 0, g.map_bytes)
    for i in range(s.count):
        map[s.position[i] >> 6] |= <uint64_t>1 << (s.position[i] & 63)
    narrow(s.word, s.count, width, <char*>p + g.map_bytes)

cdef inline bint clear(const Geometry* g, uint64_t link, uint64_t keep) noexcept nogil:
    """Keep only these bits of all words, unless a word would become 0."""
    return keep_in_all(words_of(g, link), width_of(link), count_of(link), keep)

cdef inline bint put_word(
        const Geometry* g, uint64_t* link, Py_ssize_t e, bint there, uint64_t word,
        size_t room) noexcept nogil:
    """Change, add or remove one word; False if ``room`` bytes are too few."""
    cdef int width = width_of(link[0])
    cdef Py_ssize_t n = count_of(link[0])
    cdef uint64_t* map = <uint64_t*>object_of(g, link[0])
    cdef char* p = words_of(g, link[0])
    cdef Py_ssize_t at = index_of(g, link[0], e)
    if not there and nbytes(g, n + 1, width) > room:
        return False
    if word:
        map[e >> 6] |= <uint64_t>1 << (e & 63)
    else:
        map[e >> 6] &= ~(<uint64_t>1 << (e & 63))
    shift(p, width, at, n, 1 if not there else -1 if word == 0 else 0)
    if word:
        put(p, width, at, word)
    link[0] = with_count(link[0], n + (1 if not there else -1 if word == 0 else 0))
    return True

cdef inline Py_ssize_t scan(
        const Geometry* g, uint64_t link, uint64_t mask, uint64_t value, uint64_t vpn,
        uint64_t* vpns) noexcept nogil:
    """Scan a whole table."""
    cdef Py_ssize_t n = vpns_of_bits(
        vpns, vpn, <const uint64_t*>object_of(g, link), g.map_bytes >> 3)
    return keep_matching(
        words_of(g, link), width_of(link), NULL, n, mask, value, vpn, vpns)


# A reader without a lock calls what follows: the map may be changing.

cdef inline Py_ssize_t find(
        const Geometry* g, uint64_t link, Py_ssize_t e) noexcept nogil:
    """Return which word is that of the entry, or -1."""
    cdef Py_ssize_t at = index_of(g, link, e)
    return at if at < count_of(link) else -1

cdef inline void see_all(
        const Geometry* g, uint64_t link, uint64_t* words) noexcept nogil:
    """Write the words to their places among zeros."""
    cdef const uint64_t* map = <const uint64_t*>object_of(g, link)
    cdef Py_ssize_t n = count_of(link)
    cdef Py_ssize_t nth = 0
    cdef uint64_t bits
    cdef Py_ssize_t at
    for at in range(0, g.entries, 64):
        bits = once(map + (at >> 6))
        while bits and nth < n:
            words[at + lowest(bits)] = get(words_of(g, link), width_of(link), nth)
            nth += 1
            bits &= bits - 1
