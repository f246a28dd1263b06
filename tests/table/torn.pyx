"""Looks for pairs of a PTE and a word that never were: a stress test's reader.

A word tells of which page it is: its lower half is a checksum of its upper half, a
generation, and of the page's number. So a word that was seen beside another PTE's
entry, or half of one beside half of another, is found out, and so is the absence of a
word where there always was one. A swap entry's slot is the number of its page.
"""
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

import numpy as np

from extmeta.encoding cimport (
    COUNTED, Encoding, LOCKED, Slabs, Write, entry_at, makes_a_word)
from extmeta.memory.epoch cimport enter_epoch, leave_epoch
from extmeta.memory.frames cimport PTE, Ptdesc, entries, lock_table, unlock_table
from extmeta.pagetable cimport PageTable
from extmeta.table.pte cimport PteLayout
from extmeta.memory.sync cimport (
    begin_racy,
    count_of_changes,
    end_racy,
    once,
    unchanged_since,
)
from extmeta.table.vpns cimport Run, Span

cdef enum:
    # Pairs that are read at once, at most.
    AT_ONCE = 1024


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """Return the next number of splitmix64."""
    x += 0x9e3779b97f4a7c15ULL
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL
    return x ^ x >> 31


cdef inline uint64_t word_for(
        uint64_t page, uint64_t generation, int bits) noexcept nogil:
    cdef int low = (bits + 1) // 2
    generation &= ((<uint64_t>1) << (bits - low)) - 1
    return generation << low | mixed(page ^ generation << 40) & (
        ((<uint64_t>1) << low) - 1)


def words_of(pages, generation, int bits):
    """Return the words of pages.

    Parameters
    ----------
    pages : (n,) uint64 ndarray
    generation : int
        Not a multiple of ``2**(bits // 2)``: then a word is never 0.
    bits : int
        Bits of a word, 2 to 64.

    Returns
    -------
    (n,) uint64 ndarray
    """
    cdef const uint64_t[::1] page = pages
    cdef uint64_t[::1] word
    cdef uint64_t g = generation
    cdef Py_ssize_t i
    words = np.empty(len(pages), np.uint64)
    word = words
    for i in range(page.shape[0]):
        word[i] = word_for(page[i], g, bits)
    return words


cdef inline uint64_t page_of(const PteLayout* a, uint64_t pte) noexcept nogil:
    cdef uint64_t page
    if pte & a.present:
        return pte >> a.pfn_shift & (((<uint64_t>1) << a.pfn_bits) - 1)
    page = pte >> a.offset_shift
    return (~page if a.offset_inverted else page) & (
        ((<uint64_t>1) << a.offset_bits) - 1)


cdef class Watch:
    """Snapshots of a range of a table, each checked.

    Parameters
    ----------
    table : PageTable
    first, stop : int
        The range.
    always : int
        Pages from this number on always have a word.
    seed : int

    Attributes
    ----------
    seen : int
        Pairs that were read.
    words : int
        How many of them had a word.
    torn : int
        How many never were.
    example : tuple of int
        One of these: vpn, PTE and word.
    """

    cdef PageTable table
    cdef uint64_t first
    cdef uint64_t stop
    cdef uint64_t always
    cdef uint64_t seed
    cdef readonly uint64_t seen
    cdef readonly uint64_t words
    cdef readonly uint64_t torn
    cdef readonly tuple example
    cdef uint64_t[3] found

    def __init__(self, table, first, stop, always, seed=0):
        self.table = table
        self.first = first
        self.stop = stop
        self.always = always
        self.seed = seed
        if self.table.encoding.lanes > 1:
            raise ValueError(f"{table!r} has words of more than 64 bits")

    def look(self, n, checked=True):
        """Take at least ``n`` snapshots, singly and up to 1024 at a time.

        Parameters
        ----------
        n : int
        checked : bool, default True
            Whether what was read is thrown away if it changed meanwhile. Without,
            this finds what never was, and so can be seen to look.
        """
        cdef uint64_t enough = n
        cdef bint good = checked
        if self.table.encoding.reading == LOCKED:
            raise ValueError(f"{self.table.encoding!r} is not read without a lock")
        enough += self.seen
        before = self.torn
        with nogil:
            while self.seen < enough:
                self.step(good)
        if self.torn > before:
            self.example = self.found[0], self.found[1], self.found[2]

    cdef void step(self, bint checked) noexcept nogil:
        cdef uint64_t[AT_ONCE] ptes, words
        cdef uint64_t size = self.stop - self.first
        cdef Span s
        cdef Py_ssize_t i
        self.seed = mixed(self.seed)
        s.first = self.first + self.seed % size
        s.vpns = NULL
        s.n = 1
        if self.seed >> 60 == 0:
            s.n = <Py_ssize_t>min(
                1 + (self.seed >> 40 & (AT_ONCE - 1)), self.stop - s.first)
        if not checked:
            self.guess(&s, ptes, words)
        elif s.n == 1:
            ptes[0] = self.table.see_one(s.first, words)
        else:
            self.table.see_all(&s, ptes, words)
        for i in range(s.n):
            self.judge(s.first + <uint64_t>i, ptes[i], words[i])
        self.seen += <uint64_t>s.n

    cdef void guess(
            self, const Span* s, uint64_t* ptes, uint64_t* words) noexcept nogil:
        """Read as a reader does that does not look whether anything changed."""
        cdef Py_ssize_t i
        cdef const Ptdesc* t
        cdef Run r
        cdef int slot = enter_epoch()
        r.n = 1
        r.vpns = NULL
        begin_racy()
        for i in range(s.n):
            ptes[i] = self.table.none
            words[i] = 0
            t = self.table.see(s.first + <uint64_t>i)
            if t is not NULL:
                r.first = <Py_ssize_t>(
                    s.first + <uint64_t>i & <uint64_t>(self.table.encoding.entries - 1))
                self.table.copy_entries(t, &r, ptes + i)
                self.table.encoding.see(t, &r, ptes + i, words + i)
        end_racy()
        leave_epoch(slot)

    def interrupted(self, vpn, change):
        """Read a PTE, have it changed, and read its word.

        As a reader does that is interrupted at the worst moment.

        Parameters
        ----------
        vpn : int
            It must have a PTE table.
        change : callable

        Returns
        -------
        pte, word : int
        noticed : bool
            Whether a reader would have read them again.

        Raises
        ------
        ValueError
            If the encoding is read under the lock.
        """
        cdef uint64_t pte, word
        cdef uint64_t at = vpn
        cdef uint32_t before
        cdef bint good
        cdef const Ptdesc* t = self.table.see(at)
        cdef Run r
        cdef int slot
        if self.table.encoding.reading == LOCKED or t is NULL:
            raise ValueError(f"vpn {vpn:#x} of {self.table!r} can't be read so")
        r.first = <Py_ssize_t>(at - t.vpn)
        r.n = 1
        r.vpns = NULL
        slot = enter_epoch()
        before = count_of_changes(&t.seq)
        pte = once(self.table.pte_at(t, r.first))
        try:
            change()
        finally:
            good = self.table.encoding.see(t, &r, &pte, &word)
            good = good and unchanged_since(&t.seq, before)
            leave_epoch(slot)
        torn = self.torn
        self.judge(at, pte, word)
        if self.torn > torn:
            self.example = at, pte, word
        return pte, word, not good

    cdef void judge(self, uint64_t vpn, uint64_t pte, uint64_t word) noexcept nogil:
        cdef const PteLayout* a = &self.table.encoding.pte
        cdef int bits = self.table.encoding.bits
        cdef uint64_t page
        cdef bint good
        if pte == a.none:
            good = word == 0
        else:
            page = page_of(a, pte)
            if word:
                self.words += 1
                good = word == word_for(page, word >> ((bits + 1) // 2), bits)
            else:
                good = page < self.always
        if not good:
            self.torn += 1
            self.found[0] = vpn
            self.found[1] = pte
            self.found[2] = word


cdef class Meddling(Encoding):
    """An array a table, which a lockless reader reads after ``change`` was called once.

    So what is seen of the PTEs and what is seen of the words are of two moments.

    Attributes
    ----------
    change : callable or None
    seen : int
        How often words were read without a lock.
    """

    cdef public object change
    cdef readonly int seen

    def configure(self):
        self.objects = Slabs()
        self.reading = COUNTED

    cdef Ptdesc* prepare(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        if t.link == 0 and makes_a_word(w, r.n, 1):
            t.link = <uintptr_t>self.objects.alloc(self.entries * sizeof(uint64_t))
            if t.link == 0:
                return NULL
            memset(<void*>t.link, 0, self.entries * sizeof(uint64_t))
        return t

    cdef void load(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint64_t* side = <const uint64_t*>t.link
        cdef Py_ssize_t i
        for i in range(r.n):
            words[i] = side[entry_at(r, i, self.entries - 1)] if side else 0

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t* side = <uint64_t*>t.link
        cdef Py_ssize_t i, e
        for i in range(r.n if side else 0):
            e = entry_at(r, i, self.entries - 1)
            if entries(self.frames, t)[e] != self.pte.none:
                t.flagged -= <unsigned int>(side[e] != 0)
                side[e] = side[e] & w.keep[0] | w.add[i * w.step]
                t.flagged += <unsigned int>(side[e] != 0)

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        with gil:
            change, self.change = self.change, None
            self.seen += 1
            if change is not None:
                change()
        self.load(t, r, words)
        return True

    cdef size_t side_bytes(self) noexcept nogil:
        return self.objects.object_bytes


def allocate_under_lock():
    """Do what is never done; a build for tests aborts."""
    cdef PageTable table = PageTable()
    cdef Ptdesc* t = table.make(0, 0)
    lock_table(t)
    table.frames.alloc(0, PTE, False)
    unlock_table(t)
