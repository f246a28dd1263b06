"""Words in the free software bits of the PTE itself: today's kernel, the baseline.

A field that Linux already tracks (`uffd_wp`, `soft_dirty`, one bit each) has the bit
that Linux gives it. The other fields share the bits that the architecture leaves free.
This takes no memory, no flag and no lookup, but bits are few: fields that don't fit
are refused. A swap entry has fewer free bits than a present PTE, so it may not have
room for a word. Then swap_out refuses the word.
"""
from cython cimport final
from libc.stdint cimport uint32_t, uint64_t

from extmeta.table.encoding cimport ALONE, WHEN_ADDING, Encoding, Lookups, Write
from extmeta.encodings.parts cimport (
    NumberLayout, bits_for, fill_layout, gather, number_in, numbers_in, ptes_of,
    put_present, scan_numbers, scatter, scatter_all, swap_entries)
from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.pte cimport ALL, count, lowest, match
from extmeta.table.vpns cimport Run, entry_at, run_of

from extmeta.encodings.plan import owned


def places(fields, arch):
    """Return which bits of an entry hold each bit of a word.

    Parameters
    ----------
    fields : Fields
    arch : Arch

    Returns
    -------
    present, swap : list of int or None
        For each bit of the word, lowest first, the bit of a present PTE and of
        a swap entry that holds it; None if there is none left.
    """
    free, swap_free = iter(arch.free), iter(arch.swap.free)
    bits = []
    for name, width in fields.items():
        if width == 1 and name in arch.owned:
            bits.append(arch.owned[name])
        else:
            bits += [(next(free, None), next(swap_free, None)) for _ in range(width)]
    return [bit for bit, _ in bits], [bit for _, bit in bits]


cdef class InPte(Encoding):
    """Keep each word in free software bits of its PTE."""

    cdef NumberLayout layout

    @classmethod
    def from_text(cls, argument):
        """Return IndexedInPte() for "indexed"."""
        if argument != "indexed":
            raise ValueError(f"{argument!r} is not 'indexed'")
        return IndexedInPte()

    def configure(self):
        self.reserves = True
        self.uses_descriptor = False
        self.reading = ALONE
        self.parallel = True
        present, swap = places(self.fields, self.arch)
        if None in present:
            own = owned(self.fields, self.arch)
            raise ValueError(
                f"InPte() on {self.arch.name}: {self.fields!r} needs "
                f"{self.bits - len(own)} free bits in a PTE"
                f"{f' besides those of {own}' if own else ''}; "
                f"there are {len(self.arch.free)}, {present.count(None)} missing")
        fill_layout(&self.layout, present, swap)
        if None in swap:
            self.asks = WHEN_ADDING

    def unfit(self, vpn, word, swapped):
        lost = word & ~self.layout.swap_bits
        if not swapped or not lost:
            return None
        return (f"no place for bits {lost:#x} of word {word:#x} in a swap entry of "
                f"{self.arch.name}")

    cdef Py_ssize_t first_unfit(
            self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t lost = ~self.layout.swap_bits
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t pte
        cdef Py_ssize_t i
        if w is NULL:
            for i in range(r.n):
                if self.word_in(entry[entry_at(r, i, last_entry)]) & lost:
                    return i
            return -1
        if w.step == 0 and w.add[0] & lost == 0:
            return -1
        if r.n == 1 and entry[entry_at(r, 0, last_entry)] & self.pte.present:
            return -1
        if r.vpns is NULL and r.n > 1 and not self.any_swapped(entry + r.first, r.n):
            return -1
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            if pte & self.pte.present == 0 and pte != self.pte.none and (
                    w.add[i * w.step] & lost):
                return i
        return -1

    @final
    cdef bint any_swapped(self, const uint64_t* entry, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(0, n, 64):
            if swap_entries(entry + i, min(64, n - i), &self.pte):
                return True
        return False

    @final
    cdef uint64_t word_in(self, uint64_t pte) noexcept nogil:
        return number_in(&self.layout, self.pte.present, pte)

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        return 0

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t[64] ptes
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t at, n
        if r.n == 1:
            words[0] = self.word_in(entry[entry_at(r, 0, last_entry)])
            return
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            numbers_in(&self.layout, &self.pte,
                       ptes_of(entry, r, at, n, last_entry, ptes), n, words + at)

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef Py_ssize_t at
        if r.n == 1:
            words[0] = self.word_in(ptes[0])
            return True
        for at in range(0, r.n, 64):
            numbers_in(
                &self.layout, &self.pte, ptes + at, min(64, r.n - at), words + at)
        return True

    cdef bint read_each(
            self, Lookups* l, bint locked, uint64_t* words) noexcept nogil:
        cdef Run r = run_of(0, l.n)
        return self.see(NULL, &r, l.ptes, words)

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const NumberLayout* layout = &self.layout
        cdef uint64_t[64] add
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t keep = ~layout.pte_bits | scatter(
            layout.parts, layout.nr_parts, w.keep[0])
        cdef Py_ssize_t at, n, i
        cdef uint64_t* pte
        cdef uint64_t swapped
        if r.n == 1:
            pte = &entry[entry_at(r, 0, last_entry)]
            if pte[0] & self.pte.present:
                pte[0] = pte[0] & keep | scatter(
                    layout.parts, layout.nr_parts, w.add[0])
            elif pte[0] != self.pte.none:
                self.put_in_swap(pte, w, 0)
            return
        if w.step == 0:
            add[0] = scatter(layout.parts, layout.nr_parts, w.add[0])
            if r.vpns is NULL:
                self.put_same(entry + r.first, r.n, keep, add[0], w)
                return
            for i in range(1, min(64, r.n)):
                add[i] = add[0]
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            if w.step:
                scatter_all(layout, w.add + at, n, add)
            if r.vpns is NULL:
                pte = entry + r.first + at
                swapped = swap_entries(pte, n, &self.pte)
                put_present(pte, n, self.pte.present, keep, add)
                while swapped:
                    i = lowest(swapped)
                    self.put_in_swap(&pte[i], w, at + i)
                    swapped &= swapped - 1
                continue
            for i in range(n):
                pte = &entry[entry_at(r, at + i, last_entry)]
                if pte[0] & self.pte.present:
                    pte[0] = pte[0] & keep | add[i]
                elif pte[0] != self.pte.none:
                    self.put_in_swap(pte, w, at + i)

    @final
    cdef void put_same(
            self, uint64_t* pte, Py_ssize_t n, uint64_t keep, uint64_t add,
            const Write* w) noexcept nogil:
        """Write the same bits into n entries in a row."""
        cdef int shift = lowest(self.pte.present)
        cdef uint64_t old, here, swapped
        cdef Py_ssize_t at, k, i
        for at in range(0, n, 64):
            k = min(64, n - at)
            swapped = swap_entries(pte + at, k, &self.pte)
            for i in range(at, at + k):
                old = pte[i]
                here = 0 - (old >> shift & 1)
                pte[i] = old ^ (old ^ (old & keep | add)) & here
            while swapped:
                self.put_in_swap(&pte[at + lowest(swapped)], w, 0)
                swapped &= swapped - 1

    @final
    cdef void put_in_swap(
            self, uint64_t* pte, const Write* w, Py_ssize_t i) noexcept nogil:
        cdef const NumberLayout* layout = &self.layout
        pte[0] = pte[0] & (~layout.swap_pte_bits | scatter(
            layout.swap_parts, layout.nr_swap_parts, w.keep[0])) | scatter(
            layout.swap_parts, layout.nr_swap_parts, w.add[i * w.step])

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef const NumberLayout* layout = &self.layout
        if value[0] & ~(mask[0] & gather(layout.parts, layout.nr_parts, ALL)):
            return 0
        return scan_numbers(layout, &self.pte, entries(self.frames, t), first, last,
                            mask[0], value[0], t.vpn, vpns)

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        pass

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to | bits_for(&self.layout, self.pte.present, to, self.word_in(pte))


cdef class IndexedInPte(InPte):
    """InPte with the index that side encodings have: words counted for each table.

    A table without a word is skipped without a look at its entries. Its use is a fair
    comparison: what this one wins over InPte is due to the index, not to where words
    are. A kernel would pay for the count in each place that changes one of these bits.
    """

    def configure(self):
        InPte.configure(self)
        self.uses_descriptor = True

    cdef uint32_t words_among(
            self, const uint64_t* entry, Py_ssize_t first, Py_ssize_t last
            ) noexcept nogil:
        """Return how many entries of [first, last) have a word."""
        cdef const NumberLayout* layout = &self.layout
        cdef uint64_t without
        cdef uint32_t found = 0
        cdef Py_ssize_t i, n
        for i in range(first, last, 64):
            n = min(64, last - i)
            match(entry + i, n, self.pte.present, layout.pte_bits, 0,
                  layout.swap_pte_bits, 0, &without)
            found += <uint32_t>(n - count(without))
        return found

    cdef uint32_t words_of(self, const uint64_t* entry, const Run* r) noexcept nogil:
        """Return how many entries have a word: of a range, or all if vpns are named.

        A vpn may be named twice.
        """
        cdef Py_ssize_t e
        if r.vpns is NULL:
            return self.words_among(entry, r.first, r.first + r.n)
        if r.n > 1:
            return self.words_among(entry, 0, self.entries)
        e = entry_at(r, 0, self.entries - 1)
        return self.words_among(entry, e, e + 1)

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint32_t before = self.words_of(entry, r)
        InPte.store(self, t, r, w)
        t.flagged += self.words_of(entry, r) - before

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        child.flagged = t.flagged
        return 0

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        t.flagged -= self.words_among(entries(self.frames, t), first, last)
