"""The methods about words: check and convert arguments, then take locks."""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

import numpy as np

from extmeta.edge.held cimport Held
from extmeta.table.encoding cimport LOCKED, MAX_LANES, ZERO_WORD, Write
from extmeta.table.pte cimport ALL
from extmeta.table.refusal cimport Found
from extmeta.table.since cimport Since, find_since
from extmeta.table.vpns cimport Span, Vpns

from extmeta.integers import is_whole, whole
from extmeta.memory.available import refuse_hopeless
from extmeta.table.vpns import as_words, fields_as_words, one_each

cdef enum:
    # A result for 2**22 vpns or more is refused if too little memory is available.
    RESULT_SHIFT = 22


cdef class WordMethods(Held):

    cdef Vpns named(self, vpns):
        self.must_be_made()
        return Vpns(vpns, self.nr_vpns, self.arch.name)

    cdef bounds(self, first, count):
        """Return [first, first + count) as two ints inside the table."""
        first = whole("vpn", first)
        self.named(slice(first, first + count))
        return first, first + count

    cdef Vpns range_of(self, name, vpns):
        """Return the vpns of a range or slice; refuse one with gaps."""
        cdef Vpns v
        if not isinstance(vpns, (range, slice)):
            raise TypeError(f"{name}: {vpns!r} is no range or slice")
        v = self.named(vpns)
        if v.span.vpns is not NULL:
            raise ValueError(f"{name}: {vpns!r} has gaps")
        return v

    cdef runs_of(self, Vpns v):
        """Return vpns in any order as ranges [first, stop), (n, 2) uint64."""
        vpns = np.unique(np.asarray(<uint64_t[:v.span.n]>v.span.vpns))
        starts = np.diff(vpns, prepend=vpns[:1] - np.uint64(2)) != 1
        firsts = np.flatnonzero(starts)
        lengths = np.diff(firsts, append=len(vpns)).astype(np.uint64)
        return np.column_stack((vpns[firsts], vpns[firsts] + lengths))

    cdef fitting(self, name, value):
        """Return ``value`` as an int no wider than the fields."""
        value = whole(name, value, 2**512)
        if value >> self.fields.bits:
            raise ValueError(f"{name}: {value:#x} is wider than the "
                             f"{self.fields.bits} bits of {self.fields!r}")
        return value

    cdef int spread(self, uint64_t* lanes, value, uint64_t flip) except -1:
        """Write an int as MAX_LANES lanes, each xor ``flip``."""
        for lane in range(MAX_LANES):
            lanes[lane] = flip ^ <uint64_t>(value >> 64 * lane & 0xffffffffffffffff)
        return 0

    cdef int refuse_result(self, Vpns v, size_t nbytes) except -1:
        """Refuse a result of ``nbytes`` a vpn, if there is no memory for it."""
        if v.span.n >> RESULT_SHIFT:
            refuse_hopeless(v.span.n * nbytes, f"a result for {v.span.n} vpns; vpns() "
                            "returns those that are mapped, scan() those with a word")
        return 0

    cdef int write_locked(self, Vpns v, const Write* w, bint all_mapped) except -1:
        cdef int failed
        cdef int range_ = self.enter_span(&v.span, True)
        with nogil:
            failed = self.write(&v.span, w, all_mapped)
        return self.leave_span(range_, failed)

    cdef int read_locked(self, Vpns v, ptes, words) except -1:
        # Memoryviews as arguments would make each snapshot() zero 400 bytes of stack.
        cdef uint64_t[::1] to_ptes = ptes
        cdef uint64_t[::1] to_words = words
        cdef int range_
        if v.span.n == 0:
            return 0
        range_ = self.enter_span(&v.span, False)
        with nogil:
            self.read_ptes(&v.span, &to_ptes[0])
            self.read(&v.span, &to_words[0])
        return self.leave_span(range_, 0)

    def store(self, vpns, words=None, **values):
        """Set words, or fields of them, of mapped PTEs.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        words : int, or (n,) array_like of int
            Whole words; (n, lanes) if words are wider than 64 bits.
        **values : int, or (n,) array_like of int
            Instead of whole words: fields by name. Other fields are kept.

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
        cdef int lane
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
        self.write_locked(v, &w, True)

    cdef bint stored_one(self, vpn, word):
        """Try to store one word on the fast path; False if anything is refused."""
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
            Those not mapped are ignored.
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
        cdef Write w = Write(&keep[0], &add[0], 0)
        # It may be wider than the fields, whose further bits are clear.
        self.spread(keep, whole(
            "clear", clear, 1 << <object>(64 * self.encoding.lanes)), ALL)
        self.spread(add, self.fitting("set", set), 0)
        self.write_locked(v, &w, False)

    def load(self, vpns, field=None):
        """Return words, or one field of them.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice
        field : str, optional

        Returns
        -------
        int or (n,) uint64 ndarray
            0 if a PTE has no word, or there is no PTE. The shape is (n, lanes)
            if the words, or the field, are wider than 64 bits.

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
            self.leave_span(range_, 0)
        if v.single:
            word_of = sum(int(lane) << 64 * i for i, lane in enumerate(words[0]))
            return word_of if field is None else self.fields.unpack(word_of)[field]
        if field is not None:
            return self.fields.extract(words, field)
        return words if self.encoding.lanes > 1 else words.reshape(-1)

    def snapshot(self, vpns):
        """Return PTEs and their words, each pair as it was at one moment.

        No lock is taken, and no other thread has to wait: a pair that changes while it
        is read is read again. Pairs may be of different moments of the call. (An
        encoding in Python, and ``Compact`` with ``per_vma``, are read under the lock.)

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice

        Returns
        -------
        ptes : int or (n,) uint64 ndarray
            The raw entries; the architecture's ``none`` (0 on most) if nothing is
            mapped.
        words : int or (n,) uint64 ndarray
            As `load` returns them.

        Raises
        ------
        TypeError, ValueError
            If a vpn is no integer or out of range.

        See Also
        --------
        unchanged : Whether they have changed since.

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
        if self.encoding.reading == LOCKED:
            self.read_locked(v, ptes, words.reshape(-1))
        elif v.span.n:
            to_ptes = ptes
            to_words = words.reshape(-1)
            with nogil:
                self.see_all(&v.span, &to_ptes[0], &to_words[0])
        if v.single:
            return int(ptes[0]), sum(
                int(lane) << 64 * i for i, lane in enumerate(words[0]))
        return ptes, words if self.encoding.lanes > 1 else words.reshape(-1)

    def unchanged(self, vpns, ptes, words):
        """Return whether PTEs and their words are those that `snapshot` returned.

        One step, under the lock. A kernel calls pte_same() before it acts on a PTE that
        it has read without the lock. But a word can change while its PTE doesn't, so
        both are compared.

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
        lanes = self.encoding.lanes
        self.refuse_result(v, 9 + 8 * lanes)
        expected = one_each("ptes", ptes, v, 2**64)
        flat, _step = as_words("words", words, v, 64 * lanes, lanes)
        here = np.empty(v.span.n, np.uint64)
        found = np.empty((v.span.n, lanes), np.uint64)
        self.read_locked(v, here, found.reshape(-1))
        same = (here == expected) & (found == flat.reshape(-1, lanes)).all(axis=1)
        return bool(same[0]) if v.single else same

    def flagged(self, vpns):
        """Return whether PTEs have a word, which is not 0.

        Parameters
        ----------
        vpns : int, (n,) array_like, range or slice

        Returns
        -------
        bool or (n,) bool ndarray
            False if there is no PTE.

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
            self.leave_span(range_, 0)
        return bool(found[0]) if v.single else found.view(np.bool_)

    def __getitem__(self, vpns):
        """Return words, as `load` does."""
        return self.load(vpns)

    def __contains__(self, vpn):
        """Return whether there is a PTE, present or swapped."""
        return is_whole(vpn) and 0 <= vpn < self.nr_vpns and bool(
            self.snapshot(vpn)[0] != self.none)

    def scan(self, vpns, mask, value=None, clear=0, *refused):
        """Return the vpns whose word has given bits; clear some bits in the same step.

        Parameters
        ----------
        vpns : range or slice
            It may have holes.
        mask : int
        value : int, optional
            By default all bits of ``mask``.
        clear : int, default 0
            Bits to clear in the words found. No other thread can store in between, as
            with PM_SCAN_WP_MATCHING of PAGEMAP_SCAN.

        Returns
        -------
        (n,) uint64 ndarray
            Ascending vpns of the mapped or swapped PTEs with
            ``word & mask == value``. A PTE without a word has the word 0.

        Raises
        ------
        TypeError, ValueError
            If a number is no integer, negative or out of range, or ``vpns`` is no range
            or slice.
        MemoryError
            If side memory can't be had to clear bits; then none is cleared.
        """
        cdef uint64_t[MAX_LANES] bits
        cdef uint64_t[MAX_LANES] wanted
        cdef uint64_t[MAX_LANES] keep
        cdef Write w = Write(&keep[0], ZERO_WORD, 0)
        cdef Vpns v
        if refused:
            raise TypeError(f"scan(vpns, mask, value, clear), and not {refused[0]!r}")
        v = self.asked_for("scan", vpns, mask, value, bits, wanted)
        if clear:
            self.spread(keep, whole(
                "clear", clear, 1 << <object>(64 * self.encoding.lanes)), ALL)
        return self.matching(v, False, bits, wanted, &w if clear else NULL)

    def scan_since(self, vpns, field, since):
        """Return the vpns whose field holds a number that is not older than another.

        For trackers that store the number of an epoch in each word: it answers what
        changed since any earlier epoch. Numbers wrap around: a value is found if it is
        at most 2**(bits - 1) - 1 ahead of ``since``. So a tracker has to replace older
        numbers before they are half of all numbers old. 0 stands for no number, and is
        never found.

        Parameters
        ----------
        vpns : range or slice
            It may have holes.
        field : str
            Of at most 64 bits.
        since : int
            A value of the field, above 0.

        Returns
        -------
        (n,) uint64 ndarray
            Ascending vpns, of mapped and swapped PTEs.

        Raises
        ------
        KeyError
            If there is no field of that name.
        TypeError, ValueError
            If a number is no integer or out of range, the field is too wide, or
            ``vpns`` is no range or slice.
        MemoryError
            If there is no memory for the result.

        Examples
        --------
        >>> import extmeta as em
        >>> t = em.PageTable(fields=em.Fields(epoch=16))
        >>> t.map(slice(0, 4))
        >>> t.store([0, 1, 2], epoch=[65534, 65535, 1])
        >>> t.scan_since(slice(0, 4), "epoch", 65535)
        array([1, 2], dtype=uint64)
        """
        cdef Found found = Found(NULL, 0, 0)
        cdef Since of
        cdef int range_
        cdef int failed = 0
        cdef Vpns v = self.range_of("vpns", vpns)
        width = self.fields[field]
        if width > 64:
            raise ValueError(f"field {field!r} has {width} bits, above 64")
        since = whole("since", since, 1 << width)
        if since == 0:
            raise ValueError("since: 0 stands for no number")
        of.shift = self.fields.shift(field)
        of.ones = ALL >> (64 - <int>width)
        of.since = since
        of.half = 1 << <object>(width - 1)
        range_ = self.enter_span(&v.span, False)
        with nogil:
            failed = find_since(self, &v.span, &of, &found)
        return self.left_with(range_, &found, failed)

    def scan_runs(self, vpns, mask, value=None):
        """Return the ranges of vpns whose word has given bits.

        As `scan`, for those who hand ranges on, as PAGEMAP_SCAN does. `adaptive` looks
        at no entry of a table whose PTEs all share a word.

        Parameters
        ----------
        vpns : range or slice
            It may have holes.
        mask : int
        value : int, optional
            By default all bits of ``mask``.

        Returns
        -------
        starts, stops : (n,) uint64 ndarray
            Ascending: all vpns of [starts[i], stops[i]) match, and neither the vpn
            before nor the one behind does.

        Raises
        ------
        TypeError, ValueError
            If a number is no integer, negative or out of range, or ``vpns`` is no range
            or slice.
        MemoryError
            If there is no memory for the result.

        Examples
        --------
        >>> import extmeta as em
        >>> t = em.PageTable()
        >>> t.map(slice(0, 100))
        >>> t.store(slice(10, 20), 3)
        >>> t.store(15, 1)
        >>> t.scan_runs(slice(0, 100), 2)
        (array([10, 16], dtype=uint64), array([15, 20], dtype=uint64))
        """
        cdef uint64_t[MAX_LANES] bits
        cdef uint64_t[MAX_LANES] wanted
        cdef Vpns v = self.asked_for("scan_runs", vpns, mask, value, bits, wanted)
        runs = self.matching(v, True, bits, wanted, NULL)
        starts, stops = runs.reshape(-1, 2).T.copy()
        return starts, stops

    cdef matching(
            self, Vpns v, bint as_runs, const uint64_t* bits, const uint64_t* wanted,
            const Write* w):
        """Return the vpns that match, or their ranges; if ``w`` is not NULL, write it.

        If ``v`` is None, nothing matches.
        """
        cdef Found found = Found(NULL, 0, 0)
        cdef Span s
        cdef int range_
        cdef int failed = 0
        if v is None:
            return np.empty(0, np.uint64)
        range_ = self.enter_span(&v.span, w is not NULL)
        with nogil:
            failed = self.find_words(&v.span, as_runs, bits, wanted, &found)
            if w is not NULL and found.n and not failed:
                s = Span(found.vpns[0], found.n, found.vpns)
                failed = self.write(&s, w, False)
        return self.left_with(range_, &found, failed)

    cdef left_with(self, int range_, Found* found, int failed):
        """Unlock, and return the vpns that were found."""
        try:
            self.leave_span(range_, 0)
        except BaseException:
            free(found.vpns)
            raise
        return self.results(found, failed)

    cdef Vpns asked_for(
            self, name, vpns, mask, value, uint64_t* bits, uint64_t* wanted):
        """Check what to find, and write its lanes; return the range.

        It is None if no word can match.
        """
        cdef Vpns v
        limit = 1 << <object>(64 * self.encoding.lanes)
        if type(vpns) is int:
            raise TypeError(f"{name}(vpns, mask, value) takes vpns as a range, as in "
                            f"{name}(slice({vpns!r}, {mask!r}), ...)")
        v = self.range_of("vpns", vpns)
        mask = whole("mask", mask, limit)
        value = mask if value is None else whole("value", value, limit)
        self.spread(bits, mask, 0)
        self.spread(wanted, value, 0)
        return None if value & ~mask else v

    def vpns(self, within=None):
        """Return the vpns of all PTEs, present and swapped.

        Parameters
        ----------
        within : range or slice, optional

        Returns
        -------
        (n,) uint64 ndarray
            Ascending.
        """
        return self.scan(slice(0, self.nr_vpns) if within is None else within, 0, 0)

    def __iter__(self):
        return iter(self.vpns().tolist())
