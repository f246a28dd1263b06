"""Entries of a PTE table: their bits, and questions asked of 64 at a time.

A question over entries answers with a bit each, so a loop visits only the
entries that match. gcc turns the comparing loops into SIMD; the widest form
that the processor has is chosen when the module is loaded.
"""
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>

    /* ifunc resolvers run before a sanitizer's runtime is up. */
    #if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) \\
        && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) \\
        && !defined(__SANITIZE_THREAD__)
    #define EXTMETA_SIMD \\
        __attribute__((unused, noinline, target_clones("avx512f", "avx2", "default")))
    #else
    #define EXTMETA_SIMD __attribute__((unused, noinline))
    #endif

    /* Bit i: (e[i] & mask) == value. n <= 64. */
    EXTMETA_SIMD static uint64_t extmeta_equal(
        const uint64_t *e, ptrdiff_t n, uint64_t mask, uint64_t value)
    {
        uint64_t bits = 0;
        if (n == 64)        /* a constant count, for the vectoriser */
            for (int i = 0; i < 64; i++)
                bits |= (uint64_t)((e[i] & mask) == value) << i;
        else
            for (int i = 0; i < n; i++)
                bits |= (uint64_t)((e[i] & mask) == value) << i;
        return bits;
    }

    /* Bit i: e[i] & a, if e[i] has the bit `present`, else e[i] & b. */
    EXTMETA_SIMD static uint64_t extmeta_either(
        const uint64_t *e, ptrdiff_t n, uint64_t present, uint64_t a, uint64_t b)
    {
        uint64_t bits = 0;
        if (n == 64)
            for (int i = 0; i < 64; i++)
                bits |= (uint64_t)((e[i] & (e[i] & present ? a : b)) != 0) << i;
        else
            for (int i = 0; i < n; i++)
                bits |= (uint64_t)((e[i] & (e[i] & present ? a : b)) != 0) << i;
        return bits;
    }

    #define extmeta_lowest(bits) __builtin_ctzll(bits)
    #define extmeta_count(bits) __builtin_popcountll(bits)
    #define extmeta_publish(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    # Bit i of the answer: (e[i] & mask) == value. n <= 64.
    uint64_t equal "extmeta_equal"(
        const uint64_t* e, Py_ssize_t n, uint64_t mask, uint64_t value) noexcept nogil
    # Bit i of the answer: e[i] & a where e[i] is present, else e[i] & b. n <= 64.
    uint64_t either "extmeta_either"(
        const uint64_t* e, Py_ssize_t n, uint64_t present,
        uint64_t a, uint64_t b) noexcept nogil
    int lowest "extmeta_lowest"(uint64_t bits) noexcept nogil
    int count "extmeta_count"(uint64_t bits) noexcept nogil
    # Store with release order: what was written before is seen before.
    void publish "extmeta_publish"(uint64_t* p, uint64_t v) noexcept nogil


cdef struct PteLayout:
    # Masks of an architecture's entry, from arch.py.
    uint64_t none         # an entry that holds nothing
    uint64_t present
    uint64_t write
    uint64_t base         # bits of every present PTE we make
    uint64_t writable     # bits of a writable one on top
    uint64_t flag         # "has a word", in a present PTE
    uint64_t swap_flag    # the same, in a swap entry
    uint64_t swap_write   # a swap entry's record of `write`
    int pfn_shift
    int pfn_bits
    int type_shift
    int type_bits
    int offset_shift
    int offset_bits
    bint offset_inverted


cdef inline uint64_t flag_of(const PteLayout* a, uint64_t pte) noexcept nogil:
    """Return the mask of the flag in an entry of this kind."""
    return a.flag if pte & a.present else a.swap_flag


cdef inline uint64_t swap_entry(const PteLayout* a, uint64_t slot) noexcept nogil:
    """Return the swap PTE of ``slot`` = type << offset_bits | offset."""
    cdef uint64_t offset_mask = (<uint64_t>1 << a.offset_bits) - 1
    cdef uint64_t offset = slot & offset_mask
    if a.offset_inverted:
        offset ^= offset_mask
    return slot >> a.offset_bits << a.type_shift | offset << a.offset_shift
