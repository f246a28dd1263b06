"""Bits and words turned into vpns, 8 at a time; and which instructions do so.

There are three sets: those of AVX-512 with VBMI2 (Ice Lake, Zen 4 and later), those of
AVX2, and plain C. A process takes the first that its processor has. The environment
variable EXTMETA_SIMD=avx2 or =none keeps it from better ones, for tests and benchmarks
(`extmeta.table.simd.instructions` returns what is used).

What writes vpns writes whole vectors: up to PAST vpns behind those that it counts are
overwritten.
"""
from libc.stdint cimport uint16_t, uint64_t

cdef extern from *:
    """
    #ifndef EXTMETA_SIMD
    #define EXTMETA_SIMD
    #include <stdint.h>
    #include <stddef.h>
    #include <stdlib.h>
    #include <string.h>
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>
    #define EXTMETA_X86 1
    #define EXTMETA_512 target( \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,popcnt,bmi,bmi2")
    #define EXTMETA_256 target("avx2,popcnt,bmi")
    #define EXTMETA_EACH __attribute__((unused, noinline))
    #define EXTMETA_BODY static inline __attribute__((unused, always_inline))
    #else
    #define EXTMETA_BODY static inline __attribute__((unused))
    #endif

    enum { EXTMETA_PLAIN, EXTMETA_AVX2, EXTMETA_AVX512 };
    static int extmeta_simd __attribute__((unused));

    #ifdef EXTMETA_X86
    __attribute__((constructor)) static void extmeta_choose_simd(void)
    {
        const char *most = getenv("EXTMETA_SIMD");
        __builtin_cpu_init();
        if (most && strcmp(most, "none") == 0)
            return;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") &&
            __builtin_cpu_supports("bmi"))
            extmeta_simd = EXTMETA_AVX2;
        if (most && strcmp(most, "avx2") == 0)
            return;
        if (extmeta_simd && __builtin_cpu_supports("avx512f") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2") &&
            __builtin_cpu_supports("avx512vbmi") &&
            __builtin_cpu_supports("avx512vbmi2"))
            extmeta_simd = EXTMETA_AVX512;
    }
    #endif

    /* Bit e of `bits`, n64 words of 64: write vpn + e. Return how many. */
    EXTMETA_BODY ptrdiff_t extmeta_vpns_plain(
        uint64_t *vpns, uint64_t vpn, const uint64_t *bits, ptrdiff_t n64)
    {
        ptrdiff_t found = 0;
        for (ptrdiff_t at = 0; at < n64; at++)
            for (uint64_t b = bits[at]; b; b &= b - 1)
                vpns[found++] = vpn + (uint64_t)(64 * at + __builtin_ctzll(b));
        return found;
    }

    EXTMETA_BODY uint64_t extmeta_word_at(const void *word, int width, ptrdiff_t i)
    {
        return width == 6 ? ((const uint64_t *)word)[i]
             : width == 5 ? ((const uint32_t *)word)[i]
             : width == 4 ? ((const uint16_t *)word)[i]
                          : ((const uint8_t *)word)[i];
    }

    /* Of n words of 2**width bits keep those with (word & mask) == value: write vpn +
       position of each. If position is NULL, the n vpns stand in `vpns` already. */
    EXTMETA_BODY ptrdiff_t extmeta_keep_plain(
        const void *word, int width, const uint16_t *position, ptrdiff_t n,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t *vpns)
    {
        ptrdiff_t found = 0;
        for (ptrdiff_t i = 0; i < n; i++) {
            vpns[found] = position ? vpn + position[i] : vpns[i];
            found += (extmeta_word_at(word, width, i) & mask) == value;
        }
        return found;
    }

    #ifdef EXTMETA_X86
    EXTMETA_EACH __attribute__((EXTMETA_512))
    static ptrdiff_t extmeta_vpns_avx512(
        uint64_t *vpns, uint64_t vpn, const uint64_t *bits, ptrdiff_t n64)
    {
        static const uint8_t iota[64] __attribute__((aligned(64))) = {
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
            16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
            32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
            48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
        const __m512i every = _mm512_load_si512(iota);
        uint8_t chosen[64] __attribute__((aligned(64)));
        ptrdiff_t found = 0;
        for (ptrdiff_t at = 0; at < n64; at++) {
            const ptrdiff_t n = __builtin_popcountll(bits[at]);
            const __m512i base = _mm512_set1_epi64((long long)(vpn + 64 * at));
            const __m512i some = _mm512_maskz_compress_epi8(bits[at], every);
            /* Without a branch, as most of sparse bits have 1 to 8 of 64. */
            _mm512_storeu_si512(vpns + found, _mm512_add_epi64(
                base, _mm512_cvtepu8_epi64(_mm512_castsi512_si128(some))));
            if (n > 8) {
                _mm512_store_si512(chosen, some);
                for (ptrdiff_t i = 8; i < n; i += 8)
                    _mm512_storeu_si512(vpns + found + i, _mm512_add_epi64(
                        base, _mm512_cvtepu8_epi64(
                            _mm_loadl_epi64((const __m128i *)(chosen + i)))));
            }
            found += n;
        }
        return found;
    }

    EXTMETA_BODY __attribute__((EXTMETA_512)) __m512i extmeta_words_avx512(
        __mmask8 some, const void *word, int width, ptrdiff_t i)
    {
        return width == 6 ? _mm512_maskz_loadu_epi64(some, (const uint64_t *)word + i)
             : width == 5 ? _mm512_cvtepu32_epi64(
                 _mm256_maskz_loadu_epi32(some, (const uint32_t *)word + i))
             : width == 4 ? _mm512_cvtepu16_epi64(
                 _mm_maskz_loadu_epi16(some, (const uint16_t *)word + i))
             : _mm512_cvtepu8_epi64(
                 _mm_maskz_loadu_epi8(some, (const uint8_t *)word + i));
    }

    EXTMETA_BODY __attribute__((EXTMETA_512)) ptrdiff_t extmeta_keep_512(
        const void *word, int width, const uint16_t *position, ptrdiff_t n,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t *vpns)
    {
        const __m512i m = _mm512_set1_epi64((long long)mask);
        const __m512i v = _mm512_set1_epi64((long long)value);
        const __m512i base = _mm512_set1_epi64((long long)vpn);
        ptrdiff_t found = 0;
        for (ptrdiff_t i = 0; i < n; i += 8) {
            const __mmask8 some = (__mmask8)_bzhi_u32(
                0xff, n - i < 8 ? (unsigned)(n - i) : 8);
            const __m512i w = extmeta_words_avx512(some, word, width, i);
            const __mmask8 k = _mm512_mask_cmpeq_epi64_mask(
                some, _mm512_and_si512(w, m), v);
            const __m512i p = position
                ? _mm512_add_epi64(base, _mm512_cvtepu16_epi64(
                    _mm_maskz_loadu_epi16(some, position + i)))
                : _mm512_loadu_si512(vpns + i);
            _mm512_storeu_si512(vpns + found, _mm512_maskz_compress_epi64(k, p));
            found += __builtin_popcount(k);
        }
        return found;
    }

    EXTMETA_EACH __attribute__((EXTMETA_256))
    static ptrdiff_t extmeta_vpns_avx2(
        uint64_t *vpns, uint64_t vpn, const uint64_t *bits, ptrdiff_t n64)
    {
        ptrdiff_t found = 0;
        for (ptrdiff_t at = 0; at < n64; at++) {
            uint64_t b = bits[at];
            const uint64_t base = vpn + 64 * (uint64_t)at;
            if (b == UINT64_MAX) {
                __m256i next = _mm256_add_epi64(
                    _mm256_set1_epi64x((long long)base), _mm256_set_epi64x(3, 2, 1, 0));
                for (int i = 0; i < 64; i += 4) {
                    _mm256_storeu_si256((__m256i *)(vpns + found + i), next);
                    next = _mm256_add_epi64(next, _mm256_set1_epi64x(4));
                }
                found += 64;
                continue;
            }
            for (; b; b = _blsr_u64(b))
                vpns[found++] = base + _tzcnt_u64(b);
        }
        return found;
    }

    /* 4 lanes, each of two halves: those whose bit is set, moved to the front. */
    static const uint32_t extmeta_packed[16][8] __attribute__((unused, aligned(32))) = {
        {0}, {0, 1}, {2, 3}, {0, 1, 2, 3},
        {4, 5}, {0, 1, 4, 5}, {2, 3, 4, 5}, {0, 1, 2, 3, 4, 5},
        {6, 7}, {0, 1, 6, 7}, {2, 3, 6, 7}, {0, 1, 2, 3, 6, 7},
        {4, 5, 6, 7}, {0, 1, 4, 5, 6, 7}, {2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}};

    EXTMETA_BODY __attribute__((EXTMETA_256)) __m256i extmeta_words_avx2(
        const void *word, int width, ptrdiff_t i)
    {
        uint32_t four;
        if (width == 6)
            return _mm256_loadu_si256((const __m256i *)((const uint64_t *)word + i));
        if (width == 5)
            return _mm256_cvtepu32_epi64(
                _mm_loadu_si128((const __m128i *)((const uint32_t *)word + i)));
        if (width == 4)
            return _mm256_cvtepu16_epi64(
                _mm_loadl_epi64((const __m128i *)((const uint16_t *)word + i)));
        memcpy(&four, (const uint8_t *)word + i, 4);
        return _mm256_cvtepu8_epi64(_mm_cvtsi32_si128((int)four));
    }

    EXTMETA_BODY __attribute__((EXTMETA_256)) ptrdiff_t extmeta_keep_256(
        const void *word, int width, const uint16_t *position, ptrdiff_t n,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t *vpns)
    {
        const __m256i m = _mm256_set1_epi64x((long long)mask);
        const __m256i v = _mm256_set1_epi64x((long long)value);
        const __m256i base = _mm256_set1_epi64x((long long)vpn);
        ptrdiff_t found = 0;
        ptrdiff_t i = 0;
        for (; i + 4 <= n; i += 4) {
            const __m256i w = extmeta_words_avx2(word, width, i);
            const int k = _mm256_movemask_pd(_mm256_castsi256_pd(
                _mm256_cmpeq_epi64(_mm256_and_si256(w, m), v)));
            const __m256i p = position
                ? _mm256_add_epi64(base, _mm256_cvtepu16_epi64(
                    _mm_loadl_epi64((const __m128i *)(position + i))))
                : _mm256_loadu_si256((const __m256i *)(vpns + i));
            _mm256_storeu_si256((__m256i *)(vpns + found), _mm256_permutevar8x32_epi32(
                p, _mm256_load_si256((const __m256i *)extmeta_packed[k])));
            found += __builtin_popcount((unsigned)k);
        }
        for (; i < n; i++) {
            vpns[found] = position ? vpn + position[i] : vpns[i];
            found += (extmeta_word_at(word, width, i) & mask) == value;
        }
        return found;
    }

    /* One function for each set, with a loop for each width. */
    #define EXTMETA_KEEP(name, attributes, body)                                   \
    EXTMETA_EACH attributes static ptrdiff_t name(                                 \
        const void *word, int width, const uint16_t *position, ptrdiff_t n,        \
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t *vpns)               \
    {                                                                              \
        if (position)                                                              \
            return width == 6 ? body(word, 6, position, n, mask, value, vpn, vpns) \
                 : width == 5 ? body(word, 5, position, n, mask, value, vpn, vpns) \
                 : width == 4 ? body(word, 4, position, n, mask, value, vpn, vpns) \
                 : body(word, 3, position, n, mask, value, vpn, vpns);             \
        return width == 6 ? body(word, 6, NULL, n, mask, value, vpn, vpns)         \
             : width == 5 ? body(word, 5, NULL, n, mask, value, vpn, vpns)         \
             : width == 4 ? body(word, 4, NULL, n, mask, value, vpn, vpns)         \
             : body(word, 3, NULL, n, mask, value, vpn, vpns);                     \
    }
    EXTMETA_KEEP(extmeta_keep_avx512, __attribute__((EXTMETA_512)), extmeta_keep_512)
    EXTMETA_KEEP(extmeta_keep_avx2, __attribute__((EXTMETA_256)), extmeta_keep_256)
    #endif

    EXTMETA_BODY ptrdiff_t extmeta_vpns_of(
        uint64_t *vpns, uint64_t vpn, const uint64_t *bits, ptrdiff_t n64)
    {
    #ifdef EXTMETA_X86
        if (extmeta_simd == EXTMETA_AVX512)
            return extmeta_vpns_avx512(vpns, vpn, bits, n64);
        if (extmeta_simd == EXTMETA_AVX2)
            return extmeta_vpns_avx2(vpns, vpn, bits, n64);
    #endif
        return extmeta_vpns_plain(vpns, vpn, bits, n64);
    }

    EXTMETA_BODY ptrdiff_t extmeta_keep(
        const void *word, int width, const uint16_t *position, ptrdiff_t n,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t *vpns)
    {
    #ifdef EXTMETA_X86
        if (extmeta_simd == EXTMETA_AVX512)
            return extmeta_keep_avx512(
                word, width, position, n, mask, value, vpn, vpns);
        if (extmeta_simd == EXTMETA_AVX2)
            return extmeta_keep_avx2(
                word, width, position, n, mask, value, vpn, vpns);
    #endif
        return extmeta_keep_plain(word, width, position, n, mask, value, vpn, vpns);
    }
    #endif
    """
    const int PLAIN "EXTMETA_PLAIN"
    const int AVX2 "EXTMETA_AVX2"
    const int AVX512 "EXTMETA_AVX512"
    const int simd "extmeta_simd"
    # Write vpn + e for each bit e of n64 words of 64 bits, ascending; return how many.
    Py_ssize_t vpns_of_bits "extmeta_vpns_of"(
        uint64_t* vpns, uint64_t vpn, const uint64_t* bits,
        Py_ssize_t n64) noexcept nogil
    # Keep those of n words, 2**width bits wide, 8 to 64, with (word & mask) == value:
    # write vpn + position[i] of each. If `position` is NULL, n vpns are in `vpns`.
    Py_ssize_t keep_matching "extmeta_keep"(
        const void* word, int width, const uint16_t* position, Py_ssize_t n,
        uint64_t mask, uint64_t value, uint64_t vpn, uint64_t* vpns) noexcept nogil

cdef enum:
    # Vpns behind the last one that may be overwritten: those of two vectors.
    PAST = 16
