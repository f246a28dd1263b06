"""The radix tree above the PTE tables: from a vpn to its table.

Each table is a block of `frames`. An upper entry holds the offset of the table below in
the mapping, as a kernel's holds a physical address. An empty table is freed, and the
tables above it that become empty; the root stays.
"""
from cython cimport no_gc_clear
from libc.stdint cimport uint64_t, uintptr_t

from extmeta.memory.frames cimport (
    DEPOSITED, ENTRY_BITS, LEAF, PTE, TABLE_BITS, UPPER, Frames, Ptdesc, entries,
    upper_entry,
)
from extmeta.memory.sync cimport acquire, prefetch, publish


@no_gc_clear
cdef class Radix:
    """Page tables of one address space; the PTEs are up to subclasses."""

    cdef int make_root(self, arch) except -1:
        """Make the root table for ``arch``."""
        cdef int level
        cdef int shift = 0
        self.arch = arch
        self.nr_vpns = arch.nr_vpns
        self.levels = len(arch.level_bits)
        self.table_bits = arch.ptrs_per_pte.bit_length() - 1
        self.pmd_shift = sum(arch.level_bits[self.levels - 2:])
        self.stride = arch.entry_bytes // 8
        self.none = arch.none
        for level in range(self.levels - 1, -1, -1):
            self.shift[level] = shift
            self.slot_shift[level] = shift - self.stride + 1
            self.last[level] = ((<uint64_t>1 << <int>arch.level_bits[level]) - 1
                                ) * <uint64_t>self.stride
            shift += arch.level_bits[level]
            # A root that is smaller than a PTE table gets a whole frame.
            while arch.table_bytes[level] > arch.frame_bytes << self.table_order[level]:
                self.table_order[level] += 1
        self.frames = Frames(arch.page_bytes, arch.frame_bytes)
        self.root = self.frames.alloc(self.table_order[0], UPPER, True)
        if self.root is NULL:
            raise MemoryError(f"{arch.table_bytes[0]} bytes for the root table")
        self.root.level = <unsigned char>(self.levels - 1)
        return 0

    cdef void see_tables(
            self, const uint64_t* vpns, Py_ssize_t n, bint described, uint64_t* nothing,
            Ptdesc** tables, uint64_t** entry) noexcept nogil:
        cdef char* base = self.frames.base
        cdef Ptdesc* desc = self.frames.desc
        cdef int frame_shift = self.frames.frame_shift
        cdef uint64_t last_entry = (<uint64_t>1 << self.table_bits) - 1
        cdef Py_ssize_t stride = self.stride
        cdef uint64_t* shared = entries(self.frames, self.root)
        cdef uint64_t differ = 0
        cdef uint64_t upper, last
        cdef int level = 0
        cdef int shift
        cdef Py_ssize_t i
        for i in range(1, n):
            differ |= vpns[i] ^ vpns[0]
        # Walk once where all vpns have one upper entry.
        while level < self.levels - 2 and shared is not nothing and (
                differ >> self.slot_shift[level] & self.last[level] == 0):
            upper = acquire(
                &shared[vpns[0] >> self.slot_shift[level] & self.last[level]])
            shared = <uint64_t*>(base + (upper & ~<uint64_t>ENTRY_BITS)) if (
                upper & (TABLE_BITS | LEAF) == TABLE_BITS) else nothing
            level += 1
        for i in range(n):
            entry[i] = shared
        for level in range(level, self.levels - 2):
            shift = self.slot_shift[level]
            last = self.last[level]
            for i in range(n):
                if entry[i] is nothing:
                    continue
                upper = acquire(&entry[i][vpns[i] >> shift & last])
                entry[i] = <uint64_t*>(base + (upper & ~<uint64_t>ENTRY_BITS)) if (
                    upper & (TABLE_BITS | LEAF) == TABLE_BITS) else nothing
        shift = self.slot_shift[self.levels - 2]
        last = self.last[self.levels - 2]
        for i in range(n):
            upper = 0
            if entry[i] is not nothing:
                upper = acquire(&entry[i][vpns[i] >> shift & last])
            if upper & (TABLE_BITS | LEAF) != TABLE_BITS:
                tables[i] = NULL
                entry[i] = nothing
                continue
            tables[i] = &desc[upper >> frame_shift]
            entry[i] = <uint64_t*>(base + (upper & ~<uint64_t>ENTRY_BITS)) + (
                <Py_ssize_t>(vpns[i] & last_entry) * stride)
            prefetch(entry[i])
            if described:
                prefetch(tables[i])

    cdef Ptdesc* above(self, const Ptdesc* t) noexcept nogil:
        return self.holder(t.parent, self.levels - 2 - t.level)

    cdef Ptdesc* make(self, uint64_t vpn, int order) noexcept nogil:
        return self.descend(vpn, self.levels - 1, order)

    cdef Ptdesc* descend(self, uint64_t vpn, int depth, int order) noexcept nogil:
        """Return the table ``depth`` levels below the root; make it if need be."""
        cdef Ptdesc* t = self.root
        cdef Ptdesc* below
        cdef uint64_t* slot
        cdef int level
        for level in range(depth):
            slot = self.slot(t, level, vpn)
            if slot[0] == 0:
                if level + 2 == self.levels:
                    below = self.frames.alloc(order, PTE, True)
                    self.fill(below)
                else:
                    below = self.frames.alloc(
                        self.table_order[level + 1], UPPER, True)
                if below is NULL:
                    self.prune(t)
                    return NULL
                below.parent = slot
                below.level = <unsigned char>(self.levels - 2 - level)
                below.vpn = vpn >> self.shift[level] << self.shift[level]
                # A lockless reader must see the table's content once it sees the table.
                publish(slot, upper_entry(self.frames, below))
                t.used += 1
            elif slot[0] & LEAF:
                return NULL
            t = &self.frames.desc[slot[0] >> self.frames.frame_shift]
        return t

    cdef void fill(self, Ptdesc* t) noexcept nogil:
        """Make all entries of a new table none, if that is not 0."""
        cdef Py_ssize_t i
        if self.none and t is not NULL:
            for i in range(<Py_ssize_t>1 << self.table_bits):
                entries(self.frames, t)[i * self.stride] = self.none

    cdef uint64_t* leaf_slot(self, uint64_t vpn, bint make) noexcept nogil:
        cdef int level
        cdef Ptdesc* t = self.root
        cdef uint64_t upper
        if make:
            t = self.descend(vpn, self.levels - 2, 0)
            return self.slot(t, self.levels - 2, vpn) if t is not NULL else NULL
        for level in range(self.levels - 2):
            upper = self.slot(t, level, vpn)[0]
            if upper == 0:
                return NULL
            t = &self.frames.desc[upper >> self.frames.frame_shift]
        return self.slot(t, self.levels - 2, vpn)

    cdef void deposit(self, uint64_t* slot, Ptdesc* t) noexcept nogil:
        cdef Ptdesc* d = self.holder(slot, self.levels - 2)
        # A list from the PMD table's descriptor, as the kernel's pmd_huge_pte.
        t.link = d.link
        d.link = <uintptr_t>t
        publish(slot, slot[0] | DEPOSITED)

    cdef Ptdesc* withdraw(self, uint64_t* slot) noexcept nogil:
        cdef Ptdesc* d = self.holder(slot, self.levels - 2)
        cdef Ptdesc* t = <Ptdesc*>d.link
        if slot[0] & DEPOSITED == 0:
            return NULL
        d.link = t.link
        t.link = 0
        publish(slot, slot[0] & ~<uint64_t>DEPOSITED)
        return t

    cdef void prune(self, Ptdesc* t) noexcept nogil:
        cdef Ptdesc* parent
        while t.used == 0 and t is not self.root:
            parent = self.above(t)
            publish(t.parent, 0)
            self.frames.free(t)
            parent.used -= 1
            t = parent

    cdef Ptdesc* next_table(self, uint64_t* vpn, uint64_t stop) noexcept nogil:
        cdef Ptdesc* t
        cdef uint64_t upper
        cdef int level
        while vpn[0] < stop:
            t = self.root
            for level in range(self.levels - 1):
                upper = self.slot(t, level, vpn[0])[0]
                if upper & (TABLE_BITS | LEAF) != TABLE_BITS:
                    vpn[0] = ((vpn[0] >> self.shift[level]) + 1) << self.shift[level]
                    break
                t = &self.frames.desc[upper >> self.frames.frame_shift]
            else:
                return t
        return NULL

    cdef uint64_t* next_leaf(self, uint64_t* vpn, uint64_t stop) noexcept nogil:
        cdef Ptdesc* t
        cdef uint64_t* slot
        cdef int level
        while vpn[0] < stop:
            t = self.root
            for level in range(self.levels - 1):
                slot = self.slot(t, level, vpn[0])
                if slot[0] & LEAF:
                    return slot
                if slot[0] == 0 or level == self.levels - 2:
                    vpn[0] = ((vpn[0] >> self.shift[level]) + 1) << self.shift[level]
                    break
                t = &self.frames.desc[slot[0] >> self.frames.frame_shift]
        return NULL
