"""Entries of a PTE table: their bits, and comparisons of 64 at a time.

A comparison returns a bit for each entry, so that a loop visits only the entries that
match. Scans are bound by memory bandwidth only if the comparison is SIMD
(`pytest benchmarks/bench_scan.py`), and gcc does not vectorise a loop that collects
bits; hence the intrinsics, chosen as `simd.pxd` says.
"""
from libc.stdint cimport uint64_t

from extmeta.table.simd cimport simd

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #define EXTMETA_LOOP static inline __attribute__((unused))

    EXTMETA_LOOP uint64_t extmeta_equal_any(
        const uint64_t *e, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        uint64_t bits = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            bits |= (uint64_t)((e[i] & mask) == value) << i;
        return bits;
    }

    EXTMETA_LOOP uint64_t extmeta_equal2_any(
        const uint64_t *e, int lane, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        uint64_t bits = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            bits |= (uint64_t)((e[2 * i + lane] & mask) == value) << i;
        return bits;
    }

    EXTMETA_LOOP uint64_t extmeta_match_one(
        uint64_t e, uint64_t present,
        uint64_t ma, uint64_t va, uint64_t mb, uint64_t vb)
    {
        return e & present ? (e & ma) == va : (e & mb) == vb;
    }

    EXTMETA_LOOP void extmeta_match_any(
        const uint64_t *e, ptrdiff_t n, uint64_t present,
        uint64_t ma, uint64_t va, uint64_t mb, uint64_t vb, uint64_t *bits)
    {
        for (ptrdiff_t at = 0; at < n; at += 64) {
            const ptrdiff_t last = n - at < 64 ? n - at : 64;
            uint64_t found = 0;
            for (ptrdiff_t i = 0; i < last; i++)
                found |= extmeta_match_one(e[at + i], present, ma, va, mb, vb) << i;
            bits[at / 64] = found;
        }
    }

    #ifdef EXTMETA_X86
    __attribute__((unused, noinline, target("avx512f")))
    static uint64_t extmeta_equal_avx512(
        const uint64_t *e, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        const __m512i m = _mm512_set1_epi64((long long)mask);
        const __m512i v = _mm512_set1_epi64((long long)value);
        uint64_t bits = 0;
        ptrdiff_t i = 0;
        for (; i + 8 <= n; i += 8)
            bits |= (uint64_t)_mm512_cmpeq_epi64_mask(
                _mm512_and_si512(_mm512_loadu_si512(e + i), m), v) << i;
        if (i < n) {
            const __mmask8 some = (__mmask8)((1u << (n - i)) - 1);
            __m512i x = _mm512_maskz_loadu_epi64(some, e + i);
            bits |= (uint64_t)_mm512_mask_cmpeq_epi64_mask(
                some, _mm512_and_si512(x, m), v) << i;
        }
        return bits;
    }

    __attribute__((unused, noinline, target("avx2")))
    static uint64_t extmeta_equal_avx2(
        const uint64_t *e, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        const __m256i m = _mm256_set1_epi64x((long long)mask);
        const __m256i v = _mm256_set1_epi64x((long long)value);
        uint64_t bits = 0;
        ptrdiff_t i = 0;
        for (; i + 4 <= n; i += 4) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(e + i));
            x = _mm256_cmpeq_epi64(_mm256_and_si256(x, m), v);
            bits |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(x)) << i;
        }
        for (; i < n; i++)
            bits |= (uint64_t)((e[i] & mask) == value) << i;
        return bits;
    }

    __attribute__((unused, noinline, target("avx512f")))
    static uint64_t extmeta_equal2_avx512(
        const uint64_t *e, int lane, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        const __m512i m = _mm512_set1_epi64((long long)mask);
        const __m512i v = _mm512_set1_epi64((long long)value);
        const __m512i from = _mm512_add_epi64(
            _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), _mm512_set1_epi64(lane));
        uint64_t bits = 0;
        ptrdiff_t i = 0;
        for (; i + 8 <= n; i += 8) {
            __m512i x = _mm512_permutex2var_epi64(
                _mm512_loadu_si512(e + 2 * i), from,
                _mm512_loadu_si512(e + 2 * i + 8));
            bits |= (uint64_t)_mm512_cmpeq_epi64_mask(
                _mm512_and_si512(x, m), v) << i;
        }
        if (i < n)
            bits |= extmeta_equal2_any(e + 2 * i, lane, n - i, mask, value) << i;
        return bits;
    }

    __attribute__((unused, noinline, target("avx2")))
    static uint64_t extmeta_equal2_avx2(
        const uint64_t *e, int lane, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        const __m256i m = _mm256_set1_epi64x((long long)mask);
        const __m256i v = _mm256_set1_epi64x((long long)value);
        uint64_t bits = 0;
        ptrdiff_t i = 0;
        for (; i + 4 <= n; i += 4) {
            const __m256i a = _mm256_loadu_si256((const __m256i *)(e + 2 * i));
            const __m256i b = _mm256_loadu_si256((const __m256i *)(e + 2 * i + 4));
            __m256i x = lane ? _mm256_unpackhi_epi64(a, b)
                             : _mm256_unpacklo_epi64(a, b);
            x = _mm256_cmpeq_epi64(_mm256_and_si256(x, m), v);
            /* Unpack returns the order 0 2 1 3. */
            x = _mm256_permute4x64_epi64(x, 0xd8);
            bits |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(x)) << i;
        }
        if (i < n)
            bits |= extmeta_equal2_any(e + 2 * i, lane, n - i, mask, value) << i;
        return bits;
    }

    __attribute__((unused, noinline, target("avx512f")))
    static void extmeta_match_avx512(
        const uint64_t *e, ptrdiff_t n, uint64_t present,
        uint64_t ma, uint64_t va, uint64_t mb, uint64_t vb, uint64_t *bits)
    {
        const __m512i p = _mm512_set1_epi64((long long)present);
        const __m512i a = _mm512_set1_epi64((long long)ma);
        const __m512i b = _mm512_set1_epi64((long long)mb);
        const __m512i wa = _mm512_set1_epi64((long long)va);
        const __m512i wb = _mm512_set1_epi64((long long)vb);
        for (ptrdiff_t at = 0; at < n; at += 64) {
            const ptrdiff_t last = n - at < 64 ? n - at : 64;
            uint64_t found = 0;
            ptrdiff_t i = 0;
            for (; i + 8 <= last; i += 8) {
                __m512i x = _mm512_loadu_si512(e + at + i);
                __mmask8 k = _mm512_test_epi64_mask(x, p);
                x = _mm512_and_si512(x, _mm512_mask_blend_epi64(k, b, a));
                found |= (uint64_t)_mm512_cmpeq_epi64_mask(
                    x, _mm512_mask_blend_epi64(k, wb, wa)) << i;
            }
            for (; i < last; i++)
                found |= extmeta_match_one(e[at + i], present, ma, va, mb, vb) << i;
            bits[at / 64] = found;
        }
    }

    __attribute__((unused, noinline, target("avx2")))
    static void extmeta_match_avx2(
        const uint64_t *e, ptrdiff_t n, uint64_t present,
        uint64_t ma, uint64_t va, uint64_t mb, uint64_t vb, uint64_t *bits)
    {
        const __m256i p = _mm256_set1_epi64x((long long)present);
        const __m256i a = _mm256_set1_epi64x((long long)ma);
        const __m256i b = _mm256_set1_epi64x((long long)mb);
        const __m256i wa = _mm256_set1_epi64x((long long)va);
        const __m256i wb = _mm256_set1_epi64x((long long)vb);
        for (ptrdiff_t at = 0; at < n; at += 64) {
            const ptrdiff_t last = n - at < 64 ? n - at : 64;
            uint64_t found = 0;
            ptrdiff_t i = 0;
            for (; i + 4 <= last; i += 4) {
                __m256i x = _mm256_loadu_si256((const __m256i *)(e + at + i));
                __m256i k = _mm256_cmpeq_epi64(_mm256_and_si256(x, p), p);
                x = _mm256_and_si256(x, _mm256_blendv_epi8(b, a, k));
                x = _mm256_cmpeq_epi64(x, _mm256_blendv_epi8(wb, wa, k));
                found |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(x)) << i;
            }
            for (; i < last; i++)
                found |= extmeta_match_one(e[at + i], present, ma, va, mb, vb) << i;
            bits[at / 64] = found;
        }
    }
    #endif

    EXTMETA_LOOP uint64_t extmeta_equal(
        const uint64_t *e, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
    #ifdef EXTMETA_X86
        if (extmeta_simd == EXTMETA_AVX512)
            return extmeta_equal_avx512(e, n, mask, value);
        if (extmeta_simd == EXTMETA_AVX2)
            return extmeta_equal_avx2(e, n, mask, value);
    #endif
        return extmeta_equal_any(e, n, mask, value);
    }

    EXTMETA_LOOP uint64_t extmeta_equal2(
        const uint64_t *e, int lane, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
    #ifdef EXTMETA_X86
        if (extmeta_simd == EXTMETA_AVX512)
            return extmeta_equal2_avx512(e, lane, n, mask, value);
        if (extmeta_simd == EXTMETA_AVX2)
            return extmeta_equal2_avx2(e, lane, n, mask, value);
    #endif
        return extmeta_equal2_any(e, lane, n, mask, value);
    }

    EXTMETA_LOOP void extmeta_match(
        const uint64_t *e, ptrdiff_t n, uint64_t present,
        uint64_t ma, uint64_t va, uint64_t mb, uint64_t vb, uint64_t *bits)
    {
    #ifdef EXTMETA_X86
        if (extmeta_simd == EXTMETA_AVX512)
            extmeta_match_avx512(e, n, present, ma, va, mb, vb, bits);
        else if (extmeta_simd == EXTMETA_AVX2)
            extmeta_match_avx2(e, n, present, ma, va, mb, vb, bits);
        else
    #endif
            extmeta_match_any(e, n, present, ma, va, mb, vb, bits);
    }

    #define EXTMETA_ALL UINT64_MAX
    #define extmeta_lowest(bits) __builtin_ctzll(bits)
    #define extmeta_count(bits) __builtin_popcountll(bits)
    """
    # Bit i of the result: (e[i] & mask) == value. n <= 64.
    uint64_t equal "extmeta_equal"(
        const uint64_t* e, Py_ssize_t n, uint64_t mask, uint64_t value) noexcept nogil
    # Compare every second one: e[0], e[2] ... (`lane` 0) or e[1], e[3] ... (1).
    uint64_t equal_in_pairs "extmeta_equal2"(
        const uint64_t* e, int lane, Py_ssize_t n, uint64_t mask,
        uint64_t value) noexcept nogil
    # Compare with (ma, va) if e[i] has the bit ``present``, else with (mb, vb). Any
    # number of entries, 64 to an element of ``bits``.
    void match "extmeta_match"(
        const uint64_t* e, Py_ssize_t n, uint64_t present,
        uint64_t ma, uint64_t va, uint64_t mb, uint64_t vb,
        uint64_t* bits) noexcept nogil
    const uint64_t ALL "EXTMETA_ALL"
    int lowest "extmeta_lowest"(uint64_t bits) noexcept nogil
    int count "extmeta_count"(uint64_t bits) noexcept nogil


cdef struct PteLayout:
    # Masks of an architecture's entry, from arch.py.
    uint64_t none         # an entry that holds nothing
    uint64_t present
    uint64_t write
    uint64_t base         # bits of every present PTE that we make
    uint64_t writable     # further bits of a writable one
    uint64_t readonly     # further bits of a read-only one
    uint64_t swap_base    # bits of every swap entry
    uint64_t flag         # "has a word", in a present PTE
    uint64_t swap_flag    # "has a word", in a swap entry
    uint64_t swap_write   # a swap entry's record of `write`
    int pfn_shift
    int pfn_bits
    int type_shift
    int offset_shift
    int offset_bits
    bint offset_inverted


cdef inline uint64_t flag_of(const PteLayout* a, uint64_t pte) noexcept nogil:
    """Return the mask of the flag in an entry of this kind."""
    return a.flag if pte & a.present else a.swap_flag


cdef inline uint64_t present_bits(const PteLayout* a, bint writable) noexcept nogil:
    """Return a present PTE without its pfn."""
    return a.base | (a.writable if writable else a.readonly)


cdef inline uint64_t flags(
        const uint64_t* e, Py_ssize_t n, const PteLayout* a) noexcept nogil:
    """Return a bit for each entry whose flag is set. n <= 64."""
    cdef uint64_t bits = 0
    match(e, n, a.present, a.flag, a.flag, a.swap_flag, a.swap_flag, &bits)
    return bits


cdef inline void many_flags(
        const uint64_t* e, Py_ssize_t n, const PteLayout* a,
        uint64_t* bits) noexcept nogil:
    """Fill ``bits``, 64 entries to an element, with a bit for each flag."""
    match(e, n, a.present, a.flag, a.flag, a.swap_flag, a.swap_flag, bits)


cdef inline uint64_t swap_entry(const PteLayout* a, uint64_t slot) noexcept nogil:
    """Return the swap PTE of ``slot`` = type << offset_bits | offset."""
    cdef uint64_t offset_mask = (<uint64_t>1 << a.offset_bits) - 1
    cdef uint64_t offset = slot & offset_mask
    if a.offset_inverted:
        offset ^= offset_mask
    return (slot >> a.offset_bits << a.type_shift | offset << a.offset_shift
            | a.swap_base)
