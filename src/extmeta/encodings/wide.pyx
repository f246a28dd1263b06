"""Words in the PTE itself: entries of 16 bytes, the PTE and then its word.

arm64's FEAT_D128 does this in hardware, with descriptors of 128 bits. It needs no flag,
no side memory, no allocation and no lookup, but it doubles every table of every
process. Upper entries are as wide, so a table indexes one bit less at each level, and
x86-64's 36 bits take five levels. If Linux leaves half of a PTE table's page idle
(s390), the pairs fill it.

PTE and word are an aligned pair of 16 bytes, which is read at once. An entry that is
none has the word 0.
"""
from dataclasses import replace

from cython cimport final
from libc.stdint cimport uint64_t

from extmeta.encodings.side cimport append_vpns
from extmeta.table.encoding cimport COUNTED, Encoding, Lookups, Write
from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.pte cimport ALL, equal_in_pairs
from extmeta.table.vpns cimport Run, entry_at

cdef enum:
    ENTRY_BYTES = 16


@final
cdef class Wide(Encoding):
    """Keep each word in the upper half of a PTE of 16 bytes."""

    def configure(self):
        self.reserves = True
        self.uses_descriptor = False
        self.refuse_above(64)
        self.reading = COUNTED
        self.parallel = True

    def shape(self, arch):
        # The root indexes the bits lost below. If it would be too large, there is one
        # more level like the one below it.
        bits = [n - 1 for n in arch.level_bits[1:]]
        tables = list(arch.table_bytes[1:])
        if arch.rest == "idle":
            bits[len(bits) - 1] += 1
        root = sum(arch.level_bits) - sum(bits)
        while ENTRY_BYTES << <object>root > max(arch.table_bytes[0], arch.page_bytes):
            bits.insert(0, bits[0])
            tables.insert(0, tables[0])
            root -= bits[0]
        root_bytes = max(ENTRY_BYTES << <object>root, min(arch.table_bytes[:2]))
        return replace(
            arch,
            level_bits=(root, *bits),
            table_bytes=(root_bytes, *tables),
            rest="" if arch.rest == "idle" else arch.rest,
            entry_bytes=ENTRY_BYTES,
        )

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        # The words came with the entries.
        return 0

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint64_t* pair = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t i
        if r.vpns is NULL:
            pair += 2 * r.first
            for i in range(r.n):
                words[i] = pair[2 * i + 1]
        else:
            for i in range(r.n):
                words[i] = pair[2 * entry_at(r, i, last_entry) + 1]

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        self.load(t, r, words)
        return True

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(l.n):
            words[i] = l.entry[i][1]
        return True

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t* pair = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t keep = w.keep[0]
        cdef uint64_t add = w.add[0]
        cdef uint64_t none = self.pte.none
        cdef Py_ssize_t i, e
        if r.vpns:
            for i in range(r.n):
                e = entry_at(r, i, last_entry)
                if pair[2 * e] != none:
                    pair[2 * e + 1] = pair[2 * e + 1] & keep | w.add[i * w.step]
            return
        pair += 2 * r.first
        if w.step:
            for i in range(r.n):
                pair[2 * i + 1] = (pair[2 * i + 1] & keep | w.add[i]) & (
                    0 - <uint64_t>(pair[2 * i] != none))
        elif add:
            for i in range(r.n):
                pair[2 * i + 1] = (pair[2 * i + 1] & keep | add) & (
                    0 - <uint64_t>(pair[2 * i] != none))
        else:
            # Clearing keeps the 0 of an entry that is none.
            for i in range(r.n):
                pair[2 * i + 1] &= keep

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef const uint64_t* pair = entries(self.frames, t)
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n
        for at in range(first, last, 64):
            n = min(64, last - at)
            matches = equal_in_pairs(pair + 2 * at, 1, n, mask[0], value[0])
            if matches and value[0] == 0:
                matches &= ~equal_in_pairs(pair + 2 * at, 0, n, ALL, self.pte.none)
            found = append_vpns(vpns, found, t.vpn + <uint64_t>at, matches)
        return found

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        # The table clears the words with the entries.
        pass

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* pair = entries(self.frames, t)
        cdef Py_ssize_t i
        for i in range(self.entries):
            if pair[2 * i] == self.pte.none and pair[2 * i + 1]:
                return b"an entry that holds nothing has a word"
        return NULL
