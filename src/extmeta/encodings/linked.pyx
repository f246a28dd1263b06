"""Words in a side page linked from the table's descriptor (Amit's form B).

The side page has a word of fixed width for each PTE: 64 bytes a table for words of 1
bit, 4 KiB for 64 bits, 32 KiB for 512 bits. It is allocated with the table's first word
and freed with its last. So a table without words costs nothing, and a single word costs
a whole page. Roberts' experiment of 2024
(20240419074344.2643212-1-ryan.roberts@arm.com) and KVM's shadowed_translation work this
way.
"""
from cython cimport final
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from extmeta.table.encoding cimport (
    FLAGGED, MAX_LANES, TOGETHER, Encoding, Lookups, Write)
from extmeta.encodings.side cimport (
    adds_nothing, count_flags, flagged_of, makes_a_word, read_flagged, side_load,
    side_scan, side_see, side_store, side_zap)
from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.pte cimport PteLayout, flag_of, flags, lowest
from extmeta.memory.slabs cimport Aside, Slabs
from extmeta.memory.sync cimport once, prefetch, publish
from extmeta.table.vpns cimport Run, entry_at

from extmeta.encodings.plan import width_of


@final
cdef class Linked(Encoding):
    """Keep each table's words in a side page found from its descriptor.

    Parameters
    ----------
    bits : int, optional
        Width of a word, rounded up to 1, 2, 4, 8, 16, 32 or a multiple of 64; at most
        512. By default as wide as the fields need.

    Raises
    ------
    TypeError, ValueError
        If ``bits`` is not an integer in [1, 512].
    """

    cdef readonly object asked
    cdef int width
    cdef Slabs slabs
    cdef Aside aside      # side pages for when allocation fails

    def __init__(self, bits=None):
        if bits is not None and not isinstance(bits, int):
            raise TypeError(f"Linked(bits={bits!r}): bits is not an integer")
        if bits is not None and not 1 <= bits <= 64 * MAX_LANES:
            raise ValueError(
                f"Linked(bits={bits}): bits must be in [1, {64 * MAX_LANES}]")
        self.asked = bits

    @classmethod
    def from_text(cls, argument):
        """Return Linked(bits=argument)."""
        if not argument.isascii() or not argument.isdigit():
            raise ValueError(f"{argument!r} is not a number of bits")
        return cls(int(argument))

    @property
    def config(self):
        return {} if self.asked is None else {"bits": self.asked}

    def configure(self):
        self.reserves = True
        self.reading = FLAGGED
        self.parallel = True
        if self.asked is not None:
            self.refuse_above(self.asked)
        self.width = width_of(self.asked or self.bits)

    def start(self):
        self.slabs = Slabs()

    cdef size_t page_bytes(self) noexcept nogil:
        return self.entries * self.width // 8

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef void* page
        if t.link == 0 and makes_a_word(w, r.n, self.lanes):
            page = self.slabs.alloc_or(&self.aside, self.page_bytes())
            if page is NULL:
                return NULL
            t.link = <uintptr_t>page
        return t

    cdef bint set_aside(self, size_t n) noexcept nogil:
        return self.slabs.set_aside(&self.aside, n, self.page_bytes())

    cdef size_t aside_bytes(self) noexcept nogil:
        return self.aside.n * self.page_bytes()

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        if t.flagged:
            child.link = <uintptr_t>self.slabs.alloc(self.page_bytes())
            if child.link == 0:
                return -1
            memcpy(<void*>child.link, <const void*>t.link, self.page_bytes())
            child.flagged = t.flagged
        return 0

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        if self.width == 64:
            side_load(self, <const uint64_t*>t.link, 64, t, r, words)
        elif self.width == 32:
            side_load(self, <const uint32_t*>t.link, 32, t, r, words)
        elif self.width == 16:
            side_load(self, <const uint16_t*>t.link, 16, t, r, words)
        elif self.width == 8:
            side_load(self, <const uint8_t*>t.link, 8, t, r, words)
        elif self.width < 8:
            side_load(self, <const int8_t*>t.link, self.width, t, r, words)
        else:
            self.read_wide(
                <const uint64_t*>t.link if t.flagged else NULL,
                entries(self.frames, t), r, NULL, words)

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        if self.width == 64:
            side_store(self, <uint64_t*>t.link, 64, t, r, w)
        elif self.width == 32:
            side_store(self, <uint32_t*>t.link, 32, t, r, w)
        elif self.width == 16:
            side_store(self, <uint16_t*>t.link, 16, t, r, w)
        elif self.width == 8:
            side_store(self, <uint8_t*>t.link, 8, t, r, w)
        elif self.width < 8:
            side_store(self, <int8_t*>t.link, self.width, t, r, w)
        else:
            self.store_wide(t, r, w)

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef uintptr_t side = once(<const uint64_t*>&t.link)
        if self.width == 64:
            side_see(self, <const uint64_t*>side, 64, r, ptes, words)
        elif self.width == 32:
            side_see(self, <const uint32_t*>side, 32, r, ptes, words)
        elif self.width == 16:
            side_see(self, <const uint16_t*>side, 16, r, ptes, words)
        elif self.width == 8:
            side_see(self, <const uint8_t*>side, 8, r, ptes, words)
        elif self.width < 8:
            side_see(self, <const int8_t*>side, self.width, r, ptes, words)
        else:
            self.read_wide(<const uint64_t*>side, NULL, r, ptes, words)
        return True

    cdef void read_wide(
            self, const uint64_t* side, const uint64_t* entry, const Run* r,
            const uint64_t* ptes, uint64_t* words) noexcept nogil:
        """Read words; ``ptes`` are copies of the run's entries, or NULL."""
        cdef Py_ssize_t lanes = self.lanes
        # The side page may be wider than the words.
        cdef Py_ssize_t stride = self.width // 64
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t pte
        cdef Py_ssize_t i, e
        memset(words, 0, r.n * lanes * sizeof(uint64_t))
        for i in range(r.n if side is not NULL else 0):
            e = entry_at(r, i, last_entry)
            pte = ptes[i] if ptes is not NULL else entry[e]
            if pte & flag_of(&self.pte, pte):
                memcpy(words + i * lanes, side + e * stride, lanes * sizeof(uint64_t))

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        if self.width == 64:
            return side_scan(self, <const uint64_t*>t.link, 64, t, first, last,
                             mask[0], value[0], vpns)
        if self.width == 32:
            return side_scan(self, <const uint32_t*>t.link, 32, t, first, last,
                             mask[0], value[0], vpns)
        if self.width == 16:
            return side_scan(self, <const uint16_t*>t.link, 16, t, first, last,
                             mask[0], value[0], vpns)
        if self.width == 8:
            return side_scan(self, <const uint8_t*>t.link, 8, t, first, last,
                             mask[0], value[0], vpns)
        if self.width < 8:
            return side_scan(self, <const int8_t*>t.link, self.width, t, first, last,
                             mask[0], value[0], vpns)
        return Encoding.scan(self, t, first, last, mask, value, vpns)

    cdef void store_wide(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const PteLayout* a = &self.pte
        cdef uint64_t* entry = entries(self.frames, t)
        cdef uint64_t* side = <uint64_t*>t.link
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t lanes = self.lanes
        cdef Py_ssize_t stride = self.width // 64
        cdef uint64_t* word
        cdef const uint64_t* add
        cdef uint64_t pte, flag, any_bit
        cdef Py_ssize_t i, e, lane
        if t.flagged == 0 and adds_nothing(w, <int>lanes):
            return
        for i in range(r.n):
            e = entry_at(r, i, last_entry)
            pte = entry[e]
            if pte == a.none:
                continue
            flag = flag_of(a, pte)
            add = w.add + i * w.step
            any_bit = 0
            if pte & flag:
                word = side + e * stride
                for lane in range(lanes):
                    word[lane] = word[lane] & w.keep[lane] | add[lane]
                    any_bit |= word[lane]
                if any_bit == 0:
                    entry[e] = pte & ~flag
                    t.flagged -= 1
                continue
            for lane in range(lanes):
                any_bit |= add[lane]
            if any_bit:
                memcpy(side + e * stride, add, lanes * sizeof(uint64_t))
                publish(&entry[e], pte | flag)
                t.flagged += 1

    cdef void fetch(
            self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
        cdef const char* word[TOGETHER]
        self.find_words(tables, vpns, flagged_of(self, tables, vpns, n), word)

    cdef uint64_t find_words(
            self, Ptdesc** tables, const uint64_t* vpns, uint64_t some,
            const char** word) noexcept nogil:
        """Find and fetch the words of some vpns; return which of them have a page."""
        cdef uint64_t last_entry = <uint64_t>self.entries - 1
        cdef uint64_t left = some
        cdef const char* side
        cdef Py_ssize_t i
        while left:
            i = lowest(left)
            left &= left - 1
            side = <const char*>once(<const uint64_t*>&tables[i].link)
            if side is NULL:
                # A lockless reader's copy of an entry may be old.
                some &= ~(<uint64_t>1 << i)
                continue
            word[i] = side + ((vpns[i] & last_entry) * self.width >> 3)
            prefetch(word[i])
        return some

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef const char* word[TOGETHER]
        cdef uint64_t some
        if self.width > 64:
            return Encoding.read_each(self, l, locked, words)
        some = self.find_words(
            l.tables, l.vpns, flags(l.ptes, l.n, &self.pte), word)
        read_flagged(l, word, some, self.width, self.entries - 1, words)
        return True

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        side_zap(self, t, first, last)

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if t.link and t.flagged == 0:
            self.slabs.free(<void*>t.link)
            t.link = 0

    cdef void reap(self) noexcept nogil:
        self.slabs.reap()

    cdef size_t side_bytes(self) noexcept nogil:
        return self.slabs.object_bytes

    cdef size_t held_bytes(self) noexcept nogil:
        return self.slabs.page_bytes()

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        if count_flags(self, t) != t.flagged:
            return b"count of flagged entries is stale"
        if t.flagged and t.link == 0:
            return b"flag set, but no side page"
        if t.link and t.flagged == 0:
            return b"side page without a flagged entry"
        return NULL
