"""Words in a hash table by vpn, one for each address space: what user space uses.

No bit of the PTE is spent. So nothing in it says that a PTE has a word, and each
lookup probes the table, unless the PTE table's count of words is 0. Swapping doesn't
move a word, which is found by vpn.

`vpnhash` has the table: open addressing by cache lines, with 5 words of 64 bits a line,
or 8 if vpn and word have 64 bits together. A word takes 16 to 21 or 10 to 13 bytes,
the smallest table 64. `side` counts slots for words, used or not, at 8 bytes or the
bytes of a narrower word; `index` counts the rest, the keys. Growing needs the old and
the new table at once.

Neighbours in memory are not neighbours in the table. So an operation on a range with
few words walks the table, sorts the words it finds, and visits their PTEs only. This
takes 32 bytes a word while it runs, which `memory()` does not count.
"""
from cython cimport final
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from extmeta.table.encoding cimport COUNTED, Encoding, Write
from extmeta.encodings.side cimport FEW, adds_nothing, append_vpns, nr_flagged, vpn_in
from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.memory.page cimport PAGE
from extmeta.table.pte cimport ALL, equal
from extmeta.encodings.vpnhash cimport LISTED, VpnHash, expect, find, key_of
from extmeta.table.vpns cimport Run, entry_at

cdef enum:
    # If a range dies, one walk removes its words, unless the table has more than WALKED
    # times as many words as the range has PTEs.
    WALKED = 4


@final
cdef class Hash(Encoding):
    """Keep all words in a hash table by vpn."""

    cdef VpnHash hash
    # Words that this operation has room to add.
    cdef uint64_t reserved
    # A list of the words of [first, stop), sorted by vpn. The operation has passed the
    # words before `cursor`. A word removed since may still be listed.
    cdef uint64_t* vpns
    cdef uint64_t* words
    cdef Py_ssize_t listed
    cdef Py_ssize_t cursor
    cdef uint64_t first
    cdef uint64_t stop
    # Words of [first, stop) that end() removes.
    cdef uint64_t dead
    cdef bint dying

    def __dealloc__(self):
        free(self.vpns)

    def configure(self):
        self.reserves = True
        self.uses_descriptor = False
        self.refuse_above(64)
        self.reading = COUNTED
        self.hash = VpnHash((self.arch.nr_vpns - 1).bit_length(), self.bits)

    cdef void begin(
            self, uint64_t first, uint64_t stop, uint64_t nr_ptes,
            bint dying) noexcept nogil:
        cdef uint64_t words = self.hash.table.words
        self.first = first
        self.stop = stop
        if dying:
            self.dying = words <= WALKED * nr_ptes
            return
        if words == 0 or words * LISTED > nr_ptes or not may_allocate():
            return
        self.vpns = <uint64_t*>malloc(words * 4 * sizeof(uint64_t))
        if self.vpns is NULL:
            return
        self.words = self.vpns + 2 * words
        self.listed = self.hash.sorted(first, stop, self.vpns, self.words)
        self.cursor = 0

    cdef void end(self) noexcept nogil:
        free(self.vpns)
        self.vpns = NULL
        self.reserved = 0
        if self.dead:
            if self.dead == self.hash.table.words and self.hash.aside == 0:
                self.hash.clear()
            else:
                self.hash.remove_range(self.first, self.stop)
        self.dead = 0
        self.dying = False
        self.hash.settle()

    cdef Py_ssize_t seek(self, uint64_t vpn, Py_ssize_t n) noexcept nogil:
        """Move the cursor to the words of n vpns from ``vpn`` on; return their end."""
        cdef Py_ssize_t past
        if self.cursor and self.vpns[self.cursor - 1] >= vpn:
            self.cursor = 0
        while self.cursor < self.listed and self.vpns[self.cursor] < vpn:
            self.cursor += 1
        past = self.cursor
        while past < self.listed and self.vpns[past] < vpn + <uint64_t>n:
            past += 1
        return past

    cdef bint has_list(self, uint64_t vpn, Py_ssize_t n) noexcept nogil:
        """Return whether all words of n vpns from ``vpn`` on are listed."""
        return self.vpns is not NULL and (
            self.first <= vpn and vpn + <uint64_t>n <= self.stop)

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t[64] words
        cdef uint64_t none = self.pte.none
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t more = 0
        cdef Py_ssize_t at, n, i
        if w.step == 0 and w.add[0] == 0:
            return t
        memset(words, 0, sizeof(words))
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            if t.flagged:
                self.hash.find_all(r.vpns + at if r.vpns else NULL,
                                   t.vpn + <uint64_t>(r.first + at), n, words)
            for i in range(n):
                # One word for all goes to mapped entries only. A word of its own may
                # be for an entry that moves here after this.
                more += (words[i] == 0) & (w.add[(at + i) * w.step] != 0) & (
                    w.step != 0 or entry[entry_at(r, at + i, last_entry)] != none)
        self.reserved += more
        return t if self.hash.reserve(self.reserved) == 0 else NULL

    cdef bint set_aside(self, size_t n) noexcept nogil:
        return self.hash.set_aside(n * <size_t>self.entries) == 0

    cdef size_t aside_bytes(self) noexcept nogil:
        return self.hash.aside_bytes()

    cdef int copy_all(self, Encoding parent) noexcept nogil:
        return self.hash.copy((<Hash>parent).hash)

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        child.flagged = t.flagged
        return 0

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t first = t.vpn + <uint64_t>r.first
        cdef Py_ssize_t i, past
        if self.hash.table.words == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
            return
        if r.n <= FEW:
            for i in range(r.n):
                words[i] = find(
                    &self.hash.table, key_of(&self.hash.table, vpn_in(t, r, i)))
            return
        if t.flagged == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
        elif r.vpns is NULL and self.has_list(first, r.n):
            memset(words, 0, r.n * sizeof(uint64_t))
            past = self.seek(first, r.n)
            for i in range(self.cursor, past):
                words[self.vpns[i] - first] = self.words[i]
        else:
            self.hash.find_all(r.vpns, first, r.n, words)

    cdef void fetch(
            self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(n if self.hash.table.words else 0):
            expect(self.hash, vpns[i])

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef uint64_t none = self.pte.none
        cdef Py_ssize_t i
        if t.flagged == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
            return True
        if not self.hash.see_all(r.vpns, t.vpn + <uint64_t>r.first, r.n, words):
            return False
        for i in range(r.n):
            # A word may outlive its PTE until end().
            words[i] &= 0 - <uint64_t>(ptes[i] != none)
        return True

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t none = self.pte.none
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t first = t.vpn + <uint64_t>r.first
        cdef uint64_t keep = w.keep[0]
        cdef Py_ssize_t at, n, i, past
        cdef uint64_t add
        cdef int made
        # Only a run with vpns can name an entry twice, and find its own words.
        cdef bint none_before = t.flagged == 0 and r.vpns is NULL
        if adds_nothing(w, 1):
            if t.flagged == 0:
                return
            if r.vpns is NULL and self.has_list(first, r.n):
                past = self.seek(first, r.n)
                for i in range(self.cursor, past):
                    t.flagged += <unsigned int>self.hash.put(self.vpns[i], keep, 0)
                return
        for at in range(0, r.n, 32):
            n = min(32, r.n - at)
            if n > 1:
                for i in range(at, at + n):
                    if w.add[i * w.step] or not none_before:
                        expect(self.hash,
                               r.vpns[i] if r.vpns else first + <uint64_t>i)
            for i in range(at, at + n):
                if entry[entry_at(r, i, last_entry)] == none:
                    continue
                add = w.add[i * w.step]
                if add == 0 and (none_before or t.flagged == 0):
                    continue
                made = self.hash.put(
                    r.vpns[i] if r.vpns else first + <uint64_t>i, keep, add)
                t.flagged += <unsigned int>made
                self.reserved -= made > 0

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef uint64_t[64] words
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n, i, past
        cdef Run r = Run(0, 0, NULL)
        if value[0] and t.flagged == 0:
            return 0
        if value[0] and self.has_list(t.vpn + <uint64_t>first, last - first):
            past = self.seek(t.vpn + <uint64_t>first, last - first)
            for i in range(self.cursor, past):
                vpns[found] = self.vpns[i]
                found += self.words[i] & mask[0] == value[0]
            return found
        for at in range(first, last, 64):
            n = min(64, last - at)
            matches = ALL >> (64 - n)
            if t.flagged:
                r.first = at
                r.n = n
                self.load(t, &r, words)
                matches = equal(words, n, mask[0], value[0])
            if value[0] == 0:
                matches &= ~equal(entry + at, n, ALL, self.pte.none)
            found = append_vpns(vpns, found, t.vpn + <uint64_t>at, matches)
        return found

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        if t.flagged and self.dying and last - first == self.entries:
            self.dead += t.flagged
            t.flagged = 0
        elif t.flagged:
            Encoding.zap(self, t, first, last)

    cdef void trim(self, Ptdesc* t, bint fully) noexcept nogil:
        if fully:
            self.hash.trim()

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to

    cdef size_t side_bytes(self) noexcept nogil:
        cdef size_t word_bytes = 8
        if self.hash.table.word_bits:
            word_bytes = (self.hash.table.word_bits + 7) >> 3
        return self.hash.table.groups * <size_t>self.hash.table.slots * word_bytes

    cdef size_t index_bytes(self) noexcept nogil:
        return self.hash.nbytes() - self.side_bytes()

    cdef size_t held_bytes(self) noexcept nogil:
        cdef size_t nbytes = self.hash.nbytes()
        return (nbytes + PAGE - 1) // PAGE * PAGE - self.index_bytes()

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t flagged = 0
        cdef uint64_t word
        cdef Py_ssize_t i
        for i in range(self.entries):
            word = 0
            if self.hash.table.words:
                word = find(&self.hash.table, key_of(
                    &self.hash.table, t.vpn + <uint64_t>i))
            flagged += word != 0
            if word and entry[i] == self.pte.none:
                return b"a word of a PTE that isn't mapped"
        if flagged != t.flagged:
            return b"count of words is stale"
        if nr_flagged(self.frames) != self.hash.table.words:
            return b"words of no PTE table"
        if self.reserved or self.dead or self.vpns is not NULL:
            return b"an operation isn't over"
        return self.hash.fault()
