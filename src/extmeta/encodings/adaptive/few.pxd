"""INLINE and FEW: positions of a few entries, and their one word in the link.

INLINE has the positions in the link. FEW has them in an object: 8 bits of each
position, then the ninth bits of all.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t, uintptr_t

from extmeta.encodings.adaptive.contents cimport Sparse
from extmeta.encodings.adaptive.link cimport (
    FEW, FEW_COUNT_SHIFT, FEW_WORD_SHIFT, INLINE, INLINE_COUNT_SHIFT, INLINE_SHIFT,
    Geometry, count_of, kind_of, object_of)
from extmeta.table.simd cimport AVX512, simd

cdef extern from *:
    """
    #ifdef EXTMETA_X86
    /* As scan() below. There is no branch by kind: of two tables of few words, one may
       be INLINE as well as FEW. `object` has the positions of FEW, in 16 bytes. */
    EXTMETA_EACH __attribute__((EXTMETA_512))
    static ptrdiff_t extmeta_few_avx512(
        uint64_t link, int is_inline, int first_bit, int bits, int word_bit, int count,
        const void *object, uint64_t mask, uint64_t value, uint64_t vpn,
        uint64_t *vpns)
    {
        const __m512i base = _mm512_set1_epi64((long long)vpn);
        const __m512i ninth = _mm512_set1_epi64(256);
        const __m128i low = _mm_loadu_si128(object);
        const unsigned high = (unsigned)_mm_extract_epi16(low, 7);
        const __m512i shifts = _mm512_add_epi64(
            _mm512_set1_epi64(first_bit), _mm512_mullo_epi64(
                _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(bits)));
        const __m512i inlined = _mm512_and_si512(
            _mm512_srlv_epi64(_mm512_set1_epi64((long long)link), shifts),
            _mm512_set1_epi64((1ll << bits) - 1));
        __m512i p = _mm512_cvtepu8_epi64(low);
        p = _mm512_mask_add_epi64(p, (__mmask8)high, p, ninth);
        p = _mm512_mask_mov_epi64(p, (__mmask8)-is_inline, inlined);
        _mm512_storeu_si512(vpns, _mm512_add_epi64(base, p));
        p = _mm512_cvtepu8_epi64(_mm_srli_si128(low, 8));
        p = _mm512_mask_add_epi64(p, (__mmask8)(high >> 8), p, ninth);
        _mm512_storeu_si512(vpns + 8, _mm512_add_epi64(base, p));
        return ((link >> word_bit) & mask) == value ? count : 0;
    }
    #else
    #define extmeta_few_avx512(l, i, f, b, w, c, o, m, v, vpn, vpns) ((ptrdiff_t)0)
    #endif
    #define extmeta_either(which, a, b) \
        ((uint64_t)(b) ^ (((uint64_t)(a) ^ (uint64_t)(b)) & -(uint64_t)(which)))
    """
    Py_ssize_t few_avx512 "extmeta_few_avx512"(
        uint64_t link, bint is_inline, int first_bit, int bits, int word_bit, int count,
        const void* object, uint64_t mask, uint64_t value, uint64_t vpn,
        uint64_t* vpns) noexcept nogil
    # a if which else b, without a branch
    uint64_t either "extmeta_either"(
        bint which, uint64_t a, uint64_t b) noexcept nogil

cdef enum:
    INLINE_MOST = 6       # positions of 9 bits that fit the link
    FEW_MOST = 14         # positions of 9 bits that fit the object
    FEW_BYTES = 16
    FEW_ENTRIES = 512     # entries that 9 bits can tell apart

cdef inline bint fits_inline(const Geometry* g, size_t n, uint64_t word) noexcept nogil:
    cdef int below = INLINE_SHIFT + <int>n * g.position_bits
    return n <= INLINE_MOST and below < 64 and word >> (64 - below) == 0

cdef inline bint fits(const Geometry* g, size_t n, uint64_t word) noexcept nogil:
    return n <= FEW_MOST and word >> (64 - FEW_WORD_SHIFT) == 0 and (
        g.entries <= FEW_ENTRIES)

cdef inline bint is_few(uint64_t link) noexcept nogil:
    return (1 << kind_of(link)) & (1 << INLINE | 1 << FEW) != 0

cdef inline int word_shift(const Geometry* g, uint64_t link) noexcept nogil:
    """Return which bit of the link the word begins at."""
    if kind_of(link) == INLINE:
        return INLINE_SHIFT + <int>count_of(link) * g.position_bits
    return FEW_WORD_SHIFT

cdef inline uint64_t word_at(const Geometry* g, uint64_t link) noexcept nogil:
    return link >> word_shift(g, link)

cdef inline Py_ssize_t positions(
        const Geometry* g, uint64_t link, uint64_t vpn, uint64_t* vpns) noexcept nogil:
    """Write vpn + position of the entries listed; return how many there are.

    This always writes INLINE_MOST or FEW_MOST values. A loop of constant length is
    predicted, and therefore twice as fast.
    """
    cdef uint64_t mask = <uint64_t>g.entries - 1
    cdef const uint8_t* low
    cdef uint64_t high
    cdef int i
    if kind_of(link) == INLINE:
        for i in range(INLINE_MOST):
            # The last ones may reach into the word, and past it.
            vpns[i] = vpn + (link >> min(INLINE_SHIFT + i * g.position_bits, 63) & mask)
    else:
        low = <const uint8_t*>object_of(g, link)
        high = (<const uint16_t*>low)[FEW_MOST // 2]
        for i in range(FEW_MOST):
            vpns[i] = vpn + (low[i] | (high >> i & 1) << 8)
    return count_of(link)

cdef inline void list_words(const Geometry* g, uint64_t link, Sparse* s) noexcept nogil:
    cdef uint64_t[FEW_MOST] position
    cdef uint64_t word = word_at(g, link)
    cdef Py_ssize_t i
    s.count = positions(g, link, 0, position)
    for i in range(s.count):
        s.position[i] = <uint16_t>position[i]
        s.word[i] = word

cdef inline Py_ssize_t scan(
        const Geometry* g, uint64_t link, uint64_t mask, uint64_t value, uint64_t vpn,
        uint64_t* vpns) noexcept nogil:
    """Scan a whole table."""
    cdef bint is_inline = kind_of(link) == INLINE
    cdef uint64_t n
    if simd != AVX512:
        return 0 if word_at(g, link) & mask != value else (
            positions(g, link, vpn, vpns))
    n = either(is_inline, link >> INLINE_COUNT_SHIFT & 7, link >> FEW_COUNT_SHIFT & 15)
    return few_avx512(
        link, is_inline, INLINE_SHIFT, g.position_bits, <int>either(
            is_inline, INLINE_SHIFT + n * <uint64_t>g.position_bits, FEW_WORD_SHIFT),
        # Anything serves for INLINE, which has no object.
        <int>n, <const void*><uintptr_t>either(
            is_inline, <uintptr_t>g.pte, <uintptr_t>object_of(g, link)),
        mask, value, vpn, vpns)

cdef inline uint64_t clear(
        const Geometry* g, uint64_t link, uint64_t keep) noexcept nogil:
    """Return the link with only these bits of the word; the object may be shared."""
    cdef int shift = word_shift(g, link)
    return link & (~((link >> shift) << shift) | keep << shift)

cdef inline uint64_t fill_inline(
        const Geometry* g, const Sparse* s, uint64_t word) noexcept nogil:
    """Return the link's bits beside the kind."""
    cdef uint64_t link = <uint64_t>s.count << INLINE_COUNT_SHIFT
    cdef Py_ssize_t i
    for i in range(s.count):
        link |= <uint64_t>s.position[i] << (INLINE_SHIFT + i * g.position_bits)
    return link | word << (INLINE_SHIFT + s.count * g.position_bits)

cdef inline uint64_t fill(void* p, const Sparse* s, uint64_t word) noexcept nogil:
    """Write the positions; return the link's bits beside kind and object."""
    cdef int high = 0
    cdef Py_ssize_t i
    for i in range(s.count):
        (<uint8_t*>p)[i] = <uint8_t>s.position[i]
        high |= (s.position[i] >> 8) << i
    (<uint16_t*>p)[FEW_MOST // 2] = <uint16_t>high
    return <uint64_t>s.count << FEW_COUNT_SHIFT | word << FEW_WORD_SHIFT
