"""PageTable: PTEs over an encoding of their metadata words.

Its methods check and convert arguments, and take a lock, so that each is one step for
other threads. The work is done in `extmeta.table`, without the GIL.
"""
from cython cimport no_gc_clear
from libc.stdint cimport uint64_t

import numpy as np

from extmeta.edge.words cimport WordMethods
from extmeta.memory.frames cimport pthread_mutex_t
from extmeta.memory.slabs cimport Slabs
from extmeta.table.encoding cimport MAX_LANES, ZERO_WORD, Write
from extmeta.table.pte cimport present_bits
from extmeta.table.refusal cimport IS_LEAF, NOT_FIRST, no_memory, refuse_for
from extmeta.table.vpns cimport Vpns, vpn_at

from dataclasses import replace

from extmeta.arch import arch_of
from extmeta.edge import drawing
from extmeta.edge.state import rebuilt, state_of
from extmeta.encodings import recipe
from extmeta.fields import Fields
from extmeta.integers import whole
from extmeta.memory.available import refuse_hopeless
from extmeta.table.at_fork import register
from extmeta.table.vpns import as_slice, one_each

cdef enum:
    # map() of so many tables, 256 MiB, or more is refused if too little is available.
    ASK_FROM = 65536


cdef inline const uint64_t* data_of(const uint64_t[::1] values) noexcept nogil:
    """Return the first element's address; NULL for None or an empty array."""
    return &values[0] if values is not None and values.shape[0] else NULL


@no_gc_clear
cdef class PageTable(WordMethods):
    """Page tables of one address space, with a metadata word for each PTE.

    vpns are an int, an array of ints in any order (the last of duplicates wins), a
    range, or ``slice(first, stop)``. For an int a method returns an int or bool, else
    an array in the order given. A word of 0 and no word are equal.

    Every method may be called from several threads; each call is one step.

    Parameters
    ----------
    encoding : str or Encoding, default "linked"
        A name from :func:`extmeta.encodings`, perhaps with an argument as in
        "linked:16", or an instance as ``Adjacent(when="needed")``.
    fields : Fields, optional
        The named parts of a word. By default ``Fields(meta=64)``, or the width in the
        encoding's argument.
    arch : str or Arch, default "x86_64"
        A name from :data:`extmeta.arch.ARCHES`, or a plain one as "arm64";
        "arm64@6.12" is for another Linux release.

    Raises
    ------
    KeyError
        If there is no such encoding or architecture.
    TypeError
        If ``fields`` is no Fields, or ``arch`` neither text nor Arch.
    ValueError
        If the fields are wider than the encoding can hold.
    MemoryError
        If there is no address space for the tables.
    """

    def __init__(self, encoding="linked", fields=None, arch="x86_64"):
        made = recipe(encoding)
        if fields is None:
            fields = Fields(meta=getattr(made, "asked", None) or 64)
        if not isinstance(fields, Fields):
            raise TypeError(f"fields: {fields!r} is no Fields, as in Fields(age=8)")
        arch = arch_of(arch)
        shaped = made.shape(arch)
        if shaped is not arch:
            shaped = replace(shaped, leaf_ptes=arch.ptrs_per_pte)
        self.make_root(shaped)
        self.bind_encoding(made, fields)
        self.encoding.start()

    cdef int bind_encoding(self, encoding, fields) except -1:
        """Bind ``encoding`` to this table's memory."""
        self.encoding = encoding.bind(fields, self.arch, self.frames)
        self.fields = fields
        self.pte = self.encoding.pte
        self.entries = self.encoding.entries
        self.next_pfn = 1
        if self.frames.page_order:
            self.index = Slabs()
        # Tables that share a page share its descriptor.
        self.parallel = self.encoding.parallel and self.frames.page_order == 0
        self.calls_python = self.encoding.calls_python
        self.leaf_ptes = self.huge_ptes()
        if self.encoding.family is not NULL:
            self.mutex = <pthread_mutex_t*>self.encoding.family
        register(self)
        return 0

    def __repr__(self):
        self.must_be_made()
        return (f"<PageTable {self.encoding!r} {self.fields!r} on {self.arch.name}, "
                f"{self.nr_ptes} PTEs>")

    def _repr_html_(self):
        self.must_be_made()
        return drawing.html_of(self)

    def plot(self, ax=None):
        """Draw the entries of all PTE tables, a row for each table.

        A line between rows stands for addresses without a PTE table. If there are more
        tables than rows fit, neighbours share a row.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new pyplot figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.must_be_made()
        return drawing.plot(self, ax)

    def __len__(self):
        """Return the number of mapped and swapped PTEs."""
        return self.nr_ptes

    cdef pfns_of(self, pfns, Vpns v):
        """Return a pfn for each vpn as a uint64 array, or None for None."""
        if pfns is None:
            return None
        return one_each("pfns", pfns, v, 1 << <object>self.arch.pfn_bits)

    def map(self, vpns, pfns=None, writable=True):
        """Make present PTEs.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        pfns : int or (n,) array_like of int, optional
            Page frame numbers; by default numbers that this table hasn't used.
        writable : bool, default True

        Raises
        ------
        ValueError
            If a vpn is mapped already or out of range, or a pfn does not fit.
        MemoryError
            If a table can't be had. In every case nothing is mapped.
        """
        cdef Vpns v = self.named(vpns)
        cdef uint64_t bits = present_bits(&self.pte, writable)
        cdef const uint64_t[::1] numbers = self.pfns_of(pfns, v)
        cdef int failed
        if v.span.vpns is NULL and v.span.n >> self.table_bits >= ASK_FROM:
            refuse_hopeless((v.span.n >> self.table_bits) * self.frames.frame_bytes,
                            f"PTE tables for {v.span.n} vpns")
        self.enter()
        with nogil:
            failed = self.put(&v.span, data_of(numbers), bits)
        self.leave_after(failed)

    def map_huge(self, vpns, pfns=None, deposit=False):
        """Map huge pages: leaves one level above the PTE tables.

        They have no PTE, so no metadata word, and ``len`` does not count them.

        Parameters
        ----------
        vpns : int or (n,) array_like of int
            First vpn of each, a multiple of the entries of the architecture's PTE
            table. If `wide` halves that number, a huge page takes two leaves.
        pfns : int or (n,) array_like of int, optional
        deposit : bool, default False
            Deposit a PTE table with each leaf, as Linux does for anonymous memory
            (pgtable_trans_huge_deposit(), mm/huge_memory.c, v6.12). ``memory().pte``
            counts it, `split_huge` uses it, `unmap` frees it, and a child or copy
            gets its own.

        Raises
        ------
        ValueError
            If a vpn is not aligned, or something is mapped there.
        MemoryError
            If a table can't be had; then nothing is mapped.
        """
        cdef Vpns v = self.named(vpns)
        cdef const uint64_t[::1] numbers
        cdef Py_ssize_t i
        cdef uint64_t size = self.huge_ptes()
        cdef uint64_t vpn
        cdef int failed
        cdef bint keeps = deposit
        pfns = self.pfns_of(pfns, v)
        for i in range(v.span.n):
            vpn = vpn_at(&v.span, i)
            if vpn & (size - 1):
                raise ValueError(f"vpn {vpn:#x} is not the first of a huge page")
        if <uint64_t>self.entries < size:
            parts = np.arange(0, size, self.entries, dtype=np.uint64)
            vpns = [vpn_at(&v.span, i) + parts for i in range(v.span.n)]
            v = self.named(np.ravel(vpns).astype(np.uint64))
            if pfns is not None:
                pfns = np.add.outer(pfns, parts).ravel()
        numbers = pfns
        self.enter()
        with nogil:
            failed = self.put_leaves(&v.span, data_of(numbers), keeps)
        self.leave_after(failed)

    def split_huge(self, vpn, word=0, pfns=None, writable=True):
        """Split a huge page into PTEs, all with one word.

        As a kernel does it under the page-table lock (mm/huge_memory.c,
        __split_huge_pmd_locked(), v6.12): if `map_huge` deposited a PTE table, it is
        used. After ``reserve(1)``, or ``reserve(2)`` with `wide`, which has two tables
        for a huge page, nothing is allocated.

        Parameters
        ----------
        vpn : int
            First of the huge page.
        word : int, default 0
            The word of each PTE.
        pfns : (n,) array_like of int, optional
            By default those of the huge page.
        writable : bool, default True

        Raises
        ------
        ValueError
            If there is no huge page at ``vpn``, a value does not fit, or this
            encoding has no place for a bit of the word.
        MemoryError
            If memory can't be had. In every case nothing has changed.
        """
        cdef uint64_t[MAX_LANES] add
        cdef const uint64_t[::1] numbers = None
        cdef uint64_t bits = present_bits(&self.pte, writable)
        cdef uint64_t first, size
        cdef int failed
        cdef Write w = Write(ZERO_WORD, &add[0], 0)
        first, _stop = self.bounds(vpn, 1)
        size = self.huge_ptes()
        word = self.fitting("word", word)
        self.spread(add, word, 0)
        if pfns is not None:
            numbers = self.pfns_of(pfns, self.named(slice(vpn, vpn + <object>size)))
        why = self.encoding.unfit(vpn, word, False) if self.encoding.asks else None
        if why is not None:
            raise ValueError(f"vpn {vpn:#x}: {self.encoding!r}: {why}")
        self.enter()
        with nogil:
            if first & (size - 1) or not self.in_leaf(first):
                failed = refuse_for(NOT_FIRST, first)
            else:
                failed = self.split(first, size, data_of(numbers), &w, bits)
        self.leave_after(failed)

    def reserve(self, tables):
        """Set memory aside for operations that may not allocate.

        split_huge, store, update, scan(clear=), swap_out, swap_in and unmap use it if
        memory can't be had otherwise, above all within :func:`extmeta.no_allocation`.
        As a kernel deposits a PTE table with a huge page
        (pgtable_trans_huge_deposit()), or fills a cache before it takes a lock
        (kvm_mmu_topup_memory_cache()). A fork or copy has none of it.

        Parameters
        ----------
        tables : int
            The memory is enough for one operation on each of ``tables`` PTE tables, or
            one on all of them. Memory set aside before counts; 0 frees it.

        Raises
        ------
        TypeError, ValueError
            If it is no integer or below 0, or the encoding can't tell what it will
            need: one in Python, or `page_ext`.
        MemoryError
            If the memory can't be had; then as much is set aside as before.
        """
        cdef size_t n = whole("tables", tables, 1 << 32)
        cdef bint done
        self.must_be_made()
        if not self.encoding.reserves:
            raise ValueError(f"{self.encoding!r} can't tell what it will need")
        refuse_hopeless(n * self.frames.frame_bytes, "PTE tables to be set aside")
        self.enter()
        with nogil:
            done = self.set_aside(n)
        self.leave()
        if not done:
            raise MemoryError(f"memory for {tables} tables to be set aside")

    def unmap(self, vpns, *refused):
        """Unmap PTEs, and drop their words.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
            Those not mapped are ignored. A huge page can only be unmapped whole.

        Raises
        ------
        TypeError, ValueError
            If a vpn is no integer, negative or out of range, or vpns are a part of a
            huge page; then nothing is unmapped.
        """
        cdef Vpns v
        cdef const uint64_t[:, ::1] runs
        cdef uint64_t[2] all_of_it
        cdef const uint64_t* run = all_of_it
        cdef Py_ssize_t n = 1
        cdef Py_ssize_t i
        cdef int failed = 0
        if refused:
            raise TypeError("unmap(vpns) takes vpns alone, as in "
                            f"unmap({as_slice(vpns, refused[0])})")
        v = self.named(vpns)
        if v.span.n == 0:
            return
        all_of_it[0] = v.span.first
        all_of_it[1] = v.span.first + <uint64_t>v.span.n
        if v.span.vpns is not NULL:
            runs = self.runs_of(v)
            run = &runs[0, 0]
            n = runs.shape[0]
        self.enter()
        with nogil:
            for i in range(2 * n):
                failed |= self.cuts_leaf(run[i])
            for i in range(0 if failed else n):
                self.drop(run[2 * i], run[2 * i + 1])
        self.leave_after(failed)

    def fork(self):
        """Return a PageTable with equal content.

        A later write to one does not change the other. PTEs are copied unchanged; the
        kernel also write-protects private ones and counts references.

        Raises
        ------
        MemoryError
            If memory can't be had; nothing is left of the child.
        """
        return self.copied(True)

    def copy(self):
        """Return a PageTable with equal content that shares no memory with this one.

        Unlike a fork, nothing is copied on a later write. If words belong to pages
        (``page_ext``) the copy has pages of its own.

        Raises
        ------
        MemoryError
            If memory can't be had; nothing is left of the copy.
        """
        return self.copied(False)

    cdef PageTable empty_child(self, bint shared):
        """Return a page table without a PTE, ready for a copy of this one's content."""
        cdef PageTable child = PageTable.__new__(PageTable)
        self.must_be_made()
        child.make_root(self.arch)
        child.bind_encoding(self.encoding, self.fields)
        child.encoding.begin_fork(self.encoding, shared)
        if child.encoding.family is not NULL:
            child.mutex = <pthread_mutex_t*>child.encoding.family
        return child

    cdef PageTable copied(self, bint shared):
        cdef PageTable child = self.empty_child(shared)
        cdef int failed
        self.enter()
        with nogil:
            failed = child.encoding.copy_all(self.encoding)
            if failed:
                failed = no_memory(self.encoding.held_bytes())
            else:
                failed = child.copy_tables(self)
            child.encoding.end_fork()
        self.leave()
        if failed:
            child.raise_refusal()
        return child

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        self.must_be_made()
        return rebuilt, state_of(self), self.next_pfn

    def __setstate__(self, next_pfn):
        self.next_pfn = whole("next_pfn", next_pfn)

    def move(self, src, dst, *refused):
        """Move PTEs and their words.

        Parameters
        ----------
        src : range or slice
            It may have holes, which stay holes.
        dst : int
            The new first vpn.

        Raises
        ------
        TypeError, ValueError
            If ``src`` is no range or slice, the ranges overlap or leave the table, a
            destination is mapped, or a huge page lies in either.
        MemoryError
            If a table or side memory can't be had. In every case nothing is moved.
        """
        cdef uint64_t from_, to, n, at, stop
        cdef int failed
        cdef Vpns v
        if refused:
            raise TypeError("move(src, dst) takes src as a range, as in "
                            f"move({as_slice(src, refused[0])}, {dst!r})")
        v = self.range_of("src", src)
        from_ = v.span.first
        n = <uint64_t>v.span.n
        stop = from_ + n
        to, stop_dst = self.bounds(dst, n)
        if n and from_ < stop_dst and to < stop:
            raise ValueError(f"[{from_:#x}, {stop:#x}) and [{to:#x}, {stop_dst:#x}) "
                             "overlap")
        self.enter()
        with nogil:
            at = from_
            if self.nr_leaves and self.next_leaf(&at, from_ + n) is not NULL:
                failed = refuse_for(IS_LEAF, at)
            else:
                failed = self.refuse_used(to, to + n)
            if not failed:
                failed = self.move_tables(from_, to, n)
        self.leave_after(failed)

    def swap_out(self, vpns, slots):
        """Turn present PTEs into swap entries; their words stay.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        slots : int or (n,) array_like of int
            type << offset_bits | offset, as in the kernel's swp_entry_t; on x86-64
            the offset has 50 bits and the type 5, so a small int is a slot of the
            first swap device. Type 31 is a PTE marker.

        Raises
        ------
        ValueError
            If a vpn isn't present, a slot does not fit, lengths differ, or a
            word has bits that this encoding has no place for in a swap entry;
            nothing is swapped then.
        """
        cdef Vpns v = self.named(vpns)
        slots = one_each("slots", slots, v, self.arch.nr_slots)
        if self.arch.first_slot and slots.size and not slots.all():
            raise ValueError(f"slot 0 can't be told from no page on {self.arch.name}")
        self.swap_all(v, slots, True)

    def swap_in(self, vpns, pfns):
        """Turn swap entries into present PTEs; their words stay.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        pfns : int or (n,) array_like of int

        Raises
        ------
        ValueError
            If a vpn isn't swapped, a pfn does not fit, or lengths differ; nothing
            is swapped then.
        """
        cdef Vpns v = self.named(vpns)
        self.swap_all(
            v, one_each("pfns", pfns, v, 1 << <object>self.arch.pfn_bits), False)

    cdef int swap_all(self, Vpns v, values, bint out) except -1:
        """Replace entries by swap entries (``out``) or present ones."""
        cdef const uint64_t[::1] to = values
        cdef int range_, failed
        if v.span.n == 0:
            return 0
        range_ = self.enter_span(&v.span, True)
        with nogil:
            failed = self.swap_entries(&v.span, &to[0], out)
        return self.leave_span(range_, failed)
