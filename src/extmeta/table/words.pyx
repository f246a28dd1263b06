"""Read, write and find words, a run of entries at a time."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from extmeta.memory.frames cimport (
    LEAF, TABLE_BITS, Ptdesc, entries, lock_table, unlock_table)
from extmeta.memory.sync cimport count_once
from extmeta.table.encoding cimport (
    ALWAYS, MAX_LANES, WHEN_ADDING, ZERO_WORD, Write)
from extmeta.table.pte cimport ALL
from extmeta.table.refusal cimport (
    Found, MAPPED, NONE, PRESENT, Refusal, UNFIT, no_memory, refusal, refuse_for,
    room_for,
)
from extmeta.table.simd cimport PAST
from extmeta.table.vpns cimport (
    Run, Span, entry_at, next_run, run_of, vpn_at)

cdef enum:
    # Words that lie on the stack at once.
    WORDS_AT_ONCE = 512

cdef inline bint has_bit(const uint64_t* word, Py_ssize_t lanes) noexcept nogil:
    cdef uint64_t bits = 0
    cdef Py_ssize_t lane
    for lane in range(lanes):
        bits |= word[lane]
    return bits != 0

cdef inline void add_run(Found* f, uint64_t start, uint64_t stop) noexcept nogil:
    """Add a range of vpns, or extend the last one."""
    if f.n and f.vpns[f.n - 1] == start:
        f.vpns[f.n - 1] = stop
        return
    f.vpns[f.n] = start
    f.vpns[f.n + 1] = stop
    f.n += 2

cdef inline void add_runs(
        Found* f, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
    """Add n ascending vpns.

    They may lie in ``f.vpns`` itself, n or more behind its end: what is written stays
    behind what is read.
    """
    cdef uint64_t stop = f.vpns[f.n - 1] if f.n else ALL
    cdef Py_ssize_t at = f.n
    cdef Py_ssize_t i
    cdef uint64_t vpn
    if n and vpns[n - 1] - vpns[0] == <uint64_t>(n - 1):
        add_run(f, vpns[0], vpns[n - 1] + 1)
        return
    for i in range(n):
        # Without a branch, which nobody could predict.
        vpn = vpns[i]
        f.vpns[at] = vpn
        at += 2 * (vpn != stop)
        stop = vpn + 1
        f.vpns[at - 1] = stop
    f.n = at


cdef class Words(Places):

    cdef Ptdesc* run_at(self, const Span* s, Py_ssize_t at, Run* r) noexcept nogil:
        cdef uint64_t vpn = vpn_at(s, at)
        cdef Ptdesc* t = self.find(vpn)
        next_run(s, at, self.table_bits, r)
        if t is NULL and s.vpns is NULL:
            # Skip the whole hole: a range may be the whole address space.
            self.next_table(&vpn, s.first + <uint64_t>s.n)
            r.n = min(<Py_ssize_t>(vpn - s.first), s.n) - at
        return t

    cdef Py_ssize_t read_group(self, Group* g, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(g.l.n):
            g.l.ptes[i] = g.l.entry[i][0]
        self.encoding.read_each(&g.l, True, words)
        return g.l.n

    cdef Py_ssize_t first_unlike(
            self, const Ptdesc* t, const Run* r, int wanted) noexcept nogil:
        """Return the index in the run of the first entry not as ``wanted``, or -1."""
        cdef uint64_t none = self.pte.none
        cdef uint64_t present = self.pte.present
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t stride = self.stride
        cdef const uint64_t* entry
        cdef uint64_t pte
        cdef Py_ssize_t i = 0
        if t is NULL:
            return -1 if wanted == NONE else 0
        entry = entries(self.frames, t)
        if r.vpns is NULL and wanted == MAPPED:
            # Usually all are, so compare 64 at a time.
            while i < r.n and self.like(
                    entry, r.first + i, min(64, r.n - i), ALL, none) == 0:
                i += 64
        while i < r.n:
            pte = entry[entry_at(r, i, last_entry) * stride]
            if not (pte != none if wanted == MAPPED else
                    pte == none if wanted == NONE else
                    pte & present != 0 if wanted == PRESENT else
                    pte & present == 0 and pte != none):
                return i
            i += 1
        return -1

    cdef int refuse(self, uint64_t vpn, int wanted) noexcept nogil:
        """Refuse the operation: the entry of ``vpn`` is not as ``wanted``."""
        cdef Ptdesc* t = self.find(vpn)
        cdef bint mapped = t is not NULL and (
            self.pte_at(t, vpn - t.vpn)[0] != self.pte.none)
        return refuse_for(wanted if mapped or wanted == NONE else MAPPED, vpn)

    cdef int refuse_word(
            self, uint64_t vpn, const Write* w, Py_ssize_t i) noexcept nogil:
        """Refuse the operation: an entry can't hold the word that it would get."""
        cdef Refusal* r = refusal()
        cdef Ptdesc* t = self.find(vpn)
        cdef uint64_t pte = self.pte_at(t, <Py_ssize_t>(vpn - t.vpn))[0]
        r.swapped = w is NULL or pte & self.pte.present == 0
        r.word = self.read_word(vpn)
        if w is not NULL:
            r.word = r.word & w.keep[0] | w.add[i * w.step]
        return refuse_for(UNFIT, vpn)

    cdef int write(
            self, const Span* s, const Write* w, bint all_mapped) noexcept nogil:
        cdef bint may_grow = w.step != 0
        cdef bint asks
        cdef bint untidy = False
        cdef bint settles = self.encoding.uses_descriptor
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i
        cdef Ptdesc* t
        cdef Ptdesc* made
        cdef Group g
        cdef Run r
        cdef Write part = w[0]
        cdef Above above = Above(NULL, 0)
        cdef uint32_t before
        cdef int lane
        for lane in range(self.encoding.lanes):
            may_grow |= w.add[lane] != 0
        asks = self.encoding.asks == ALWAYS or (
            self.encoding.asks == WHEN_ADDING and may_grow)
        self.begin(s)
        if settles and s.vpns is NULL and not (may_grow or all_mapped or asks):
            return self.clear_words(s, w)
        may_grow |= self.encoding.copies
        self.forget(&g)
        # Room is made by the descriptor; words are read only by an encoding without.
        g.described = settles
        g.fetched = not settles
        while at < s.n and (may_grow or all_mapped or asks):
            t = self.next_at(s, at, &r, &g)
            if all_mapped and not self.maps_one(t, &r) and (
                    i := self.first_unlike(t, &r, MAPPED)) >= 0:
                return self.stop_write(s, at, self.refuse(vpn_at(s, at + i), MAPPED))
            part.add = w.add + at * w.step
            if asks and t is not NULL:
                i = self.encoding.first_unfit(t, &r, &part)
                if i >= 0:
                    return self.stop_write(
                        s, at, self.refuse_word(vpn_at(s, at + i), &part, i))
            if may_grow and t is not NULL:
                made = self.prepare(t, &r, &part)
                if made is NULL:
                    return self.stop_write(s, at, no_memory(self.frames.frame_bytes))
                if made is not t:
                    self.forget(&g)
            at += r.n
        at = 0
        self.forget(&g)
        g.described = g.fetched = True
        while at < s.n:
            t = self.next_at(s, at, &r, &g)
            if t is not NULL:
                part.add = w.add + at * w.step
                before = t.flagged
                lock_table(t)
                self.encoding.store(t, &r, &part)
                unlock_table(t)
                self.note_words(t, before, &above)
                untidy |= t.next != 0 or settles and t.flagged == 0
                # Not if a later run, which has room, may be of this table.
                if s.vpns is NULL:
                    self.settle(t)
            at += r.n
        if untidy and s.vpns is not NULL:
            self.settle_span(s, s.n)
        self.encoding.end()
        return 0

    cdef int clear_words(self, const Span* s, const Write* w) noexcept nogil:
        """Write to a range what can only clear bits: to tables with words alone."""
        cdef uint64_t stop = s.first + <uint64_t>s.n
        cdef uint64_t at = s.first
        cdef Above above = Above(NULL, 0)
        cdef uint32_t before
        cdef Py_ssize_t i
        cdef Ptdesc* t
        cdef Tables g
        while self.encoding.copies and self.next_tables(&at, stop, True, &g):
            for i in range(g.n):
                if self.prepare(g.tables[i], &g.run, w) is NULL:
                    return self.stop_write(
                        s, <Py_ssize_t>(g.tables[i].vpn + <uint64_t>g.run.first
                                        - s.first),
                        no_memory(self.frames.frame_bytes))
        at = s.first
        while self.next_tables(&at, stop, True, &g):
            for i in range(g.n):
                t = g.tables[i]
                before = t.flagged
                lock_table(t)
                self.encoding.store(t, &g.run, w)
                unlock_table(t)
                self.note_words(t, before, &above)
                self.settle(t)
        self.encoding.end()
        return 0

    cdef int stop_write(self, const Span* s, Py_ssize_t at, int failed) noexcept nogil:
        """Undo what a refused write has prepared up to ``at``; return ``failed``."""
        self.settle_span(s, at)
        self.encoding.end()
        return failed

    cdef void begin(self, const Span* s) noexcept nogil:
        """Call the encoding's `begin`, unless the vpns are in no order."""
        cdef uint64_t first, last
        if s.n == 0:
            return
        first = vpn_at(s, 0)
        last = vpn_at(s, s.n - 1)
        if first <= vpn_at(s, s.n >> 1) <= last:
            self.encoding.begin(
                first, last + 1, min(<uint64_t>s.n, self.nr_ptes), False)

    cdef void settle_span(self, const Span* s, Py_ssize_t upto) noexcept nogil:
        cdef Py_ssize_t at = 0
        cdef Ptdesc* t
        cdef Run r
        while at < upto:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                self.settle(t)
            at += r.n

    cdef void read(self, const Span* s, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t at = 0
        cdef Ptdesc* t
        cdef Group g
        cdef Run r
        self.begin(s)
        self.forget(&g)
        g.described = self.encoding.uses_descriptor
        while at < s.n:
            if self.look_up(s, at, &g):
                at += self.read_group(&g, words + at * lanes)
                continue
            t = self.run_at(s, at, &r)
            if t is NULL:
                memset(words + at * lanes, 0, r.n * lanes * sizeof(uint64_t))
            else:
                self.encoding.load(t, &r, words + at * lanes)
            at += r.n
        self.encoding.end()

    cdef void read_flags(self, const Span* s, uint8_t* flags) noexcept nogil:
        cdef uint64_t[WORDS_AT_ONCE * MAX_LANES] words
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i, n, worded
        cdef Ptdesc* t
        cdef Group g
        cdef Run r
        self.begin(s)
        self.forget(&g)
        g.described = self.encoding.uses_descriptor
        while at < s.n:
            if self.look_up(s, at, &g):
                worded = n = self.read_group(&g, words)
            else:
                t = self.run_at(s, at, &r)
                worded = 0
                n = r.n
                if t is not NULL:
                    worded = n = r.n = min(n, WORDS_AT_ONCE)
                    self.encoding.load(t, &r, words)
            for i in range(worded * lanes):
                flags[at + i // lanes] |= words[i] != 0
            at += n
        self.encoding.end()

    cdef uint64_t read_word(self, uint64_t vpn) noexcept nogil:
        cdef uint64_t[MAX_LANES] word
        cdef Ptdesc* t = self.find(vpn)
        cdef Run r = run_of(<Py_ssize_t>(vpn & <uint64_t>(self.entries - 1)), 1)
        if t is NULL:
            return 0
        self.encoding.load(t, &r, word)
        return word[0]

    cdef int write_word(self, uint64_t vpn, uint64_t word) noexcept nogil:
        cdef Ptdesc* t = self.find(vpn)
        cdef Run r = run_of(<Py_ssize_t>(vpn & <uint64_t>(self.entries - 1)), 1)
        cdef Write w = Write(ZERO_WORD, &word, 0)
        cdef Above above = Above(NULL, 0)
        cdef uint32_t before
        if t is NULL or self.pte_at(t, r.first)[0] == self.pte.none:
            return -1
        if self.encoding.asks and self.encoding.first_unfit(t, &r, &w) >= 0:
            return -1
        t = self.prepare(t, &r, &w)
        if t is not NULL:
            before = t.flagged
            lock_table(t)
            self.encoding.store(t, &r, &w)
            unlock_table(t)
            self.note_words(t, before, &above)
            self.settle(t)
        self.encoding.end()
        return 0 if t is not NULL else -1

    cdef int find_words(
            self, const Span* s, bint as_runs, const uint64_t* mask,
            const uint64_t* value, Found* found) noexcept nogil:
        cdef bint worded = self.encoding.uses_descriptor and has_bit(
            value, self.encoding.lanes)
        cdef uint64_t at = s.first
        cdef uint64_t stop = s.first + <uint64_t>s.n
        cdef int failed = 0
        cdef Tables g
        self.encoding.begin(at, stop, min(<uint64_t>s.n, self.nr_ptes), False)
        while not failed and self.next_tables(&at, stop, worded, &g):
            if as_runs:
                failed = self.find_runs(&g, mask, value, found)
            elif g.n:
                failed = room_for(found, g.n * self.entries + PAST)
                if not failed:
                    found.n += self.scan_some(
                        g.tables, g.n, &g.run, mask, value, found.vpns + found.n)
        self.encoding.end()
        return failed

    cdef int find_runs(
            self, Tables* g, const uint64_t* mask, const uint64_t* value, Found* found
            ) noexcept nogil:
        """Find the ranges of vpns in some tables."""
        cdef uint64_t* vpns
        cdef Py_ssize_t i
        for i in range(g.n):
            if room_for(found, 2 * self.entries + PAST):
                return -1
            if g.run.n == self.entries and self.all_match(g.tables[i], mask, value):
                add_run(found, g.tables[i].vpn,
                        g.tables[i].vpn + <uint64_t>self.entries)
                continue
            # Behind where the runs may end; see add_runs.
            vpns = found.vpns + found.n + self.entries
            add_runs(found, vpns, self.scan_some(
                &g.tables[i], 1, &g.run, mask, value, vpns))
        return 0

    cdef Py_ssize_t scan_some(
            self, Ptdesc** tables, Py_ssize_t n, const Run* r, const uint64_t* mask,
            const uint64_t* value, uint64_t* vpns) noexcept nogil:
        """Scan a run of each of n tables; return how many vpns were found."""
        if r.n == self.entries:
            return self.encoding.scan_tables(tables, n, mask, value, vpns)
        return self.encoding.scan(
            tables[0], r.first, r.first + r.n, mask, value, vpns)

    cdef bint next_tables(
            self, uint64_t* at, uint64_t stop, bint worded, Tables* g) noexcept nogil:
        cdef uint64_t edge = <uint64_t>self.entries - 1
        cdef Ptdesc* t = self.next_table(at, stop)
        if t is NULL:
            return False
        if at[0] & edge == 0 and stop - at[0] > edge:
            g.run = run_of(0, self.entries)
            self.gather(t.parent, at, stop, worded, g)
            return True
        g.run.first = <Py_ssize_t>(at[0] & edge)
        g.run.n = <Py_ssize_t>min(
            stop - at[0], <uint64_t>(self.entries - g.run.first))
        g.run.vpns = NULL
        g.tables[0] = t
        g.n = not worded or t.flagged != 0
        at[0] = (at[0] | edge) + 1
        return True

    cdef void gather(
            self, const uint64_t* slot, uint64_t* at, uint64_t stop, bint worded,
            Tables* g) noexcept nogil:
        """List tables that lie whole in the range; upper entries begin at ``slot``."""
        cdef uint64_t last = self.last[self.levels - 2]
        cdef uint64_t index = at[0] >> self.slot_shift[self.levels - 2] & last
        cdef Py_ssize_t stride = self.stride
        cdef Py_ssize_t end = <Py_ssize_t>min(
            last - index + <uint64_t>stride,
            (stop - at[0] >> self.table_bits) * <uint64_t>stride)
        cdef Ptdesc* desc = self.frames.desc
        cdef int shift = self.frames.frame_shift
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t i = 0
        cdef Ptdesc* t
        if worded and count_once(
                &self.holder(slot, self.levels - 2).flagged) == 0:
            i = end
        # Locals only: this takes as long as reading the descriptors.
        while i < end and n < TABLES_TOGETHER:
            if slot[i] & (TABLE_BITS | LEAF) == TABLE_BITS:
                t = &desc[slot[i] >> shift]
                g.tables[n] = t
                n += not worded or t.flagged != 0
            i += stride
        g.n = n
        at[0] += <uint64_t>(i // stride) << self.table_bits

    cdef bint all_match(
            self, const Ptdesc* t, const uint64_t* mask,
            const uint64_t* value) noexcept nogil:
        """Return whether all entries are known to match, without a look at them."""
        if t.used != self.entries:
            return False
        if has_bit(value, self.encoding.lanes):
            return self.encoding.all_have(t, mask, value)
        # Without a word the word is 0.
        return not has_bit(mask, self.encoding.lanes) or (
            self.encoding.uses_descriptor and t.flagged == 0)
