"""UNIFORM and BOXED: all flagged PTEs have one word; their flags say which they are."""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memset

from extmeta.encodings.adaptive.contents cimport Sparse
from extmeta.encodings.adaptive.link cimport (
    UNIFORM, UNIFORM_SHIFT, Geometry, kind_of, object_of)
from extmeta.table.pte cimport ALL, PteLayout, flag_of, flags, lowest
from extmeta.table.simd cimport vpns_of_bits

cdef inline bint fits(uint64_t word) noexcept nogil:
    """Return whether the link itself has room for the word."""
    return word >> (64 - UNIFORM_SHIFT) == 0

cdef inline uint64_t word_at(const Geometry* g, uint64_t link) noexcept nogil:
    if kind_of(link) == UNIFORM:
        return link >> UNIFORM_SHIFT
    return (<uint64_t*>object_of(g, link))[0]

cdef inline uint64_t link_with(uint64_t word) noexcept nogil:
    """Return a UNIFORM link."""
    return word << UNIFORM_SHIFT | UNIFORM

cdef inline uint64_t with_word(
        const Geometry* g, uint64_t link, uint64_t word) noexcept nogil:
    """Set the word, which fits if the link's own did; return the link."""
    if kind_of(link) == UNIFORM:
        return link_with(word)
    (<uint64_t*>object_of(g, link))[0] = word
    return link

cdef inline void list_words(
        uint64_t word, const uint64_t* entry, const PteLayout* a, Py_ssize_t first,
        Py_ssize_t last, Sparse* s) noexcept nogil:
    """List the flagged entries of [first, last), all with ``word``."""
    cdef uint64_t marked
    cdef Py_ssize_t at
    s.count = 0
    for at in range(first, last, 64):
        marked = flags(entry + at, min(64, last - at), a)
        while marked:
            s.position[s.count] = <uint16_t>(at + lowest(marked))
            s.word[s.count] = word
            s.count += 1
            marked &= marked - 1

cdef inline void read(
        uint64_t word, const uint64_t* entry, const PteLayout* a, Py_ssize_t first,
        Py_ssize_t last, uint64_t* words) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, last):
        words[i - first] = word if entry[i] & flag_of(a, entry[i]) else 0

cdef inline void see(
        uint64_t word, const uint64_t* ptes, Py_ssize_t n, const PteLayout* a,
        uint64_t* words) noexcept nogil:
    """Read the words of n entries from copies of them."""
    cdef uint64_t flagged
    cdef Py_ssize_t at, i
    for at in range(0, n, 64):
        flagged = flags(ptes + at, min(64, n - at), a)
        if flagged == ALL:
            for i in range(64):
                words[at + i] = word
            continue
        memset(words + at, 0, min(64, n - at) * sizeof(uint64_t))
        while flagged:
            words[at + lowest(flagged)] = word
            flagged &= flagged - 1

cdef inline Py_ssize_t scan(
        const uint64_t* entry, const PteLayout* a, Py_ssize_t first, Py_ssize_t last,
        uint64_t vpn, uint64_t* vpns) noexcept nogil:
    """Write the vpns of the flagged entries; their word matches."""
    cdef uint64_t[8] marked
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at, n
    for at in range(first, last, 64):
        n = at - first >> 6 & 7
        marked[n] = flags(entry + at, min(64, last - at), a)
        if n == 7 or at + 64 >= last:
            found += vpns_of_bits(
                vpns + found, vpn + <uint64_t>(at - 64 * n), marked, n + 1)
    return found
