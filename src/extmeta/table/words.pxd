"""Read, write and find words, a run of entries at a time."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from extmeta.memory.frames cimport PTE, Ptdesc, entries
from extmeta.memory.sync cimport add_once
from extmeta.table.encoding cimport TOGETHER, Lookups, Write
from extmeta.table.places cimport Places
from extmeta.table.pte cimport equal, equal_in_pairs
from extmeta.table.refusal cimport Found
from extmeta.table.vpns cimport Run, Span, scattered

cdef enum:
    # Tables of a range that are found before their words are read, so that misses
    # overlap. With 1, a scan of adaptive with 1 % flagged took 2.6 times as long, with
    # 16 1.3 times (`python benchmarks/tunables.py TABLES_TOGETHER 1 16`).
    TABLES_TOGETHER = 64

cdef struct Group:
    # The next l.n vpns of a span, from `first` on.
    Lookups l
    Py_ssize_t first
    bint described        # descriptors are read, too
    bint fetched          # next_at() asks for the lines of words, too

cdef struct Tables:
    # Some tables that share a run: one of which a part is meant, or whole ones.
    Ptdesc* tables[TABLES_TOGETHER]
    Py_ssize_t n
    Run run

cdef struct Above:
    Ptdesc* pmd
    uint64_t vpn          # of one of the PTE tables below

cdef class Words(Places):
    # The entry ``i`` of a PTE table.
    cdef inline uint64_t* pte_at(
            self, const Ptdesc* t, Py_ssize_t i) noexcept nogil:
        return entries(self.frames, t) + i * self.stride
    # Whether the run is one entry, and that is mapped.
    cdef inline bint maps_one(self, const Ptdesc* t, const Run* r) noexcept nogil:
        return r.n == 1 and t is not NULL and self.pte_at(t, r.first)[0] != self.none
    # A bit for each of n <= 64 entries from ``i`` on: (pte & mask) == value.
    cdef inline uint64_t like(
            self, const uint64_t* entry, Py_ssize_t i, Py_ssize_t n, uint64_t mask,
            uint64_t value) noexcept nogil:
        if self.stride == 1:
            return equal(entry + i, n, mask, value)
        return equal_in_pairs(entry + 2 * i, 0, n, mask, value)
    # The table of the span's ``at``-th vpn, and the run of entries from there on; or
    # NULL, and a run of vpns without a table.
    cdef Ptdesc* run_at(self, const Span* s, Py_ssize_t at, Run* r) noexcept nogil
    # Vpns that lie in no order are looked up together. `g` is what was looked up last;
    # forget() it at first, and after a table moved.
    cdef inline void forget(self, Group* g) noexcept nogil:
        g.first = g.l.n = 0
        g.l.nothing[0] = self.none
        g.l.nothing[1] = 0

    # Look up vpns from ``at`` on; False if the next ones are a run of one table.
    cdef inline bint look_up(
            self, const Span* s, Py_ssize_t at, Group* g) noexcept nogil:
        if not scattered(s, at, self.table_bits):
            return False
        g.first = at
        g.l.vpns = s.vpns + at
        g.l.n = min(<Py_ssize_t>TOGETHER, s.n - at)
        # The caller may hold no lock.
        self.see_tables(
            g.l.vpns, g.l.n, g.described, g.l.nothing, g.l.tables, g.l.entry)
        return True

    # As run_at, of a group if there is one. Vpns of a group come one at a time.
    cdef inline Ptdesc* next_at(
            self, const Span* s, Py_ssize_t at, Run* r, Group* g) noexcept nogil:
        if at >= g.first + g.l.n:
            if not self.look_up(s, at, g):
                return self.run_at(s, at, r)
            if g.fetched:
                self.encoding.fetch(g.l.tables, g.l.vpns, g.l.n)
        r[0] = Run(<Py_ssize_t>(s.vpns[at] & <uint64_t>(self.entries - 1)), 1,
                   s.vpns + at)
        return g.l.tables[at - g.first]

    # Read the words of vpns that were looked up together; return how many.
    cdef Py_ssize_t read_group(self, Group* g, uint64_t* words) noexcept nogil
    cdef Py_ssize_t first_unlike(
        self, const Ptdesc* t, const Run* r, int wanted) noexcept nogil
    # Note a refusal, as refuse_for does.
    cdef int refuse(self, uint64_t vpn, int wanted) noexcept nogil
    cdef int refuse_word(
        self, uint64_t vpn, const Write* w, Py_ssize_t i) noexcept nogil
    cdef int write(
        self, const Span* s, const Write* w, bint all_mapped) noexcept nogil
    cdef int clear_words(self, const Span* s, const Write* w) noexcept nogil
    cdef int stop_write(self, const Span* s, Py_ssize_t at, int failed) noexcept nogil
    cdef void begin(self, const Span* s) noexcept nogil
    # Call this after a change of t.flagged, with what it was before: if the table got
    # its first word, or lost its last, that changes the count of its PMD table. `last`
    # is the PMD table that an operation changed last; NULL at first.
    cdef inline void note_words(
            self, Ptdesc* t, uint32_t before, Above* last) noexcept nogil:
        if (before == 0) != (t.flagged == 0):
            if last.pmd is NULL or (t.vpn ^ last.vpn) >> self.pmd_shift:
                last.pmd = self.above(t)
                last.vpn = t.vpn
            add_once(&last.pmd.flagged, 1 if before == 0 else -1)
    cdef void settle_span(self, const Span* s, Py_ssize_t upto) noexcept nogil
    cdef void read(self, const Span* s, uint64_t* words) noexcept nogil
    # Set flags[i] to 1 if the i-th PTE has a word; `flags` must be 0.
    cdef void read_flags(self, const Span* s, uint8_t* flags) noexcept nogil
    # The first lane of a PTE's word; 0 if there is none.
    cdef uint64_t read_word(self, uint64_t vpn) noexcept nogil
    # Set the word, of one lane, of a mapped PTE. -1 if the vpn isn't mapped, memory
    # can't be had or the entry can't hold the word; then nothing has changed.
    cdef int write_word(self, uint64_t vpn, uint64_t word) noexcept nogil
    # Find the vpns with (word & mask) == value or, if ``as_runs``, a start and a stop
    # of each range of them.
    cdef int find_words(
        self, const Span* s, bint as_runs, const uint64_t* mask, const uint64_t* value,
        Found* found) noexcept nogil
    cdef int find_runs(
        self, Tables* g, const uint64_t* mask, const uint64_t* value,
        Found* found) noexcept nogil
    # List the next tables that have entries in [at[0], stop), if ``worded`` only those
    # with a word; at[0] moves behind them. There may be none among those looked at.
    # False at the end.
    cdef bint next_tables(
        self, uint64_t* at, uint64_t stop, bint worded, Tables* g) noexcept nogil
    cdef void gather(
        self, const uint64_t* slot, uint64_t* at, uint64_t stop, bint worded,
        Tables* g) noexcept nogil
    cdef Py_ssize_t scan_some(
        self, Ptdesc** tables, Py_ssize_t n, const Run* r, const uint64_t* mask,
        const uint64_t* value, uint64_t* vpns) noexcept nogil
    cdef bint all_match(
        self, const Ptdesc* t, const uint64_t* mask,
        const uint64_t* value) noexcept nogil
