"""The tagged link: 64 bits of a table's descriptor that say where its words are.

The low 3 bits are the kind of container. They decide what the other bits mean:

    EMPTY    no PTE has a word
    UNIFORM  the rest of the link is the word of all flagged PTEs, below 2**61
    INLINE   1 to 6 PTEs: the link has their count, their positions and their one word
    BOXED    an object of 8 bytes has the word of all flagged PTEs
    FEW      up to 14 PTEs: an object of 16 bytes has positions, the link their word
    LISTED   the object has the words, then the positions, 16 bits each, ascending
    RANKED   the object has a bit for each entry, then the words of those set
    DENSE    the object has a word for each entry, 0 for an entry without a word

Words in objects have 2**width bits: 8 to 64, in DENSE also 2 and 4.

    bits  0-2  kind        5-37   object    UNIFORM  3-63  word
          3    SHARED      38-40  width     INLINE   3-5   count, from bit 6 on
          4    STALE       41-46  class              positions, then the word
                           47-60  count     FEW      38-41 count, 42-63 word

`count` is the number of entries that LISTED and RANKED list, stale ones included.
"""
from libc.stdint cimport uint64_t

from extmeta.memory.slabs cimport HANDLE_BITS
from extmeta.table.pte cimport PteLayout

cdef enum Kind:
    EMPTY, UNIFORM, INLINE, BOXED, FEW, LISTED, RANKED, DENSE

cdef enum:
    # Another table may refer to the object, which therefore must not change.
    SHARED = 8
    # Entries were zapped that a shared object still lists: the PTE's flag decides.
    STALE = 16
    UNIFORM_SHIFT = 3
    INLINE_COUNT_SHIFT = 3
    INLINE_SHIFT = 6
    HANDLE_SHIFT = 5
    WIDTH_SHIFT = 38
    CLASS_SHIFT = 41
    COUNT_SHIFT = 47
    COUNT_MASK = 0x3fff
    FEW_COUNT_SHIFT = 38
    FEW_WORD_SHIFT = 42

cdef enum:
    MOST = 8192           # entries of the largest table, which has 64 KiB

cdef struct Geometry:
    # What all tables of a page table have in common.
    char* base            # of the side memory
    const PteLayout* pte
    Py_ssize_t entries    # of a table
    size_t map_bytes      # of a bitmap with a bit for each entry
    int position_bits     # log2 of `entries`

cdef inline Kind kind_of(uint64_t link) noexcept nogil:
    return <Kind>(link & 7)

cdef inline bint has_object(uint64_t link) noexcept nogil:
    return kind_of(link) >= BOXED

cdef inline bint is_uniform(uint64_t link) noexcept nogil:
    """Return whether all flagged PTEs share a word, and only flags say which."""
    return kind_of(link) == UNIFORM or kind_of(link) == BOXED

cdef inline bint is_stale(uint64_t link) noexcept nogil:
    """Return whether the object may list entries whose flag is clear."""
    # Other kinds have a part of the word or the count there. There is no branch: which
    # kind comes next is hard to predict.
    return (kind_of(link) >= BOXED) & (link & STALE != 0)

cdef inline int width_of(uint64_t link) noexcept nogil:
    return <int>(link >> WIDTH_SHIFT & 7)

cdef inline int class_of(uint64_t link) noexcept nogil:
    """Return the size class of the link's object."""
    if kind_of(link) == FEW:
        return 1
    return 0 if kind_of(link) == BOXED else <int>(link >> CLASS_SHIFT & 63)

cdef inline Py_ssize_t count_of(uint64_t link) noexcept nogil:
    """Return how many entries an INLINE, FEW, LISTED or RANKED link lists."""
    if kind_of(link) == INLINE:
        return <Py_ssize_t>(link >> INLINE_COUNT_SHIFT & 7)
    if kind_of(link) == FEW:
        return <Py_ssize_t>(link >> FEW_COUNT_SHIFT & 15)
    return <Py_ssize_t>(link >> COUNT_SHIFT & COUNT_MASK)

cdef inline uint64_t with_count(uint64_t link, Py_ssize_t n) noexcept nogil:
    """Return a LISTED or RANKED link with another count."""
    return link & ~(<uint64_t>COUNT_MASK << COUNT_SHIFT) | <uint64_t>n << COUNT_SHIFT

cdef inline void* object_of(const Geometry* g, uint64_t link) noexcept nogil:
    return g.base + ((link >> HANDLE_SHIFT & ((<uint64_t>1 << HANDLE_BITS) - 1)) << 3)

cdef inline uint64_t link_to(const Geometry* g, const void* p) noexcept nogil:
    """Return the bits of a link that say where the object ``p`` is."""
    return <uint64_t>((<const char*>p - g.base) >> 3) << HANDLE_SHIFT
