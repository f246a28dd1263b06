"""Read entries and their words without a lock."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from extmeta.memory.epoch cimport enter_epoch, leave_epoch
from extmeta.memory.frames cimport Ptdesc
from extmeta.memory.sync cimport (
    begin_racy, count_of_changes, end_racy, once, relax, unchanged_since,
)
from extmeta.table.encoding cimport ALONE, COUNTED, FLAGGED, TOGETHER, Lookups
from extmeta.table.pte cimport ALL, flag_of, flags, lowest
from extmeta.table.words cimport Group
from extmeta.table.vpns cimport Run, Span, entry_at, next_run, run_of, vpn_at

cdef enum:
    # Entries that a lockless reader reads in one epoch, some microseconds; a table
    # counts as some. And how often it tries before it leaves the epoch.
    SEEN_AT_ONCE = 2048
    SEEN_FOR_A_TABLE = 16
    TRIES = 8
    # Fewer entries of a table are read one by one: if the entry is enough, the
    # descriptor's cache line is not touched.
    ONE_BY_ONE = 8


cdef class Snapshots(Words):

    cdef uint64_t see_one(self, uint64_t vpn, uint64_t* word) noexcept nogil:
        cdef uint64_t pte = self.none
        cdef uint32_t moves
        cdef const Ptdesc* t
        cdef bint seen = False
        cdef int turn = 0
        cdef int slot
        while not seen:
            turn += 1
            slot = enter_epoch()
            moves = count_of_changes(&self.moves)
            begin_racy()
            t = self.see(vpn)
            if t is NULL:
                pte = self.none
                memset(word, 0, self.encoding.lanes * sizeof(uint64_t))
                seen = True
            else:
                seen = self.see_entry(t, vpn, &pte, word)
            seen = seen and moves & 1 == 0 and unchanged_since(&self.moves, moves)
            end_racy()
            leave_epoch(slot)
            if not seen:
                relax(turn)
        return pte

    cdef bint see_entry(
            self, const Ptdesc* t, uint64_t vpn, uint64_t* pte,
            uint64_t* word) noexcept nogil:
        """Read one entry and its word; False if they changed meanwhile."""
        cdef uint32_t before
        cdef Run r = run_of(<Py_ssize_t>(vpn & <uint64_t>(self.entries - 1)), 1)
        if self.encoding.reading >= FLAGGED:
            # The entry first: if it is enough, the descriptor is not read.
            pte[0] = once(self.pte_at(t, r.first))
            if self.encoding.reading == ALONE:
                return self.encoding.see(t, &r, pte, word)
            if pte[0] & flag_of(&self.pte, pte[0]) == 0:
                memset(word, 0, self.encoding.lanes * sizeof(uint64_t))
                return True
        before = count_of_changes(&t.seq)
        if before & 1:
            return False
        pte[0] = once(self.pte_at(t, r.first))
        return self.encoding.see(t, &r, pte, word) and unchanged_since(&t.seq, before)

    cdef void see_all(
            self, const Span* s, uint64_t* ptes, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t at, i, left
        cdef uint32_t moves
        cdef const Ptdesc* t
        cdef bint seen
        cdef int slot
        cdef int turn = 0
        cdef Group g
        cdef Run r
        self.forget(&g)
        g.described = self.encoding.reading != ALONE
        while done < s.n:
            at = done
            slot = enter_epoch()
            moves = count_of_changes(&self.moves)
            begin_racy()
            seen = moves & 1 == 0
            left = SEEN_AT_ONCE
            while seen and at < s.n and left > 0:
                if self.look_up(s, at, &g):
                    seen = self.see_group(&g, ptes + at, words + at * lanes)
                    at += g.l.n * seen
                    left -= g.l.n * SEEN_FOR_A_TABLE
                    continue
                next_run(s, at, self.table_bits, &r)
                t = self.see(vpn_at(s, at))
                if t is not NULL:
                    seen = self.see_run(t, &r, ptes + at, words + at * lanes)
                else:
                    for i in range(r.n):
                        ptes[at + i] = self.none
                    memset(words + at * lanes, 0, r.n * lanes * sizeof(uint64_t))
                if seen:
                    at += r.n
                    left -= r.n + SEEN_FOR_A_TABLE
            # If one table failed, the results of those before it are good.
            if unchanged_since(&self.moves, moves) and moves & 1 == 0:
                done = at
            end_racy()
            leave_epoch(slot)
            if not seen:
                turn += 1
                relax(turn)

    cdef bint see_group(
            self, Group* g, uint64_t* ptes, uint64_t* words) noexcept nogil:
        """Read entries that were looked up together; False if they keep changing."""
        cdef Lookups* some = &g.l
        cdef uint32_t[TOGETHER] before
        cdef uint64_t counted = 0
        cdef uint64_t bit
        cdef Py_ssize_t i
        cdef bint good
        cdef Run r
        for i in range(some.n):
            some.ptes[i] = once(some.entry[i])
        if self.encoding.reading == FLAGGED:
            counted = flags(some.ptes, some.n, &self.pte)
        elif self.encoding.reading == COUNTED:
            counted = ALL >> (64 - some.n)
        for i in range(some.n if counted else 0):
            bit = <uint64_t>1 << i
            if some.tables[i] is NULL:
                counted &= ~bit
            elif counted & bit:
                before[i] = count_of_changes(&some.tables[i].seq)
                some.ptes[i] = once(some.entry[i])
        good = self.encoding.read_each(some, False, words)
        memcpy(ptes, some.ptes, some.n * sizeof(uint64_t))
        while counted:
            i = lowest(counted)
            counted &= counted - 1
            if good and before[i] & 1 == 0 and unchanged_since(
                    &some.tables[i].seq, before[i]):
                continue
            r = run_of(<Py_ssize_t>(some.vpns[i] & <uint64_t>(self.entries - 1)), 1)
            if not self.see_each(
                    some.tables[i], &r, ptes + i, words + i * self.encoding.lanes):
                return False
        return True

    cdef bint see_run(
            self, const Ptdesc* t, const Run* r, uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        """Read entries of a table and their words; False if they keep changing."""
        cdef bint by_flags = self.encoding.reading == FLAGGED
        cdef uint32_t before
        cdef bint good
        cdef int turn
        if r.n <= ONE_BY_ONE and self.encoding.reading >= FLAGGED:
            return self.see_each(t, r, ptes, words)
        for turn in range(TRIES):
            before = count_of_changes(&t.seq)
            if before & 1 == 0:
                self.copy_entries(t, r, ptes)
                good = True
                if by_flags and t.flagged == 0:
                    memset(words, 0, r.n * self.encoding.lanes * sizeof(uint64_t))
                else:
                    good = self.encoding.see(t, r, ptes, words)
                if good and unchanged_since(&t.seq, before):
                    return True
            relax(turn + 1)
        return self.see_each(t, r, ptes, words)

    cdef bint see_each(
            self, const Ptdesc* t, const Run* r, uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        """Read entry by entry: one is read faster than writers change the table."""
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef Py_ssize_t i, e
        cdef int turn
        for i in range(r.n):
            e = entry_at(r, i, self.entries - 1)
            for turn in range(TRIES):
                if self.see_entry(t, <uint64_t>e, ptes + i, words + i * lanes):
                    break
                relax(turn + 1)
            else:
                return False
        return True

    cdef void copy_entries(
            self, const Ptdesc* t, const Run* r, uint64_t* ptes) noexcept nogil:
        cdef const uint64_t* entry = self.pte_at(t, r.first)
        cdef Py_ssize_t i
        if r.vpns is NULL and self.stride == 1:
            # It may read half an entry, but then the count of changes differs.
            memcpy(ptes, entry, r.n * sizeof(uint64_t))
        elif r.vpns is NULL:
            for i in range(r.n):
                ptes[i] = entry[2 * i]
        else:
            for i in range(r.n):
                ptes[i] = self.pte_at(t, entry_at(r, i, self.entries - 1))[0]

    cdef void read_ptes(self, const Span* s, uint64_t* ptes) noexcept nogil:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t i
        cdef Ptdesc* t
        cdef Run r
        while at < s.n:
            t = self.run_at(s, at, &r)
            if t is not NULL:
                self.copy_entries(t, &r, ptes + at)
            else:
                for i in range(r.n):
                    ptes[at + i] = self.none
            at += r.n
