"""Words in the free software bits of the PTE itself: today's kernel, the baseline.

A field that Linux already tracks (`uffd_wp`, `soft_dirty`, one bit each) sits in
the bits Linux gives it; the rest share what the architecture leaves free. No
memory, no flag, nothing to look up, but few bits: fields that do not fit are
refused. A swap entry has fewer still, so a word may fit a present PTE and not
the swap entry that replaces it; swap_out refuses that word.
"""
from cython cimport final
from libc.stdint cimport uint64_t

from extmeta.table.encoding cimport ALONE, WHEN_ADDING, Encoding, Write
from extmeta.encodings.parts cimport (
    MAX_PARTS,
    Part,
    fill,
    gather,
    gather_all,
    scatter,
    scatter_all,
    swap_entries,
)
from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.pte cimport ALL, equal, lowest, match
from extmeta.table.vpns cimport Run, entry_at


def places(fields, arch):
    """Return where in-PTE words go: the bits each word bit gets.

    Parameters
    ----------
    fields : Fields
    arch : Arch

    Returns
    -------
    present, swap : list of int or None
        For each bit of the word, lowest first, the bit of a present PTE and of
        a swap entry that holds it; None where there is none left.
    """
    present, swap = [], []
    free = list(arch.free)
    swap_free = list(arch.swap.free)
    for name, width in fields.items():
        if width == 1 and name in arch.owned:
            own_present, own_swap = arch.owned[name]
            present.append(own_present)
            swap.append(own_swap)
            continue
        for _bit in range(width):
            present.append(free.pop(0) if free else None)
            swap.append(swap_free.pop(0) if swap_free else None)
    return present, swap


@final
cdef class InPte(Encoding):
    """Keep each word in free software bits of its PTE."""

    cdef Part[MAX_PARTS] parts
    cdef Part[MAX_PARTS] swap_parts
    cdef int nr_parts
    cdef int nr_swap_parts
    cdef uint64_t pte_bits
    cdef uint64_t swap_pte_bits
    # Bits of a word that survive in a swap entry.
    cdef uint64_t swap_bits

    def configure(self):
        self.reserves = True
        self.uses_descriptor = False
        self.reading = ALONE
        self.parallel = True
        present, swap = places(self.fields, self.arch)
        if None in present:
            owned = {n: w for n, w in self.fields.items()
                     if w == 1 and n in self.arch.owned}
            raise ValueError(
                f"InPte() on {self.arch.name}: {self.fields!r} needs "
                f"{self.bits - len(owned)} free bits in a PTE"
                f"{f' besides those of {list(owned)}' if owned else ''}; "
                f"there are {len(self.arch.free)}, {present.count(None)} missing")
        self.nr_parts = fill(self.parts, present)
        self.nr_swap_parts = fill(self.swap_parts, swap)
        self.pte_bits = scatter(self.parts, self.nr_parts, ALL)
        self.swap_pte_bits = scatter(self.swap_parts, self.nr_swap_parts, ALL)
        self.swap_bits = gather(self.swap_parts, self.nr_swap_parts, ALL)
        if None in swap:
            self.asks = WHEN_ADDING

    def unfit(self, vpn, word, swapped):
        if not swapped or not word & ~self.swap_bits:
            return None
        return (f"no place for bits {word & ~self.swap_bits:#x} of word {word:#x} in a "
                f"swap entry of {self.arch.name}")

    cdef Py_ssize_t first_unfit(
            self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t lost = ~self.swap_bits
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
        if r.vpns is NULL and not self.any_swapped(entry + r.first, r.n):
            return -1
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            if pte & self.pte.present == 0 and pte != self.pte.none and (
                    w.add[i * w.step] & lost):
                return i
        return -1

    cdef bint any_swapped(self, const uint64_t* entry, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(0, n, 64):
            if swap_entries(entry + i, min(64, n - i), &self.pte):
                return True
        return False

    cdef uint64_t into(self, uint64_t pte, uint64_t word) noexcept nogil:
        """Return the bits of ``word`` where an entry like ``pte`` has them."""
        if pte & self.pte.present:
            return scatter(self.parts, self.nr_parts, word)
        return scatter(self.swap_parts, self.nr_swap_parts, word)

    cdef uint64_t word_in(self, uint64_t pte) noexcept nogil:
        if pte & self.pte.present:
            return gather(self.parts, self.nr_parts, pte)
        return gather(self.swap_parts, self.nr_swap_parts, pte)

    cdef int fork(
            self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        return 0

    cdef void load(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t[64] ptes
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Py_ssize_t at, n, i
        if r.n == 1:
            words[0] = self.word_in(entry[entry_at(r, 0, last_entry)])
            return
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            if r.vpns is NULL:
                self.words_in(entry + r.first + at, n, words + at)
            else:
                for i in range(n):
                    ptes[i] = entry[entry_at(r, at + i, last_entry)]
                self.words_in(ptes, n, words + at)

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef Py_ssize_t at
        if r.n == 1:
            words[0] = self.word_in(ptes[0])
            return True
        for at in range(0, r.n, 64):
            self.words_in(ptes + at, min(64, r.n - at), words + at)
        return True

    cdef void words_in(
            self, const uint64_t* pte, Py_ssize_t n, uint64_t* words) noexcept nogil:
        """Return the words of n <= 64 entries."""
        cdef uint64_t some = swap_entries(pte, n, &self.pte)
        cdef Py_ssize_t i
        gather_all(self.parts, self.nr_parts, pte, n, words)
        while some:
            i = lowest(some)
            words[i] = gather(self.swap_parts, self.nr_swap_parts, pte[i])
            some &= some - 1

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t[64] add
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t keep = ~self.pte_bits | scatter(
            self.parts, self.nr_parts, w.keep[0])
        cdef Py_ssize_t at, n, i
        cdef uint64_t* pte
        if w.step == 0:
            add[0] = scatter(self.parts, self.nr_parts, w.add[0])
            if r.vpns is NULL:
                self.put_same(entry + r.first, r.n, keep, add[0], w)
                return
            for i in range(1, min(64, r.n)):
                add[i] = add[0]
        for at in range(0, r.n, 64):
            n = min(64, r.n - at)
            if w.step:
                scatter_all(self.parts, self.nr_parts, w.add + at, n, add)
            if r.vpns is NULL:
                self.put_bits(entry + r.first + at, n, keep, add, w, at)
                continue
            for i in range(n):
                pte = &entry[entry_at(r, at + i, last_entry)]
                if pte[0] & self.pte.present:
                    pte[0] = pte[0] & keep | add[i]
                elif pte[0] != self.pte.none:
                    self.put_in_swap(pte, w, at + i)

    cdef void put_bits(
            self, uint64_t* pte, Py_ssize_t n, uint64_t keep, const uint64_t* add,
            const Write* w, Py_ssize_t at) noexcept nogil:
        """Write bits into n <= 64 entries in a row; swap entries, the few, apart."""
        cdef uint64_t some = swap_entries(pte, n, &self.pte)
        cdef int shift = lowest(self.pte.present)
        cdef uint64_t old, here
        cdef Py_ssize_t i
        for i in range(n):
            old = pte[i]
            # All ones where the entry is present: a choice without a branch.
            here = 0 - (old >> shift & 1)
            pte[i] = old ^ (old ^ (old & keep | add[i])) & here
        while some:
            i = lowest(some)
            self.put_in_swap(&pte[i], w, at + i)
            some &= some - 1

    cdef void put_same(
            self, uint64_t* pte, Py_ssize_t n, uint64_t keep, uint64_t add,
            const Write* w) noexcept nogil:
        """Write the same bits into n entries in a row."""
        cdef int shift = lowest(self.pte.present)
        cdef uint64_t old, here, some
        cdef Py_ssize_t at, k, i
        for at in range(0, n, 64):
            k = min(64, n - at)
            some = swap_entries(pte + at, k, &self.pte)
            for i in range(at, at + k):
                old = pte[i]
                here = 0 - (old >> shift & 1)
                pte[i] = old ^ (old ^ (old & keep | add)) & here
            while some:
                self.put_in_swap(&pte[at + lowest(some)], w, 0)
                some &= some - 1

    cdef void put_in_swap(
            self, uint64_t* pte, const Write* w, Py_ssize_t i) noexcept nogil:
        cdef uint64_t keep = ~self.swap_pte_bits | scatter(
            self.swap_parts, self.nr_swap_parts, w.keep[0])
        pte[0] = pte[0] & keep | scatter(
            self.swap_parts, self.nr_swap_parts, w.add[i * w.step])

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value,
            uint64_t* vpns) noexcept nogil:
        cdef uint64_t present = self.pte.present
        cdef uint64_t present_mask = present | scatter(
            self.parts, self.nr_parts, mask[0])
        cdef uint64_t present_value = present | scatter(
            self.parts, self.nr_parts, value[0])
        cdef uint64_t swap_mask = present | scatter(
            self.swap_parts, self.nr_swap_parts, mask[0])
        cdef uint64_t swap_value = scatter(
            self.swap_parts, self.nr_swap_parts, value[0])
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t[8] bits
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t start, at
        if value[0] & ~self.swap_bits:
            # A value that no swap entry can hold matches none of them.
            swap_value = ALL
        if value[0] & ~(mask[0] & gather(self.parts, self.nr_parts, ALL)):
            return 0
        for start in range(first, last, 512):
            match(entry + start, min(512, last - start), present,
                  present_mask, present_value, swap_mask, swap_value, bits)
            for at in range(start, min(start + 512, last), 64):
                matches = bits[at - start >> 6]
                if matches and swap_value == 0:
                    # An entry that holds nothing looks like one without a word.
                    matches &= ~equal(
                        entry + at, min(64, last - at), ALL, self.pte.none)
                while matches:
                    vpns[found] = t.vpn + <uint64_t>(at + lowest(matches))
                    found += 1
                    matches &= matches - 1
        return found

    cdef void zap(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        pass

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to | self.into(to, self.word_in(pte))
