"""A hash table of metadata words by vpn: what is done for each lookup."""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.memory.sync cimport prefetch
from extmeta.table.pte cimport lowest

cdef extern from *:
    """
    /* floor(x * n / 2**64) */
    static inline __attribute__((unused)) uint64_t extmeta_scale(
        uint64_t x, uint64_t n)
    {
        return (uint64_t)(((unsigned __int128)x * n) >> 64);
    }
    """
    uint64_t scale "extmeta_scale"(uint64_t x, uint64_t n) noexcept nogil

cdef enum:
    LINE = 8              # uint64s of a group: one cache line
    # Lookups whose lines are asked for before the first of them is looked at.
    AT_ONCE = 32

cdef struct Table:
    # A group is a cache line of `slots`, filled from the first on. Where a key and
    # a word fit 64 bits, 8 times key << word_bits | word. Else words, as many
    # times the lower 32 bits of keys, and at the end of the line their upper bits,
    # `high_bits` each; there `word_bits` is 0. A slot whose word is 0 is free.
    uint64_t* lines
    uint64_t groups
    uint64_t words        # that are held
    int slots
    int word_bits
    int key_bits
    int high_bits
    int high_shift        # of the upper bits in the line's last uint64
    # A key is the vpn times `factor`, mixed, times `factor` again.
    uint64_t factor
    uint64_t inverse
    uint64_t key_mask

cdef inline uint64_t key_of(const Table* t, uint64_t vpn) noexcept nogil:
    """Return the key of a vpn: another for each, and as good as random."""
    cdef uint64_t key = vpn * t.factor & t.key_mask
    key ^= key >> ((t.key_bits + 1) >> 1)
    return key * t.factor & t.key_mask


cdef inline uint64_t vpn_of(const Table* t, uint64_t key) noexcept nogil:
    cdef uint64_t vpn = key * t.inverse & t.key_mask
    vpn ^= vpn >> ((t.key_bits + 1) >> 1)
    return vpn * t.inverse & t.key_mask


cdef inline uint64_t home_of(const Table* t, uint64_t key) noexcept nogil:
    """Return the group where a key is looked for first; it ascends with the key."""
    return scale(key << (64 - t.key_bits), t.groups)


cdef inline int find_in(
        const Table* t, const uint64_t* line, int slots, uint64_t key) noexcept nogil:
    """Return the slot of a key in a line, -1 if it has none."""
    cdef const uint32_t* low = <const uint32_t*>(line + slots)
    cdef uint64_t hits = 0
    cdef int i
    for i in range(slots):
        hits |= <uint64_t>(low[i] == <uint32_t>key) << i
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
    cdef uint64_t word_mask, hits
    cdef int i
    if t.word_bits == 0:
        # Known to the compiler, the number makes one piece of the loop.
        return find_in(t, line, 5, key) if t.slots == 5 else find_in(
            t, line, t.slots, key)
    word_mask = (<uint64_t>1 << t.word_bits) - 1
    key <<= t.word_bits
    hits = 0
    for i in range(LINE):
        hits |= <uint64_t>((line[i] ^ key) <= word_mask) << i
    # A key of 0 is like a free slot.
    if hits and line[lowest(hits)]:
        return lowest(hits)
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
        line = t.lines + LINE * group
        i = slot_in(t, line, key)
        if i >= 0:
            return word_at(t, line, i)
        # Groups fill from the front: a key that found no room here is behind.
        if line[t.slots - 1] == 0:
            return 0
        group = group + 1 if group + 1 < t.groups else 0

cdef class VpnHash:
    cdef Table table
    # Guards the table and the lines: one thread at a time changes them.
    cdef uint32_t seq
    # Lines that `put` moves to when those there are have no room.
    cdef uint64_t* next_lines
    cdef uint64_t next_groups
    cdef uint64_t aside           # words that there is always room for

    cdef size_t nbytes(self) noexcept nogil
    # Make room for ``more`` words besides those there are; -1 if no memory can
    # be had, and then nothing has changed.
    cdef int reserve(self, uint64_t more) noexcept nogil
    # Have room for so many more words, for when no memory can be had; -1 if there
    # is none for that. And the bytes that this takes.
    cdef int set_aside(self, uint64_t words) noexcept nogil
    cdef size_t aside_bytes(self) noexcept nogil
    # Give back what was reserved and isn't used. May allocate, to be smaller.
    cdef void settle(self) noexcept nogil
    cdef int copy(self, VpnHash other) noexcept nogil
    cdef void clear(self) noexcept nogil
    # Words of n vpns: those at `vpns`, or if that is NULL those from `first` on.
    cdef void find_all(
        self, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
        uint64_t* words) noexcept nogil
    # The same without a lock; False if the table changed meanwhile.
    cdef bint see_all(
        self, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
        uint64_t* words) noexcept nogil
    # Set word = (word & keep) | add; there must be room. Return 1 if that made
    # a word, -1 if it took one away, else 0.
    cdef int put(self, uint64_t vpn, uint64_t keep, uint64_t add) noexcept nogil
    # Forget the words of [first, stop); return how many there were.
    cdef uint64_t remove_range(self, uint64_t first, uint64_t stop) noexcept nogil
    # Write the vpns and words of [first, stop) to `vpns` and `words`, ascending;
    # each has twice the room for all there are. Return how many they are.
    cdef Py_ssize_t sorted(
        self, uint64_t first, uint64_t stop, uint64_t* vpns,
        uint64_t* words) noexcept nogil
    cdef const char* fault(self) noexcept nogil
    cdef int set_each(self, vpns, words, bint at_once) except -1
    cdef void resize(self) noexcept nogil
    cdef int change(self, uint64_t vpn, uint64_t keep, uint64_t add) noexcept nogil
    cdef void insert(self, uint64_t group, uint64_t key, uint64_t word) noexcept nogil
    cdef void remove(self, uint64_t group, int slot) noexcept nogil

cdef inline void expect(VpnHash h, uint64_t vpn) noexcept nogil:
    """Have the line of a vpn read soon."""
    cdef const Table* t = &h.table
    prefetch(t.lines + LINE * home_of(t, key_of(t, vpn)))
