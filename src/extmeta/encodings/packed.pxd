"""Words of 2**width bits each, one after another."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

ctypedef fused word_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef inline int width_for(uint64_t bits) noexcept nogil:
    """Return log2 of the narrowest width, from 2 bits up, that holds ``bits``."""
    cdef int width = 1
    while width < 6 and bits >> (1 << width):
        width += 1
    return width

cdef inline uint64_t get(const void* p, int width, Py_ssize_t i) noexcept nogil:
    """Return the ``i``-th word."""
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
    """Write the ``i``-th word, which fits."""
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
    """Read n words, from the ``first``-th on."""
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
    """Write n words, which fit and fill whole bytes."""
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
    elif width == 2:
        for i in range(n >> 1):
            (<uint8_t*>p)[i] = <uint8_t>(words[2 * i] | words[2 * i + 1] << 4)
    else:
        for i in range(n >> 2):
            (<uint8_t*>p)[i] = <uint8_t>(
                words[4 * i] | words[4 * i + 1] << 2
                | words[4 * i + 2] << 4 | words[4 * i + 3] << 6)

cdef inline void shift(
        void* words, int width, Py_ssize_t at, Py_ssize_t n, int by) noexcept nogil:
    """Open (by 1) or close (by -1) a gap at the ``at``-th of n words of whole bytes."""
    cdef size_t size = <size_t>1 << (width - 3)
    cdef char* p = <char*>words + at * size
    if by > 0:
        memmove(p + size, p, (n - at) * size)
    elif by < 0:
        memmove(p, p + size, (n - at - 1) * size)

cdef inline bint keep_bits(word_t* word, Py_ssize_t n, uint64_t keep) noexcept nogil:
    """Clear all other bits of n words, unless a word would become 0."""
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

cdef inline bint keep_in_all(
        void* p, int width, Py_ssize_t n, uint64_t keep) noexcept nogil:
    """Call keep_bits for words of 8 to 64 bits."""
    if width == 6:
        return keep_bits(<uint64_t*>p, n, keep)
    if width == 5:
        return keep_bits(<uint32_t*>p, n, keep)
    if width == 4:
        return keep_bits(<uint16_t*>p, n, keep)
    return keep_bits(<uint8_t*>p, n, keep)
