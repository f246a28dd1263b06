"""Words in the page next to the table: an order-1 pair (Amit's form A).

The word of a PTE is one page above the PTE, so it is found without the descriptor. If a
table is a fragment of a page, its words are the next fragment. If Linux leaves half of
a table's page idle (s390), the words lie there and cost nothing. If it uses that half
itself (hidx, ppc64 hash with 64K pages), they lie behind it, and half of the room is
lost.

`when="always"` makes every PTE table a pair and doubles the cost of PTE tables.
`when="needed"` starts with the table alone. The table's first word moves it into a
pair. A kernel would have to change the PMD entry and flush the TLB. `repointings`
counts this; the flush is not modelled. With the last word the side page is freed, and
the table stays where it is.

Precedents: s390's PGSTE, ppc64 hash-64K's hidx, x86 PTI's pair of PGDs.
"""
from cython cimport final
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from extmeta.table.encoding cimport FLAGGED, TOGETHER, Encoding, Lookups, Write
from extmeta.encodings.side cimport (
    count_flags, flagged_of, makes_a_word, read_flagged, side_load, side_scan, side_see,
    side_store, side_zap)
from extmeta.memory.frames cimport PTE, SIDE, Ptdesc, entries, upper_entry
from extmeta.memory.sync cimport prefetch, publish
from extmeta.table.pte cimport flags, lowest
from extmeta.table.vpns cimport Run, entry_at


cdef extern from *:
    """
    #define extmeta_count_one(n) ((void)__atomic_fetch_add((n), 1, __ATOMIC_RELAXED))
    """
    void count_one "extmeta_count_one"(size_t* n) noexcept nogil


@final
cdef class Adjacent(Encoding):
    """Keep each table's words in the page after it.

    Parameters
    ----------
    when : {"always", "needed"}
        When a table gets its second page.

    Raises
    ------
    ValueError
        If ``when`` is neither.
    """

    cdef readonly str when
    cdef Py_ssize_t gap           # uint64s from a table's PTEs to its words
    cdef bint inside              # the words are in the PTE table's own frame

    def __init__(self, when="always"):
        if when not in ("always", "needed"):
            raise ValueError(f"Adjacent(when={when!r}): 'always' or 'needed'")
        self.when = when

    forms = ("needed",)

    @classmethod
    def from_text(cls, argument):
        """Return Adjacent(when=argument)."""
        return cls(argument)

    @property
    def config(self):
        return {"when": self.when}

    def configure(self):
        self.reserves = True
        self.refuse_above(64)
        self.reading = FLAGGED
        self.parallel = True
        self.inside = self.arch.rest == "idle"
        self.order = 1 if self.when == "always" and not self.inside else 0
        self.worded_order = 0 if self.inside else 1
        self.gap = self.entries
        if not self.inside:
            self.gap = self.arch.frame_bytes // 8
        # Threads may move tables of different ranges at the same time.
        self.frames.locked = self.order == 0 and not self.inside

    cdef uint64_t* side(self, const Ptdesc* t) noexcept nogil:
        return entries(self.frames, t) + self.gap

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef Ptdesc* pair
        if t.order == 1 or self.inside or not makes_a_word(w, r.n, 1) or (
                # One word for all goes to mapped entries only. A word of its own may be
                # for an entry that moves here after this.
                w.step == 0 and not self.any_mapped(t, r)):
            return t
        pair = self.frames.alloc(1, PTE, False)
        if pair is NULL:
            return NULL
        memcpy(entries(self.frames, pair), entries(self.frames, t),
               self.entries * sizeof(uint64_t))
        pair.parent = t.parent
        pair.vpn = t.vpn
        pair.used = t.used
        publish(pair.parent, upper_entry(self.frames, pair))
        self.frames.free(t)
        if pair.used:
            count_one(&self.repointings)
        return pair

    cdef bint any_mapped(self, const Ptdesc* t, const Run* r) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t i
        for i in range(r.n):
            if entry[entry_at(r, i, self.entries - 1)] != self.pte.none:
                return True
        return False

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        # The child's table was made in a pair, so nothing is counted.
        if t.flagged:
            memcpy(self.side(child), (<Adjacent>parent).side(t),
                   self.entries * sizeof(uint64_t))
            child.flagged = t.flagged
        return 0

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        side_load(self, self.side(t), 64, t, r, words)

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        # A table without a side page has no flag set. But a copy of an entry may have
        # one still, and must not lead to another table's memory.
        if t.order == 0 and not self.inside:
            side_see(self, <const uint64_t*>NULL, 64, r, ptes, words)
        else:
            side_see(self, self.side(t), 64, r, ptes, words)
        return True

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
        cdef Py_ssize_t i
        while left:
            i = lowest(left)
            left &= left - 1
            if tables[i].order == 0 and not self.inside:
                # See `see`.
                some &= ~(<uint64_t>1 << i)
                continue
            word[i] = <const char*>(self.side(tables[i]) + (vpns[i] & last_entry))
            prefetch(word[i])
        return some

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef const char* word[TOGETHER]
        cdef uint64_t some = self.find_words(
            l.tables, l.vpns, flags(l.ptes, l.n, &self.pte), word)
        read_flagged(l, word, some, 64, self.entries - 1, words)
        return True

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        side_store(self, self.side(t), 64, t, r, w)

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        return side_scan(self, self.side(t), 64, t, first, last, mask[0], value[0],
                         vpns)

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        side_zap(self, t, first, last)

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if t.flagged == 0 and self.order == 0 and t.order == 1:
            self.frames.free_upper_half(t)

    cdef size_t side_bytes(self) noexcept nogil:
        return self.frames.held(SIDE)

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        if count_flags(self, t) != t.flagged:
            return b"count of flagged entries is stale"
        if t.flagged and t.order == 0 and not self.inside:
            return b"flag set, but no side page"
        if self.order == 0 and t.order == 1 and t.flagged == 0:
            return b"side page without a flagged entry"
        return NULL
