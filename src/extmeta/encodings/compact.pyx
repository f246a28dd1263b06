"""Words numbered, and the number in the PTE: Arcangeli's more compact encoding.

If not all fields go together, there are fewer legal words than their bits allow. They
are numbered (:mod:`extmeta.encodings.plan`). The PTE keeps the number, the code, as
`inpte` keeps a word: in free software bits and those that Linux gives to the fields.
There is no memory beside the tables and no flag. Each access looks the code up in a
table of some bytes for each code. A kernel would have it once, as constants, so it is
not counted as RAM. A word that no PTE may have is refused. If VMAs choose which field
uses a bit (`per_vma`), :meth:`Compact.choose` sets the field for a range of vpns.

The idea is Arcangeli's (2020, X+PY3zQeYNnheZhT@redhat.com); userfaultfd's RWP does
it for one bit and a VMA flag (2026, 20260706084805.8400-1-kirill@shutemov.name).
"""
from cython cimport final
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

import numpy as np

from extmeta.table.encoding cimport (
    ALONE, ALWAYS, WHEN_ADDING, Encoding, Lookups, Write)
from extmeta.encodings.numbering cimport (
    NO_CODE, Book, Hits, Spans, Turns, codes_after, know_hits, know_turns, look_up,
    look_up_all)
from extmeta.encodings.parts cimport (
    NumberLayout, bits_for, gather, number_in, numbers_in, ptes_of, put_present,
    scan_numbers, scatter, swap_entries)
from extmeta.encodings.side cimport append_vpns
from extmeta.memory.frames cimport PTE, Frames, Ptdesc, entries
from extmeta.table.pte cimport ALL, equal, lowest
from extmeta.memory.sync cimport give_back, try_take
from extmeta.table.vpns cimport Run, entry_at, run_of

from extmeta.integers import whole
from extmeta.encodings.numbering import book_of
from extmeta.encodings.plan import groups_of


def of_table(config, fields, arch, spans):
    """Rebuild the encoding of a page table, for pickle and copy."""
    cdef Compact made = Compact(**config).bind(
        fields, arch, Frames(arch.page_bytes, arch.frame_bytes))
    made.set_spans(Spans(*spans))
    return made


@final
cdef class Compact(Encoding):
    """Keep in each PTE the number of its word among the legal ones.

    Parameters
    ----------
    excludes, implies, per_vma : iterable of groups of names, optional
        What words are legal, as in :func:`extmeta.plan`. Names are those of fields.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an iterable of groups of names.

    Examples
    --------
    >>> import extmeta as em
    >>> trackers = em.Fields(uffd_wp=1, soft_dirty=1)
    >>> t = em.PageTable(em.Compact(per_vma=[("uffd_wp", "soft_dirty")]), trackers)
    >>> t.encoding.choose(0x1000, 0x2000, "soft_dirty")
    >>> t.map([5, 0x1005])
    >>> t.store([5, 0x1005], [0b01, 0b10])
    >>> t.load(0x1005, "soft_dirty")
    1
    """

    cdef readonly tuple excludes
    cdef readonly tuple implies
    cdef readonly tuple per_vma
    cdef Book book
    # The words by code if all VMAs have chosen alike, else NULL.
    cdef const uint64_t* words
    cdef NumberLayout layout      # the book's, one pointer nearer
    cdef uint64_t word_mask
    cdef uint64_t code_mask
    cdef uint64_t swap_codes      # codes below it have a place in a swap entry
    cdef Spans spans              # replaced by each choice

    # `turns` caches the last write, `hits` the last scan; `kept` is their memory. A
    # thread that can't take the cache works without it.
    cdef object kept
    cdef uint32_t taken
    cdef Turns turns
    cdef Hits hits

    def __init__(self, excludes=(), implies=(), per_vma=()):
        self.excludes = tuple(groups_of("excludes", excludes))
        self.implies = tuple(groups_of("implies", implies))
        self.per_vma = tuple(groups_of("per_vma", per_vma))

    @property
    def config(self):
        names = ("excludes", "implies", "per_vma")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def plan(self):
        """The Plan behind the codes; None for a recipe."""
        return None if self.book is None else self.book.plan

    def __reduce__(self):
        if self.book is None:
            return Encoding.__reduce__(self)
        spans = self.spans.starts, self.spans.choices
        return of_table, (self.config, self.fields, self.arch, spans)

    def bind(self, fields, arch, Frames frames not None):
        cdef Compact bound = Encoding.bind(self, fields, arch, frames)
        if self.book is not None and self.book is bound.book:
            # A fork or copy of a table keeps the choices of its parent.
            bound.set_spans(self.spans)
        return bound

    def configure(self):
        self.reserves = True
        self.uses_descriptor = False
        cdef uint64_t[::1] kept
        cdef Py_ssize_t n
        self.refuse_above(64)
        try:
            self.book = book_of(
                self.fields, self.arch, self.excludes, self.implies, self.per_vma)
        except ValueError as error:
            error.args = (f"{self!r} on {self.arch.name}: {error.args[0]}",)
            raise
        self.layout = self.book.layout
        self.word_mask = ALL >> (64 - self.bits)
        self.code_mask = (<uint64_t>1 << self.book.code_bits) - 1
        self.swap_codes = self.book.swap_codes
        if not self.book.all_legal:
            self.asks = ALWAYS
        elif self.swap_codes <= self.code_mask:
            # Each word is its own code, so clearing bits never makes it too wide.
            self.asks = WHEN_ADDING
        self.parallel = True
        # A move copies choices, which are Python objects.
        self.calls_python = bool(self.per_vma)
        self.set_spans(Spans([0], [0]))
        if not self.per_vma:
            # With choices, a kernel too would have to read them under the VMA's lock.
            self.reading = ALONE
        n = <Py_ssize_t>self.code_mask + 1
        # Each code has 8 bytes for turns.bits, 2 for turns.code, 1 for hits.hit.
        kept = np.empty(2 * n, np.uint64)
        self.kept = kept
        self.turns.bits = &kept[0]
        self.turns.code = <uint16_t*>(self.turns.bits + n)
        self.hits.hit = <uint8_t*>(self.turns.code + n)
        self.turns.choice = self.hits.choice = -1

    # -- what VMAs have chosen -------------------------------------------------

    def choose(self, first, stop, name):
        """Let vpns [first, stop) use this field of its ``per_vma`` group.

        By default a vpn uses the first name of each group. A choice stays when PTEs
        are unmapped. A fork copies it, a move takes it to where the PTEs go, and
        another table of these fields that is made with this encoding starts with it.
        Don't call this while another thread uses the table.

        Parameters
        ----------
        first, stop : int
        name : str

        Raises
        ------
        KeyError
            If the field is in no group of ``per_vma``.
        TypeError
            If this is a recipe, not a table's encoding.
        ValueError
            If the range is invalid, or a vpn in it has a word by another choice.
        """
        if self.book is None:
            raise TypeError(f"{self!r} is not a table's; choose with t.encoding")
        groups = [i for i, group in enumerate(self.per_vma) if name in group]
        if not groups:
            raise KeyError(f"no field {name!r} that VMAs choose; there are "
                           f"{[n for group in self.per_vma for n in group]}")
        (group,) = groups
        first, stop = whole("vpn", first), whole("vpn", stop)
        if not first <= stop <= self.arch.nr_vpns:
            raise ValueError(f"vpns [{first:#x}, {stop:#x}) are not a range in "
                             f"{self.arch.name}'s [0, {self.arch.nr_vpns:#x})")
        pieces = []
        for start, end, choice in self.spans.inside(first, stop):
            names = list(self.book.choices[choice])
            if names[group] != name:
                vpn = self.first_word(start, end)
                if vpn is not None:
                    raise ValueError(f"vpn {vpn:#x} has a word; {names[group]!r} holds "
                                     f"the bit there, which {name!r} would use")
                names[group] = name
            pieces.append((start, self.book.choices.index(tuple(names))))
        self.set_spans(self.spans.spliced(first, stop, pieces))

    def chosen(self, vpn):
        """Return the name that ``vpn`` uses of each ``per_vma`` group, as a tuple."""
        return self.book.choices[self.spans.choice(whole("vpn", vpn))]

    cdef int set_spans(self, Spans spans) except -1:
        self.spans = spans
        self.words = self.book.words_of(spans.chosen[0]) if spans.n == 1 else NULL
        return 0

    cdef object first_word(self, first, stop):
        """Return a vpn in [first, stop) that has a word, or None."""
        cdef uint64_t at = first
        cdef uint64_t end = stop
        cdef uint64_t vpn
        cdef uint32_t frame
        cdef Py_ssize_t i
        cdef const Ptdesc* t
        for frame in range(self.frames.top):
            t = &self.frames.desc[frame]
            if t.kind != PTE or t.vpn >= end or t.vpn + <uint64_t>self.entries <= at:
                continue
            for i in range(self.entries):
                vpn = t.vpn + <uint64_t>i
                if at <= vpn < end and self.code_in(entries(self.frames, t)[i]):
                    return vpn
        return None

    cdef int follow(self, uint64_t src, uint64_t dst, uint64_t n) noexcept nogil:
        if self.spans.n == 1:
            return 0
        with gil:
            return self.copy_spans(src, dst, n)

    cdef int copy_spans(self, src, dst, n) noexcept:
        try:
            pieces = [(start - src + dst, choice)
                      for start, _end, choice in self.spans.inside(src, src + n)]
            self.set_spans(self.spans.spliced(dst, dst + n, pieces))
        except MemoryError:
            return -1
        return 0

    # -- one entry -------------------------------------------------------------

    cdef uint64_t code_in(self, uint64_t pte) noexcept nogil:
        return number_in(&self.layout, self.pte.present, pte)

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to | bits_for(&self.layout, self.pte.present, to, self.code_in(pte))

    cdef void put_in_swap(
            self, Py_ssize_t choice, uint64_t* pte, const Write* w, Py_ssize_t i
            ) noexcept nogil:
        cdef const NumberLayout* layout = &self.layout
        cdef uint64_t code = gather(layout.swap_parts, layout.nr_swap_parts, pte[0])
        pte[0] = pte[0] & ~layout.swap_pte_bits | scatter(
            layout.swap_parts, layout.nr_swap_parts,
            self.book.code_after(choice, code, w, i))

    # -- runs ------------------------------------------------------------------

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        return 0

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        pass

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t[64] ptes
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const uint64_t* word_of
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t choice, at, n
        cdef Run p
        if r.n == 1 and self.words is not NULL:
            words[0] = self.words[self.code_in(entry[entry_at(r, 0, self.entries - 1)])]
            return
        while done < r.n:
            self.spans.piece(t.vpn, r, done, &p, &choice)
            word_of = self.book.words_of(choice)
            if p.n == 1:
                words[done] = word_of[self.code_in(
                    entry[entry_at(&p, 0, self.entries - 1)])]
            else:
                for at in range(0, p.n, 64):
                    n = min(64, p.n - at)
                    look_up_all(
                        &self.layout, &self.pte,
                        ptes_of(entry, &p, at, n, self.entries - 1, ptes), n, word_of,
                        words + done + at)
            done += p.n

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef Py_ssize_t at
        if r.n == 1:
            words[0] = self.words[self.code_in(ptes[0])]
            return True
        for at in range(0, r.n, 64):
            look_up_all(&self.layout, &self.pte, ptes + at, min(64, r.n - at),
                        self.words, words + at)
        return True

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef Run r = run_of(0, l.n)
        if self.words is NULL:
            return Encoding.read_each(self, l, locked, words)
        return self.see(NULL, &r, l.ptes, words)

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t choice
        cdef bint mine
        cdef Run p
        cdef Write part = w[0]
        while done < r.n:
            self.spans.piece(t.vpn, r, done, &p, &choice)
            part.add = w.add + done * w.step
            mine = try_take(&self.taken)
            self.store_codes(
                entries(self.frames, t), &p, choice, &part, mine and know_turns(
                    self.book, &self.turns, choice, &part, p.n))
            if mine:
                give_back(&self.taken)
            done += p.n

    cdef void store_codes(
            self, uint64_t* entry, const Run* r, Py_ssize_t choice, const Write* w,
            bint turns) noexcept nogil:
        cdef uint64_t[64] ptes, codes, bits
        cdef bint whole_words = w.keep[0] & self.word_mask == 0
        cdef uint64_t mask = self.code_mask
        cdef uint64_t keep = ~self.layout.pte_bits
        cdef const uint64_t* bits_of = self.book.pte_bits
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t swapped
        cdef const uint64_t* pte
        cdef uint64_t* to
        cdef Py_ssize_t at, n, i
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            pte = ptes_of(entry, r, at, n, last_entry, ptes)
            swapped = swap_entries(pte, n, &self.pte)
            if turns:
                look_up(&self.layout, pte, n, self.turns.bits, bits)
            elif at == 0 or w.step or not whole_words:
                if not whole_words:
                    numbers_in(&self.layout, &self.pte, pte, n, codes)
                codes_after(
                    self.book, NULL, choice, codes, n, w, self.word_mask, at, codes)
                # NO_CODE is possible only for an entry that is none. Nothing is written
                # there.
                for i in range(n):
                    bits[i] = bits_of[codes[i] & mask]
            if r.vpns is NULL:
                put_present(entry + r.first + at, n, self.pte.present, keep, bits)
            else:
                for i in range(n):
                    to = &entry[entry_at(r, at + i, last_entry)]
                    if to[0] & self.pte.present:
                        to[0] = to[0] & keep | bits[i]
            while swapped:
                i = at + lowest(swapped)
                self.put_in_swap(choice, &entry[entry_at(r, i, last_entry)], w, i)
                swapped &= swapped - 1

    # -- what is refused -------------------------------------------------------

    def unfit(self, vpn, word, swapped):
        values = self.fields.unpack(word)
        on = [name for name, value in values.items() if value]
        names = self.chosen(vpn)
        choice = self.book.choices.index(names)
        for name, group in zip(names, self.per_vma, strict=True):
            for other in on:
                if other in group and other != name:
                    return f"{other} has no bit in this VMA, {name} holds it"
        for group in self.excludes:
            both = [name for name in group if name in on]
            if len(both) > 1:
                return f"{both[0]} and {both[1]} exclude each other"
        for a, b in self.implies:
            if a in on and b not in on:
                return f"{a} implies {b}, which is 0"
        code = self.book.code_of(choice, word)
        if swapped and code >= self.swap_codes:
            return (f"code {code} of word {word:#x} has no place in a swap entry of "
                    f"{self.arch.name}, which has {self.plan.available_swap} bits")
        return None

    cdef Py_ssize_t first_unfit(
            self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t choice, i
        cdef bint mine
        cdef Run p
        cdef Write part
        if w is NULL:
            for i in range(r.n if self.swap_codes <= self.code_mask else 0):
                if self.code_in(
                        entry[entry_at(r, i, self.entries - 1)]) >= self.swap_codes:
                    return i
            return -1
        part = w[0]
        while done < r.n:
            self.spans.piece(t.vpn, r, done, &p, &choice)
            part.add = w.add + done * w.step
            mine = try_take(&self.taken)
            i = self.unfit_codes(
                entry, &p, choice, &part, mine and know_turns(
                    self.book, &self.turns, choice, &part, p.n))
            if mine:
                give_back(&self.taken)
            if i >= 0:
                return done + i
            done += p.n
        return -1

    cdef Py_ssize_t unfit_codes(
            self, const uint64_t* entry, const Run* r, Py_ssize_t choice,
            const Write* w, bint turns) noexcept nogil:
        """Return the index of the first refused entry in a run of one choice, or -1."""
        cdef uint64_t[64] ptes, codes, after
        cdef bint whole_words = w.keep[0] & self.word_mask == 0
        # A present PTE has room for every code.
        cdef bint swap_alone = self.book.all_legal or turns and not self.turns.illegal
        cdef uint64_t above, swapped
        cdef const uint64_t* pte
        cdef Py_ssize_t at, n, i
        if turns and not self.turns.illegal and not self.turns.lost:
            return -1
        if whole_words and w.step == 0 and (
                self.book.code_of(choice, w.add[0]) < self.swap_codes):
            return -1
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            pte = ptes_of(entry, r, at, n, self.entries - 1, ptes)
            if swap_alone and swap_entries(pte, n, &self.pte) == 0:
                continue
            if not whole_words:
                numbers_in(&self.layout, &self.pte, pte, n, codes)
            codes_after(self.book, &self.turns if turns else NULL, choice, codes, n, w,
                        self.word_mask, at, after)
            above = 0
            for i in range(n):
                above |= after[i]
            # NO_CODE is above all codes.
            if above < self.swap_codes:
                continue
            swapped = swap_entries(pte, n, &self.pte)
            if above <= self.code_mask and swapped == 0:
                continue
            for i in range(n):
                if pte[i] != self.pte.none and (
                        after[i] == NO_CODE
                        or swapped >> i & 1 and after[i] >= self.swap_codes):
                    return at + i
        return -1

    # -- scan ------------------------------------------------------------------

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t choice
        cdef Run r = Run(first, last - first, NULL)
        cdef Run p
        if not try_take(&self.taken):
            return Encoding.scan(self, t, first, last, mask, value, vpns)
        while r.n:
            self.spans.piece(t.vpn, &r, 0, &p, &choice)
            know_hits(self.book, &self.hits, choice, mask[0], value[0])
            if self.hits.any:
                if self.hits.by_bits:
                    found += scan_numbers(
                        &self.layout, &self.pte, entries(self.frames, t), p.first,
                        p.first + p.n, self.hits.told, self.hits.wanted, t.vpn,
                        vpns + found)
                else:
                    found += self.scan_codes(t, p.first, p.first + p.n, vpns + found)
            r.first += p.n
            r.n -= p.n
        give_back(&self.taken)
        return found

    cdef Py_ssize_t scan_codes(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            uint64_t* vpns) noexcept nogil:
        """Scan by looking up each code."""
        cdef uint64_t[64] codes
        cdef const uint8_t* hit = self.hits.hit
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n, i
        for at in range(first, last, 64):
            n = min(64, last - at)
            numbers_in(&self.layout, &self.pte, entry + at, n, codes)
            matches = 0
            for i in range(n):
                matches |= <uint64_t>hit[codes[i]] << i
            if matches and hit[0]:
                matches &= ~equal(entry + at, n, ALL, self.pte.none)
            found = append_vpns(vpns, found, t.vpn + <uint64_t>at, matches)
        return found

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t choice
        cdef Run r = Run(0, 1, NULL)
        cdef Run p
        for r.first in range(self.entries):
            self.spans.piece(t.vpn, &r, 0, &p, &choice)
            if entry[r.first] != self.pte.none and not self.book.used(
                    choice, self.code_in(entry[r.first])):
                return b"a code that stands for no word"
        return NULL
