"""PageTable: PTEs over an encoding of their metadata words.

Here is the edge: what callers pass is converted and checked, and the lock taken
that makes each method one step for other threads. The work is done in
:mod:`extmeta.table.operations`, without the GIL.
"""
from cython cimport no_gc_clear
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

import numpy as np

from extmeta.table.encoding cimport LOCKED, MAX_LANES, Write
from extmeta.memory.frames cimport (
    DEPOSITED,
    PTE,
    UPPER,
    Ptdesc,
    pthread_mutex_t,
    upper_entry,
)
from extmeta.table.operations cimport (
    IS_LEAF,
    NOT_FIRST,
    Found,
    Operations,
    no_memory,
    refuse_for,
)
from extmeta.table.vpns cimport Span, Vpns, vpn_at

from dataclasses import replace

from extmeta.arch import arch_of
from extmeta.table.at_fork import register
from extmeta.encodings import recipe
from extmeta.fields import Fields
from extmeta.integers import whole
from extmeta.memory import Memory
from extmeta.memory.available import refuse_hopeless
from extmeta.pagetable_state import rebuilt, state_of
from extmeta.table.tables import Tables
from extmeta.table.vpns import as_words, fields_as_words, one_each

cdef enum:
    # Tables that are asked for without a look at what the machine has: 256 MiB.
    ASK_FROM = 65536
    # Results of 2**22 vpns and more are looked at likewise.
    RESULT_SHIFT = 22


@no_gc_clear
cdef class PageTable(Operations):
    """Page tables of one address space, with a metadata word for each PTE.

    vpns are an int, an array of ints in any order (of duplicates the last one
    wins), a range, or ``slice(first, stop)``. An int in gives an int or bool
    out, anything else an array in the order given. A word of 0 and no word are
    the same.

    Every method may be called from several threads; each call is one step.

    Parameters
    ----------
    encoding : str or Encoding, default "linked"
        A name from :func:`extmeta.encodings`, or an instance such as
        ``Adjacent(when="needed")``.
    fields : Fields, optional
        The named parts of a word. By default ``Fields(meta=64)``, or as wide as
        the encoding was asked to be.
    arch : str or Arch, default "x86_64"
        A name from :data:`extmeta.arch.ARCHES`, or a plain one such as "arm64";
        "arm64@6.12" is that of another Linux release.

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
        self.plant(shaped)
        self.adopt(made, fields)
        self.encoding.start()

    def adopt(self, encoding, fields):
        """Bind ``encoding`` to this table's memory."""
        self.encoding = encoding.bind(fields, self.arch, self.frames)
        self.fields = fields
        self.next_pfn = 1
        # Where tables share a page, and its descriptor, they aren't apart.
        self.parallel = self.encoding.parallel and self.frames.page_order == 0
        self.calls_python = self.encoding.calls_python
        self.leaf_ptes = self.huge_ptes()
        if self.encoding.family is not NULL:
            self.mutex = <pthread_mutex_t*>self.encoding.family
        register(self)

    def __repr__(self):
        return (f"<PageTable {self.encoding!r} {self.fields!r} on {self.arch.name}, "
                f"{self.nr_ptes} PTEs>")

    def __len__(self):
        """Return the number of mapped and swapped PTEs."""
        return self.nr_ptes

    # -- mapping ------------------------------------------------------------

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
        cdef uint64_t bits = self.encoding.pte.base
        cdef const uint64_t[::1] numbers
        cdef const uint64_t* first = NULL
        cdef int failed
        bits |= self.encoding.pte.writable if writable else self.encoding.pte.readonly
        if pfns is not None:
            numbers = one_each("pfns", pfns, v, 1 << <object>self.arch.pfn_bits)
            if v.span.n:
                first = &numbers[0]
        if v.span.vpns is NULL and v.span.n >> self.table_bits >= ASK_FROM:
            refuse_hopeless((v.span.n >> self.table_bits) * self.frames.frame_bytes,
                            f"PTE tables for {v.span.n} vpns")
        self.enter()
        with nogil:
            failed = self.put(&v.span, first, bits)
        self.leave()
        if failed:
            self.raise_refusal()

    def map_huge(self, vpns, pfns=None, deposit=False):
        """Map huge pages: leaves one level above the PTE tables.

        They have no PTE, so no metadata word, and don't count in ``len``.

        Parameters
        ----------
        vpns : int or (n,) array_like of int
            First vpn of each, a multiple of the entries that the architecture's
            PTE table has. Where `wide` halves that, a huge page takes two leaves.
        pfns : int or (n,) array_like of int, optional
        deposit : bool, default False
            Keep a PTE table for each leaf, as Linux does for anonymous memory
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
        cdef const uint64_t* first = NULL
        cdef Py_ssize_t i
        cdef uint64_t size = self.huge_ptes()
        cdef uint64_t vpn
        cdef int failed
        cdef bint keeps = deposit
        if pfns is not None:
            pfns = one_each("pfns", pfns, v, 1 << <object>self.arch.pfn_bits)
        for i in range(v.span.n):
            vpn = vpn_at(&v.span, i)
            if vpn & (size - 1):
                raise ValueError(f"vpn {vpn:#x} is not the first of a huge page")
        if <uint64_t>self.encoding.entries < size:
            parts = np.arange(0, size, self.encoding.entries, dtype=np.uint64)
            vpns = [vpn_at(&v.span, i) + parts for i in range(v.span.n)]
            v = self.named(np.ravel(vpns).astype(np.uint64))
            if pfns is not None:
                pfns = np.add.outer(pfns, parts).ravel()
        if pfns is not None and v.span.n:
            numbers = pfns
            first = &numbers[0]
        self.enter()
        with nogil:
            failed = self.put_leaves(&v.span, first, keeps)
        self.leave()
        if failed:
            self.raise_refusal()

    def split_huge(self, vpn, word=0, pfns=None, writable=True):
        """Let PTEs map what a huge page did, all with one word.

        As a kernel does it under the page-table lock (mm/huge_memory.c,
        __split_huge_pmd_locked(), v6.12): the PTE table is the one that `map_huge`
        deposited, if it did. No other memory is needed after ``reserve(1)``, or
        ``reserve(2)`` with `wide`, which has two tables for a huge page.

        Parameters
        ----------
        vpn : int
            First of the huge page.
        word : int, default 0
            Of each PTE.
        pfns : (n,) array_like of int, optional
            By default those that the huge page has.
        writable : bool, default True

        Raises
        ------
        ValueError
            If there is no huge page at ``vpn``, a value does not fit, or this
            encoding has no place for a bit of the word.
        MemoryError
            If memory can't be had. In every case nothing has changed.
        """
        cdef uint64_t[MAX_LANES] keep
        cdef uint64_t[MAX_LANES] add
        cdef const uint64_t[::1] numbers
        cdef const uint64_t* first_pfn = NULL
        cdef uint64_t bits = self.encoding.pte.base
        cdef uint64_t first, at, size
        cdef int failed
        cdef Write w
        bits |= self.encoding.pte.writable if writable else self.encoding.pte.readonly
        first, _stop = self.bounds(vpn, 1)
        size = self.huge_ptes()
        word = self.fitting("word", word)
        self.spread(add, word)
        memset(keep, 0, sizeof(keep))
        w.keep = keep
        w.add = add
        w.step = 0
        if pfns is not None:
            numbers = one_each(
                "pfns", pfns, self.named(slice(vpn, vpn + <object>size)),
                1 << <object>self.arch.pfn_bits)
            first_pfn = &numbers[0]
        why = self.encoding.unfit(vpn, word, False) if self.encoding.asks else None
        if why is not None:
            raise ValueError(f"vpn {vpn:#x}: {self.encoding!r}: {why}")
        self.enter()
        with nogil:
            at = first
            if first & (size - 1) or self.next_leaf(&at, first + 1) is NULL:
                failed = refuse_for(NOT_FIRST, first)
            else:
                failed = self.split(first, size, first_pfn, &w, bits)
        self.leave()
        if failed:
            self.raise_refusal()

    # -- memory for later ---------------------------------------------------

    def reserve(self, tables):
        """Have memory set aside for operations that may not allocate.

        It is taken from when memory can't be had otherwise, above all within
        :func:`extmeta.no_allocation`, by each of split_huge, store, update,
        scan(clear=), swap_out, swap_in and unmap. As a kernel deposits a PTE table
        with a huge page (pgtable_trans_huge_deposit()), or fills a cache before it
        takes a lock (kvm_mmu_topup_memory_cache()). A fork or copy has none of it.

        Parameters
        ----------
        tables : int
            One operation on each of so many PTE tables, or one on all of them,
            finds what it needs. What is there already counts; 0 gives it back.

        Raises
        ------
        TypeError, ValueError
            If it is no integer or below 0, or the encoding can't tell what it will
            need: one in Python, or `page_ext`.
        MemoryError
            If there is not so much memory; then as much is set aside as before.
        """
        cdef size_t n = whole("tables", tables, 1 << 32)
        cdef bint done
        if not self.encoding.reserves:
            raise ValueError(f"{self.encoding!r} can't tell what it will need")
        refuse_hopeless(n * self.frames.frame_bytes, "PTE tables to be set aside")
        self.enter()
        with nogil:
            done = self.set_aside(n)
        self.leave()
        if not done:
            raise MemoryError(f"memory for {tables} tables to be set aside")

    @property
    def reserved(self):
        """What is set aside, as a :class:`Memory`; :meth:`memory` has it too."""
        cdef size_t pte, side, index
        self.enter()
        pte = self.frames.nr_aside * self.frames.frame_bytes
        side = self.encoding.aside_bytes() + (pte if self.encoding.worded_order else 0)
        index = self.encoding.index_aside_bytes()
        self.leave()
        return Memory(upper=0, pte=pte, side=side, index=index, slack=0)

    def huge_ptes(self):
        """Return how many PTEs a huge page stands for."""
        return self.arch.leaf_ptes or self.arch.ptrs_per_pte

    def unmap(self, first, count):
        """Drop PTEs [first, first + count) and their words.

        Parameters
        ----------
        first, count : int
            The range may have holes. A huge page must lie in it whole.

        Raises
        ------
        TypeError, ValueError
            If they are no integers, negative or out of range, or the range cuts a
            huge page; nothing is dropped.
        """
        cdef uint64_t at, stop
        cdef int failed
        at, stop = self.bounds(first, count)
        self.enter()
        with nogil:
            failed = self.cuts_leaf(at) or self.cuts_leaf(stop)
            if not failed:
                self.drop(at, stop)
        self.leave()
        if failed:
            self.raise_refusal()

    # -- words --------------------------------------------------------------

    def store(self, vpns, words=None, **values):
        """Set words, or fields of them, of mapped PTEs.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        words : int, or (n,) array_like of int
            Whole words; (n, lanes) where words are wider than 64 bits.
        **values : int, or (n,) array_like of int
            Instead of whole words: fields by name. The others are kept.

        Raises
        ------
        KeyError
            If there is no field of that name.
        TypeError
            If something is no integer, or neither or both of words and fields
            are given.
        ValueError
            If a vpn is not mapped, lengths differ, a value does not fit, or this
            encoding has no place for a bit of it in a vpn's swap entry.
        MemoryError
            If side memory can't be had. In every case nothing is stored.
        """
        cdef uint64_t[MAX_LANES] keep
        cdef Vpns v
        cdef const uint64_t[::1] add
        cdef Write w
        cdef int lane, range_, failed
        if type(vpns) is int and type(words) is int and not values:
            if self.stored_one(vpns, words):
                return
        if (words is None) == (not values):
            raise TypeError("store() takes words or fields, and not both")
        v = self.named(vpns)
        memset(keep, 0, sizeof(keep))
        if values:
            add, w.step, mask = fields_as_words(
                values, v, self.fields, self.encoding.lanes)
            for lane in range(self.encoding.lanes):
                keep[lane] = ~<uint64_t>(mask >> 64 * lane & 0xffffffffffffffff)
        else:
            add, w.step = as_words(
                "words", words, v, self.fields.bits, self.encoding.lanes)
        if v.span.n == 0:
            return
        w.keep = keep
        w.add = &add[0]
        range_ = self.enter_span(&v.span, True)
        with nogil:
            failed = self.write(&v.span, &w, True)
        self.leave_span(range_)
        if failed:
            self.raise_refusal()

    cdef bint stored_one(self, vpn, word):
        """Store one word the short way; False where there is anything to refuse."""
        cdef int done
        cdef uint64_t at, value
        if self.encoding.lanes > 1 or not (
                0 <= vpn < self.nr_vpns and 0 <= word and not word >> self.fields.bits):
            return False
        at = vpn
        value = word
        self.enter_at(at, True)
        done = self.write_word(at, value)
        self.leave()
        return done == 0

    def update(self, vpns, clear=0, set=0):
        """Set word = (word & ~clear) | set for the mapped PTEs among ``vpns``.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
            Those not mapped are passed over.
        clear, set : int, default 0
            Bits of a word.

        Raises
        ------
        ValueError
            If a vpn is out of range, ``set`` is wider than the fields, or this
            encoding has no place for a bit of it in a vpn's swap entry.
        MemoryError
            If side memory can't be had; then nothing is changed.
        """
        cdef uint64_t[MAX_LANES] keep
        cdef uint64_t[MAX_LANES] add
        cdef Vpns v = self.named(vpns)
        cdef Write w
        cdef int range_, failed
        # Wider than the fields is fine: nothing is there to clear.
        self.spread(keep, whole(
            "clear", clear, 1 << <object>(64 * self.encoding.lanes)))
        self.spread(add, self.fitting("set", set))
        for lane in range(MAX_LANES):
            keep[lane] = ~keep[lane]
        w.keep = keep
        w.add = add
        w.step = 0
        range_ = self.enter_span(&v.span, True)
        with nogil:
            failed = self.write(&v.span, &w, False)
        self.leave_span(range_)
        if failed:
            self.raise_refusal()

    def load(self, vpns, field=None):
        """Return words, or one field of them.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        field : str, optional

        Returns
        -------
        int or (n,) uint64 ndarray
            0 where a PTE has no word or there is no PTE. Of shape (n, lanes)
            where the words, or the field, are wider than 64 bits.

        Raises
        ------
        KeyError
            If there is no field of that name.
        TypeError, ValueError
            If a vpn is no integer or out of range.
        """
        cdef Vpns v
        cdef uint64_t[::1] out
        cdef uint64_t vpn, word
        cdef int range_
        if type(vpns) is int and self.encoding.lanes == 1 and (
                0 <= vpns < self.nr_vpns):
            vpn = vpns
            self.enter_at(vpn, False)
            word = self.read_word(vpn)
            self.leave()
            if field is None:
                return word
            return (word & self.fields.mask(field)) >> self.fields.shift(field)
        if field is not None:
            self.fields[field]
        v = self.named(vpns)
        self.refuse_result(v, 8 * self.encoding.lanes)
        words = np.empty((v.span.n, self.encoding.lanes), np.uint64)
        if v.span.n:
            out = words.reshape(-1)
            range_ = self.enter_span(&v.span, False)
            with nogil:
                self.read(&v.span, &out[0])
            self.leave_span(range_)
        if v.single:
            word_of = sum(int(lane) << 64 * i for i, lane in enumerate(words[0]))
            return word_of if field is None else self.fields.unpack(word_of)[field]
        if field is not None:
            return self.fields.extract(words, field)
        return words if self.encoding.lanes > 1 else words.reshape(-1)

    def snapshot(self, vpns):
        """Return PTEs and their words, each pair as it was at one moment.

        No lock is taken, and no other thread is kept waiting: where a pair changes
        while it is read, it is read again. Pairs may be of different moments of the
        call. (An encoding in Python, and ``Compact`` with ``per_vma``, are read under
        the lock.)

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice

        Returns
        -------
        ptes : int or (n,) uint64 ndarray
            The raw entries; where nothing is mapped, what the architecture has for
            that (0 on most).
        words : int or (n,) uint64 ndarray
            As `load` returns them.

        Raises
        ------
        TypeError, ValueError
            If a vpn is no integer or out of range.

        See Also
        --------
        unchanged : Whether they are still so.

        Examples
        --------
        >>> import extmeta as em
        >>> t = em.PageTable()
        >>> t.map(5, pfns=3)
        >>> t.store(5, 7)
        >>> pte, word = t.snapshot(5)
        >>> pte >> t.arch.pfn_shift & (1 << t.arch.pfn_bits) - 1, word
        (3, 7)
        """
        cdef Vpns v
        cdef uint64_t[::1] to_ptes
        cdef uint64_t[::1] to_words
        cdef uint64_t vpn, pte, word
        if type(vpns) is int and self.encoding.lanes == 1 and (
                0 <= vpns < self.nr_vpns and self.encoding.reading != LOCKED):
            vpn = vpns
            pte = self.see_one(vpn, &word)
            return pte, word
        v = self.named(vpns)
        self.refuse_result(v, 8 + 8 * self.encoding.lanes)
        ptes = np.empty(v.span.n, np.uint64)
        words = np.empty((v.span.n, self.encoding.lanes), np.uint64)
        if v.span.n:
            to_ptes = ptes
            to_words = words.reshape(-1)
            if self.encoding.reading == LOCKED:
                self.enter()
                with nogil:
                    self.read_ptes(&v.span, &to_ptes[0])
                    self.read(&v.span, &to_words[0])
                self.leave()
            else:
                with nogil:
                    self.see_all(&v.span, &to_ptes[0], &to_words[0])
        if v.single:
            return int(ptes[0]), sum(
                int(lane) << 64 * i for i, lane in enumerate(words[0]))
        return ptes, words if self.encoding.lanes > 1 else words.reshape(-1)

    def unchanged(self, vpns, ptes, words):
        """Return whether PTEs and their words are those that `snapshot` returned.

        One step, under the lock. What a kernel does with pte_same() before it acts
        on what it read without the lock; but a word may change beside a PTE that
        stays the same, so both are compared.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        ptes, words : int or array_like of int
            As `snapshot` returned them for ``vpns``.

        Returns
        -------
        bool or (n,) bool ndarray

        Raises
        ------
        TypeError, ValueError
            If a number is no integer or out of range, or shapes differ.
        """
        cdef Vpns v = self.named(vpns)
        cdef uint64_t[::1] to_ptes
        cdef uint64_t[::1] to_words
        cdef int range_
        lanes = self.encoding.lanes
        self.refuse_result(v, 9 + 8 * lanes)
        expected = one_each("ptes", ptes, v, 2**64)
        flat, _step = as_words("words", words, v, 64 * lanes, lanes)
        here = np.empty(v.span.n, np.uint64)
        found = np.empty((v.span.n, lanes), np.uint64)
        if v.span.n:
            to_ptes = here
            to_words = found.reshape(-1)
            range_ = self.enter_span(&v.span, False)
            with nogil:
                self.read_ptes(&v.span, &to_ptes[0])
                self.read(&v.span, &to_words[0])
            self.leave_span(range_)
        same = (here == expected) & (found == flat.reshape(-1, lanes)).all(axis=1)
        return bool(same[0]) if v.single else same

    def flagged(self, vpns):
        """Return whether PTEs have a word, that is one that is not 0.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice

        Returns
        -------
        bool or (n,) bool ndarray
            False where there is no PTE.

        Raises
        ------
        TypeError, ValueError
            If a vpn is no integer or out of range.
        MemoryError
            If there is no memory for the result.
        """
        cdef Vpns v = self.named(vpns)
        cdef uint8_t[::1] out
        cdef int range_
        self.refuse_result(v, 1)
        found = np.zeros(v.span.n, np.uint8)
        if v.span.n:
            out = found
            range_ = self.enter_span(&v.span, False)
            with nogil:
                self.read_flags(&v.span, &out[0])
            self.leave_span(range_)
        return bool(found[0]) if v.single else found.view(np.bool_)

    def scan(self, first, stop, mask, value, clear=0):
        """Return the vpns whose word has these bits; perhaps clear some, in one step.

        Parameters
        ----------
        first, stop : int
            The range [first, stop); it may have holes.
        mask, value : int
        clear : int, default 0
            Bits to clear in the words found. No other thread's store comes in
            between: as PAGEMAP_SCAN with PM_SCAN_WP_MATCHING.

        Returns
        -------
        (n,) uint64 ndarray
            Ascending vpns of the mapped or swapped PTEs where
            ``word & mask == value``. A PTE without a word has the word 0.

        Raises
        ------
        TypeError, ValueError
            If a number is no integer, negative or out of range.
        MemoryError
            If side memory can't be had to clear bits; then none is cleared.
        """
        cdef uint64_t[MAX_LANES] bits
        cdef uint64_t[MAX_LANES] wanted
        cdef uint64_t[MAX_LANES] keep
        cdef uint64_t[MAX_LANES] add
        cdef uint64_t[::1] out
        cdef Found found
        cdef Span s
        cdef Write w
        cdef Vpns v
        cdef int lane, range_
        cdef int failed = 0
        cdef bint clears = False
        limit = 1 << <object>(64 * self.encoding.lanes)
        mask = whole("mask", mask, limit)
        value = whole("value", value, limit)
        v = self.named(slice(first, stop))
        if clear:
            clears = True
            self.spread(keep, whole("clear", clear, limit))
            memset(add, 0, sizeof(add))
            for lane in range(MAX_LANES):
                keep[lane] = ~keep[lane]
            w.keep = keep
            w.add = add
            w.step = 0
        if value & ~mask:
            return np.empty(0, np.uint64)
        self.spread(bits, mask)
        self.spread(wanted, value)
        memset(&found, 0, sizeof(found))
        range_ = self.enter_span(&v.span, clears)
        with nogil:
            failed = self.find_words(&v.span, bits, wanted, &found)
            if clears and found.n and not failed:
                s.vpns = found.vpns
                s.first = found.vpns[0]
                s.n = found.n
                failed = self.write(&s, &w, False)
        try:
            self.leave_span(range_)
            if failed:
                self.raise_refusal()
            vpns = np.empty(found.n, np.uint64)
            if found.n:
                out = vpns
                memcpy(&out[0], found.vpns, found.n * sizeof(uint64_t))
            return vpns
        finally:
            free(found.vpns)

    # -- whole tables -------------------------------------------------------

    def fork(self):
        """Return a PageTable with equal content.

        Later writes to one never reach the other. The model copies PTEs as they
        are; the kernel also write-protects private ones and counts references.

        Raises
        ------
        MemoryError
            If memory can't be had; nothing is left of the child.
        """
        return self.grafted(True)

    def copy(self):
        """Return a PageTable with equal content that shares nothing with this.

        As fork, but without what is put off until one of them writes. Where words
        belong to pages (``page_ext``) the copy has pages of its own.

        Raises
        ------
        MemoryError
            If memory can't be had; nothing is left of the copy.
        """
        return self.grafted(False)

    cdef PageTable grafted(self, bint shared):
        cdef PageTable child = PageTable.__new__(PageTable)
        cdef int failed
        child.plant(self.arch)
        child.adopt(self.encoding, self.fields)
        child.encoding.begin_fork(self.encoding, shared)
        if child.encoding.family is not NULL:
            child.mutex = <pthread_mutex_t*>child.encoding.family
        self.enter()
        with nogil:
            failed = child.encoding.copy_all(self.encoding)
            if failed:
                failed = no_memory(self.encoding.held_bytes())
            else:
                failed = child.graft(self)
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
        return rebuilt, state_of(self), self.next_pfn

    def __setstate__(self, next_pfn):
        self.next_pfn = whole("next_pfn", next_pfn)

    def move(self, src, dst, count):
        """Move PTEs [src, src + count) and their words to ``dst``.

        The range may have holes, which stay holes.

        Raises
        ------
        ValueError
            If the ranges overlap or leave the table, a destination is mapped, or a
            huge page lies in either.
        MemoryError
            If a table or side memory can't be had. In every case nothing is moved.
        """
        cdef uint64_t from_, to, n, at
        cdef int failed
        from_, stop = self.bounds(src, count)
        to, stop_dst = self.bounds(dst, count)
        n = stop - from_
        if n and src < stop_dst and dst < stop:
            raise ValueError(f"[{src:#x}, {stop:#x}) and [{dst:#x}, {stop_dst:#x}) "
                             "overlap")
        self.enter()
        with nogil:
            at = from_
            if self.nr_leaves and self.next_leaf(&at, from_ + n) is not NULL:
                failed = refuse_for(IS_LEAF, at)
            else:
                failed = self.refuse_used(to, to + n)
            if not failed:
                failed = self.carry_over(from_, to, n)
        self.leave()
        if failed:
            self.raise_refusal()

    # -- swap ---------------------------------------------------------------

    def swap_out(self, vpns, slots):
        """Turn present PTEs into swap entries; their words stay.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        slots : int or (n,) array_like of int
            type << offset_bits | offset, as the kernel's swp_entry_t has them;
            on x86-64 the offset has 50 bits and the type 5, so a small int is a
            slot of the first swap device. Type 31 is a PTE marker.

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
        self.exchange_all(v, slots, True)

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
        self.exchange_all(
            v, one_each("pfns", pfns, v, 1 << <object>self.arch.pfn_bits), False)

    def exchange_all(self, Vpns v, values, bint out):
        """Replace entries by swap entries (``out``) or present ones."""
        cdef const uint64_t[::1] to = values
        cdef int range_, failed
        if v.span.n == 0:
            return
        range_ = self.enter_span(&v.span, True)
        with nogil:
            failed = self.exchange(&v.span, &to[0], out)
        self.leave_span(range_)
        if failed:
            self.raise_refusal()

    # -- what is held -------------------------------------------------------

    def memory(self):
        """Return the bytes held now, as a :class:`Memory`."""
        cdef size_t upper, pte, side, slack, index
        self.enter()
        self.frames.reap()
        self.encoding.reap()
        side = self.encoding.side_bytes()
        slack = self.encoding.held_bytes() - side
        index = self.encoding.index_bytes()
        upper = self.frames.held(UPPER)
        pte = self.frames.held(PTE)
        if self.encoding.sharing():
            side = self.share_of_side() + self.encoding.aside_bytes()
        self.leave()
        return Memory(upper=upper, pte=pte, side=side, index=index, slack=slack)

    cdef size_t share_of_side(self) noexcept nogil:
        """Return each object's bytes over the page tables that share it, added up."""
        cdef uint64_t at = 0
        cdef size_t nbytes = 0
        cdef Ptdesc* t
        while True:
            t = self.next_table(&at, self.nr_vpns)
            if t is NULL:
                return nbytes
            nbytes += self.encoding.table_bytes(t)
            at = t.vpn + <uint64_t>self.encoding.entries

    @property
    def tables(self):
        """The PTE tables: first vpn -> (entries,) uint64 read-only view.

        A view shows the live entries, without a copy (with steps, where each has
        its word beside it), until its table is freed
        or moved (``Adjacent(when="needed")``); after that it shows whatever uses
        the memory next.
        """
        return Tables(self)

    def table_vpns(self):
        """Return the first vpn of each PTE table, ascending, as uint64."""
        cdef Found found
        cdef uint64_t[::1] out
        cdef int failed
        memset(&found, 0, sizeof(found))
        self.enter()
        with nogil:
            failed = self.find_tables(&found)
        self.leave()
        try:
            if failed:
                self.raise_refusal()
            vpns = np.empty(found.n, np.uint64)
            if found.n:
                out = vpns
                memcpy(&out[0], found.vpns, found.n * sizeof(uint64_t))
            return vpns
        finally:
            free(found.vpns)

    def leaves(self):
        """Return the huge pages.

        Returns
        -------
        vpns, pfns : (n,) uint64 ndarray
            First vpn, ascending, and first page frame number of each leaf. Where
            `wide` halves a PTE table's entries, a huge page has two leaves.
        deposited : (n,) bool ndarray
            Whether a PTE table is deposited with it.
        """
        cdef Found found
        cdef uint64_t[:, ::1] out
        cdef int failed
        memset(&found, 0, sizeof(found))
        self.enter()
        with nogil:
            failed = self.find_leaves(&found)
        self.leave()
        try:
            if failed:
                self.raise_refusal()
            rows = np.empty((found.n // 3, 3), np.uint64)
            if found.n:
                out = rows
                memcpy(&out[0, 0], found.vpns, found.n * sizeof(uint64_t))
            return rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2] != 0
        finally:
            free(found.vpns)

    def table_at(self, vpn):
        """Return the PTE table whose first vpn this is, as a view, or None."""
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
            t - self.frames.desc, :self.encoding.entries * self.stride:self.stride]

    def frames_view(self):
        """Return the mapping that all tables lie in, (pages, words) uint64.

        Read-only, without a copy, of the pages there are now.
        """
        return np.asarray(self.frames)

    def check(self):
        """Raise AssertionError with the reason if an invariant is broken."""
        cdef const char* reason
        cdef uint64_t at = 0
        cdef uint64_t ptes = 0
        cdef unsigned int used
        cdef Py_ssize_t i
        cdef Ptdesc* t
        while True:
            t = self.next_table(&at, self.nr_vpns)
            if t is NULL:
                break
            at = t.vpn + <uint64_t>self.encoding.entries
            used = 0
            for i in range(self.encoding.entries):
                used += self.pte_at(t, i)[0] != self.encoding.pte.none
            ptes += used
            where = f"table at vpn {t.vpn:#x}"
            if used != t.used or used == 0:
                raise AssertionError(f"{where}: {used} entries, {t.used} counted")
            if t.parent[0] != upper_entry(self.frames, t):
                raise AssertionError(f"{where}: the upper entry points elsewhere")
            reason = self.encoding.fault(t)
            if reason is not NULL:
                raise AssertionError(f"{where}: {self.encoding!r}: {reason.decode()}")
        if ptes != self.nr_ptes:
            raise AssertionError(f"{ptes} PTEs, {self.nr_ptes} counted")
        self.check_leaves()
        reason = self.frames.fault()
        if reason is not NULL:
            raise AssertionError(f"frames: {reason.decode()}")

    cdef int check_leaves(self) except -1:
        """Raise AssertionError if huge leaves or deposited tables are miscounted."""
        cdef uint64_t at = 0
        cdef uint64_t leaves = 0
        cdef Py_ssize_t owed = 0
        cdef uint64_t* slot = self.next_leaf(&at, self.nr_vpns)
        cdef Ptdesc* holder
        cdef Ptdesc* t = NULL
        while slot is not NULL:
            holder = self.holder(slot, self.levels - 2)
            leaves += 1
            owed += slot[0] & DEPOSITED != 0
            at = (at | <uint64_t>(self.encoding.entries - 1)) + 1
            slot = self.next_leaf(&at, self.nr_vpns)
            if slot is not NULL and self.holder(slot, self.levels - 2) is holder:
                continue
            t = <Ptdesc*>holder.link
            while t is not NULL and owed > 0 and t.kind == PTE and t.used == 0:
                owed -= 1
                t = <Ptdesc*>t.link
            if owed or t is not NULL:
                raise AssertionError(f"below vpn {at:#x}: a deposited table too few or "
                                     "too many")
        if leaves != self.nr_leaves:
            raise AssertionError(f"{leaves} leaves, {self.nr_leaves} counted")
        return 0

    # -- the edge: what callers give, as C needs it -------------------------

    cdef int refuse_result(self, Vpns v, size_t nbytes) except -1:
        """Refuse a result of so many bytes a vpn, if there is no memory for it."""
        if v.span.n >> RESULT_SHIFT:
            refuse_hopeless(v.span.n * nbytes, f"a result for {v.span.n} vpns")
        return 0

    cdef Vpns named(self, vpns):
        return Vpns(vpns, self.nr_vpns, self.arch.name)

    def bounds(self, first, count):
        """Return [first, first + count) as two ints inside the table."""
        first = whole("vpn", first)
        stop = first + whole("count", count)
        if stop > self.nr_vpns:
            raise ValueError(f"vpns [{first:#x}, {stop:#x}) leave {self.arch.name}'s "
                             f"[0, {self.nr_vpns:#x})")
        return first, stop

    def fitting(self, name, value):
        """Return ``value`` as an int no wider than the fields."""
        value = whole(name, value, 2**512)
        if value >> self.fields.bits:
            raise ValueError(f"{name}: {value:#x} is wider than the "
                             f"{self.fields.bits} bits of {self.fields!r}")
        return value

    cdef int spread(self, uint64_t* lanes, value) except -1:
        """Write an int as a word of several lanes."""
        for lane in range(MAX_LANES):
            lanes[lane] = value >> 64 * lane & 0xffffffffffffffff
        return 0
