"""Words numbered, and the number in the PTE: Arcangeli's more compact encoding.

If not all fields go together, there are fewer legal words than their bits allow. They
are numbered (:mod:`extmeta.encodings.plan`), and the PTE keeps the code as `inpte` has
words: in free software bits and those that Linux gives to one of the fields. There is
no memory beside the tables and no flag. Each access looks the code up in a table, with
some bytes for each code. A kernel would have that table once, as constants, so it is
not counted as RAM. A word that no PTE may have is refused. If VMAs choose which field
uses a bit (`per_vma`), :meth:`Compact.choose` says what a range of vpns uses.

The idea is Arcangeli's (2020, X+PY3zQeYNnheZhT@redhat.com); userfaultfd's RWP does
it for one bit and a VMA flag (2026, 20260706084805.8400-1-kirill@shutemov.name).
"""
from cython cimport final
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from extmeta.table.encoding cimport ALONE, ALWAYS, WHEN_ADDING, Encoding, Write
from extmeta.encodings.numbering cimport (
    NO_CODE, Book, Hits, Spans, Turns, codes_after, codes_in, know_hits, know_turns,
    look_up, some, tell)
from extmeta.encodings.parts cimport MAX_PARTS, Part, gather, scatter, swap_entries
from extmeta.memory.frames cimport PTE, Frames, Ptdesc, entries
from extmeta.table.pte cimport ALL, equal, lowest, match
from extmeta.memory.sync cimport give_back, try_take
from extmeta.table.vpns cimport Run, entry_at

from extmeta.integers import whole
from extmeta.encodings.numbering import book_of
from extmeta.encodings.plan import groups_of


def of_table(config, fields, arch, spans):
    """Return the encoding of a page table again, with what its VMAs have chosen."""
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
        What words are legal, as :func:`extmeta.plan` has it. The names are those
        of the table's fields.

    Raises
    ------
    TypeError, ValueError
        If something is no group of names.

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
    # The words of the codes if all VMAs have chosen alike, else NULL; beside
    # what else a load of one PTE needs.
    cdef const uint64_t* words
    cdef int nr_parts
    cdef int nr_swap_parts
    cdef Part[MAX_PARTS] parts
    cdef Part[MAX_PARTS] swap_parts
    cdef uint64_t pte_bits
    cdef uint64_t swap_pte_bits
    cdef uint64_t word_mask
    cdef uint64_t code_mask
    cdef uint64_t* places
    # Codes below it have a place in a swap entry.
    cdef uint64_t swap_codes
    cdef Spans spans      # replaced by each choice of a VMA

    # What is kept of the last write and of the last scan, with its memory. One thread
    # takes it at a time; another one does without.
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
        given = {"excludes": self.excludes, "implies": self.implies,
                 "per_vma": self.per_vma}
        return {name: groups for name, groups in given.items() if groups}

    @property
    def plan(self):
        """The Plan that it carries out; None before a table has it."""
        return None if self.book is None else self.book.plan

    def __reduce__(self):
        if self.book is None:
            return Encoding.__reduce__(self)
        spans = self.spans.starts, self.spans.choices
        return of_table, (self.config, self.fields, self.arch, spans)

    def bind(self, fields, arch, Frames frames not None):
        cdef Compact bound = Encoding.bind(self, fields, arch, frames)
        if self.book is not None and self.book is bound.book:
            # A fork or copy of a table has the VMAs of its parent.
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
        memcpy(self.parts, self.book.parts, sizeof(self.parts))
        memcpy(self.swap_parts, self.book.swap_parts, sizeof(self.swap_parts))
        self.nr_parts = self.book.nr_parts
        self.nr_swap_parts = self.book.nr_swap_parts
        self.places = self.book.places
        self.pte_bits = scatter(self.parts, self.nr_parts, ALL)
        self.swap_pte_bits = scatter(self.swap_parts, self.nr_swap_parts, ALL)
        self.word_mask = ALL >> (64 - self.bits)
        self.code_mask = (<uint64_t>1 << self.book.code_bits) - 1
        self.swap_codes = self.book.swap_codes
        if not self.book.all_legal:
            self.asks = ALWAYS
        elif self.swap_codes <= self.code_mask:
            # Every word is its own code then, and fewer bits have room if more do.
            self.asks = WHEN_ADDING
        self.parallel = True
        # A move copies what VMAs have chosen, which Python keeps.
        self.calls_python = bool(self.per_vma)
        self.set_spans(Spans([0], [0]))
        if not self.per_vma:
            # Else a kernel, too, would read under the VMA's lock which it has chosen.
            self.reading = ALONE
        n = <Py_ssize_t>self.code_mask + 1
        # 8, 2 and 1 bytes for each code.
        kept = np.empty(2 * n, np.uint64)
        self.kept = kept
        self.turns.bits = &kept[0]
        self.turns.code = <uint16_t*>(self.turns.bits + n)
        self.hits.hit = <uint8_t*>(self.turns.code + n)
        self.turns.choice = self.hits.choice = -1

    # -- what VMAs have chosen -------------------------------------------------

    def choose(self, first, stop, name):
        """Have vpns [first, stop) use this field of its ``per_vma`` group.

        What isn't chosen for is as if the first name of each group had been. A
        choice stays when PTEs are unmapped; it is copied with fork, to any table of
        the same fields that is made with this encoding, and with move to where the
        PTEs go. Not to be called while another thread uses the table.

        Parameters
        ----------
        first, stop : int
        name : str

        Raises
        ------
        KeyError
            If the field is in no group of ``per_vma``.
        TypeError
            If this is a recipe, not the encoding of a table.
        ValueError
            If the range is none, or has a word of another choice.
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
            raise ValueError(f"vpns [{first:#x}, {stop:#x}) are no range in "
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
        """Return what the VMA at ``vpn`` uses: a name of each ``per_vma`` group."""
        return self.book.choices[self.spans.choice(whole("vpn", vpn))]

    cdef int set_spans(self, Spans spans) except -1:
        self.spans = spans
        self.words = self.book.words_of(spans.chosen[0]) if spans.n == 1 else NULL
        return 0

    cdef object first_word(self, first, stop):
        """Return the first vpn found in [first, stop) that has a word, or None."""
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
        if pte & self.pte.present:
            return gather(self.parts, self.nr_parts, pte)
        return gather(self.swap_parts, self.nr_swap_parts, pte)

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        cdef uint64_t code = self.code_in(pte)
        if to & self.pte.present:
            return to | scatter(self.parts, self.nr_parts, code)
        return to | scatter(self.swap_parts, self.nr_swap_parts, code)

    cdef void put_in_swap(
            self, Py_ssize_t choice, uint64_t* pte, const Write* w, Py_ssize_t i
            ) noexcept nogil:
        cdef uint64_t code = gather(self.swap_parts, self.nr_swap_parts, pte[0])
        pte[0] = pte[0] & ~self.swap_pte_bits | scatter(
            self.swap_parts, self.nr_swap_parts,
            self.book.code_after(choice, code, w, i))

    # -- runs ------------------------------------------------------------------

    cdef int fork(
            self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        return 0

    cdef void zap(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        pass

    cdef void load(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t[64] ptes
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const uint64_t* word_of
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t choice, at, n, i
        cdef const uint64_t* pte
        cdef uint64_t* to
        cdef uint64_t away
        cdef Run p
        if r.n == 1 and self.words is not NULL:
            words[0] = self.words[self.code_in(
                entry[entry_at(r, 0, self.entries - 1)])]
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
                    pte = some(entry, &p, at, n, self.entries - 1, ptes)
                    to = words + done + at
                    away = swap_entries(pte, n, &self.pte)
                    look_up(self.parts, self.nr_parts, pte, n, word_of, to)
                    while away:
                        i = lowest(away)
                        to[i] = word_of[self.code_in(pte[i])]
                        away &= away - 1
            done += p.n

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef uint64_t away
        cdef Py_ssize_t at, n, i
        if r.n == 1:
            words[0] = self.words[self.code_in(ptes[0])]
            return True
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            away = swap_entries(ptes + at, n, &self.pte)
            look_up(self.parts, self.nr_parts, ptes + at, n, self.words, words + at)
            while away:
                i = at + lowest(away)
                words[i] = self.words[self.code_in(ptes[i])]
                away &= away - 1
        return True

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t choice
        cdef Run p
        cdef Write part = w[0]
        while done < r.n:
            self.spans.piece(t.vpn, r, done, &p, &choice)
            part.add = w.add + done * w.step
            self.store_piece(entries(self.frames, t), &p, choice, &part)
            done += p.n

    cdef void store_piece(
            self, uint64_t* entry, const Run* r, Py_ssize_t choice, const Write* w
            ) noexcept nogil:
        cdef bint mine = try_take(&self.taken)
        self.store_codes(
            entry, r, choice, w, mine and know_turns(
                self.book, &self.turns, choice, w, r.n))
        if mine:
            give_back(&self.taken)

    cdef void store_codes(
            self, uint64_t* entry, const Run* r, Py_ssize_t choice, const Write* w,
            bint turns) noexcept nogil:
        cdef uint64_t[64] ptes, codes, bits
        cdef bint whole_words = w.keep[0] & self.word_mask == 0
        cdef uint64_t mask = self.code_mask
        cdef uint64_t keep = ~self.pte_bits
        cdef int shift = lowest(self.pte.present)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t old, here, away
        cdef const uint64_t* pte
        cdef uint64_t* to
        cdef Py_ssize_t at, n, i
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            pte = some(entry, r, at, n, self.entries - 1, ptes)
            away = swap_entries(pte, n, &self.pte)
            if turns:
                look_up(self.parts, self.nr_parts, pte, n, self.turns.bits, bits)
            elif at == 0 or w.step or not whole_words:
                if not whole_words:
                    codes_in(self.book, &self.pte, pte, n, codes)
                codes_after(
                    self.book, NULL, choice, codes, n, w, self.word_mask, at, codes)
                # An entry that is none may have no code: it gets none either.
                for i in range(n):
                    bits[i] = self.places[codes[i] & mask]
            if r.vpns is NULL:
                to = entry + r.first + at
                for i in range(n):
                    old = to[i]
                    # All ones if the entry is present: a choice without a branch.
                    here = 0 - (old >> shift & 1)
                    to[i] = old ^ (old ^ (old & keep | bits[i])) & here
            else:
                for i in range(n):
                    to = &entry[entry_at(r, at + i, last_entry)]
                    if to[0] & self.pte.present:
                        to[0] = to[0] & keep | bits[i]
            while away:
                i = lowest(away)
                self.put_in_swap(
                    choice, &entry[entry_at(r, at + i, last_entry)], w, at + i)
                away &= away - 1

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
        cdef Run p
        cdef Write part
        if w is NULL:
            if self.swap_codes > self.code_mask:
                return -1
            for i in range(r.n):
                if self.code_in(
                        entry[entry_at(r, i, self.entries - 1)]) >= self.swap_codes:
                    return i
            return -1
        part = w[0]
        while done < r.n:
            self.spans.piece(t.vpn, r, done, &p, &choice)
            part.add = w.add + done * w.step
            i = self.unfit_in(entry, &p, choice, &part)
            if i >= 0:
                return done + i
            done += p.n
        return -1

    cdef Py_ssize_t unfit_in(
            self, const uint64_t* entry, const Run* r, Py_ssize_t choice,
            const Write* w) noexcept nogil:
        """Return the index in a run of one choice of the first refused, or -1."""
        cdef bint mine = try_take(&self.taken)
        cdef Py_ssize_t i = self.unfit_codes(
            entry, r, choice, w, mine and know_turns(
                self.book, &self.turns, choice, w, r.n))
        if mine:
            give_back(&self.taken)
        return i

    cdef Py_ssize_t unfit_codes(
            self, const uint64_t* entry, const Run* r, Py_ssize_t choice,
            const Write* w, bint turns) noexcept nogil:
        cdef uint64_t[64] ptes, codes, after
        cdef bint whole_words = w.keep[0] & self.word_mask == 0
        # Present entries hold whatever comes out.
        cdef bint swap_alone = self.book.all_legal or turns and not self.turns.illegal
        cdef uint64_t above, away
        cdef const uint64_t* pte
        cdef Py_ssize_t at, n, i
        if turns and not self.turns.illegal and not self.turns.lost:
            return -1
        if whole_words and w.step == 0 and (
                self.book.code_of(choice, w.add[0]) < self.swap_codes):
            return -1
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            pte = some(entry, r, at, n, self.entries - 1, ptes)
            if swap_alone and swap_entries(pte, n, &self.pte) == 0:
                continue
            if not whole_words:
                codes_in(self.book, &self.pte, pte, n, codes)
            codes_after(self.book, &self.turns if turns else NULL, choice, codes, n, w,
                        self.word_mask, at, after)
            above = 0
            for i in range(n):
                above |= after[i]
            # A word may have no code, or one above those of swap entries.
            if above < self.swap_codes:
                continue
            away = swap_entries(pte, n, &self.pte)
            if above <= self.code_mask and away == 0:
                continue
            for i in range(n):
                if pte[i] != self.pte.none and (
                        after[i] == NO_CODE
                        or away >> i & 1 and after[i] >= self.swap_codes):
                    return at + i
        return -1

    # -- scan ------------------------------------------------------------------

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value,
            uint64_t* vpns) noexcept nogil:
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t choice
        cdef Run r, p
        if not try_take(&self.taken):
            return Encoding.scan(self, t, first, last, mask, value, vpns)
        r.vpns = NULL
        r.first = first
        r.n = last - first
        while r.n:
            self.spans.piece(t.vpn, &r, 0, &p, &choice)
            know_hits(self.book, &self.hits, choice, mask[0], value[0])
            if self.hits.any:
                if self.hits.by_bits:
                    found += self.scan_bits(t, p.first, p.first + p.n, vpns + found)
                else:
                    found += self.scan_codes(t, p.first, p.first + p.n, vpns + found)
            r.first += p.n
            r.n -= p.n
        give_back(&self.taken)
        return found

    cdef Py_ssize_t scan_bits(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            uint64_t* vpns) noexcept nogil:
        """Scan for codes that some bits tell from all others."""
        cdef uint64_t present = self.pte.present
        cdef uint64_t told = self.hits.told
        cdef uint64_t wanted = self.hits.wanted
        cdef uint64_t swap_value = scatter(self.swap_parts, self.nr_swap_parts, wanted)
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t[8] bits
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t start, at
        if wanted >= self.swap_codes:
            # No swap entry has any of the wanted codes.
            swap_value = ALL
        for start in range(first, last, 512):
            match(entry + start, min(512, last - start), present,
                  present | scatter(self.parts, self.nr_parts, told),
                  present | scatter(self.parts, self.nr_parts, wanted),
                  present | scatter(self.swap_parts, self.nr_swap_parts, told),
                  swap_value, bits)
            for at in range(start, min(start + 512, last), 64):
                matches = bits[at - start >> 6]
                if matches and swap_value == 0:
                    # An entry that holds nothing looks like one without a word.
                    matches &= ~equal(
                        entry + at, min(64, last - at), ALL, self.pte.none)
                found = tell(vpns, found, t.vpn + <uint64_t>at, matches)
        return found

    cdef Py_ssize_t scan_codes(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            uint64_t* vpns) noexcept nogil:
        """Scan by looking at each code."""
        cdef uint64_t[64] codes
        cdef const uint8_t* hit = self.hits.hit
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n, i
        for at in range(first, last, 64):
            n = min(64, last - at)
            codes_in(self.book, &self.pte, entry + at, n, codes)
            matches = 0
            for i in range(n):
                matches |= <uint64_t>hit[codes[i]] << i
            if matches and hit[0]:
                matches &= ~equal(entry + at, n, ALL, self.pte.none)
            found = tell(vpns, found, t.vpn + <uint64_t>at, matches)
        return found

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t choice
        cdef Run r, p
        r.vpns = NULL
        r.n = 1
        for r.first in range(self.entries):
            self.spans.piece(t.vpn, &r, 0, &p, &choice)
            if entry[r.first] != self.pte.none and not self.book.used(
                    choice, self.code_in(entry[r.first])):
                return b"a code that stands for no word"
        return NULL
