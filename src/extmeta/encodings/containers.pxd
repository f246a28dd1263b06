"""How `adaptive` keeps a table's words: the link, and what it may point to.

The link is the 64-bit word of the table's descriptor that belongs to the
encoding. Its low 3 bits say what the rest is:

    EMPTY    no word
    UNIFORM  all flagged PTEs have this word, below 2**61: the rest of the link
    INLINE   1 to 6 of them: how many, their positions, and the word they share
    BOXED    all flagged PTEs have the word in an object of 8 bytes
    FEW      up to 14 of them in an object of 16 bytes: 8 bits of each position,
             then the ninth of all; the word they share is in the link
    LISTED   the words, then the positions, 16 bits each, ascending
    RANKED   a bit for each entry, then the words of those set
    DENSE    a word for each entry, 0 where it has none

Words in objects are of 2**width bits: 8 to 64, in DENSE also 2 and 4.

    bits  0-2  kind        5-37   object    UNIFORM  3-63  word
          3    SHARED      38-40  width     INLINE   3-5   how many, from 6 on
          4    STALE       41-46  class              positions, then the word
                           47-60  count     FEW      38-41 count, 42-63 word

SHARED: another table may have a reference to the object, which then never
changes. STALE: entries were zapped that a shared object still lists; the PTE's
flag tells. `count` is how many entries LISTED and RANKED list, the stale included.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from extmeta.table.pte cimport ALL, count, equal, lowest

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>

    /* Of 512 entries without a branch: which of 8 words it ends in can't be told
       beforehand. */
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

    /* Without the instruction a count is a call; most processors have it. */
    #if defined(__x86_64__) && defined(__GNUC__)
    EXTMETA_RANK(extmeta_rank_popcnt,
                 __attribute__((unused, noinline, target("popcnt"))))
    #define extmeta_rank(map, words, entry) (__builtin_cpu_supports("popcnt") ? \
        extmeta_rank_popcnt(map, words, entry) : extmeta_rank_any(map, words, entry))
    #else
    #define extmeta_rank extmeta_rank_any
    #endif
    """
    # How many bits of the map, of so many words, are set before that of ``entry``.
    int rank "extmeta_rank"(
        const uint64_t* map, int words, int entry) noexcept nogil

cdef enum Kind:
    EMPTY, UNIFORM, INLINE, BOXED, FEW, LISTED, RANKED, DENSE

cdef enum:
    MOST = 8192           # entries of a table: 64 KiB
    SHARED = 8
    STALE = 16
    UNIFORM_BITS = 61
    INLINE_COUNT_SHIFT = 3
    INLINE_SHIFT = 6
    INLINE_MOST = 6
    HANDLE_SHIFT = 5
    WIDTH_SHIFT = 38
    CLASS_SHIFT = 41
    COUNT_SHIFT = 47
    FEW_COUNT_SHIFT = 38
    FEW_WORD_SHIFT = 42
    FEW_WORD_BITS = 22
    FEW_MOST = 14
    FEW_BYTES = 16
    # Longer lists are searched for too long.
    LISTED_MOST = 48

cdef struct Sparse:
    # The flagged entries among some, ascending, and their words.
    Py_ssize_t count
    uint16_t[MOST] position
    uint64_t[MOST] word

cdef struct Shape:
    # What a table's words would lie in.
    Kind kind
    int width             # log2 of the bits of a word in the object
    int size_class        # of the object
    size_t nbytes         # of the object, as rounded up; 0: there is none

cdef struct Survey:
    # All that decides the shape.
    Py_ssize_t count
    uint64_t bits         # in any word
    uint64_t word         # one of them
    bint uniform          # all are that one


cdef inline Kind kind_of(uint64_t link) noexcept nogil:
    return <Kind>(link & 7)


cdef inline bint has_object(uint64_t link) noexcept nogil:
    return kind_of(link) >= BOXED


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
    return <Py_ssize_t>(link >> COUNT_SHIFT & 0x3fff)


cdef inline int width_for(uint64_t bits) noexcept nogil:
    """Return log2 of the narrowest width, from 2 bits up, that holds ``bits``."""
    cdef int width = 1
    while width < 6 and bits >> (1 << width):
        width += 1
    return width


cdef inline size_t listed_bytes(size_t n, int width) noexcept nogil:
    """Return what n positions and their words need."""
    return ((n << (width - 3)) + 1 & ~<size_t>1) + n * 2


cdef inline uint16_t* positions(void* p, Py_ssize_t n, int width) noexcept nogil:
    """Return where a LISTED object has its n positions."""
    return <uint16_t*>(<char*>p + ((<size_t>n << (width - 3)) + 1 & ~<size_t>1))


cdef inline uint64_t get(const void* p, int width, Py_ssize_t i) noexcept nogil:
    """Return the ``i``-th of words of 2**width bits."""
    if width == 6:
        return (<const uint64_t*>p)[i]
    if width == 5:
        return (<const uint32_t*>p)[i]
    if width == 4:
        return (<const uint16_t*>p)[i]
    if width == 3:
        return (<const uint8_t*>p)[i]
    if width == 2:
        return (<const uint8_t*>p)[i >> 1] >> ((i & 1) << 2) & 15
    return (<const uint8_t*>p)[i >> 2] >> ((i & 3) << 1) & 3


cdef inline void put(void* p, int width, Py_ssize_t i, uint64_t word) noexcept nogil:
    cdef uint8_t* byte
    cdef int shift
    if width == 6:
        (<uint64_t*>p)[i] = word
    elif width == 5:
        (<uint32_t*>p)[i] = <uint32_t>word
    elif width == 4:
        (<uint16_t*>p)[i] = <uint16_t>word
    elif width == 3:
        (<uint8_t*>p)[i] = <uint8_t>word
    else:
        byte = <uint8_t*>p + (i >> (3 - width))
        shift = <int>(i << width) & 7
        byte[0] = <uint8_t>(byte[0] & ~(((1 << (1 << width)) - 1) << shift)
                            | <int>(word << shift))


cdef inline void widen(
        const void* p, int width, Py_ssize_t first, Py_ssize_t n,
        uint64_t* words) noexcept nogil:
    """Read n words of 2**width bits, from the ``first``-th on."""
    cdef Py_ssize_t i
    if width == 6:
        memcpy(words, <const uint64_t*>p + first, n * sizeof(uint64_t))
    elif width == 5:
        for i in range(n):
            words[i] = (<const uint32_t*>p)[first + i]
    elif width == 4:
        for i in range(n):
            words[i] = (<const uint16_t*>p)[first + i]
    elif width == 3:
        for i in range(n):
            words[i] = (<const uint8_t*>p)[first + i]
    else:
        for i in range(n):
            words[i] = get(p, width, first + i)


cdef inline void narrow(
        const uint64_t* words, Py_ssize_t n, int width, void* p) noexcept nogil:
    """Write n words as 2**width bits each; they fit."""
    cdef Py_ssize_t i
    if width == 6:
        memcpy(p, words, n * sizeof(uint64_t))
    elif width == 5:
        for i in range(n):
            (<uint32_t*>p)[i] = <uint32_t>words[i]
    elif width == 4:
        for i in range(n):
            (<uint16_t*>p)[i] = <uint16_t>words[i]
    elif width == 3:
        for i in range(n):
            (<uint8_t*>p)[i] = <uint8_t>words[i]
    else:
        memset(p, 0, <size_t>n >> (3 - width))
        for i in range(n):
            put(p, width, i, words[i])


cdef inline Py_ssize_t place(
        const uint16_t* position, Py_ssize_t n, Py_ssize_t entry) noexcept nogil:
    """Return how many of the ascending positions are below ``entry``."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t half
    # Halving without a branch to mispredict.
    while n > 1:
        half = n >> 1
        at += half * (position[at + half - 1] < entry)
        n -= half
    return at + (n == 1 and position[at] < entry)


cdef inline void survey_words(
        const uint64_t* words, Py_ssize_t n, Survey* s) noexcept nogil:
    """Describe the words that are not 0 among n."""
    cdef uint64_t bits = 0
    cdef uint64_t differ = 0
    cdef uint64_t word = 0
    cdef uint64_t live
    cdef Py_ssize_t at, i, k
    s.count = 0
    for at in range(0, n, 64):
        k = min(64, n - at)
        live = ALL >> (64 - k) & ~equal(words + at, k, ALL, 0)
        s.count += count(live)
        if live and word == 0:
            word = words[at + lowest(live)]
        if live == ALL:
            for i in range(at, at + 64):
                bits |= words[i]
                differ |= words[i] ^ word
            continue
        while live:
            i = at + lowest(live)
            live &= live - 1
            bits |= words[i]
            differ |= words[i] ^ word
    s.bits = bits
    s.word = word
    s.uniform = differ == 0


cdef inline void sift(
        const uint64_t* words, Py_ssize_t n, Sparse* s) noexcept nogil:
    """List the words that are not 0 among n."""
    cdef uint64_t live
    cdef Py_ssize_t at, i, k
    s.count = 0
    for at in range(0, n, 64):
        k = min(64, n - at)
        live = ALL >> (64 - k) & ~equal(words + at, k, ALL, 0)
        while live:
            i = at + lowest(live)
            live &= live - 1
            s.position[s.count] = <uint16_t>i
            s.word[s.count] = words[i]
            s.count += 1


ctypedef fused word_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef inline bint kept(word_t* word, Py_ssize_t n, uint64_t keep) noexcept nogil:
    """Clear all but these bits of n words, unless that makes one of them 0."""
    cdef word_t bits = <word_t>keep
    cdef word_t zero = 0
    cdef Py_ssize_t i
    for i in range(n):
        zero |= (word[i] & bits) == 0
    if zero:
        return False
    for i in range(n):
        word[i] &= bits
    return True


cdef inline Py_ssize_t listed_where(
        const word_t* word, const uint16_t* position, Py_ssize_t n,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t* vpns) noexcept nogil:
    """Write vpn + position of the n words where (word & mask) == value."""
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t i
    for i in range(n):
        vpns[found] = vpn + position[i]
        found += word[i] & mask == value
    return found


cdef inline Py_ssize_t ranked_where(
        const word_t* word, const uint64_t* map, Py_ssize_t nr_entries,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t* vpns) noexcept nogil:
    """The same where the positions are those of the map's bits."""
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t at
    cdef uint64_t bits
    for at in range(0, nr_entries, 64):
        bits = map[at >> 6]
        while bits:
            vpns[found] = vpn + <uint64_t>(at + lowest(bits))
            found += word[i] & mask == value
            i += 1
            bits &= bits - 1
    return found
