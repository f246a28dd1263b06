"""Words numbered, and the number in the PTE: Arcangeli's more compact encoding.

Where not all fields go together, the legal words are fewer than their bits allow.
They are numbered (:mod:`extmeta.encodings.plan`), and the code is kept as `inpte` keeps
a word: in free software bits and those that Linux gives to one of the fields. No memory
beside the tables, no flag; with each access a look-up in a table of some bytes for each
code. A kernel would have it once, as constants, so it is not counted as RAM. A word
that no PTE may have is refused. Where fields share a bit by VMA (`per_vma`),
:meth:`Compact.choose` says which one a range of vpns uses, as a VMA's flag would.

The idea is Arcangeli's (2020, X+PY3zQeYNnheZhT@redhat.com); userfaultfd's RWP does
it for one bit and a VMA flag (2026, 20260706084805.8400-1-kirill@shutemov.name).
"""
from bisect import bisect_right
from functools import lru_cache

from cython cimport final
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from extmeta.table.encoding cimport ALONE, ALWAYS, WHEN_ADDING, Encoding, Write
from extmeta.encodings.parts cimport (
    MAX_PARTS,
    Part,
    fill,
    gather,
    gather_all,
    scatter,
    swap_entries,
)
from extmeta.memory.frames cimport PTE, Frames, Ptdesc, entries
from extmeta.table.pte cimport ALL, equal, lowest, match
from extmeta.memory.sync cimport give_back, try_take
from extmeta.table.vpns cimport Run, entry_at

from extmeta.integers import whole
from extmeta.encodings.plan import groups_of, plan

cdef enum:
    # A code of no word; codes have fewer bits.
    NO_CODE = 0xffff
    MAX_CODE_BITS = 15
    # Up to so many words, legal or not and of all choices, are looked up in an
    # array of 2 bytes for each; more in a hash table of the legal ones.
    MAX_DIRECT_BITS = 17
    # Ways for VMAs to choose; each has codes of its own.
    MAX_CHOICES = 256


@final
cdef class Book:
    """The codes of a plan's words and back, for each choice of the VMAs.

    Made once for all tables of a kind, and never changed.

    Parameters
    ----------
    found : Plan

    Raises
    ------
    ValueError
        If there are more codes or choices than it can hold.
    """

    cdef readonly object plan
    cdef readonly list choices
    cdef readonly bint all_legal
    # What the pointers point into.
    cdef object held
    # [choice << code_bits | code]; 0 for a code that isn't used.
    cdef uint64_t* words
    # [choice << slot_bits | slot]: the slot is the word itself, or where hashing
    # begins to look for it in `keys`.
    cdef uint16_t* slots
    cdef uint64_t* keys
    cdef int word_bits
    cdef int code_bits
    cdef int slot_bits
    # Where an entry has the bits of a code, and where a present PTE has each code.
    cdef Part[MAX_PARTS] parts
    cdef Part[MAX_PARTS] swap_parts
    cdef int nr_parts
    cdef int nr_swap_parts
    cdef uint64_t* places

    def __init__(self, found):
        cdef uint64_t[::1] words
        cdef uint64_t[::1] keys
        cdef uint64_t[::1] places
        cdef uint16_t[::1] slots
        cdef uint64_t word, slot
        cdef Py_ssize_t c
        cdef int code
        self.plan = found
        self.choices = found.choices
        if found.bits > MAX_CODE_BITS or len(self.choices) > MAX_CHOICES:
            raise ValueError(f"{found.combinations} words and {len(self.choices)} "
                             f"choices of VMAs are too many to number; at most "
                             f"{1 << <int>MAX_CODE_BITS} and {<int>MAX_CHOICES} are")
        self.word_bits = found.fields.bits
        self.code_bits = found.bits
        n = len(self.choices)
        direct = n << self.word_bits <= 1 << <int>MAX_DIRECT_BITS
        self.slot_bits = self.word_bits if direct else found.bits + 1
        slots = np.full(n << self.slot_bits, <int>NO_CODE, np.uint16)
        words = np.zeros(n << self.code_bits, np.uint64)
        keys = np.zeros(1 if direct else n << self.slot_bits, np.uint64)
        places = np.zeros(1 << self.code_bits, np.uint64)
        self.held = slots, words, keys, places
        self.slots = &slots[0]
        self.words = &words[0]
        self.keys = NULL if direct else &keys[0]
        self.places = &places[0]
        self.nr_parts = fill(self.parts, found.assignment.present)
        self.nr_swap_parts = fill(self.swap_parts, found.assignment.swap)
        for code in range(1 << self.code_bits):
            places[code] = scatter(self.parts, self.nr_parts, code)
        self.all_legal = True
        for c in range(n):
            codes = found.codes(self.choices[c])
            self.all_legal &= len(codes) == 1 << <object>self.word_bits
            for word, code in codes.items():
                words[c << self.code_bits | code] = word
                slot = self.slot_of(c, word)
                slots[slot] = code
                if not direct:
                    keys[slot] = word

    cdef inline uint64_t slot_of(self, Py_ssize_t choice, uint64_t word) noexcept nogil:
        """Return where the word's code is, or would be."""
        cdef uint64_t first = <uint64_t>choice << self.slot_bits
        cdef uint64_t last = (<uint64_t>1 << self.slot_bits) - 1
        cdef uint64_t i
        if self.keys is NULL:
            return first | word
        i = word * 0x9e3779b97f4a7c15ULL >> (64 - self.slot_bits)
        # Half of the slots are free at least, so this ends.
        while self.slots[first | i] != NO_CODE and self.keys[first | i] != word:
            i = (i + 1) & last
        return first | i

    cdef inline uint64_t code_of(self, Py_ssize_t choice, uint64_t word) noexcept nogil:
        """Return the code of a word, or NO_CODE."""
        if self.keys is NULL and word >> self.word_bits:
            return NO_CODE
        return self.slots[self.slot_of(choice, word)]


@lru_cache(maxsize=64)
def book_of(fields, arch, excludes, implies, per_vma):
    """Return the Book of a plan: one for all tables of a kind, and their forks."""
    found = plan(fields, arch, excludes, implies, per_vma)
    if not found.fits:
        raise ValueError(f"{found.combinations} combinations of {fields!r} need "
                         f"{found.bits} bits in a PTE; there are {found.available}, "
                         f"{found.missing} missing")
    return Book(found)


def of_table(config, fields, arch, spans):
    """Return the encoding of a page table again, with what its VMAs have chosen."""
    cdef Compact made = Compact(**config).bind(
        fields, arch, Frames(arch.page_bytes, arch.frame_bytes))
    made.set_spans(spans[0], spans[1])
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
    # The words of the codes, where all VMAs have chosen alike, else NULL; beside
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

    # Choices of VMAs: [starts[i], starts[i + 1]) has the i-th, the last one the
    # rest. Replaced, never changed.
    cdef tuple spans
    cdef tuple arrays
    cdef const uint64_t* starts
    cdef const int32_t* chosen_at
    cdef Py_ssize_t nr_spans

    # Memory of what is kept of the last write and of the last scan; for one thread at
    # a time, another does without.
    cdef object kept
    cdef uint32_t taken

    # Of the last `keep` and `add` written to many entries: what codes turn to.
    cdef uint16_t* turn
    cdef uint64_t* turn_bits
    cdef uint64_t turn_keep
    cdef uint64_t turn_add
    cdef Py_ssize_t turn_choice
    cdef bint turn_illegal    # some code turns to none
    cdef bint turn_lost       # some code turns to one with no place in swap entries

    # Of the last mask and value scanned for: the codes that match, and the bits
    # that tell them from others, if there are such.
    cdef uint8_t* hit
    cdef uint64_t hit_mask
    cdef uint64_t hit_value
    cdef Py_ssize_t hit_choice
    cdef uint64_t code_bits_told
    cdef uint64_t code_bits_value
    cdef bint told_by_bits
    cdef bint any_hit

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
        return of_table, (self.config, self.fields, self.arch, self.spans)

    def bind(self, fields, arch, Frames frames not None):
        cdef Compact bound = Encoding.bind(self, fields, arch, frames)
        if self.book is not None and self.book is bound.book:
            # Of a table already: the VMAs of a fork or copy are those of its parent.
            bound.set_spans(self.spans[0], self.spans[1])
        return bound

    def hold(self):
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
        self.swap_codes = gather(self.swap_parts, self.nr_swap_parts, ALL) + 1
        if not self.book.all_legal:
            self.asks = ALWAYS
        elif self.swap_codes <= self.code_mask:
            # Every word is its own code then, and fewer bits have room if more do.
            self.asks = WHEN_ADDING
        self.parallel = True
        # A move copies what VMAs have chosen, which Python keeps.
        self.calls_python = bool(self.per_vma)
        self.set_spans([0], [0])
        if not self.per_vma:
            # Else a kernel, too, would read under the VMA's lock which it has chosen.
            self.reading = ALONE
        n = <Py_ssize_t>self.code_mask + 1
        # 8, 2 and 1 bytes for each code.
        kept = np.empty(2 * n, np.uint64)
        self.kept = kept
        self.turn_bits = &kept[0]
        self.turn = <uint16_t*>(self.turn_bits + n)
        self.hit = <uint8_t*>(self.turn + n)
        self.turn_choice = -1
        self.hit_choice = -1

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
            If the range is none, or has a word where another one is chosen.
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
        for start, end, choice in self.spans_in(first, stop):
            names = list(self.book.choices[choice])
            if names[group] != name:
                vpn = self.first_word(start, end)
                if vpn is not None:
                    raise ValueError(f"vpn {vpn:#x} has a word; {names[group]!r} holds "
                                     f"the bit there, which {name!r} would use")
                names[group] = name
            pieces.append((start, self.book.choices.index(tuple(names))))
        self.splice(first, stop, pieces)

    def chosen(self, vpn):
        """Return what the VMA at ``vpn`` uses: a name of each ``per_vma`` group."""
        at = whole("vpn", vpn)
        return self.book.choices[self.spans[1][bisect_right(self.spans[0], at) - 1]]

    cdef list spans_in(self, first, stop):
        """Return [start, end) and the choice of each part of [first, stop)."""
        starts, choices = self.spans
        i = bisect_right(starts, first) - 1
        found = []
        while first < stop:
            end = min(starts[i + 1], stop) if i + 1 < len(starts) else stop
            found.append((first, end, choices[i]))
            first = end
            i += 1
        return found

    cdef int splice(self, first, stop, pieces) except -1:
        """Have [first, stop) consist of ``pieces``: their starts and choices."""
        if first == stop:
            return 0
        after = self.spans[1][bisect_right(self.spans[0], stop) - 1]
        every = zip(*self.spans, strict=True)
        kept = [span for span in every if not first <= span[0] <= stop]
        starts, choices = [], []
        last = None
        for start, choice in sorted([*kept, *pieces, (stop, after)]):
            if choice != last:
                starts.append(start)
                choices.append(choice)
            last = choice
        self.set_spans(starts, choices)
        return 0

    cdef int set_spans(self, starts, choices) except -1:
        cdef const uint64_t[::1] first = np.array(starts, np.uint64)
        cdef const int32_t[::1] which = np.array(choices, np.int32)
        # Python's lists for Python's bisect; the arrays for C's.
        self.spans = starts, choices
        self.arrays = first, which
        self.starts = &first[0]
        self.chosen_at = &which[0]
        self.nr_spans = len(starts)
        self.words = NULL
        if self.nr_spans == 1:
            self.words = self.book.words + (
                <uint64_t>which[0] << self.book.code_bits)
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
        if self.nr_spans == 1:
            return 0
        with gil:
            return self.copy_spans(src, dst, n)

    cdef int copy_spans(self, src, dst, n) noexcept:
        try:
            pieces = [(start - src + dst, choice)
                      for start, _end, choice in self.spans_in(src, src + n)]
            self.splice(dst, dst + n, pieces)
        except MemoryError:
            return -1
        return 0

    cdef Py_ssize_t piece(
            self, const Ptdesc* t, const Run* r, Py_ssize_t at, Run* p,
            Py_ssize_t* choice) noexcept nogil:
        """Fill ``p`` with the run's entries from ``at`` on of one choice.

        Return how many they are.
        """
        cdef uint64_t vpn, stop
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.nr_spans
        cdef Py_ssize_t middle
        p.first = r.first + at
        p.n = r.n - at
        p.vpns = r.vpns + at if r.vpns else NULL
        if high > 1:
            vpn = r.vpns[at] if r.vpns else t.vpn + <uint64_t>p.first
            while high - low > 1:
                middle = (low + high) >> 1
                if self.starts[middle] <= vpn:
                    low = middle
                else:
                    high = middle
            stop = self.starts[high] if high < self.nr_spans else ALL
            if r.vpns:
                high = 1
                while high < p.n and self.starts[low] <= p.vpns[high] < stop:
                    high += 1
                p.n = high
            else:
                p.n = <Py_ssize_t>min(<uint64_t>p.n, stop - vpn)
        choice[0] = self.chosen_at[low]
        return p.n

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

    cdef uint64_t code_after(
            self, Py_ssize_t choice, uint64_t code, const Write* w, Py_ssize_t i
            ) noexcept nogil:
        """Return the code of a word, once the i-th of ``w`` is written, or NO_CODE."""
        cdef uint64_t word = self.book.words[
            <uint64_t>choice << self.book.code_bits | code]
        return self.book.code_of(choice, word & w.keep[0] | w.add[i * w.step])

    cdef void put_in_swap(
            self, Py_ssize_t choice, uint64_t* pte, const Write* w, Py_ssize_t i
            ) noexcept nogil:
        cdef uint64_t code = gather(self.swap_parts, self.nr_swap_parts, pte[0])
        pte[0] = pte[0] & ~self.swap_pte_bits | scatter(
            self.swap_parts, self.nr_swap_parts, self.code_after(choice, code, w, i))

    # -- runs ------------------------------------------------------------------

    cdef int fork(
            self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        return 0

    cdef void zap(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        pass

    cdef const uint64_t* some(
            self, const uint64_t* entry, const Run* r, Py_ssize_t at, Py_ssize_t n,
            uint64_t* ptes) noexcept nogil:
        """Return n entries of the run from ``at`` on: in place, or in ``ptes``."""
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t i
        if r.vpns is NULL:
            return entry + r.first + at
        for i in range(n):
            ptes[i] = entry[entry_at(r, at + i, last_entry)]
        return ptes

    cdef uint64_t codes_in(
            self, const uint64_t* pte, Py_ssize_t n, uint64_t* codes) noexcept nogil:
        """Fill ``codes`` from n <= 64 entries; return which are swap entries."""
        cdef uint64_t away = swap_entries(pte, n, &self.pte)
        cdef uint64_t left = away
        cdef int i
        gather_all(self.parts, self.nr_parts, pte, n, codes)
        while left:
            i = lowest(left)
            codes[i] = gather(self.swap_parts, self.nr_swap_parts, pte[i])
            left &= left - 1
        return away

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
            self.piece(t, r, done, &p, &choice)
            word_of = self.book.words + (<uint64_t>choice << self.book.code_bits)
            if p.n == 1:
                words[done] = word_of[self.code_in(
                    entry[entry_at(&p, 0, self.entries - 1)])]
            else:
                for at in range(0, p.n, 64):
                    n = min(64, p.n - at)
                    pte = self.some(entry, &p, at, n, ptes)
                    to = words + done + at
                    away = swap_entries(pte, n, &self.pte)
                    self.look_up(pte, n, word_of, to)
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
            self.look_up(ptes + at, n, self.words, words + at)
            while away:
                i = at + lowest(away)
                words[i] = self.words[self.code_in(ptes[i])]
                away &= away - 1
        return True

    cdef void look_up(
            self, const uint64_t* pte, Py_ssize_t n, const uint64_t* of_code,
            uint64_t* to) noexcept nogil:
        """Fill ``to`` with what the codes of n <= 64 present entries stand for."""
        cdef Part a = self.parts[0]
        cdef Part b = self.parts[1]
        cdef int shift_a = a.to - a.from_
        cdef int shift_b = b.to - b.from_
        cdef Py_ssize_t i
        if self.nr_parts <= 2:
            # As x86-64 has them: in one pass. A part that isn't there has no bits.
            for i in range(n):
                to[i] = pte[i] >> shift_a & a.mask | pte[i] >> shift_b & b.mask
        else:
            gather_all(self.parts, self.nr_parts, pte, n, to)
        for i in range(n):
            to[i] = of_code[to[i]]

    cdef bint know_turns(
            self, Py_ssize_t choice, const Write* w, Py_ssize_t n) noexcept nogil:
        """Fill `turn` for what is written to n entries, if that pays."""
        cdef uint64_t keep = w.keep[0] & self.word_mask
        cdef uint64_t code, after
        if w.step or keep == 0:
            return False
        if self.turn_choice == choice and self.turn_keep == keep and (
                self.turn_add == w.add[0]):
            return True
        if <uint64_t>n << 1 <= self.code_mask:
            return False
        self.turn_keep = keep
        self.turn_add = w.add[0]
        self.turn_choice = choice
        self.turn_illegal = self.turn_lost = False
        for code in range(self.code_mask + 1):
            after = self.code_after(choice, code, w, 0)
            self.turn[code] = <uint16_t>after
            self.turn_bits[code] = self.places[after & self.code_mask]
            if self.used(choice, code):
                self.turn_illegal |= after == NO_CODE
                self.turn_lost |= after >= self.swap_codes and code < self.swap_codes
        return True

    cdef bint used(self, Py_ssize_t choice, uint64_t code) noexcept nogil:
        """Return whether some word has this code."""
        cdef uint64_t word = self.book.words[
            <uint64_t>choice << self.book.code_bits | code]
        return self.book.code_of(choice, word) == code

    cdef void codes_after(
            self, Py_ssize_t choice, const uint64_t* codes, Py_ssize_t n,
            const Write* w, Py_ssize_t at, bint turns, uint64_t* after) noexcept nogil:
        """Fill ``after`` with codes, or NO_CODE, once ``w`` from ``at`` on is written.

        Of whole words, ``codes`` isn't asked.
        """
        cdef uint64_t keep = w.keep[0]
        cdef const uint64_t* add = w.add + at * w.step
        cdef const uint64_t* word_of = self.book.words + (
            <uint64_t>choice << self.book.code_bits)
        cdef const uint16_t* slots = self.book.slots + (
            <uint64_t>choice << self.book.slot_bits)
        cdef Py_ssize_t i
        if turns:
            for i in range(n):
                after[i] = self.turn[codes[i]]
        elif keep & self.word_mask:
            for i in range(n):
                after[i] = self.book.code_of(
                    choice, word_of[codes[i]] & keep | add[i * w.step])
        elif w.step == 0:
            after[0] = self.book.code_of(choice, add[0])
            for i in range(1, n):
                after[i] = after[0]
        elif self.book.keys is NULL:
            for i in range(n):
                after[i] = slots[add[i] & self.word_mask]
        else:
            for i in range(n):
                after[i] = self.book.code_of(choice, add[i])

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t choice
        cdef Run p
        cdef Write part = w[0]
        while done < r.n:
            self.piece(t, r, done, &p, &choice)
            part.add = w.add + done * w.step
            self.store_piece(entries(self.frames, t), &p, choice, &part)
            done += p.n

    cdef void store_piece(
            self, uint64_t* entry, const Run* r, Py_ssize_t choice, const Write* w
            ) noexcept nogil:
        cdef bint mine = try_take(&self.taken)
        self.store_codes(
            entry, r, choice, w, mine and self.know_turns(choice, w, r.n))
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
            pte = self.some(entry, r, at, n, ptes)
            away = swap_entries(pte, n, &self.pte)
            if turns:
                self.look_up(pte, n, self.turn_bits, bits)
            elif at == 0 or w.step or not whole_words:
                if not whole_words:
                    self.codes_in(pte, n, codes)
                self.codes_after(choice, codes, n, w, at, False, codes)
                # An entry that is none may have no code: it gets none either.
                for i in range(n):
                    bits[i] = self.places[codes[i] & mask]
            if r.vpns is NULL:
                to = entry + r.first + at
                for i in range(n):
                    old = to[i]
                    # All ones where the entry is present: a choice without a branch.
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
            self.piece(t, r, done, &p, &choice)
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
            entry, r, choice, w, mine and self.know_turns(choice, w, r.n))
        if mine:
            give_back(&self.taken)
        return i

    cdef Py_ssize_t unfit_codes(
            self, const uint64_t* entry, const Run* r, Py_ssize_t choice,
            const Write* w, bint turns) noexcept nogil:
        cdef uint64_t[64] ptes, codes, after
        cdef bint whole_words = w.keep[0] & self.word_mask == 0
        # Present entries hold whatever comes out.
        cdef bint swap_alone = self.book.all_legal or turns and not self.turn_illegal
        cdef uint64_t above, away
        cdef const uint64_t* pte
        cdef Py_ssize_t at, n, i
        if turns and not self.turn_illegal and not self.turn_lost:
            return -1
        if whole_words and w.step == 0 and (
                self.book.code_of(choice, w.add[0]) < self.swap_codes):
            return -1
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            pte = self.some(entry, r, at, n, ptes)
            if swap_alone and swap_entries(pte, n, &self.pte) == 0:
                continue
            if not whole_words:
                self.codes_in(pte, n, codes)
            self.codes_after(choice, codes, n, w, at, turns, after)
            above = 0
            for i in range(n):
                above |= after[i]
            # Of no code, or perhaps above those of swap entries.
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

    cdef void know_hits(
            self, Py_ssize_t choice, uint64_t mask, uint64_t value) noexcept nogil:
        """Find the codes whose words match, and whether some bits tell them."""
        cdef const uint64_t* word_of = self.book.words + (
            <uint64_t>choice << self.book.code_bits)
        cdef uint64_t all_have = self.code_mask
        cdef uint64_t some_have = 0
        cdef uint64_t code
        if self.hit_choice == choice and self.hit_mask == mask and (
                self.hit_value == value):
            return
        self.hit_choice = choice
        self.hit_mask = mask
        self.hit_value = value
        self.any_hit = False
        for code in range(self.code_mask + 1):
            self.hit[code] = word_of[code] & mask == value and self.used(choice, code)
            if self.hit[code]:
                self.any_hit = True
                all_have &= code
                some_have |= code
        self.code_bits_told = self.code_mask & ~(all_have ^ some_have)
        self.code_bits_value = all_have
        self.told_by_bits = True
        for code in range(self.code_mask + 1):
            if code & self.code_bits_told == all_have and self.hit[code] == 0 and (
                    self.used(choice, code)):
                self.told_by_bits = False

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
            self.piece(t, &r, 0, &p, &choice)
            self.know_hits(choice, mask[0], value[0])
            if self.any_hit:
                if self.told_by_bits:
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
        """Scan where the codes wanted are those with some bits alike."""
        cdef uint64_t present = self.pte.present
        cdef uint64_t told = self.code_bits_told
        cdef uint64_t wanted = self.code_bits_value
        cdef uint64_t swap_value = scatter(self.swap_parts, self.nr_swap_parts, wanted)
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t[8] bits
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t start, at
        if wanted >= self.swap_codes:
            # No swap entry has such a code.
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
        """Scan where each code has to be looked at."""
        cdef uint64_t[64] codes
        cdef const uint8_t* hit = self.hit
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n, i
        for at in range(first, last, 64):
            n = min(64, last - at)
            self.codes_in(entry + at, n, codes)
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
            self.piece(t, &r, 0, &p, &choice)
            if entry[r.first] != self.pte.none and not self.used(
                    choice, self.code_in(entry[r.first])):
                return b"a code that stands for no word"
        return NULL


cdef inline Py_ssize_t tell(
        uint64_t* vpns, Py_ssize_t found, uint64_t vpn, uint64_t matches
        ) noexcept nogil:
    """Append the vpns whose bits are set, from ``vpn`` on; return how many now."""
    while matches:
        vpns[found] = vpn + <uint64_t>lowest(matches)
        found += 1
        matches &= matches - 1
    return found
