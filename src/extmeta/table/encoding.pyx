"""The base class of encodings, which keep the metadata words of PTE tables.

`encoding.pxd` is the interface. Here are its defaults: scan, fork and zap in terms of
load and store are right for each encoding, and slow.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from extmeta.memory.frames cimport Frames, Ptdesc, entries
from extmeta.table.pte cimport flag_of
from extmeta.table.vpns cimport Run, run_of


cdef uint64_t mask_of(bits) except? 1:
    return <uint64_t>sum(1 << bit for bit in bits)


def again(cls, config):
    """Return an equal recipe; for pickle and copy."""
    return cls(**config)


cdef class Encoding:
    """One way to keep the metadata words of a page table's PTEs.

    An instance made by the caller is a recipe; each page table binds a copy of it.

    Attributes
    ----------
    fields : Fields
    arch : Arch
    bits : int
        Bits of a word, the sum of the fields.
    lanes : int
        uint64s of a word.
    by_page : bool
        Whether PTEs that map one page share its word.
    parallel : bool
        Whether several threads can operate on separate ranges side by side.
    reserves : bool
        Whether :meth:`PageTable.reserve` can preallocate memory for it.
    repointings : int
        How often an upper entry of a PTE table in use was changed to point to another.
        Each time a kernel has to flush the TLB once more than the operation needs
        anyway: the table is unhooked first, so that hardware neither walks it from a
        cached upper entry nor sets accessed and dirty bits in it after it was copied.
        Bits that only software reads change without a flush.
    """

    # Arguments, as text, of further forms that a comparison has by default.
    forms = ()

    @classmethod
    def from_text(cls, argument):
        """Return the recipe for NAME:ARGUMENT, as in "linked:16".

        Parameters
        ----------
        argument : str
            What follows the colon.

        Raises
        ------
        ValueError
            If this encoding takes no argument, or not this one.
        """
        raise ValueError(f"{cls.__name__} takes no argument, so not {argument!r}")

    @property
    def config(self):
        """Arguments that make an equal recipe, as a dict."""
        return {}

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.config.items())
        return f"{type(self).__name__}({arguments})"

    def __reduce__(self):
        # A copy is a recipe, without the words of a page table.
        return again, (type(self), self.config)

    def bind(self, fields, arch, Frames frames not None):
        """Return a copy of this recipe that serves one page table.

        Parameters
        ----------
        fields : Fields
        arch : Arch
        frames : Frames
            The page table's memory.

        Raises
        ------
        ValueError
            If the fields are wider than the encoding can hold.
        """
        cdef Encoding bound = type(self)(**self.config)
        layout = arch.swap
        bound.fields = fields
        bound.arch = arch
        bound.bits = fields.bits
        bound.lanes = (fields.bits + 63) // 64
        bound.entries = arch.ptrs_per_pte
        bound.frames = frames
        bound.pte.none = arch.none
        bound.pte.present = mask_of([arch.present])
        bound.pte.write = mask_of([arch.write])
        bound.pte.base = mask_of(arch.base)
        bound.pte.writable = mask_of(arch.writable)
        bound.pte.readonly = mask_of(arch.readonly)
        bound.pte.swap_base = mask_of(layout.always)
        bound.pte.flag = mask_of([arch.flag])
        bound.pte.swap_flag = mask_of([arch.swap_flag])
        bound.pte.swap_write = mask_of([layout.exclusive])
        bound.pte.pfn_shift = arch.pfn_shift
        bound.pte.pfn_bits = arch.pfn_bits
        bound.pte.type_shift = layout.type_shift
        bound.pte.offset_shift = layout.offset_shift
        bound.pte.offset_bits = layout.offset_bits
        bound.pte.offset_inverted = layout.offset_inverted
        bound.uses_descriptor = True
        bound.configure()
        bound.worded_order = max(bound.worded_order, bound.order)
        return bound

    def configure(self):
        """Refuse fields that this encoding can't hold, and set sizes.

        Called once, when ``fields`` and ``arch`` are known.
        """
        self.refuse_above(64)

    def start(self):
        """Make side memory. Called once, unless this serves a fork's child."""

    def refuse_above(self, available):
        """Raise ValueError if the fields need more than ``available`` bits."""
        if self.bits > available:
            raise ValueError(f"{self!r} holds {available} bits a PTE on "
                             f"{self.arch.name}; {self.fields!r} needs {self.bits}")

    cdef int begin_fork(self, Encoding parent, bint shared) except -1:
        self.start()
        return 0

    cdef int copy_all(self, Encoding parent) noexcept nogil:
        return 0

    cdef void end_fork(self) noexcept nogil:
        pass

    def unfit(self, vpn, word, swapped):
        """Return why an entry can't hold a word, or None if it can.

        Parameters
        ----------
        vpn, word : int
        swapped : bool
            Whether the entry is a swap entry.
        """
        return None

    cdef Py_ssize_t first_unfit(
            self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        return -1

    cdef int follow(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil:
        return 0

    def shape(self, arch):
        """Return ``arch`` with the page tables that this encoding needs.

        Parameters
        ----------
        arch : Arch

        Returns
        -------
        Arch
            ``arch`` itself, unless the encoding needs wider entries.
        """
        return arch

    cdef bint set_aside(self, size_t n) noexcept nogil:
        return True

    cdef size_t aside_bytes(self) noexcept nogil:
        return 0

    cdef Ptdesc* prepare(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        return t

    cdef int fork(
            self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef uint64_t[64 * MAX_LANES] words
        cdef Run r
        cdef Write w = Write(ZERO_WORD, &words[0], self.lanes)
        cdef uint64_t* entry = entries(self.frames, child)
        cdef Py_ssize_t i
        # `store` sets and counts the flags again.
        for i in range(self.entries):
            entry[i] &= ~flag_of(&self.pte, entry[i])
        for i in range(0, self.entries, 64):
            r = run_of(i, min(64, self.entries - i))
            parent.load(t, &r, words)
            if self.prepare(child, &r, &w) is not child:
                return -1
        for i in range(0, self.entries, 64):
            r = run_of(i, min(64, self.entries - i))
            parent.load(t, &r, words)
            self.store(child, &r, &w)
        return 0

    cdef int admit(
            self, const uint64_t* pfns, uint64_t first, Py_ssize_t n) noexcept nogil:
        return 0

    cdef uint64_t fresh_pfns(self, uint64_t next_, uint64_t n) noexcept nogil:
        return next_

    cdef void begin(
            self, uint64_t first, uint64_t stop, uint64_t nr_ptes,
            bint dying) noexcept nogil:
        pass

    cdef void end(self) noexcept nogil:
        pass

    cdef void load(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        memset(words, 0, r.n * self.lanes * sizeof(uint64_t))

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        pass

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        return False

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value,
            uint64_t* vpns) noexcept nogil:
        cdef uint64_t[64 * MAX_LANES] words
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, i, lane
        cdef bint same
        cdef Run r
        for at in range(first, last, 64):
            r = run_of(at, min(64, last - at))
            self.load(t, &r, words)
            for i in range(r.n):
                same = entries(self.frames, t)[r.first + i] != self.pte.none
                for lane in range(self.lanes):
                    same &= words[i * self.lanes + lane] & mask[lane] == value[lane]
                vpns[found] = t.vpn + <uint64_t>(r.first + i)
                found += same
        return found

    cdef Py_ssize_t scan_tables(
            self, Ptdesc** tables, Py_ssize_t n, const uint64_t* mask,
            const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t i
        for i in range(n):
            found += self.scan(tables[i], 0, self.entries, mask, value, vpns + found)
        return found

    cdef bint all_have(
            self, const Ptdesc* t, const uint64_t* mask,
            const uint64_t* value) noexcept nogil:
        return False

    cdef void zap(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef Run r = run_of(first, last - first)
        cdef Write w = Write(ZERO_WORD, ZERO_WORD, 0)
        self.store(t, &r, &w)

    cdef void fetch(
            self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
        pass

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef Py_ssize_t lanes = self.lanes
        cdef Py_ssize_t i
        cdef Run r
        self.fetch(l.tables, l.vpns, l.n)
        for i in range(l.n):
            r = Run(<Py_ssize_t>(l.vpns[i] & <uint64_t>(self.entries - 1)), 1,
                    l.vpns + i)
            if l.tables[i] is NULL:
                memset(words + i * lanes, 0, lanes * sizeof(uint64_t))
            elif locked:
                self.load(l.tables[i], &r, words + i * lanes)
            elif not self.see(l.tables[i], &r, &l.ptes[i], words + i * lanes):
                return False
        return True

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if self.objects is not None and t.link and t.flagged == 0:
            self.objects.free(<void*>t.link)
            t.link = 0

    cdef void trim(self, Ptdesc* t, bint fully) noexcept nogil:
        pass

    cdef bint sharing(self) noexcept nogil:
        return False

    cdef size_t table_bytes(self, const Ptdesc* t) noexcept nogil:
        return 0

    cdef void unshare(self, Ptdesc* t) noexcept nogil:
        pass

    cdef void retire(self) noexcept nogil:
        pass

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        if pte & flag_of(&self.pte, pte):
            return to | flag_of(&self.pte, to)
        return to

    cdef void reap(self) noexcept nogil:
        pass

    cdef size_t side_bytes(self) noexcept nogil:
        return 0

    cdef size_t held_bytes(self) noexcept nogil:
        if self.objects is not None:
            return self.objects.page_bytes()
        return self.side_bytes()

    cdef size_t index_bytes(self) noexcept nogil:
        return 0

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        return NULL
