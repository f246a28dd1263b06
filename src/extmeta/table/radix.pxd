"""The radix tree above the PTE tables."""
from libc.stdint cimport uint32_t, uint64_t

from extmeta.memory.frames cimport (
    ENTRY_BITS, LEAF, TABLE_BITS, Frames, Ptdesc, entries, frame_of,
)
from extmeta.memory.sync cimport acquire

cdef enum:
    MAX_LEVELS = 8

cdef class Radix:
    cdef readonly object arch
    cdef Frames frames
    cdef Ptdesc* root
    cdef int levels
    cdef int table_bits               # log2 of the entries of a PTE table
    cdef int pmd_shift                # log2 of the vpns below a PMD table
    cdef uint64_t nr_vpns
    cdef int stride                   # uint64s of an entry: 1, or 2 with its word
    cdef uint64_t none                # a PTE that holds nothing
    cdef int[MAX_LEVELS] shift        # of the index in a vpn, the root first
    # An entry's offset in uint64s, index * stride, is vpn >> slot_shift & last.
    cdef int[MAX_LEVELS] slot_shift
    cdef uint64_t[MAX_LEVELS] last
    cdef int[MAX_LEVELS] table_order  # frames of a table: 2**table_order

    cdef int make_root(self, arch) except -1

    # The upper entry of ``vpn`` in the table ``t``, ``level`` below the root.
    cdef inline uint64_t* slot(
            self, const Ptdesc* t, int level, uint64_t vpn) noexcept nogil:
        return &entries(self.frames, t)[
            vpn >> self.slot_shift[level] & self.last[level]]

    # The PTE table of ``vpn``, or NULL.
    cdef inline Ptdesc* find(self, uint64_t vpn) noexcept nogil:
        cdef char* base = self.frames.base
        cdef const uint64_t* entry = entries(self.frames, self.root)
        cdef uint64_t upper = 0
        cdef int level
        for level in range(self.levels - 1):
            upper = entry[vpn >> self.slot_shift[level] & self.last[level]]
            if upper & (TABLE_BITS | LEAF) != TABLE_BITS:
                return NULL
            entry = <uint64_t*>(base + (upper & ~<uint64_t>ENTRY_BITS))
        return &self.frames.desc[upper >> self.frames.frame_shift]

    # `find` for lockless readers. A table that is unlinked meanwhile is not freed until
    # the reader leaves the epoch.
    cdef inline Ptdesc* see(self, uint64_t vpn) noexcept nogil:
        cdef char* base = self.frames.base
        cdef const uint64_t* entry = entries(self.frames, self.root)
        cdef uint64_t upper = 0
        cdef int level
        for level in range(self.levels - 1):
            upper = acquire(&entry[vpn >> self.slot_shift[level] & self.last[level]])
            if upper & (TABLE_BITS | LEAF) != TABLE_BITS:
                return NULL
            entry = <uint64_t*>(base + (upper & ~<uint64_t>ENTRY_BITS))
        return &self.frames.desc[upper >> self.frames.frame_shift]

    # `see` for n vpns, a level at a time, so that cache misses overlap. The entry of a
    # vpn without a table is `nothing`. The lines of entries and, if ``described``, of
    # descriptors are asked for.
    cdef void see_tables(
        self, const uint64_t* vpns, Py_ssize_t n, bint described, uint64_t* nothing,
        Ptdesc** tables, uint64_t** entry) noexcept nogil
    # The table, ``level`` below the root, that the entry ``slot`` lies in.
    cdef inline Ptdesc* holder(self, const uint64_t* slot, int level) noexcept nogil:
        return &self.frames.desc[frame_of(self.frames, slot)
                                 >> self.table_order[level]
                                 << self.table_order[level]]

    # The PTE table of ``vpn``; if it is new, it has 2**order frames. NULL if no memory
    # can be had (nothing has changed) or if a huge leaf maps ``vpn``.
    cdef Ptdesc* make(self, uint64_t vpn, int order) noexcept nogil
    # The first PTE table that has entries in [vpn[0], stop); vpn[0] moves to the
    # first of them. NULL at the end.
    cdef Ptdesc* next_table(self, uint64_t* vpn, uint64_t stop) noexcept nogil
    # next_table() behind the table of ``slot[0]``, which moves too. Usually that is the
    # next entry of the upper table: then no descriptor is read, which would stall.
    cdef inline Ptdesc* table_after(
            self, uint64_t** slot, uint64_t* vpn, uint64_t stop) noexcept nogil:
        cdef uint64_t at = ((vpn[0] >> self.table_bits) + 1) << self.table_bits
        cdef Ptdesc* t
        vpn[0] = at
        if at < stop and (
                at >> self.slot_shift[self.levels - 2] & self.last[self.levels - 2]):
            slot[0] += self.stride
            if slot[0][0] & (TABLE_BITS | LEAF) == TABLE_BITS:
                return &self.frames.desc[slot[0][0] >> self.frames.frame_shift]
        t = self.next_table(vpn, stop)
        if t is not NULL:
            slot[0] = t.parent
        return t

    # The first huge leaf that maps a part of [vpn[0], stop); vpn[0] moves to it.
    cdef uint64_t* next_leaf(self, uint64_t* vpn, uint64_t stop) noexcept nogil
    # Free the table if it is empty, and then the tables above it in turn.
    cdef void prune(self, Ptdesc* t) noexcept nogil
    # The entry of ``vpn`` in the PMD table; if ``make``, the table is made.
    cdef uint64_t* leaf_slot(self, uint64_t vpn, bint make) noexcept nogil
    # Keep a PTE table for the split of the huge leaf in ``slot``.
    cdef void deposit(self, uint64_t* slot, Ptdesc* t) noexcept nogil
    # Return the table that was deposited for a leaf, or NULL.
    cdef Ptdesc* withdraw(self, uint64_t* slot) noexcept nogil
    cdef Ptdesc* above(self, const Ptdesc* t) noexcept nogil
    cdef Ptdesc* descend(self, uint64_t vpn, int depth, int order) noexcept nogil
    cdef void fill(self, Ptdesc* t) noexcept nogil
