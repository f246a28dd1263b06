"""Words in the free software bits of the PTE itself: today's kernel, the baseline.

A field that Linux already tracks (`uffd_wp`, `soft_dirty`, one bit each) sits in
the bits Linux gives it; the rest share what the architecture leaves free. No
memory, no flag, nothing to look up, but few bits: fields that do not fit are
refused. A swap entry has fewer still, so a word may fit a present PTE and not
the swap entry that replaces it; swap_out refuses that word.
"""
from cython cimport final
from libc.stdint cimport uint64_t
from libc.string cimport memset

from extmeta.encoding cimport Encoding, Write
from extmeta.frames cimport Ptdesc, entries
from extmeta.pte cimport ALL, equal, lowest, match
from extmeta.vpns cimport Run, entry_at

cdef enum:
    MAX_PARTS = 64

cdef struct Part:
    # `mask` of the word, shifted right by `from_`, is shifted left by `to`.
    uint64_t mask
    int from_
    int to


cdef inline uint64_t scatter(
        const Part* parts, int n, uint64_t word) noexcept nogil:
    cdef uint64_t pte = 0
    cdef int i
    for i in range(n):
        pte |= (word & parts[i].mask) >> parts[i].from_ << parts[i].to
    return pte


cdef inline uint64_t gather(const Part* parts, int n, uint64_t pte) noexcept nogil:
    cdef uint64_t word = 0
    cdef int i
    for i in range(n):
        word |= pte >> parts[i].to << parts[i].from_ & parts[i].mask
    return word


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

    def hold(self):
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
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t present = self.pte.present
        cdef Part part = self.parts[0]
        cdef uint64_t in_word = part.mask >> part.from_
        cdef uint64_t swapped = 0
        cdef uint64_t pte
        cdef Py_ssize_t i
        cdef bint one = self.nr_parts == 1
        if one and r.vpns is NULL:
            # Present entries first; the few others are seen to afterwards.
            entry += r.first
            for i in range(r.n):
                pte = entry[i]
                words[i] = pte >> part.to & in_word
                swapped |= ~pte
            if swapped & present:
                for i in range(r.n):
                    if not entry[i] & present:
                        words[i] = self.word_in(entry[i])
            return
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            if one and pte & present:
                words[i] = pte >> part.to & in_word
            else:
                words[i] = self.word_in(pte)

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t none = self.pte.none
        cdef uint64_t present = self.pte.present
        cdef uint64_t keep = ~self.pte_bits | scatter(
            self.parts, self.nr_parts, w.keep[0])
        cdef uint64_t swap_keep = ~self.swap_pte_bits | scatter(
            self.swap_parts, self.nr_swap_parts, w.keep[0])
        cdef uint64_t add, swap_add, pte
        cdef Py_ssize_t i, e
        if w.step == 0:
            add = scatter(self.parts, self.nr_parts, w.add[0])
            swap_add = scatter(self.swap_parts, self.nr_swap_parts, w.add[0])
            if r.vpns is NULL:
                entry += r.first
                for i in range(r.n):
                    pte = entry[i]
                    entry[i] = (
                        none if pte == none else
                        pte & keep | add if pte & present else
                        pte & swap_keep | swap_add)
                return
        for i in range(r.n):
            e = entry_at(r, i, last_entry)
            pte = entry[e]
            if pte == none:
                continue
            if pte & present:
                entry[e] = pte & keep | scatter(
                    self.parts, self.nr_parts, w.add[i * w.step])
            else:
                entry[e] = pte & swap_keep | scatter(
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
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at, n
        if value[0] & ~self.swap_bits:
            # A value that no swap entry can hold matches none of them.
            swap_value = ALL
        if value[0] & ~(mask[0] & gather(self.parts, self.nr_parts, ALL)):
            return 0
        for at in range(first, last, 64):
            n = min(64, last - at)
            matches = match(entry + at, n, present, present_mask, present_value,
                            swap_mask, swap_value)
            if matches and swap_value == 0:
                # An entry that holds nothing looks like one without a word.
                matches &= ~equal(entry + at, n, ALL, self.pte.none)
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


cdef int fill(Part* parts, bits) except -1:
    """Turn a list of PTE bits, one for each bit of a word, into runs of them."""
    cdef int n = 0
    memset(parts, 0, MAX_PARTS * sizeof(Part))
    for i, bit in enumerate(bits):
        if bit is None:
            continue
        if n and i and bits[i - 1] is not None and bits[i - 1] + 1 == bit:
            parts[n - 1].mask |= <uint64_t>1 << <int>i
        else:
            parts[n].mask = <uint64_t>1 << <int>i
            parts[n].from_ = i
            parts[n].to = bit
            n += 1
    return n
