"""Whether a container takes twice what its words need, without a survey of them.

A container has its size because of its number of words, because one of them is as wide
as the container's width allows, or because two of them differ. The number is in the
descriptor. For the rest, one word is remembered, the witness: it is wide, or differs
from a word just written that is wide itself. While it stays so, nothing else has to be
read. If it was overwritten, the next one is searched from there on, so a write to each
word of a table in turn takes one pass in total.

The descriptor's `hint` has the witness's index and, in 3 bits, the limit: with no word
wider than 2**limit bits, the container would be too large. Nothing is wrong if a limit
is too high, or if an index is out of range.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from extmeta.encodings.adaptive cimport ranked
from extmeta.encodings.adaptive.contents cimport Survey
from extmeta.encodings.adaptive.link cimport (
    DENSE, LISTED, RANKED, SHARED, STALE, Geometry, Kind, count_of, kind_of, object_of,
    width_of)
from extmeta.encodings.adaptive.pending cimport pending
from extmeta.encodings.adaptive.shape cimport Shape, choose, too_large
from extmeta.encodings.packed cimport get
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.slabs cimport Slabs
from extmeta.table.pte cimport ALL
from extmeta.table.vpns cimport Run, entry_at

cdef enum:
    INDEX_BITS = 13       # of the witness
    UNKNOWN = 0           # limit: any word wider than half the width is wide enough
    NO_LIMIT = 7          # words of any width need the container
    # Neighbours of a written word that are read first. With 64-bit words these are in
    # its cache line.
    NEIGHBOURS = 8

cdef inline void forget_limit(Ptdesc* t) noexcept nogil:
    """Call this if the container changed or has fewer words."""
    t.hint &= (1 << INDEX_BITS) - 1

cdef inline uint64_t wide_bits(int width, int limit) noexcept nogil:
    """Return a mask of the bits that make a word wide."""
    if limit == UNKNOWN:
        limit = width - 1
    if limit == 0 or limit == NO_LIMIT:
        return ALL
    return ALL << (1 << limit)

cdef inline int limit_of(
        const Geometry* g, Slabs slabs, const Ptdesc* t) noexcept nogil:
    """Return the limit for the present number of words."""
    cdef int limit = width_of(t.link) - 1
    cdef Shape shape
    cdef Survey v
    v.count = t.flagged
    v.uniform = False
    while limit > 0:
        v.bits = v.word = ALL >> (64 - (1 << limit))
        choose(g, slabs, &v, &shape)
        if too_large(t.link, &shape):
            return limit
        limit -= 1
    return NO_LIMIT

cdef inline Py_ssize_t find_witness(
        const void* p, int width, Py_ssize_t n, Py_ssize_t start, uint64_t word,
        uint64_t wide) noexcept nogil:
    """Return the index of a witness beside ``word``, searched from start on, or -1."""
    cdef Py_ssize_t i = start
    cdef uint64_t other
    # A wide word differs from one that isn't.
    if word & wide:
        wide = ALL
    while True:
        other = get(p, width, i)
        if other & wide and other != word:
            return i
        i += 1
        if i == n:
            i = 0
        if i == start:
            return -1

cdef inline bint are_witnesses(
        uint64_t word, uint64_t other, uint64_t wide) noexcept nogil:
    # Which of these fails is hard to predict, so this is one branch.
    return ((word != 0) & (other != 0) & (other != word)
            & ((word | other) & wide != 0))

cdef inline bint words_need_it(
        const Geometry* g, Slabs slabs, Ptdesc* t, const void* p, Py_ssize_t n,
        uint64_t word) noexcept nogil:
    """Return whether the n words at ``p`` need LISTED, RANKED or DENSE."""
    cdef int width = width_of(t.link)
    cdef int limit = t.hint >> INDEX_BITS
    cdef Py_ssize_t start = t.hint & ((1 << INDEX_BITS) - 1)
    cdef Py_ssize_t at
    cdef Shape shape
    cdef Survey v
    if start >= n:
        start = 0
    if word == 0:
        at = find_witness(p, width, n, start, 0, ALL)
        word = get(p, width, at) if at >= 0 else 0
    at = find_witness(p, width, n, start, word, wide_bits(width, limit))
    if at < 0 and limit == UNKNOWN and word & wide_bits(width, limit) == 0:
        limit = limit_of(g, slabs, t)
        at = find_witness(p, width, n, start, word, wide_bits(width, limit))
    t.hint = <uint16_t>(limit << INDEX_BITS | max(at, 0))
    if at >= 0:
        return True
    v.count = t.flagged
    v.bits = v.word = word
    v.uniform = True
    choose(g, slabs, &v, &shape)
    return not too_large(t.link, &shape)

cdef inline bint has_excess(
        const Geometry* g, Slabs slabs, Ptdesc* t, Py_ssize_t e) noexcept nogil:
    """Return whether trim() can halve LISTED, RANKED or DENSE; ``e`` was written.

    Whether it could by the number of words alone, `too_many` tells.
    """
    cdef uint64_t link = t.link
    cdef Kind kind = kind_of(link)
    cdef int width = width_of(link)
    cdef uint64_t wide, word
    cdef const void* p
    cdef Py_ssize_t i, n
    if kind < LISTED or link & SHARED:
        return False
    if link & STALE:
        return True
    wide = wide_bits(width, t.hint >> INDEX_BITS)
    p = object_of(g, link)
    if kind == DENSE and width == 6 and are_witnesses(
            (<const uint64_t*>p)[e], (<const uint64_t*>p)[e ^ 1], wide):
        # What follows says so too, in more instructions.
        return False
    n = g.entries if kind == DENSE else count_of(link)
    if kind == LISTED:
        e = 0
    elif kind == RANKED:
        # Other words may not be in the cache.
        p = ranked.words_of(g, link)
        e = min(ranked.index_of(g, link, e), n - 1)
    word = get(p, width, e)
    for i in range(1, NEIGHBOURS):
        if e ^ i >= n:
            continue
        if are_witnesses(word, get(p, width, e ^ i), wide):
            return False
    return not words_need_it(g, slabs, t, p, n, word)

cdef inline bint too_many(
        const Geometry* g, Slabs slabs, const Ptdesc* t) noexcept nogil:
    """Return whether the container has room for far more words than there are."""
    cdef Shape shape
    cdef Survey v
    v.count = t.flagged
    v.bits = ALL >> (64 - (1 << width_of(t.link)))
    v.word = 0
    v.uniform = False
    choose(g, slabs, &v, &shape)
    return too_large(t.link, &shape)

cdef inline void note(
        const Geometry* g, Slabs slabs, Ptdesc* t, const Run* r, uint32_t before
        ) noexcept nogil:
    """Set a mark if trim() has something to do.

    A run of a table with ``before`` words was written in place, or zapped.
    """
    if kind_of(t.link) >= LISTED and t.flagged < before:
        forget_limit(t)
        if t.link & SHARED == 0 and too_many(g, slabs, t):
            pending(t).too_large = 1
    if t.flagged and not pending(t).too_large and has_excess(
            g, slabs, t, entry_at(r, 0, g.entries - 1)):
        pending(t).too_large = 1
