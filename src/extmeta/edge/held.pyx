"""A page table's memory, tables and invariants."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

import numpy as np
from cython.view cimport array

from extmeta.memory.frames cimport DEPOSITED, PTE, Ptdesc, UPPER, upper_entry
from extmeta.table.encoding cimport MAX_LANES
from extmeta.table.operations cimport Operations
from extmeta.table.refusal cimport Found
from extmeta.table.vpns cimport Run, run_of

from extmeta.edge.tables import Tables
from extmeta.memory import Memory

cdef enum:
    # Up to this many vpns are copied into their array; of more, the array takes over
    # the memory. That took 4 % more time for 512 vpns. To copy took 14 % more for
    # 8,192 and twice as much for 65,536 (`python benchmarks/tunables.py COPIED 0
    # 1000000000`).
    COPIED = 2048


cdef class Held(Operations):

    def memory(self):
        """Return the bytes held now, as a :class:`Memory`."""
        cdef size_t upper, pte, side, slack, index
        self.enter()
        self.frames.reap()
        self.encoding.reap()
        side = self.encoding.side_bytes()
        slack = self.encoding.held_bytes() - side
        index = self.encoding.index_bytes() + self.index_bytes()
        upper = self.frames.held(UPPER)
        pte = self.frames.held(PTE)
        if self.encoding.sharing():
            side = self.share_of_side() + self.encoding.aside_bytes()
        self.leave()
        return Memory(upper=upper, pte=pte, side=side, index=index, slack=slack)

    def trim(self):
        """Move words to the smallest side memory that holds them.

        Each operation already leaves less than twice what a new page table with these
        words would take, except where memory for a smaller copy is refused or a fork
        shares the larger one. After this it is no more than that. Shared memory stays.
        """
        cdef uint64_t at = 0
        cdef Ptdesc* t
        self.enter()
        with nogil:
            while (t := self.next_table(&at, self.nr_vpns)) is not NULL:
                at = t.vpn + <uint64_t>self.entries
                self.encoding.trim(t, True)
            self.encoding.end()
        self.leave()

    cdef size_t share_of_side(self) noexcept nogil:
        """Return the bytes of side memory, shared objects in proportion."""
        cdef uint64_t at = 0
        cdef size_t nbytes = 0
        cdef Ptdesc* t
        while (t := self.next_table(&at, self.nr_vpns)) is not NULL:
            nbytes += self.encoding.table_bytes(t)
            at = t.vpn + <uint64_t>self.entries
        return nbytes

    @property
    def tables(self):
        """The PTE tables: first vpn -> (entries,) uint64 read-only view.

        A view shows the live entries, without a copy (with a stride, if each has its
        word beside it), until its table is freed or moved
        (``Adjacent(when="needed")``). Then it shows whatever uses the memory next.
        """
        return Tables(self)

    cdef results(self, Found* found, int failed):
        """Return the vpns that an operation found as an array, or raise its refusal."""
        cdef uint64_t[::1] out
        try:
            if failed:
                self.raise_refusal()
            if found.n > COPIED:
                return self.adopted(found)
            vpns = np.empty(found.n, np.uint64)
            if found.n:
                out = vpns
                memcpy(&out[0], found.vpns, found.n * sizeof(uint64_t))
            return vpns
        finally:
            free(found.vpns)

    cdef adopted(self, Found* found):
        """Return an array of the vpns, without a copy, and own no vpns any more."""
        # Not shrunk: what was never written is address space, and free() of it all
        # tells malloc to keep memory for the next result.
        cdef array owner = <uint64_t[:found.n]>found.vpns
        owner.callback_free_data = free
        found.vpns = NULL
        return np.asarray(owner)

    def table_vpns(self):
        """Return the first vpn of each PTE table, ascending, as uint64."""
        cdef Found found = Found(NULL, 0, 0)
        cdef int failed
        self.enter()
        with nogil:
            failed = self.find_tables(&found)
        self.leave()
        return self.results(&found, failed)

    def leaves(self):
        """Return the huge pages.

        Returns
        -------
        vpns, pfns : (n,) uint64 ndarray
            First vpn, ascending, and first page frame number of each leaf. With `wide`,
            which may halve a PTE table's entries, a huge page may have two leaves.
        deposited : (n,) bool ndarray
            Whether a PTE table is deposited with it.
        """
        cdef Found found = Found(NULL, 0, 0)
        cdef int failed
        self.enter()
        with nogil:
            failed = self.find_leaves(&found)
        self.leave()
        vpns, pfns, deposited = self.results(&found, failed).reshape(-1, 3).T.copy()
        return vpns, pfns, deposited != 0

    def table_at(self, vpn):
        """Return the PTE table that starts at ``vpn``, as a view, or None."""
        cdef Ptdesc* t
        cdef uint64_t first
        if not isinstance(vpn, (int, np.integer)) or not 0 <= vpn < self.nr_vpns:
            return None
        first = vpn
        self.enter()
        t = self.find(first)
        self.leave()
        if t is NULL or t.vpn != first:
            return None
        return np.asarray(self.frames)[
            t - self.frames.desc, :self.entries * self.stride:self.stride]

    def frames_view(self):
        """Return a read-only view of all tables' memory now, (frames, words) uint64."""
        return np.asarray(self.frames)

    def huge_ptes(self):
        """Return how many PTEs a huge page stands for."""
        return self.arch.leaf_ptes or self.arch.ptrs_per_pte

    def check(self):
        """Raise AssertionError, with the reason, if an invariant is broken."""
        cdef const char* reason
        cdef uint64_t vpn = 0
        self.enter()
        with nogil:
            reason = self.fault(&vpn)
        self.leave()
        if reason is not NULL:
            raise AssertionError(
                f"table at vpn {vpn:#x}: {self.encoding!r}: {reason.decode()}")

    cdef const char* fault(self, uint64_t* vpn) noexcept nogil:
        """Return the broken invariant, or NULL; set ``vpn`` to its table's."""
        cdef const char* reason
        cdef uint64_t at = 0
        cdef uint64_t ptes = 0
        cdef unsigned int used
        cdef Py_ssize_t i
        cdef Ptdesc* t
        while (t := self.next_table(&at, self.nr_vpns)) is not NULL:
            vpn[0] = t.vpn
            at = t.vpn + <uint64_t>self.entries
            used = 0
            for i in range(self.entries):
                used += self.pte_at(t, i)[0] != self.pte.none
            ptes += used
            if used != t.used or used == 0:
                return b"count of entries in use is stale"
            if t.parent[0] != upper_entry(self.frames, t):
                return b"the upper entry points elsewhere"
            reason = self.encoding.fault(t)
            if reason is NULL:
                reason = self.fault_of_words(t)
            if reason is not NULL:
                return reason
        if ptes != self.nr_ptes:
            return b"count of all PTEs is stale"
        reason = self.fault_of_counts(vpn)
        if reason is not NULL:
            return reason
        reason = self.fault_of_leaves(vpn)
        return reason if reason is not NULL else self.frames.fault()

    cdef const char* fault_of_words(self, Ptdesc* t) noexcept nogil:
        """Compare the count of words with the words that the encoding loads."""
        cdef uint64_t[64 * MAX_LANES] words
        cdef Py_ssize_t lanes = self.encoding.lanes
        cdef unsigned int flagged = 0
        cdef Py_ssize_t at, i, lane
        cdef uint64_t bits
        cdef Run r
        if not self.encoding.uses_descriptor:
            return NULL
        for at in range(0, self.entries, 64):
            r = run_of(at, min(64, self.entries - at))
            self.encoding.load(t, &r, words)
            for i in range(r.n):
                bits = 0
                for lane in range(lanes):
                    bits |= words[i * lanes + lane]
                flagged += bits != 0
        if flagged != t.flagged:
            return b"count of words is stale"
        if self.frames.page_order and (flagged != 0) != t.reached:
            return b"a link that nothing finds, or a place that nothing needs"
        return NULL

    cdef const char* fault_of_counts(self, uint64_t* vpn) noexcept nogil:
        """Compare the counts of PMD tables with the tables below that have words."""
        cdef uint64_t at = 0
        cdef Ptdesc* t = self.next_table(&at, self.nr_vpns)
        cdef Ptdesc* above
        cdef unsigned int worded
        while t is not NULL:
            vpn[0] = at
            above = self.above(t)
            worded = 0
            while t is not NULL and self.above(t) is above:
                worded += t.flagged != 0
                at = t.vpn + <uint64_t>self.entries
                t = self.next_table(&at, self.nr_vpns)
            if worded != above.flagged:
                return b"count of tables with words is stale"
        return NULL

    cdef const char* fault_of_leaves(self, uint64_t* at) noexcept nogil:
        cdef uint64_t leaves = 0
        cdef Py_ssize_t owed = 0
        cdef uint64_t* slot
        cdef Ptdesc* holder
        cdef Ptdesc* t = NULL
        at[0] = 0
        slot = self.next_leaf(at, self.nr_vpns)
        while slot is not NULL:
            holder = self.holder(slot, self.levels - 2)
            leaves += 1
            owed += slot[0] & DEPOSITED != 0
            at[0] = (at[0] | <uint64_t>(self.entries - 1)) + 1
            slot = self.next_leaf(at, self.nr_vpns)
            if slot is not NULL and self.holder(slot, self.levels - 2) is holder:
                continue
            t = <Ptdesc*>holder.link
            while t is not NULL and owed > 0 and t.kind == PTE and t.used == 0:
                owed -= 1
                t = <Ptdesc*>t.link
            if owed or t is not NULL:
                return b"a deposited table too few or too many"
        if leaves != self.nr_leaves:
            return b"count of leaves is stale"
        return NULL

    @property
    def reserved(self):
        """Memory set aside, as a :class:`Memory`; :meth:`memory` includes it."""
        cdef size_t pte, side, index
        self.enter()
        pte = self.frames.nr_aside * self.frames.frame_bytes
        side = self.encoding.aside_bytes() + (pte if self.encoding.worded_order else 0)
        index = self.index_aside.n * self.place_bytes()
        self.leave()
        return Memory(upper=0, pte=pte, side=side, index=index, slack=0)
