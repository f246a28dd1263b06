"""A hash table of metadata words by vpn: the code of a lookup, to be inlined."""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.memory.sync cimport prefetch
from extmeta.table.pte cimport lowest

cdef enum:
    DIGIT = 11            # bits of a sorting pass
    # An operation on a range sorts the table's words first if the range has at least
    # LISTED times as many PTEs.
    LISTED = 2

cdef extern from *:
    """
    /* floor(x * n / 2**64) */
    static inline __attribute__((unused)) uint64_t extmeta_scale(
        uint64_t x, uint64_t n)
    {
        return (uint64_t)(((unsigned __int128)x * n) >> 64);
    }

    /* Every x86-64 has SSE2. With EXTMETA_SIMD=none tests run the loops instead. */
    EXTMETA_BODY uint64_t extmeta_low_keys(
        const uint64_t *line, int slots, uint64_t key)
    {
        const uint32_t low = (uint32_t)key;
        uint64_t hits = 0;
    #ifdef EXTMETA_X86
        if (extmeta_simd && slots > 3) {
            /* The keys begin in the line's upper half. */
            const __m128i *four = (const __m128i *)line;
            const __m128i v = _mm_set1_epi32((int)low);
            const __m128i c = _mm_cmpeq_epi32(four[2], v);
            const __m128i d = _mm_cmpeq_epi32(four[3], v);
            hits = (uint64_t)_mm_movemask_epi8(
                _mm_packs_epi16(_mm_packs_epi32(c, d), _mm_setzero_si128()));
            return hits >> (2 * slots - 8) & ((1u << slots) - 1);
        }
    #endif
        for (int i = 0; i < slots; i++)
            hits |= (uint64_t)(((const uint32_t *)(line + slots))[i] == low) << i;
        return hits;
    }

    EXTMETA_BODY uint64_t extmeta_keys(
        const uint64_t *line, int word_bits, uint64_t key)
    {
        uint64_t hits = 0;
    #ifdef EXTMETA_X86
        if (extmeta_simd) {
            const __m128i *two = (const __m128i *)line;
            const __m128i v = _mm_set1_epi64x((long long)key);
            const __m128i by = _mm_cvtsi32_si128(word_bits);
            const __m128i a = _mm_cmpeq_epi32(_mm_srl_epi64(two[0], by), v);
            const __m128i b = _mm_cmpeq_epi32(_mm_srl_epi64(two[1], by), v);
            const __m128i c = _mm_cmpeq_epi32(_mm_srl_epi64(two[2], by), v);
            const __m128i d = _mm_cmpeq_epi32(_mm_srl_epi64(two[3], by), v);
            hits = (uint64_t)_mm_movemask_epi8(
                _mm_packs_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d)));
            /* SSE2 compares halves. A key is there if both are equal. */
            return hits & hits >> 1 & 0x5555;
        }
    #endif
        for (int i = 0; i < 8; i++)
            hits |= (uint64_t)(line[i] >> word_bits == key) << 2 * i;
        return hits;
    }
    """
    uint64_t scale "extmeta_scale"(uint64_t x, uint64_t n) noexcept nogil
    # Bit i: the lower 32 bits of slot i's key are those of `key`.
    uint64_t low_keys "extmeta_low_keys"(
        const uint64_t* line, int slots, uint64_t key) noexcept nogil
    # Bit 2 * i: slot i of key and word has `key`.
    uint64_t keys_in "extmeta_keys"(
        const uint64_t* line, int word_bits, uint64_t key) noexcept nogil

cdef enum:
    LINE = 8              # uint64s of a group: one cache line
    # Lookups whose lines are prefetched before the first of them is read.
    AT_ONCE = 32

cdef struct Table:
    # A group is a cache line of `slots`, filled from the first on. If key and word fit
    # 64 bits, a slot is key << word_bits | word. Else `word_bits` is 0: the line has
    # words, then the lower 32 bits of keys, and at its end the upper bits of keys,
    # `high_bits` each. A slot whose word is 0 is free.
    uint64_t* lines
    uint64_t groups
    uint64_t words        # in the table
    int slots
    int word_bits
    int key_bits
    int high_bits
    int high_shift        # of the upper bits in the line's last uint64
    # A key is the vpn times `factor`, mixed, times `factor` again, in `key_bits`.
    uint64_t factor
    uint64_t inverse
    uint64_t key_mask

cdef inline uint64_t key_of(const Table* t, uint64_t vpn) noexcept nogil:
    """Return the key of a vpn: unique, and as good as random."""
    cdef uint64_t key = vpn * t.factor & t.key_mask
    key ^= key >> ((t.key_bits + 1) >> 1)
    return key * t.factor & t.key_mask


cdef inline uint64_t vpn_of(const Table* t, uint64_t key) noexcept nogil:
    cdef uint64_t vpn = key * t.inverse & t.key_mask
    vpn ^= vpn >> ((t.key_bits + 1) >> 1)
    return vpn * t.inverse & t.key_mask


cdef inline uint64_t home_of(const Table* t, uint64_t key) noexcept nogil:
    """Return the group that a key belongs to; it ascends with the key."""
    return scale(key << (64 - t.key_bits), t.groups)


cdef inline uint64_t* line_of(const Table* t, uint64_t group) noexcept nogil:
    return t.lines + LINE * group


cdef inline uint64_t next_group(const Table* t, uint64_t group) noexcept nogil:
    return group + 1 if group + 1 < t.groups else 0


cdef inline int find_in(
        const Table* t, const uint64_t* line, int slots, uint64_t key) noexcept nogil:
    """Return the slot of a key in a line, -1 if it has none."""
    cdef uint64_t hits = low_keys(line, slots, key)
    cdef int i
    while hits:
        i = lowest(hits)
        if line[i] and line[LINE - 1] >> t.high_shift >> i * t.high_bits & (
                (<uint64_t>1 << t.high_bits) - 1) == key >> 32:
            return i
        hits &= hits - 1
    return -1


cdef inline int slot_in(
        const Table* t, const uint64_t* line, uint64_t key) noexcept nogil:
    """Return the slot of a key in a line of any kind, -1 if it has none."""
    cdef uint64_t hits
    if t.word_bits == 0:
        # The compiler unrolls the loop if it knows the number.
        return find_in(t, line, 5, key) if t.slots == 5 else find_in(
            t, line, t.slots, key)
    hits = keys_in(line, t.word_bits, key)
    # A free slot looks like key 0.
    if hits and line[lowest(hits) >> 1]:
        return lowest(hits) >> 1
    return -1


cdef inline uint64_t word_at(
        const Table* t, const uint64_t* line, int slot) noexcept nogil:
    if t.word_bits:
        return line[slot] & ((<uint64_t>1 << t.word_bits) - 1)
    return line[slot]


cdef inline uint64_t find(const Table* t, uint64_t key) noexcept nogil:
    """Return the word of a key, 0 if there is none. There must be groups."""
    cdef uint64_t group = home_of(t, key)
    cdef const uint64_t* line
    cdef int i
    while True:
        line = line_of(t, group)
        i = slot_in(t, line, key)
        if i >= 0:
            return word_at(t, line, i)
        # A key is in a later group only if this one was full.
        if line[t.slots - 1] == 0:
            return 0
        group = next_group(t, group)


cdef class VpnHash:
    cdef Table table
    # Count of changes to the table and lines. One thread at a time changes them.
    cdef uint32_t seq
    # Lines that `put` moves to if the present ones are full.
    cdef uint64_t* next_lines
    cdef uint64_t next_groups
    cdef uint64_t aside           # words that room is set aside for

    cdef size_t nbytes(self) noexcept nogil
    # Make room for ``more`` words besides the present ones. Return -1 if there is no
    # memory; then nothing has changed.
    cdef int reserve(self, uint64_t more) noexcept nogil
    # Set room for this many more words aside, for when allocation fails. Return -1 if
    # there is no memory.
    cdef int set_aside(self, uint64_t words) noexcept nogil
    cdef size_t aside_bytes(self) noexcept nogil
    # Free what was reserved and not used. May allocate, to move to a smaller table.
    cdef void settle(self) noexcept nogil
    # May allocate: move to the smallest table that may hold the words.
    cdef void trim(self) noexcept nogil
    cdef int copy(self, VpnHash other) noexcept nogil
    cdef void clear(self) noexcept nogil
    # Read the words of n vpns: those at `vpns`, or from `first` on if that is NULL.
    cdef void find_all(
        self, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
        uint64_t* words) noexcept nogil
    # As find_all, without a lock. Return False if the table changed meanwhile.
    cdef bint see_all(
        self, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
        uint64_t* words) noexcept nogil
    # Set word = (word & keep) | add; there must be room. Return 1 if that added a word,
    # -1 if it removed one, else 0.
    cdef int put(self, uint64_t vpn, uint64_t keep, uint64_t add) noexcept nogil
    # Forget the words of [first, stop).
    cdef void remove_range(self, uint64_t first, uint64_t stop) noexcept nogil
    # Write the vpns and words of [first, stop) to `vpns` and `words`, ascending. Return
    # their number. Each array must have room for twice the words of the table.
    cdef Py_ssize_t sorted(
        self, uint64_t first, uint64_t stop, uint64_t* vpns,
        uint64_t* words) noexcept nogil
    cdef const char* fault(self) noexcept nogil
    cdef object get_each(self, vpns, bint at_once)
    cdef int set_each(self, vpns, words, bint at_once) except -1
    cdef void resize(self) noexcept nogil
    cdef void shrink(self, uint64_t groups) noexcept nogil
    cdef int change(self, uint64_t vpn, uint64_t keep, uint64_t add) noexcept nogil
    cdef void insert(self, uint64_t group, uint64_t key, uint64_t word) noexcept nogil
    cdef void remove(self, uint64_t group, int slot) noexcept nogil

cdef inline void expect(VpnHash h, uint64_t vpn) noexcept nogil:
    """Prefetch the line of a vpn."""
    cdef const Table* t = &h.table
    prefetch(line_of(t, home_of(t, key_of(t, vpn))))
