"""A hash table of metadata words by vpn.

Open addressing by cache lines: a lookup nearly always reads one line. A line has 5
keys of up to 38 bits and their words of up to 64 bits, or 4 or 3 of them if keys are
wider. If key and word have 64 bits together, it has 8 of both. If a key's line is
full, the key is in the next line that has room. A key is the vpn permuted: its upper
bits are as random as a hash, and the vpn can be computed from it.

Up to 25 of 32 slots are in use. The table grows by a quarter, or to what a call
needs. A deletion shifts displaced entries back, so there are no tombstones. A table
that is less than three quarters as full as it may be is made smaller.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

import numpy as np

from extmeta.memory.epoch cimport free_unseen
from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.sync cimport (
    begin_change, count_of_changes, end_change, unchanged_since)
from extmeta.table.vpns import row

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** p, size_t alignment, size_t nbytes)

# 2**64 / the golden ratio, odd. Multiplying by it spreads consecutive numbers.
cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15


cdef inline uint64_t* allocate(uint64_t groups) noexcept nogil:
    cdef void* p = NULL
    if not may_allocate() or posix_memalign(&p, 64, groups * 64):
        return NULL
    return <uint64_t*>p


cdef inline uint64_t beyond(
        const Table* t, uint64_t group, uint64_t home) noexcept nogil:
    """Return how many groups after ``home`` a group is."""
    return group - home if group >= home else group + t.groups - home


cdef inline uint64_t key_at(
        const Table* t, const uint64_t* line, int slot) noexcept nogil:
    if t.word_bits:
        return line[slot] >> t.word_bits
    return (<const uint32_t*>(line + t.slots))[slot] | (
        line[LINE - 1] >> t.high_shift >> slot * t.high_bits
        & ((<uint64_t>1 << t.high_bits) - 1)) << 32


cdef inline void put_at(
        const Table* t, uint64_t* line, int slot, uint64_t key,
        uint64_t word) noexcept nogil:
    cdef int shift
    if t.word_bits:
        line[slot] = key << t.word_bits | word
        return
    shift = t.high_shift + slot * t.high_bits
    line[slot] = word
    (<uint32_t*>(line + t.slots))[slot] = <uint32_t>key
    line[LINE - 1] = (
        line[LINE - 1] & ~(((<uint64_t>1 << t.high_bits) - 1) << shift)
        | key >> 32 << shift)


cdef inline uint64_t see(const Table* t, uint64_t key) noexcept nogil:
    """As find(), but lines may be changing: stop after all groups."""
    cdef uint64_t group = home_of(t, key)
    cdef const uint64_t* line
    cdef uint64_t left = t.groups
    cdef int i
    while left:
        line = line_of(t, group)
        i = slot_in(t, line, key)
        if i >= 0:
            return word_at(t, line, i)
        if line[t.slots - 1] == 0:
            return 0
        group = next_group(t, group)
        left -= 1
    return 0


cdef inline void find_each(
        const Table* t, const uint64_t* keys, Py_ssize_t n,
        uint64_t* words) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        words[i] = find(t, keys[i])


cdef inline int used_in(const uint64_t* line, int slots) noexcept nogil:
    """Return how many of a line's slots are in use; one must be free.

    Counting all avoids a branch that can't be predicted.
    """
    cdef int used = 0
    cdef int i
    for i in range(slots - 1):
        used += line[i] != 0
    return used


cdef inline uint64_t room(const Table* t, uint64_t groups) noexcept nogil:
    """Return how many words the groups may hold."""
    return groups * <uint64_t>t.slots * 25 >> 5


cdef inline uint64_t groups_for(const Table* t, uint64_t words) noexcept nogil:
    cdef uint64_t groups = words * 32 // (25 * <uint64_t>t.slots)
    while room(t, groups) < words:
        groups += 1
    return groups


cdef inline Py_ssize_t prefetch_keys(
        const Table* t, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
        uint64_t* keys) noexcept nogil:
    """Fill ``keys`` and prefetch their lines; return how many, AT_ONCE at most."""
    # A copy, because stores to `keys` might alias the fields.
    cdef Table a = t[0]
    cdef Py_ssize_t i
    n = min(AT_ONCE, n)
    for i in range(n):
        keys[i] = key_of(&a, vpns[i] if vpns else first + <uint64_t>i)
        prefetch(line_of(&a, home_of(&a, keys[i])))
    return n


cdef class VpnHash:
    """Words by vpn. A word of 0 is no word.

    Parameters
    ----------
    key_bits : int
        Bits of a vpn, 2 to 53.
    word_bits : int
        Bits of a word, 1 to 64.
    """

    def __cinit__(self, int key_bits, int word_bits):
        cdef uint64_t inverse = 1
        self.table.key_bits = key_bits
        self.table.key_mask = ((<uint64_t>1) << key_bits) - 1
        if key_bits + word_bits <= 64:
            self.table.word_bits = word_bits
            self.table.slots = LINE
        else:
            self.table.slots = 5 if key_bits <= 38 else 4 if key_bits <= 48 else 3
            self.table.high_bits = 6 if self.table.slots == 5 else (
                64 // self.table.slots)
            self.table.high_shift = 32 if self.table.slots == 5 else 0
        self.table.factor = (GOLDEN >> (64 - key_bits)) | 1
        for _ in range(6):
            # Newton's iteration doubles the number of correct bits.
            inverse *= 2 - self.table.factor * inverse
        self.table.inverse = inverse

    def __dealloc__(self):
        free(self.table.lines)
        free(self.next_lines)

    def __len__(self):
        return self.table.words

    @property
    def held(self):
        """Bytes of the table."""
        return self.nbytes()

    def load(self, vpns):
        """Return the words of vpns, 0 for a vpn without one.

        Parameters
        ----------
        vpns : (n,) array_like of int

        Returns
        -------
        (n,) uint64 ndarray
        """
        return self.get_each(vpns, True)

    def load_each(self, vpns):
        """As load(), but look up one after another, as a caller of find() does."""
        return self.get_each(vpns, False)

    cdef object get_each(self, vpns, bint at_once):
        cdef const uint64_t[::1] wanted = row("vpns", vpns)
        cdef Py_ssize_t n = wanted.shape[0]
        cdef Py_ssize_t i
        words = np.zeros(n, np.uint64)
        cdef uint64_t[::1] out = words
        with nogil:
            if at_once and n:
                self.find_all(&wanted[0], 0, n, &out[0])
                n = 0
            for i in range(n if self.table.words else 0):
                out[i] = find(&self.table, key_of(&self.table, wanted[i]))
        return words

    def store(self, vpns, words):
        """Set the words of vpns; 0 removes a word.

        Parameters
        ----------
        vpns, words : (n,) array_like of int
            Within `key_bits` and `word_bits`.

        Raises
        ------
        ValueError
            If the lengths differ.
        MemoryError
            If the table can't grow; nothing is set then.
        """
        self.set_each(vpns, words, True)

    def store_each(self, vpns, words):
        """As store(), but reserve room for one word at a time.

        If the table can't grow, earlier words of the call stay set.
        """
        self.set_each(vpns, words, False)

    cdef int set_each(self, vpns, words, bint at_once) except -1:
        cdef const uint64_t[::1] wanted = row("vpns", vpns)
        cdef const uint64_t[::1] new = row("words", words)
        cdef Py_ssize_t n = wanted.shape[0]
        cdef Py_ssize_t i
        cdef bint failed = False
        if n != new.shape[0]:
            raise ValueError(f"{new.shape[0]} words for {n} vpns")
        with nogil:
            failed = at_once and self.reserve(<uint64_t>n) != 0
            for i in range(n):
                failed = failed or not at_once and self.reserve(1) != 0
                if failed:
                    break
                self.put(wanted[i], 0, new[i])
            self.settle()
        if failed:
            raise MemoryError(f"{self.nbytes()} bytes and more for {len(self)} words")
        return 0

    def check(self):
        """Raise AssertionError with the reason if an invariant is broken."""
        reason = self.fault()
        if reason is not NULL:
            raise AssertionError(reason.decode())

    cdef size_t nbytes(self) noexcept nogil:
        return (self.table.groups + self.next_groups) * 64

    cdef void find_all(
            self, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
            uint64_t* words) noexcept nogil:
        cdef uint64_t[AT_ONCE] keys
        cdef Table t = self.table
        cdef Py_ssize_t start, some
        if t.words == 0:
            memset(words, 0, n * sizeof(uint64_t))
            return
        for start in range(0, n, 32):
            some = prefetch_keys(
                &t, vpns + start if vpns else NULL, first + <uint64_t>start,
                n - start, keys)
            # The compiler makes a loop for each of the kinds of lines.
            if t.word_bits:
                find_each(&t, keys, some, words + start)
            elif t.slots == 5:
                find_each(&t, keys, some, words + start)
            else:
                find_each(&t, keys, some, words + start)

    cdef bint see_all(
            self, const uint64_t* vpns, uint64_t first, Py_ssize_t n,
            uint64_t* words) noexcept nogil:
        cdef uint64_t[AT_ONCE] keys
        cdef uint32_t before = count_of_changes(&self.seq)
        cdef Table t = self.table
        cdef Py_ssize_t start, i
        # From here on, lines and their number belong together.
        if before & 1 or not unchanged_since(&self.seq, before):
            return False
        if t.words == 0:
            memset(words, 0, n * sizeof(uint64_t))
            return True
        for start in range(0, n, 32):
            for i in range(prefetch_keys(
                    &t, vpns + start if vpns else NULL, first + <uint64_t>start,
                    n - start, keys)):
                words[start + i] = see(&t, keys[i])
        return unchanged_since(&self.seq, before)

    cdef void insert(self, uint64_t group, uint64_t key, uint64_t word) noexcept nogil:
        """Add a new key, in the first free slot from ``group`` on."""
        cdef const Table* t = &self.table
        cdef uint64_t* line = line_of(t, group)
        while line[t.slots - 1]:
            group = next_group(t, group)
            line = line_of(t, group)
        put_at(t, line, used_in(line, 5) if t.slots == 5 else used_in(line, t.slots),
               key, word)
        self.table.words += 1

    cdef void remove(self, uint64_t group, int slot) noexcept nogil:
        """Delete a slot and shift back the entries that were displaced past it."""
        cdef const Table* t = &self.table
        cdef uint64_t* line = line_of(t, group)
        cdef uint64_t* behind
        cdef uint64_t there
        cdef int last = t.slots - 1
        cdef int i
        cdef bint full
        self.table.words -= 1
        while True:
            full = line[last] != 0
            i = last
            while line[i] == 0:
                i -= 1
            put_at(t, line, slot, key_at(t, line, i), word_at(t, line, i))
            line[i] = 0
            there = group
            while full:
                there = next_group(t, there)
                behind = line_of(t, there)
                slot = 0
                while slot <= last and behind[slot]:
                    if beyond(t, there, home_of(t, key_at(t, behind, slot))) >= (
                            beyond(t, there, group)):
                        break
                    slot += 1
                if slot <= last and behind[slot]:
                    break
                full = slot > last
            if not full:
                return
            put_at(t, line, last, key_at(t, behind, slot), word_at(t, behind, slot))
            line = behind
            group = there

    cdef int put(self, uint64_t vpn, uint64_t keep, uint64_t add) noexcept nogil:
        cdef int made
        begin_change(&self.seq)
        made = self.change(vpn, keep, add)
        end_change(&self.seq)
        return made

    cdef int change(self, uint64_t vpn, uint64_t keep, uint64_t add) noexcept nogil:
        cdef const Table* t = &self.table
        cdef uint64_t key = key_of(t, vpn)
        cdef uint64_t group, word
        cdef uint64_t* line
        cdef int slot
        if t.groups == 0:
            if add == 0:
                return 0
            self.resize()
        group = home_of(t, key)
        while True:
            line = line_of(t, group)
            slot = slot_in(t, line, key)
            if slot >= 0:
                break
            if line[t.slots - 1] == 0:
                if add == 0:
                    return 0
                if t.words == room(t, t.groups):
                    self.resize()
                    group = home_of(t, key)
                self.insert(group, key, add)
                return 1
            group = next_group(t, group)
        word = word_at(t, line, slot) & keep | add
        if word:
            put_at(t, line, slot, key, word)
            return 0
        self.remove(group, slot)
        return -1

    cdef int reserve(self, uint64_t more) noexcept nogil:
        cdef const Table* t = &self.table
        cdef uint64_t needed = t.words + more
        cdef uint64_t groups = max(t.groups, self.next_groups)
        cdef uint64_t* lines
        if needed + self.aside <= room(t, groups):
            return 0
        groups = max(groups_for(t, needed + self.aside), groups + (groups >> 2))
        lines = allocate(groups)
        if lines is NULL:
            # Use what is set aside. settle() counts how much is left.
            return 0 if needed <= room(t, t.groups) else -1
        free(self.next_lines)
        self.next_lines = lines
        self.next_groups = groups
        return 0

    cdef int set_aside(self, uint64_t words) noexcept nogil:
        cdef uint64_t before = self.aside
        self.aside = words
        if self.reserve(0):
            self.aside = before
            return -1
        if self.next_lines is not NULL:
            begin_change(&self.seq)
            self.resize()
            end_change(&self.seq)
        self.settle()
        return 0

    cdef size_t aside_bytes(self) noexcept nogil:
        return groups_for(&self.table, self.aside) * 64

    cdef void settle(self) noexcept nogil:
        cdef const Table* t = &self.table
        cdef uint64_t least
        free(self.next_lines)
        self.next_lines = NULL
        self.next_groups = 0
        if self.aside and t.words + self.aside > room(t, t.groups):
            self.aside = room(t, t.groups) - t.words
        if t.words + self.aside == 0:
            self.clear()
            return
        # Shrink below 3/4 of what may be in use. Leave a sixteenth more free, so that
        # a table whose words come and go isn't resized each time.
        if (t.words + self.aside) * 4 < room(t, t.groups) * 3:
            least = groups_for(t, t.words + self.aside)
            self.shrink(least + (least >> 4))

    cdef void shrink(self, uint64_t groups) noexcept nogil:
        if groups >= self.table.groups:
            return
        self.next_lines = allocate(groups)
        if self.next_lines is not NULL:
            self.next_groups = groups
            begin_change(&self.seq)
            self.resize()
            end_change(&self.seq)

    cdef void trim(self) noexcept nogil:
        self.shrink(groups_for(&self.table, self.table.words + self.aside))

    cdef void clear(self) noexcept nogil:
        cdef uint64_t* lines = self.table.lines
        begin_change(&self.seq)
        self.table.lines = NULL
        self.table.groups = 0
        self.table.words = 0
        end_change(&self.seq)
        free_unseen(lines)

    cdef int copy(self, VpnHash other) noexcept nogil:
        """Copy the content of another table with equal widths."""
        cdef uint64_t* lines = NULL
        if other.table.groups:
            lines = allocate(other.table.groups)
            if lines is NULL:
                return -1
            memcpy(lines, other.table.lines, other.table.groups * 64)
        free(self.table.lines)
        self.table = other.table
        self.table.lines = lines
        return 0

    cdef void resize(self) noexcept nogil:
        """Move all words to the reserved lines; both are read nearly in order."""
        cdef Table old = self.table
        cdef const uint64_t* line
        cdef uint64_t group, key
        cdef int slot
        self.table.lines = self.next_lines
        self.table.groups = self.next_groups
        self.table.words = 0
        self.next_lines = NULL
        self.next_groups = 0
        memset(self.table.lines, 0, self.table.groups * 64)
        for group in range(old.groups):
            line = line_of(&old, group)
            for slot in range(old.slots):
                if line[slot] == 0:
                    break
                key = key_at(&old, line, slot)
                self.insert(home_of(&self.table, key), key, word_at(&old, line, slot))
        free_unseen(old.lines)

    cdef void remove_range(self, uint64_t first, uint64_t stop) noexcept nogil:
        cdef const Table* t = &self.table
        cdef uint64_t group, vpn
        cdef uint64_t* line
        cdef int slot
        begin_change(&self.seq)
        for group in range(t.groups):
            line = line_of(t, group)
            slot = 0
            while slot < t.slots and line[slot]:
                vpn = vpn_of(t, key_at(t, line, slot))
                if first <= vpn < stop:
                    # This may shift another word into the slot.
                    self.remove(group, slot)
                else:
                    slot += 1
        end_change(&self.seq)

    cdef Py_ssize_t sorted(
            self, uint64_t first, uint64_t stop, uint64_t* vpns,
            uint64_t* words) noexcept nogil:
        cdef Py_ssize_t[1 << DIGIT] starts
        cdef const Table* t = &self.table
        cdef uint64_t* to_vpns = vpns + t.words
        cdef uint64_t* to_words = words + t.words
        cdef const uint64_t* line
        cdef uint64_t group, vpn
        cdef int slot
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t i, digit, sum_, k
        cdef int shift
        for group in range(t.groups):
            line = line_of(t, group)
            for slot in range(t.slots):
                if line[slot] == 0:
                    break
                vpn = vpn_of(t, key_at(t, line, slot))
                if first <= vpn < stop:
                    vpns[n] = vpn - first
                    words[n] = word_at(t, line, slot)
                    n += 1
        shift = 0
        while shift < 64 and (stop - first - 1) >> shift:
            memset(starts, 0, sizeof(starts))
            for i in range(n):
                starts[vpns[i] >> shift & ((1 << DIGIT) - 1)] += 1
            sum_ = 0
            for digit in range(1 << DIGIT):
                k = starts[digit]
                starts[digit] = sum_
                sum_ += k
            for i in range(n):
                digit = <Py_ssize_t>(vpns[i] >> shift & ((1 << DIGIT) - 1))
                to_vpns[starts[digit]] = vpns[i]
                to_words[starts[digit]] = words[i]
                starts[digit] += 1
            vpns, to_vpns = to_vpns, vpns
            words, to_words = to_words, words
            shift += DIGIT
        if to_vpns < vpns:
            # After an odd number of passes the result is in the upper half.
            memcpy(to_vpns, vpns, n * sizeof(uint64_t))
            memcpy(to_words, words, n * sizeof(uint64_t))
            vpns = to_vpns
        for i in range(n):
            vpns[i] += first
        return n

    cdef const char* fault(self) noexcept nogil:
        """Return what is wrong with the table, or NULL."""
        cdef const Table* t = &self.table
        cdef uint64_t found = 0
        cdef uint64_t group, key
        cdef const uint64_t* line
        cdef bint gap
        cdef int slot
        if self.next_lines is not NULL:
            return b"reserved lines are left"
        if t.words > room(t, t.groups):
            return b"more words than the table may hold"
        if t.groups and t.words == 0:
            return b"a table without a word"
        for group in range(t.groups):
            line = line_of(t, group)
            gap = False
            for slot in range(t.slots):
                if line[slot] == 0:
                    gap = True
                    continue
                found += 1
                key = key_at(t, line, slot)
                if gap:
                    return b"a free slot before one in use"
                if word_at(t, line, slot) == 0:
                    return b"a word of 0 is held"
                if key_of(t, vpn_of(t, key)) != key:
                    return b"a key is of no vpn"
                if find(t, key) != word_at(t, line, slot):
                    return b"a word is not found"
        if found != t.words:
            return b"count of words is stale"
        return NULL
